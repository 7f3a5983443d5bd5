"""Coverage of a survey, and rules within circles: as slow and plain computations find them."""

from __future__ import annotations

import numpy as np
import pytest
from sqlalchemy.orm import Session

from spica.db import coverage
from spica.db.cone import compile_near, ids_in_cone, top_circles
from spica.db.coverage import read_coverage
from spica.db.selection import select_candidates
from spica.db.sky import centre_key, covering_ranges, images_in_circle, images_near, write_footprint
from spica.db.tables.image import DetectorRow, ImageRow, MeasureRow
from spica.files.moc import make_moc
from spica.model.association import Circle
from spica.model.image import ImageKind, ImageState
from spica.model.selection import evaluate, parse_rule

Corners = list[tuple[float, float]]


def square(ra: float, dec: float, half: float = 0.3) -> Corners:
    c = np.cos(np.radians(dec))
    return [(ra + i * half / c, dec + j * half) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]


@pytest.fixture
def placed(session: Session) -> list[ImageRow]:
    """Exposures around two places, one across RA 0; a stack; a rejected one without place."""
    rng = np.random.default_rng(4)
    made = []
    for i in range(60):
        ra, dec = (rng.normal(0.0, 1.5) % 360.0, rng.normal(20.0, 1.5)) if i % 2 else (rng.normal(200.0, 2.0), -70.0)
        kind, state = (ImageKind.STACK, ImageState.DELIVERED) if i == 59 else (ImageKind.EXPOSURE, ImageState.ASSESSED)
        row = ImageRow(
            kind=kind, state=state, name=f"x{i}", filter="ri"[i % 3 == 0], ra_deg=float(ra), dec_deg=float(dec),
            healpix=centre_key(ra, dec), n_detectors=1,
        )  # fmt: skip
        session.add(row)
        session.flush()
        corners = square(ra, dec)
        session.add(
            DetectorRow(
                image_id=row.id, number=0, hdu=0, name="d", n_x=10, n_y=10,
                polygon_ra_deg=[c[0] for c in corners], polygon_dec_deg=[c[1] for c in corners],
            )
        )  # fmt: skip
        session.add(MeasureRow(image_id=row.id, seeing_arcsec=None if i % 11 == 0 else 0.5 + 0.02 * i))
        session.flush()
        write_footprint(session, row.id, [corners])
        made.append(row)
    session.add(ImageRow(kind=ImageKind.EXPOSURE, state=ImageState.REJECTED, name="lost"))
    session.flush()
    return made


def test_the_coverage_is_the_union_of_the_ranges_however_it_is_cut(
    session: Session, placed: list[ImageRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = placed[-1]
    ranges = covering_ranges([square(stack.ra_deg or 0.0, stack.dec_deg or 0.0)])
    whole = read_coverage(session, None, 14, stacks=True)
    assert np.array_equal(whole.ranges, make_moc(ranges, 14).ranges)
    assert 0.36 <= whole.area_deg2 < 0.55  # whole cells around a square of 0.36
    assert len(read_coverage(session, "r", 12).ranges) == 0  # no exposure has quality
    monkeypatch.setattr(coverage, "PART_BYTES", 100)
    monkeypatch.setattr(coverage, "_EXPOSURES", coverage.sql.SQL("SELECT low, high FROM sky_range WHERE true"))
    cut = read_coverage(session, None, 12)
    every = [r for i in placed for r in covering_ranges([square(i.ra_deg or 0.0, i.dec_deg or 0.0)])]
    assert np.array_equal(cut.ranges, make_moc(every, 12).ranges)


@pytest.mark.parametrize(
    "rule",
    [
        "within(0.2, 20, 1)",
        "within(359.9, 20.3, 2.5) and seeing < 1.2",
        'seeing < 1.0 and (within(200, -70, 3) and filter = "r")',
        "within(200, -70, 40) and seeing is known",
        "not within(0, 20, 1) and seeing < 0.9",
        "within(0, 20, 1) or seeing > 1.5",
        "within(0, 89.9, 2)",
    ],
)
def test_a_rule_by_the_index_takes_what_the_rule_takes(session: Session, placed: list[ImageRow], rule: str) -> None:
    tree = parse_rule(rule)
    expected = [c.image_id for c in select_candidates(session, footprints=False) if evaluate(tree, c) is True]
    assert ids_in_cone(session, tree) == expected
    assert "healpix" in str(compile_near(tree)) or not [c for c in top_circles(tree) if c.radius_deg <= 30]


def test_only_outermost_circles_narrow() -> None:
    assert len(top_circles(parse_rule("within(1, 2, 3) and (seeing < 1 and within(2, 3, 4))"))) == 2
    assert top_circles(parse_rule("not within(1, 2, 3)")) == []
    assert top_circles(parse_rule("within(1, 2, 3) or seeing < 1")) == []


def test_the_coarse_answer_holds_the_exact_one(session: Session, placed: list[ImageRow]) -> None:
    rng = np.random.default_rng(9)
    found = 0
    for _ in range(40):
        point = Circle(float(rng.normal(0.0, 1.5) % 360.0), float(rng.normal(20.0, 1.5)), 1e-6)
        exact = images_in_circle(session, point)
        coarse = images_near(session, point, ImageKind.EXPOSURE, 1000)
        assert set(exact) <= set(coarse)
        assert coarse == sorted(coarse)
        found += len(exact)
    assert found > 10
