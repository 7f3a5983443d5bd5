"""Tiles of large images in bounded memory; what is kept is bounded and made once."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from spica.files.mosaic import single_layout
from spica.files.pyramid import (
    DetectorPixels,
    ImagePixels,
    Kept,
    PixelStore,
    Reading,
    levels_for,
    read_tile,
    strip_rows,
)
from spica.model.errors import DataError


def test_what_is_kept_is_bounded_and_made_once() -> None:
    kept: Kept[int, bytes] = Kept(100, len)
    made: list[int] = []

    def make(n: int, size: int) -> bytes:
        made.append(n)
        return b"x" * size

    assert kept.get(1, lambda: make(1, 60)) == kept.get(1, lambda: make(1, 60))
    kept.get(2, lambda: make(2, 50))
    assert (kept.find(1), kept.total) == (None, 50)
    kept.get(3, lambda: make(3, 500))
    assert (kept.find(2), len(kept.find(3) or b""), made) == (None, 500, [1, 2, 3])
    with pytest.raises(DataError):
        kept.get(4, lambda: (_ for _ in ()).throw(DataError("no; try again")))
    assert kept.get(4, lambda: b"now") == b"now"
    gate, answers = threading.Barrier(6), []

    def ask() -> None:
        gate.wait(10)
        answers.append(kept.get(5, lambda: make(5, 10)))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(answers) == 6
    assert made.count(5) == 1


def test_large_images_are_read_in_strips_that_fit_the_store(tmp_path: Path) -> None:
    """A stack larger than the store: each tile is right, and no more is kept than allowed."""
    data = np.random.default_rng(2).normal(5.0, 1.0, (1500, 4200)).astype(np.float32)
    data[700:720] = 0.0
    fits.PrimaryHDU(data).writeto(tmp_path / "big.fits")
    truth = np.where(data == 0, np.nan, data.astype(float))
    place = single_layout(4200, 1500).places[0]
    image = ImagePixels(tmp_path / "big.fits", "k", (DetectorPixels(place, 0),), Reading.STACK)
    store = PixelStore(strip_bytes=17 * 2**20, cell_bytes=2**20)
    assert strip_rows(place) == 998
    for level, column, row in [(0, 3, 3), (1, 2, 1), (4, 0, 0), (0, 16, 5), (0, 2, 2)]:
        tile, side = read_tile(store, image, level, column, row), 256 << level
        cut = truth[row * side : (row + 1) * side, column * side : (column + 1) * side]
        ny, nx = (-(-n // 2**level) for n in cut.shape)
        padded = np.full((ny * 2**level, nx * 2**level), np.nan)
        padded[: cut.shape[0], : cut.shape[1]] = cut
        blocks = padded.reshape(ny, 2**level, nx, 2**level).swapaxes(1, 2).reshape(ny, nx, -1)
        known = np.isfinite(blocks)
        count = known.sum(axis=2)
        mean = np.where(count > 0, np.where(known, blocks, 0.0).sum(axis=2) / np.maximum(count, 1), np.nan)
        assert np.allclose(tile[:ny, :nx], mean, atol=1e-4, equal_nan=True)
        assert np.isnan(tile[ny:]).all()
        assert np.isnan(tile[:, nx:]).all()
        assert store.strips.total <= 17 * 2**20
    with pytest.raises(DataError, match="no tile"):
        read_tile(store, image, 8, 0, 0)


def test_levels_end_where_the_mosaic_takes_over() -> None:
    assert [levels_for(20000, 20000, f) for f in (1, 2, 3, 4, 5, 8, 16, 19, 10_000)] == [0, 0, 1, 1, 2, 2, 3, 4, 7]
    assert levels_for(200, 100, 19) == 0
