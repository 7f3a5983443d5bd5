"""The viewer's data: tiles equal to the pixels of real FITS files; what is missing, hostile or out of bounds."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from spica.db.engine import Database
from spica.db.file import know_file, know_location, store_content
from spica.db.node import know_node
from spica.db.tables.image import DetectorRow, ImageRow
from spica.db.tables.job import AttemptRow
from spica.db.tables.product import ProductRow
from spica.files.catalogue import to_sextractor
from spica.files.compand import expand, make_mosaic, mosaic_bytes, read_mosaic
from spica.files.ldac import LdacCatalogue, write_ldac
from spica.files.preview import reduce_blocks, row_strips
from spica.files.wcs import tan_cards
from spica.files.workspace import Workspace
from spica.model.image import FileKind, ImageKind

SCALE, NOISE, LEVEL = 0.3, 6.0, 300.0
N_X, N_Y, GAP, START = 400, 300, 30, 16
RA, DEC = 324.75, 57.49
FACTOR = 8


def sky_pixels(seed: int) -> np.ndarray:
    """Return a detector of noise, a gradient and stars, some brighter than the noise by a thousand."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:N_Y, 0:N_X]
    data = rng.normal(LEVEL, NOISE, (N_Y, N_X)) + 0.05 * x
    for _ in range(25):
        cx, cy, peak = rng.uniform(0, N_X), rng.uniform(0, N_Y), 10 ** rng.uniform(1, 4)
        data += peak * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 1.6**2))
    return np.rint(data).astype(np.float32)


def detector_sheet(i: int, start: int = START) -> dict[str, Any]:
    """Return a detector's part of a facts sheet: its first pixel stands at (x, y) of the mosaic."""
    x, y = corner(i)
    cd = np.array([[-SCALE, 0.0], [0.0, SCALE]]) / 3600.0
    cards = tan_cards(RA, DEC, (2 * N_X + GAP) / 2 - x, (2 * N_Y + GAP) / 2 - y, cd).cards
    part = {"x_start": start, "x_stop": start + N_X, "y_start": 0, "y_stop": N_Y} if start else None
    return {
        "index": i, "hdu": i + 1, "name": f"ccd{i:02d}", "n_x": N_X, "n_y": N_Y, "pixel_scale_arcsec": SCALE,
        "wcs_cards": list(cards), "data": part, "overscan": None, "amplifiers": [], "planes": "",
    }  # fmt: skip


