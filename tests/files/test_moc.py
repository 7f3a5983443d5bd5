"""Coverage maps: unions and cells keep the area, and the three forms are read back by an independent reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mocpy import MOC

from spica.files.moc import join_mocs, make_moc, moc_fits, moc_json, moc_text
from spica.model.errors import DataError


def some_ranges(seed: int, n: int = 300) -> np.ndarray:
    rng = np.random.default_rng(seed)
    order = rng.integers(4, 14, n)
    pixel = (rng.random(n) * 12 * 4.0**order).astype(np.int64)
    shift = 2 * (29 - order)
    return np.column_stack([pixel << shift, (pixel + rng.integers(1, 4, n)).clip(max=12 * 4**order) << shift])


def from_fits(content: bytes, folder: Path) -> MOC:
    path = folder / "moc.fits"
    path.write_bytes(content)
    return MOC.load(path, format="fits")


@pytest.mark.parametrize("order", [9, 13, 29])
def test_all_forms_are_read_back_as_the_same_coverage(order: int, tmp_path: Path) -> None:
    moc = make_moc(some_ranges(order), order)
    expected = np.asarray(moc.ranges, dtype=np.uint64)
    forms = (
        from_fits(moc_fits(moc), tmp_path),
        MOC.from_str(moc_text(moc)),
        MOC.from_string(moc_json(moc), format="json"),
    )
    for read in forms:
        assert read.max_order == order
        assert np.array_equal(np.asarray(read.to_depth29_ranges), expected)
        assert moc.area_deg2 == pytest.approx(read.sky_fraction * 41252.96124941927, rel=1e-9)


def test_unions_do_not_care_for_order_and_parts() -> None:
    ranges = some_ranges(3)
    whole = make_moc(ranges, 12)
    shuffled = np.random.default_rng(1).permutation(ranges)
    parts = join_mocs(make_moc(part, 12) for part in np.array_split(shuffled, 7))
    assert np.array_equal(whole.ranges, parts.ranges)
    assert np.array_equal(make_moc(whole.ranges, 12).ranges, whole.ranges)
    assert (whole.ranges[1:, 0] > whole.ranges[:-1, 1]).all()


def test_a_coarser_map_covers_the_finer_one_and_grows_by_less_than_a_cell_a_bound() -> None:
    fine = make_moc(some_ranges(5), 20)
    coarse = make_moc(fine.ranges, 8)
    size = 1 << 2 * (29 - 8)
    for low, high in fine.ranges:
        at = np.searchsorted(coarse.ranges[:, 0], low, side="right") - 1
        assert coarse.ranges[at, 0] <= low
        assert high <= coarse.ranges[at, 1]
    assert (coarse.ranges % size == 0).all()


def test_nothing_and_everything(tmp_path: Path) -> None:
    nothing = make_moc([], 7)
    assert nothing.area_deg2 == 0.0
    assert moc_text(nothing) == "7/\n"
    assert moc_json(nothing) == '{"7":[]}\n'
    assert from_fits(moc_fits(nothing), tmp_path).empty()
    sphere = make_moc([(0, 12 << 58)], 7)
    assert moc_text(sphere) == "0/0-11 7/\n"
    assert sphere.area_deg2 == pytest.approx(41252.96124941927)


@pytest.mark.parametrize(("ranges", "order"), [([(0, (12 << 58) + 1)], 12), ([(-1, 5)], 12), ([], 30), ([], -1)])
def test_what_is_no_coverage_is_refused(ranges: list[tuple[int, int]], order: int) -> None:
    with pytest.raises(DataError):
        make_moc(ranges, order)
