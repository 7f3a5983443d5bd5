"""Pictures: block means conserve the mean, tiles stand where the layout says, the stretch is monotonic."""

import numpy as np
import pytest
from PIL import Image

from spica.files.preview import (
    Tile,
    binning_for,
    make_preview,
    mosaic_tiles,
    reduce_blocks,
    row_strips,
    stretch_asinh,
    write_png,
    zscale_limits,
)


def test_block_means_are_means_and_leave_nan_out():
    rng = np.random.default_rng(1)
    data = rng.normal(10, 1, (23, 31)).astype(np.float32)
    data[3, 4] = np.nan
    data[8:12, 8:12] = np.nan
    found = reduce_blocks(row_strips(data, 4), 4)
    assert found.shape == (6, 8)
    for y in range(6):
        for x in range(8):
            block = data[4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
            expected = np.nan if np.isnan(block).all() else np.nanmean(block)
            assert found[y, x] == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_strips_give_what_the_whole_image_gives():
    data = np.arange(48 * 5, dtype=np.float32).reshape(48, 5)
    whole = reduce_blocks([data], 3)
    assert np.array_equal(reduce_blocks([data[:9], data[9:30], data[30:]], 3), whole)
    with pytest.raises(ValueError, match="multiple of 3"):
        reduce_blocks([data[:10], data[10:]], 3)


def test_tiles_stand_where_the_layout_says():
    tiles = [Tile(np.full((5, 5), k, np.float32), 60 * (k % 2), 60 * (k // 2)) for k in range(4)]
    mosaic = mosaic_tiles(tiles, 10, 20)
    assert mosaic.shape == (11, 11)
    assert mosaic[0, 0] == 0
    assert mosaic[0, 10] == 1
    assert mosaic[10, 0] == 2
    assert np.isnan(mosaic[5, 5])
    with pytest.raises(ValueError, match="bin more"):
        mosaic_tiles([*tiles, Tile(tiles[0].reduced, 10**9, 0)], 10, 20)
    assert make_preview(tiles, 20, factor=10).shape == (11, 11)


def test_zscale_spans_the_sky_and_not_the_stars():
    rng = np.random.default_rng(2)
    data = rng.normal(1000, 10, (300, 300))
    data[::40, ::40] = 50_000
    low, high = zscale_limits(data)
    assert 940 < low < 990
    assert 1010 < high < 1200
    assert zscale_limits(np.full((5, 5), np.nan)) == (0.0, 1.0)
    low, high = zscale_limits(np.full((50, 50), 7.0))
    assert low <= 7.0 < high


def test_stretch_is_monotonic_and_follows_its_formula():
    values = np.linspace(-1, 3, 200)
    grey = stretch_asinh(values, 0.0, 2.0)
    assert (np.diff(grey.astype(int)) >= 0).all()
    assert (grey[0], grey[-1]) == (0, 255)
    assert stretch_asinh(np.array([np.nan]), 0.0, 1.0)[0] == 0
    assert stretch_asinh(np.array([0.5]), 0.0, 1.0)[0] == round(255 * np.arcsinh(5) / np.arcsinh(10))


def test_a_picture_of_a_memory_map_is_small_and_turned(tmp_path):
    data = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float32, (900, 1300))
    data[:] = np.random.default_rng(3).normal(0, 1, data.shape)
    data[:100] += 1000
    picture = make_preview(data, 200)
    assert max(picture.shape) <= 200
    assert binning_for((900, 1300), 200) == 7
    write_png(tmp_path / "p.png", picture)
    with Image.open(tmp_path / "p.png") as image:
        found = np.asarray(image)
    assert np.array_equal(found, picture[::-1])
    assert found[-1].mean() > found[0].mean()
