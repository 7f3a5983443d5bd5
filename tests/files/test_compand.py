"""Companding: its error, its order, its inverse; mosaics as JPEG and back, whole or broken."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spica.files.compand import (
    FIRST,
    MAX_SIDE_PIX,
    NO_PIXEL,
    SHARE,
    MosaicPicture,
    compand,
    expand,
    grey_jpeg,
    make_mosaic,
    measure_noise,
    mosaic_bytes,
    read_mosaic,
    read_mosaic_facts,
    write_mosaic,
)
from spica.model.errors import DataError


@pytest.mark.parametrize(("level", "sigma"), [(0.0, 1.0), (812.5, 6.2), (-3.0, 1e-3), (4e4, 180.0)])
def test_expanding_gives_pixels_back_within_the_stated_share(level: float, sigma: float) -> None:
    offsets = np.concatenate(
        [np.linspace(-4.9, 5, 3001), np.geomspace(1e-3, 4.9e4, 3001), -np.geomspace(1e-3, 4.9, 301)]
    )
    pixels = level + sigma * offsets
    back = expand(compand(pixels, level, sigma), level, sigma).astype(np.float64)
    rounding = np.abs(pixels) * 2e-7 + abs(level) * 2e-7  # float32 in and out
    assert (np.abs(back - pixels) <= SHARE * sigma * np.maximum(1.0, np.abs(offsets)) + rounding).all()


def test_sky_of_binned_pictures_keeps_its_noise() -> None:
    """At a sixteenth of the noise, where the sky of a picture binned 16 times lies, steps are a third of it or less."""
    quiet = np.linspace(-1 / 16, 1 / 16, 1001)
    back = expand(compand(quiet, 0.0, 1.0), 0.0, 1.0)
    assert np.abs(back - quiet).max() < 1 / 16 / 6


def test_values_rise_with_pixels_and_stay_in_their_range() -> None:
    pixels = np.sort(np.random.default_rng(3).standard_cauchy(20_000) * 1e3)
    values = compand(pixels, 10.0, 2.0)
    assert (np.diff(values.astype(int)) >= 0).all()
    assert values.min() == FIRST
    assert compand(np.array([1e30, -1e30]), 0.0, 1.0).tolist() == [255, FIRST]


def test_no_pixel_is_zero_and_comes_back_as_none() -> None:
    values = compand(np.array([[np.nan, 5.0], [np.inf, -np.inf]]), 5.0, 1.0)
    assert (values == 0).tolist() == [[True, False], [True, True]]
    assert np.isnan(expand(np.arange(NO_PIXEL + 1), 0.0, 1.0)).all()
    assert np.isfinite(expand(np.arange(NO_PIXEL + 1, 256), 0.0, 1.0)).all()


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_a_noise_that_is_none_is_refused(sigma: float) -> None:
    with pytest.raises(DataError, match="measure the sky again"):
        compand(np.zeros(3), 0.0, sigma)


def test_noise_is_that_of_the_pixels_whatever_stars_do() -> None:
    rng = np.random.default_rng(11)
    data = rng.normal(100.0, 7.0, (700, 900)).astype(np.float32)
    data[rng.random(data.shape) < 0.03] = 5e4
    data[:50] = np.nan
    assert measure_noise(data) == pytest.approx(7.0, rel=0.05)
    assert np.isnan(measure_noise(np.full((5, 5), np.nan)))
    assert np.isnan(measure_noise(np.full((5, 5), 3.0)))


def sky(seed: int = 5) -> np.ndarray:
    y, x = np.mgrid[0:120, 0:150]
    data = np.random.default_rng(seed).normal(300.0, 0.5, (120, 150)) + 3000.0 * np.exp(
        -((x - 30) ** 2 + (y - 90) ** 2) / 18
    )
    data[:, 70:80] = np.nan
    return data.astype(np.float32)


def test_a_mosaic_comes_back_with_its_scale_and_its_side_up(tmp_path: Path) -> None:
    reduced = sky()
    made = make_mosaic(reduced, 16, (2392, 1913), 8.0)
    write_mosaic(tmp_path / "m.jpg", made)
    content = (tmp_path / "m.jpg").read_bytes()
    back = read_mosaic(content)
    assert (back.factor, back.width, back.height, back.companding) == (16, 2392, 1913, made.companding)
    assert back.companding.level == pytest.approx(300.0, abs=0.2)
    assert back.companding.sigma == 8.0
    pixels = expand(back.values, back.companding.level, back.companding.sigma)
    top = np.unravel_index(np.nanargmax(pixels), pixels.shape)
    assert np.hypot(top[0] - 90, top[1] - 30) < 1.5
    inside = np.isfinite(reduced)
    assert np.isnan(pixels[:, 72:78]).all()  # JPEG rings no pixel up between detectors
    good = inside.copy()
    good[:, 66:84] = False  # nor far into them
    error = np.abs(back.values.astype(int) - made.values)[good]
    assert error.mean() < 3.0  # JPEG of noise
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.mode == "L"
        assert picture.size == (150, 120)
    facts = read_mosaic_facts(content)
    assert (facts.companding, facts.factor, facts.values.size) == (back.companding, 16, 0)


def test_a_mosaic_without_a_known_noise_or_any_pixel_is_one_too() -> None:
    assert make_mosaic(sky(), 4, (600, 480)).companding.sigma == pytest.approx(0.5, rel=0.2)
    empty = make_mosaic(np.full((8, 8), np.nan, np.float32), 4, (32, 32), float("nan"))
    assert (empty.companding.level, empty.companding.sigma, empty.values.max()) == (0.0, 1.0, 0)


def jpeg(comment: object, size: tuple[int, int] = (8, 8)) -> bytes:
    return grey_jpeg(np.zeros(size, np.uint8), comment if isinstance(comment, bytes) else json.dumps(comment).encode())


def facts(**changes: object) -> dict[str, object]:
    with Image.open(io.BytesIO(mosaic_bytes(make_mosaic(sky(), 16, (2392, 1913), 8.0)))) as image:
        return {**json.loads(image.info["comment"]), **changes}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        jpeg(b""),
        jpeg(b"\xff\xfe{"),
        jpeg([1]),
        jpeg({"format": "other"}),
        jpeg(facts(sigma_adu=0)),
        jpeg(facts(level_adu="Infinity")),
        jpeg(facts(factor=0)),
        jpeg(facts(width=10**30)),
        jpeg(facts(width=-5)),
        jpeg(facts(softening=0.5)),
        jpeg(facts(pad="x" * 9000)),
        jpeg(facts(width=64, height=64), (64, 64)),
        jpeg(b"[" * 4000),
    ],
)
def test_what_is_no_mosaic_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=r"again|measure"):
        read_mosaic_facts(content)


def test_pictures_of_other_kinds_and_sizes_are_refused() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG", comment=json.dumps(facts()).encode())
    with pytest.raises(DataError, match="grey"):
        read_mosaic(stream.getvalue())
    with pytest.raises(DataError, match="pixels a side"):
        read_mosaic(jpeg(facts(), (8, MAX_SIDE_PIX + 1)))
    whole = mosaic_bytes(make_mosaic(sky(), 16, (2392, 1913), 8.0))
    with pytest.raises(DataError, match="unpacked"):
        read_mosaic(whole[: len(whole) // 2])
    large = MosaicPicture(np.zeros((1, MAX_SIDE_PIX + 1), np.uint8), read_mosaic(whole).companding, 1, 1, 1)
    with pytest.raises(DataError, match="bin it more"):
        mosaic_bytes(large)