def corner(i: int) -> tuple[int, int]:
    return (i % 2) * (N_X + GAP), (i // 2) * (N_Y + GAP)


def full_mosaic(detectors: list[np.ndarray]) -> np.ndarray:
    """Return all pixels of the mosaic, put together here."""
    out = np.full((2 * N_Y + GAP, 2 * N_X + GAP), np.nan)
    for i, data in enumerate(detectors):
        x, y = corner(i)
        out[y : y + N_Y, x : x + N_X] = data
    return out


def block_means(pixels: np.ndarray, size: int) -> np.ndarray:
    ny, nx = (-(-n // size) * size for n in pixels.shape)
    padded = np.full((ny, nx), np.nan)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    blocks = padded.reshape(ny // size, size, nx // size, size)
    known = np.isfinite(blocks)
    count = known.sum(axis=(1, 3))
    return np.where(count > 0, np.where(known, blocks, 0).sum(axis=(1, 3)) / np.maximum(count, 1), np.nan)


@dataclass(frozen=True)
class Made:
    """Contents of the files of an exposure, and its pixels."""

    detectors: list[np.ndarray]
    pixels: np.ndarray
    weight_map: np.ndarray
    exposure: bytes
    facts: bytes
    mosaic: bytes
    weight: bytes
    catalogue: bytes


def file_bytes(units: list[Any]) -> bytes:
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *units]).writeto(stream)
    return stream.getvalue()


@functools.cache
def make_files(compress: bool, first: int = 0) -> Made:
    """Write a MEF by astropy, integers with BZERO, each detector with columns of overscan to its left; and the rest."""
    detectors, units, packed = [sky_pixels(40 + first + i) for i in range(4)], [], {"compression_type": "RICE_1"}
    for i, data in enumerate(detectors):
        whole = np.hstack([np.full((N_Y, START), 7.0), data]).clip(0, 65535).astype(np.uint16)
        tiles = {**packed, "tile_shape": (16, N_X + START)}
        units.append(fits.CompImageHDU(whole, **tiles) if compress else fits.ImageHDU(whole))
        units[-1].name = f"ccd{i:02d}"
    facts = {"exposure": {"ra_deg": RA, "dec_deg": DEC}, "detectors": [detector_sheet(i) for i in range(4)]}
    pixels = full_mosaic(detectors)
    reduced = reduce_blocks(row_strips(pixels.astype(np.float32), FACTOR), FACTOR)
    mosaic = make_mosaic(reduced, FACTOR, (pixels.shape[1], pixels.shape[0]), NOISE)
    weight = np.full((N_Y, N_X), 1000, np.int16)
    weight[100:140, 200:260] = 0
    maps = [fits.CompImageHDU(weight, **packed, tile_shape=(16, N_X)) for _ in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        write_catalogue(Path(folder) / "c.ldac")
        catalogue = (Path(folder) / "c.ldac").read_bytes()
    text = json.dumps(facts).encode()
    return Made(detectors, pixels, weight, file_bytes(units), text, mosaic_bytes(mosaic), file_bytes(maps), catalogue)


@dataclass
class Shown:
    """An exposure with all its products, and its pixels."""

    image: int
    pixels: np.ndarray
    detectors: list[np.ndarray]
    path: Path
    weight: np.ndarray


class Shelf:
    """Keeps products of an image as the harvest does."""

    def __init__(self, session: Session, workspace: Workspace, image_id: int) -> None:
        self.session, self.workspace, self.image_id = session, workspace, image_id
        self.node = know_node(session, workspace.node, "ocs1")
        self.attempt = session.scalars(select(AttemptRow).order_by(AttemptRow.id.desc()).limit(1)).one()

    def keep(self, name: str, content: bytes, kind: FileKind = FileKind.PRODUCT) -> int:
        path = self.workspace.roots["data"] / "view" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        file_id = know_file(self.session, hashlib.sha256(content).hexdigest(), len(content), kind, name)
        know_location(self.session, file_id, self.node, "data", f"view/{name}")
        return file_id

    def product(self, role: str, name: str, content: bytes, media: str | None = None) -> int:
        file_id = self.keep(name, content)
        if media is not None:
            store_content(self.session, file_id, media, content)
        attempt = self.attempt
        self.session.add(
            ProductRow(
                job_id=attempt.job_id, attempt_id=attempt.id, role=role, name=name, image_id=self.image_id,
                file_id=file_id,
            )
        )  # fmt: skip
        self.session.flush()
        return file_id


def show_exposure(
    session: Session, workspace: Workspace, image_id: int, compress: bool = True, first: int = 0
) -> Shown:
    """Give an exposure of the sample a real file, facts, mosaic, weight and catalogue."""
    shelf, made = Shelf(session, workspace, image_id), make_files(compress, first)
    name = f"e{first}.fits.fz" if compress else f"e{first}.fits"
    file_id = shelf.keep(name, made.exposure, FileKind.EXPOSURE)
    session.execute(update(ImageRow).where(ImageRow.id == image_id).values(file_id=file_id, ra_deg=RA, dec_deg=DEC))
    place_on_sky(session, image_id)
    shelf.product("facts", f"e{first}.facts.json", made.facts, "application/json")
    shelf.product("mosaic", f"e{first}.mosaic.jpg", made.mosaic, "image/jpeg")
    shelf.product("weight", f"e{first}.weight.fits.fz", made.weight)
    shelf.product("catalogue", f"e{first}.ldac", made.catalogue)
    path = workspace.roots["data"] / "view" / name
    return Shown(image_id, made.pixels, made.detectors, path, made.weight_map)


def place_on_sky(session: Session, image_id: int) -> None:
    """Put the detectors' corners where the WCS of the sheet says, by astropy."""
    for i, row in enumerate(
        session.scalars(select(DetectorRow).where(DetectorRow.image_id == image_id).order_by(DetectorRow.number))
    ):
        sky = sky_at(np.array([-0.5, N_X - 0.5, N_X - 0.5, -0.5]), np.array([-0.5, -0.5, N_Y - 0.5, N_Y - 0.5]), i)
        row.n_x, row.n_y = N_X, N_Y
        row.polygon_ra_deg, row.polygon_dec_deg = sky[0].tolist(), sky[1].tolist()


def sky_at(x: Any, y: Any, detector: int) -> Any:
    from astropy.wcs import WCS

    header = fits.Header.fromstring("".join(c.ljust(80) for c in detector_sheet(detector)["wcs_cards"]))
    return WCS(header).all_pix2world(x, y, 0)


def write_catalogue(path: Path) -> None:
    parts = []
    for i in range(4):
        table = np.zeros(3, [(n, "f8") for n in ("x", "y", "x_win", "y_win", "flux_auto", "fluxerr_auto", "fwhm_pix")]
                         + [("flags", "i2")])  # fmt: skip
        table["x"] = table["x_win"] = [10.0, 20.0, 30.0]
        table["y"] = table["y_win"] = [5.0, 6.0, 7.0]
        table["flux_auto"] = [1000.0 + i, -1.0, 10.0 + i]
        table["fluxerr_auto"], table["fwhm_pix"] = 1.0, [3.1, 3.0, 9.0]
        made = to_sextractor(table)
        parts.append(LdacCatalogue(header=tan_cards(RA, DEC, 0, 0, np.eye(2)), table=made.table, columns=made.columns))
    write_ldac(path, parts)


@pytest.fixture
def shown(database: Database, workspace: Workspace, survey: Any) -> Shown:
    with database.begin() as session:
        return show_exposure(session, workspace, survey.exposures[0])


@pytest.fixture
def viewer(visitor: Any, survey: Any) -> TestClient:
    client: TestClient = visitor.become(survey.tokens["vera"])
    client.headers["accept"] = "application/json"
    return client


def get_tile(viewer: TestClient, told: dict[str, Any], level: int, x: int, y: int, kind: str = "tiles") -> np.ndarray:
    """Return a tile as an array, y upwards."""
    url = told["urls"][kind].replace("{level}", str(level)).replace("{x}", str(x)).replace("{y}", str(y))
    reply = viewer.get(url)
    assert reply.status_code == 200, reply.text
    assert reply.headers["cache-control"] == "private, max-age=31536000, immutable"
    with Image.open(io.BytesIO(reply.content)) as picture:
        return np.asarray(picture)[::-1]


def companded(values: np.ndarray, level: float, sigma: float) -> np.ndarray:
    """Return the documented formula, written once more."""
    low, high = np.arcsinh(-20.0), np.arcsinh(2e5)
    places = 16 + np.rint(239 * (np.arcsinh((values - level) / (sigma / 4)) - low) / (high - low))
    return np.where(np.isfinite(values), np.clip(places, 16, 255), 0)


def test_how_an_exposure_is_shown(viewer: TestClient, shown: Shown, survey: Any) -> None:
    told = viewer.get(f"/images/{shown.image}/view").json()
    assert (told["width"], told["height"], told["tile"]) == (830, 630, 256)
    assert told["levels"] == 2  # 4 is the last binning finer than 8
    places = [(d["number"], d["name"], d["x"], d["y"], d["n_x"], d["n_y"]) for d in told["detectors"]]
    assert places == [(i, f"ccd{i:02d}", *corner(i), N_X, N_Y) for i in range(4)]
    assert told["available"] is True
    assert told["companding"]["sigma"] == NOISE
    assert told["companding"]["level"] == pytest.approx(LEVEL + 10, abs=5)
    assert told["sky"]["scale_arcsec"] == pytest.approx(SCALE, rel=1e-3)
    assert told["sky"]["north"] == pytest.approx([0, 1], abs=2e-3)
    assert told["sky"]["east"] == pytest.approx([-1, 0], abs=2e-3)
    assert told["blink"] in survey.exposures
    assert told["blink"] != shown.image
    assert viewer.get(told["picture"]["url"]).headers["content-type"] == "image/jpeg"


def test_the_sky_of_a_pixel_is_that_of_its_wcs(viewer: TestClient, shown: Shown) -> None:
    told = viewer.get(f"/images/{shown.image}/view").json()
    from astropy.coordinates import SkyCoord

    for i, d in enumerate(told["detectors"]):
        x, y = 123.0, 222.0
        a, b, c, e, f, g = d["sky"]
        centre = SkyCoord(told["sky"]["ra_deg"], told["sky"]["dec_deg"], unit="deg")
        xi, eta = a + b * x + c * y, e + f * x + g * y  # on the tangent plane: small, so that offsets are angles
        found = centre.spherical_offsets_by(
            np.degrees(np.arctan(np.radians(xi))) * centre.ra.unit, eta * centre.ra.unit
        )
        ra, dec = sky_at(x, y, i)
        assert found.separation(SkyCoord(ra, dec, unit="deg")).arcsec < 0.3


@pytest.mark.parametrize("compress", [True, False])
def test_tiles_are_the_pixels(
    viewer: TestClient, database: Database, workspace: Workspace, survey: Any, compress: bool
) -> None:
    with database.begin() as session:
        shown = show_exposure(session, workspace, survey.exposures[1], compress)
    told = viewer.get(f"/images/{shown.image}/view").json()
    c, side = told["companding"], told["tile"]
    for level in (0, 1, 2):
        wanted = companded(block_means(shown.pixels, 2**level), c["level"], c["sigma"])
        found = np.zeros([-(-n // side) * side for n in wanted.shape])
        for row in range(found.shape[0] // side):
            for column in range(found.shape[1] // side):
                here = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
                found[here] = get_tile(viewer, told, level, column, row)
        found = found[: wanted.shape[0], : wanted.shape[1]]
        off = np.abs(found - wanted)[wanted > 0]
        assert np.median(off) <= 3  # what JPEG adds to noise
        assert np.percentile(off, 99) < 18
        none = wanted == 0
        assert none.any()
        assert (found[none] <= 8).mean() > 0.9  # JPEG rings a little into the gaps
        assert (found[wanted > 0] > 8).mean() > 0.999


def test_the_mosaic_says_the_same_as_the_tiles(viewer: TestClient, shown: Shown) -> None:
    told = viewer.get(f"/images/{shown.image}/view").json()
    mosaic = read_mosaic(viewer.get(told["picture"]["url"]).content)
    tile = get_tile(viewer, told, 2, 0, 0)
    c = told["companding"]
    coarse = block_means(expand(tile, c["level"], c["sigma"]).astype(float), 2)[:64, :96]
    fine = expand(mosaic.values, c["level"], c["sigma"])[:64, :96]
    both = np.isfinite(coarse) & np.isfinite(fine)
    assert np.median(np.abs(coarse - fine)[both]) < 0.1 * NOISE


def test_masks_are_opaque_where_the_weight_is_zero(viewer: TestClient, shown: Shown) -> None:
    told = viewer.get(f"/images/{shown.image}/view").json()
    full = full_mosaic([(shown.weight == 0).astype(float)] * 4)
    for level in (0, 1):
        tile = get_tile(viewer, told, level, 0, 0, "masks")
        assert tile.shape == (256, 256, 2)
        wanted = np.nan_to_num(block_means(full, 2**level)[:256, :256])
        assert np.array_equal(tile[: wanted.shape[0], : wanted.shape[1], 1], np.rint(wanted * 255))
    assert tile[:, :, 1].max() == 255


def test_sources_stand_in_the_mosaic_brightest_first(viewer: TestClient, shown: Shown) -> None:
    told = viewer.get(f"/images/{shown.image}/view").json()
    reply = viewer.get(told["urls"]["sources"])
    assert "immutable" in reply.headers["cache-control"]
    found = reply.json()
    assert found["n"] == 12
    assert (found["x"][0], found["y"][0]) == (corner(3)[0] + 10.0, corner(3)[1] + 5.0)
    assert found["mag"][0] == pytest.approx(-2.5 * np.log10(1003), abs=1e-3)
    assert found["mag"][-1] is None
    assert found["mag"][:8] == sorted(found["mag"][:8])
    assert set(found["star"]) <= {0, 1}


def test_a_stack_shows_its_sources_and_pixels(
    viewer: TestClient, database: Database, workspace: Workspace, survey: Any, tmp_path: Path
) -> None:
    data = np.pad(sky_pixels(3), 20)
    with database.begin() as session:
        image = session.get_one(ImageRow, survey.stack)
        assert image.kind is ImageKind.STACK
        shelf = Shelf(session, workspace, survey.stack)
        from spica.db.tables.product import StackRow

        stack = session.get_one(StackRow, survey.stack)
        stack.n_y, stack.n_x = data.shape
        fits.PrimaryHDU(data).writeto(tmp_path / "s.fits")
        image.file_id = shelf.keep("s.fits", (tmp_path / "s.fits").read_bytes())
        masked = np.where(data == 0, np.nan, data).astype(np.float32)
        mosaic = make_mosaic(reduce_blocks([masked[:340]], 4), 4, (data.shape[1], data.shape[0]), NOISE)
        shelf.product("mosaic", "s.mosaic.jpg", mosaic_bytes(mosaic), "image/jpeg")
        fits.PrimaryHDU((data != 0).astype(np.float32)).writeto(tmp_path / "w.fits")
        shelf.product("weight", "s.weight.fits", (tmp_path / "w.fits").read_bytes())
    told = viewer.get(f"/images/{survey.stack}/view").json()
    assert (told["width"], told["height"], told["levels"]) == (440, 340, 1)
    tile = get_tile(viewer, told, 0, 0, 0)
    assert (tile[:12] <= 8).all()  # 0 is no pixel of a stack
    assert (get_tile(viewer, told, 0, 0, 0, "masks")[:20, :, 1] == 255).all()
    found = viewer.get(told["urls"]["sources"]).json()
    assert (found["n"], found["x"][:3], found["y"][:3]) == (140, [0.0, 10.0, 20.0], [0.0, 7.5, 15.0])


# Missing, old, hostile ------------------------------------------------------------------------------------------------


def test_an_old_image_shows_its_preview(viewer: TestClient, survey: Any) -> None:
    told = viewer.get(f"/images/{survey.exposures[3]}/view").json()
    assert told["available"] is False
    assert told["companding"] is None
    assert told["reason"] == "no mosaic was made of this image"
    assert told["cure"]
    assert told["picture"]["url"].endswith(".png")
    assert told["urls"]["tiles"] is None
    assert viewer.get(f"/images/{survey.exposures[3]}/tiles/0/0/0").status_code == 404


def test_what_lies_elsewhere_is_told_and_its_mosaic_stays(viewer: TestClient, shown: Shown) -> None:
    shown.path.unlink()
    told = viewer.get(f"/images/{shown.image}/view").json()
    assert told["available"] is False
    assert shown.path.name in told["reason"]
    assert "fetch it here" in told["cure"]
    assert told["picture"]["url"].endswith(".jpg")
    assert told["urls"]["tiles"] is None
    reply = viewer.get(f"/images/{shown.image}/tiles/0/0/0")
    assert reply.status_code == 404
    assert "fetch it here" in reply.json()["error"]["message"]


def test_a_rejected_and_a_planned_image_have_no_picture(viewer: TestClient, survey: Any) -> None:
    for image in (survey.rejected, survey.planned):
        told = viewer.get(f"/images/{image}/view").json()
        assert (told["picture"], told["available"]) == (None, False)


def test_a_tile_of_another_content_is_not_kept(viewer: TestClient, shown: Shown) -> None:
    reply = viewer.get(f"/images/{shown.image}/tiles/0/0/0?v=0123")
    assert reply.status_code == 200
    assert reply.headers["cache-control"] == "no-store"


def test_tiles_out_of_bounds_are_not_there(viewer: TestClient, shown: Shown) -> None:
    bounds = ["0/4/0", "0/0/3", "3/0/0", "-1/0/0", "0/-1/0", "0/0/-1"]
    for tile in [*bounds, f"0/{10**30}/0", f"{10**30}/0/0", "99999999999/0/0"]:
        for kind in ("tiles", "masks"):
            assert viewer.get(f"/images/{shown.image}/{kind}/{tile}").status_code == 404


def test_hostile_ids(viewer: TestClient, survey: Any) -> None:
    for image in ("0", "-1", "99999", str(2**70), "x", "1.5", "%00"):
        for rest in ("view", "tiles/0/0/0", "masks/0/0/0", "sources.json"):
            assert viewer.get(f"/images/{image}/{rest}").status_code == 404, (image, rest)
    assert viewer.get(f"/images/{survey.exposures[0]}/tiles/x/0/0").status_code == 400


def test_facts_of_another_picture_give_no_tiles(
    viewer: TestClient, database: Database, workspace: Workspace, shown: Shown
) -> None:
    with database.begin() as session:
        facts = {"exposure": {"ra_deg": RA, "dec_deg": DEC}, "detectors": [detector_sheet(0)]}
        Shelf(session, workspace, shown.image).product(
            "facts", "f2.json", json.dumps(facts).encode(), "application/json"
        )
    told = viewer.get(f"/images/{shown.image}/view").json()
    assert (told["available"], told["detectors"], told["urls"]["tiles"]) == (False, [], None)
    assert told["picture"]["url"].endswith(".jpg")


def test_a_file_that_lies_is_an_error_not_a_crash(
    viewer: TestClient, database: Database, workspace: Workspace, shown: Shown
) -> None:
    whole = shown.path.read_bytes()
    huge = re.sub(rb"ZNAXIS2 =\s+300", lambda m: b"ZNAXIS2 = " + b"900000000".rjust(len(m.group(0)) - 10), whole)
    assert huge != whole
    small = file_bytes([fits.ImageHDU(np.zeros((5, 5))) for _ in range(4)])
    for content in (whole[:9000], small, b"<script>" * 900, huge):
        with database.begin() as session:
            file_id = Shelf(session, workspace, shown.image).keep(f"hurt{len(content)}.fits", content)
            session.execute(update(ImageRow).where(ImageRow.id == shown.image).values(file_id=file_id))
        told = viewer.get(f"/images/{shown.image}/view").json()
        reply = viewer.get(f"/images/{shown.image}/tiles/0/0/0?v={told['key']}")
        assert reply.status_code == 422
        assert reply.json()["error"]["kind"] == "data"


def test_visitors_of_a_public_survey_see_pictures_and_no_names_of_files(
    client: TestClient, site: Any, shown: Shown, survey: Any
) -> None:
    client.headers["accept"] = "application/json"
    assert client.get(f"/images/{shown.image}/view").status_code == 401
    site.workspace = dataclasses.replace(site.workspace, web_public=("testserver",))
    told = client.get(f"/images/{shown.image}/view").json()
    assert get_tile(client, told, 0, 0, 0).shape == (256, 256)
    assert (told["urls"]["sources"], told["urls"]["masks"], told["urls"]["marks"]) == (None, None, None)
    for rest in ("masks/0/0/0", "sources.json"):
        assert client.get(f"/images/{shown.image}/{rest}").status_code == 401
    shown.path.unlink()
    told = client.get(f"/images/{shown.image}/view").json()
    assert shown.path.name not in json.dumps(told)
