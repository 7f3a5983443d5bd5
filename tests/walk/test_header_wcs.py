"""Ten real DECam cut-outs of two nights stacked by the command line, positions from their headers, no reference.

The community pipeline calibrated them; no catalogue covers the field here. Both nights show the same field: `split`
parts them. The author matched the PSFs of a night and took its median: wide apertures must agree with his.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sep
from astropy.io import fits
from astropy.wcs import WCS
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from spica.db.person import add_person, make_session
from spica.files.manifest import check_files, read_manifest
from spica.model.person import PersonRole

pytestmark = pytest.mark.walk

Floats = NDArray[np.float64]
INNER = (slice(10, -10), slice(10, -10))
NIGHTS = {"2018-08-03": "OBS04", "2016-08-17": "OBS18"}
EXPTIME_S = 330.0
EVERY = ("--filter", "i", "--rule", "grade in (A, B, C, D)", "--set", "stack.split=night")


@dataclass(frozen=True)
class Cutouts:
    """A workspace after the survey, and what the commands said; stacks by the author's name of the night."""

    walk: Any
    data: Path
    refused: str
    said: dict[str, Any]
    stacks: dict[str, dict[str, Any]]

    def author(self, night: str) -> tuple[Floats, WCS]:
        """Return the author's stack of a night and where it lies."""
        return _image(self.data / f"author_stack/Stack-DEC-{night}.fits.gz")

    def ours(self, night: str) -> tuple[Floats, WCS]:
        """Return Spica's stack."""
        return _image(Path(self.stacks[night]["path"]))

    def on_author(self, night: str) -> Floats:
        """Return Spica's stack on the author's pixels, ADU of one exposure; both WCS as astropy reads them."""
        (image, wcs), (theirs, place) = self.ours(night), self.author(night)
        y, x = np.indices(theirs.shape)
        at = wcs.all_world2pix(*place.all_pix2world(x, y, 0), 0)
        return np.asarray(map_coordinates(image, at[::-1], order=5, mode="nearest")) * EXPTIME_S

    def record(self, night: str) -> dict[str, Any]:
        """Return the record of a night's solution."""
        plan = self.stacks[night]["plan"]
        (log,) = [j["log"] for j in self.said["jobs"] if j["plan"] == plan and j["kind"] == "astrometry"]
        found: dict[str, Any] = json.loads((Path(log).parent / "solution.json").read_text())
        return found


def _image(path: Path) -> tuple[Floats, WCS]:
    with fits.open(path) as hdus:
        hdu = next(h for h in hdus if h.data is not None)
        with warnings.catch_warnings(action="ignore"):
            return np.ascontiguousarray(hdu.data, dtype=np.float64), WCS(hdu.header)


@pytest.fixture(scope="module")
def cutouts(test_data: Path, copy_template: Callable[[], Any]) -> Iterator[Cutouts]:
    """Take the ten exposures into a workspace that holds another survey, and stack them by their headers."""
    walk = copy_template()
    data = test_data / "decam_10exp_256px"
    try:
        lean = ("--set", "quality.plots=false", "--set", "resources.batch=5")
        walk.spica("ingest", *sorted(data.glob("DEC-*.fits.gz")), *lean, "--wait")
        refused = walk.spica("schedule", "survey", *EVERY, "--wait", code=5).err
        header = (
            "astrometry.source=header",
            "engine.astrometry=astromatic",
            "quality.plots=false",
            "deliver.pdf=false",
        )
        options = [word for setting in header for word in ("--set", setting)]
        said = {"survey": walk.spica("schedule", "survey", *EVERY, *options, "--wait", "--json").json}
        plans = {p["plan"] for p in said["survey"]["plans"]}
        said["jobs"] = [j for j in walk.spica("jobs", "--json").json if j["plan"] in plans]
        stacks = {NIGHTS[s["name"].rpartition("_")[2]]: s for s in walk.spica("stacks", "--json").json}
        yield Cutouts(walk, data, refused, said, stacks)
    finally:
        walk.close()
        shutil.rmtree(walk.folder, ignore_errors=True)


def test_without_a_reference_the_line_names_the_headers(cutouts: Cutouts) -> None:
    (line,) = cutouts.refused.strip().splitlines()
    assert "no reference stars within" in line
    assert "spica reference add FILE" in line
    assert line.endswith("or --set astrometry.source=header where the headers hold a calibrated WCS")


def test_two_nights_are_two_stacks_with_relative_photometry(cutouts: Cutouts) -> None:
    assert set(cutouts.stacks) == {"OBS04", "OBS18"}
    assert all(j["state"] == "SUCCEEDED" for j in cutouts.said["jobs"])
    for stack in cutouts.stacks.values():
        assert (stack["n_inputs"], stack["exptime_s"], stack["state"]) == (5, 5 * EXPTIME_S, "delivered")
        assert stack["zero_point_mag"] is None
        assert stack["mag_system"] is None
        assert stack["limiting_mag"] is None
        assert stack["astrometry"]["reference_mas"] is None
        assert stack["astrometry"]["n_reference"] == 0
        # 7 and 14 mas, three to five hundredths of a pixel: what centroids of stars of 0.9 and 1.3 arcsec scatter
        assert 3.0 < stack["astrometry"]["internal_mas"] < 26.0
        assert 0.0 < stack["photometry"]["internal_mag"] < 0.05
        header = fits.getheader(stack["path"])
        assert header["MAGZEROP"] is None, "stated, and unknown"
        assert header["MAGSYS"] is None
    # no tool solves: the record is the same step's whatever the recipe's engine
    assert {w["code"] for n in cutouts.stacks for w in cutouts.record(n)["warnings"]} == {"header_wcs"}


def test_heads_are_the_headers_to_a_hundredth_of_a_pixel(cutouts: Cutouts) -> None:
    heads = sorted((cutouts.walk.folder / "data").glob("*/astrometry/*.head"))
    assert len(heads) == 10
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, 255, 9), np.linspace(0, 255, 9)))
    for head in heads:
        cards = head.read_text(encoding="ascii").replace("\nEND", "").strip("\n")
        header = fits.Header.fromstring(cards, sep="\n")
        assert header["CTYPE1"] == "RA---TPV"
        assert header["FLXSCALE"] == pytest.approx(1.0 / EXPTIME_S, rel=0.06), "relative: near one over the exposure"
        with warnings.catch_warnings(action="ignore"):
            ours = WCS(header)
        _, theirs = _image(cutouts.data / f"{head.name.partition('-image')[0]}.fits.gz")
        np.testing.assert_allclose(ours.all_world2pix(*theirs.all_pix2world(x, y, 0), 0), (x, y), atol=0.01)


def _alike(first: Floats, second: Floats) -> float:
    return float(np.corrcoef(first[INNER].ravel(), second[INNER].ravel())[0, 1])


def _stars(author: Floats) -> Any:
    sky = sep.Background(author)
    seen = sep.extract(author - sky.back(), 5, err=sky.globalrms)
    inner = (np.abs(seen["x"] - 127.5) < 112) & (np.abs(seen["y"] - 127.5) < 112)
    return seen[inner & (seen["flag"] == 0)]


@pytest.mark.parametrize("night", ["OBS04", "OBS18"])
def test_stacks_show_what_the_author_shows_where_he_shows_it(cutouts: Cutouts, night: str) -> None:
    """The measures and limits of tests/steps/test_decam_stack.py, the grid now Spica's own, and the scale relative."""
    (author, _), image = cutouts.author(night), cutouts.on_author(night)
    assert _alike(image, author) > 0.9965
    smooth = [gaussian_filter(a, 2.0) for a in (image, author)]
    assert _alike(*smooth) > 0.9985
    for axis in (0, 1):
        for step in (-1, 1):
            assert _alike(np.roll(image, step, axis=axis), author) < _alike(image, author) - 0.01
    stars, sky = _stars(author), sep.Background(author)
    at = (stars["x"], stars["y"], 12.0)
    theirs, error, _ = sep.sum_circle(author - sky.back(), *at, err=sky.globalrms)
    ours, _, _ = sep.sum_circle(image - sep.Background(image).back(), *at)
    good = theirs > 30 * error
    assert good.sum() >= 5
    # his is the scale of the median, ours of the mean of five exposures that differ by up to 4 % of light
    assert float(np.median(ours[good] / theirs[good])) == pytest.approx(1.0, abs=0.015)
    ys, xs = sep.winpos(image - sep.Background(image).back(), stars["x"], stars["y"], 1.7)[1::-1]
    y0, x0 = sep.winpos(author - sky.back(), stars["x"], stars["y"], 1.7)[1::-1]
    assert np.hypot(np.median((xs - x0)[good]), np.median((ys - y0)[good])) < 0.1


def test_deliveries_and_catalogues_live_without_a_zero_point(cutouts: Cutouts) -> None:
    for stack in cutouts.stacks.values():
        folder = Path(stack["delivered_path"])
        manifest = read_manifest(folder / "manifest.xml")
        assert manifest == read_manifest(folder / "manifest.json")
        assert check_files(manifest, folder) == ()
        facts = {f.name: f.value for f in manifest.facts}
        assert facts["zero_point_mag"] is None
        assert facts["reference_name"] == "none"
        assert len(manifest.inputs) == 5
        with fits.open(stack["catalogue_path"]) as hdus:
            table = hdus["LDAC_OBJECTS"].data
        good = table["FLUX_AUTO"] > 0
        # magnitudes of the stack's own ADU, as SExtractor gives them with zero point 0
        expected = -2.5 * np.log10(table["FLUX_AUTO"][good])
        np.testing.assert_allclose(table["MAG_AUTO"][good], expected, atol=1e-4)


def test_pages_of_the_stack_its_plan_and_its_exposures_render(cutouts: Cutouts) -> None:
    from spica_web.app import make_app
    from spica_web.guard import hosts_for

    walk, stack = cutouts.walk, cutouts.stacks["OBS04"]
    with walk.database.begin() as session:
        token = make_session(session, add_person(session, "vera", PersonRole.VIEWER))
    app = make_app(walk.workspace, walk.database, hosts_for("127.0.0.1", ["testserver"]))
    with TestClient(app, follow_redirects=False, headers={"accept": "text/html"}) as client:
        client.cookies.set(app.state.site.cookie, token)
        page = client.get(f"/stacks/{stack['id']}")
        assert page.status_code == 200
        assert "relative only" in page.text
        assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)
        exposure = cutouts.said["survey"]["in"][0]["id"]
        for path in ("/stacks", f"/plans/{stack['plan']}", f"/images/{exposure}", "/exposures"):
            assert client.get(path).status_code == 200, path
