"""Rules in SQL mean what the evaluator says, on random rules and rows full of unknown values; judging and recording."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, insert, select
from sqlalchemy.orm import Session

from spica.db.selection import (
    association_filter,
    compile_rule,
    judge,
    judge_candidates,
    record_selection,
    select_candidates,
)
from spica.db.sky import centre_key, write_footprint
from spica.db.tables.file import NodeRow
from spica.db.tables.image import DetectorRow, ImageRow, MeasureRow, TagRow
from spica.db.tables.job import AttemptRow, JobRow, SelectionMemberRow, SelectionRow
from spica.db.tables.person import PersonRow
from spica.db.tables.quality import GradeRow, QualityRow
from spica.model.association import Circle
from spica.model.errors import RecipeError
from spica.model.grade import Grade, GradeSource
from spica.model.image import FrameType, ImageKind, ImageState, normalise_object
from spica.model.job import AttemptState, JobState
from spica.model.person import PersonRole
from spica.model.selection import (
    FIELDS,
    And,
    Between,
    Compare,
    FieldKind,
    InList,
    IsKnown,
    Like,
    Not,
    OneOf,
    Or,
    Rule,
    Within,
    evaluate,
    format_rule,
    parse_rule,
    rule_sha256,
)

NUMBERS = (-1.0, 0.0, 0.5, 0.97, 1.0, 1.0000000000000002, 2.0, 3.5, 100.0, 53856.0, 53856.25, 53856.9999, 359.9, 1e12)
WORDS = ("r", "R", "g", "a%b", "a_b", "a\\b", "axb", "é", "Zz", "zz", "", "10", "9", "IC 1396-A", "ic1396a", "straße")
TAGS = ("deep", "first light", "a%b", "a_b")
DAYS = tuple(date(2006, 5, 1) + timedelta(days=k) for k in range(-2, 3))
DIRECTIONS = ((0.0, 0.0), (359.9, 0.1), (0.2, -0.1), (10.0, 89.9), (200.0, 89.95), (45.0, -90.0), (180.0, 0.0))
LISTS = {"some": {"image3", "image5", "image77"}, "none": set[str]()}
N_ROWS = 200


def fill(session: Session, rng: np.random.Generator) -> None:
    """Insert images with a third of all values unknown; some have no measures at all."""

    def one(pool: Sequence[Any], unknown: float = 0.33) -> Any:
        return None if rng.random() < unknown else pool[rng.integers(len(pool))]

    images, measures, tags = [], [], []
    for k in range(N_ROWS):
        ra, dec = one(DIRECTIONS) or (one((1.0,)), one((2.0,)))
        name = one(WORDS)
        images.append({
            "id": k + 1, "name": f"image{k}", "kind": one(tuple(ImageKind), 0), "state": one(tuple(ImageState), 0),
            "object": name, "object_key": None if name is None else normalise_object(name), "instrument": one(WORDS),
            "filter": one(WORDS), "run": one(WORDS), "night": one(DAYS), "exptime_s": one(NUMBERS[1:]),
            "mjd": one(NUMBERS), "airmass": one(NUMBERS), "ra_deg": ra, "dec_deg": dec,
        })  # fmt: skip
        columns = ("seeing_arcsec", "ellipticity", "background_adu", "noise_adu", "limiting_mag", "zero_point_mag")
        measured = {c: one(NUMBERS) for c in (*columns, "skyprobe_mag")}
        if rng.random() < 0.9:
            measures.append(
                {"image_id": k + 1, "n_stars": one((0, 1, 2, 3, 100)), "grade": one(tuple(Grade)), **measured}
            )
        tags += [{"image_id": k + 1, "name": t} for t in TAGS if rng.random() < 0.3]
    session.execute(insert(ImageRow), images)
    session.execute(insert(MeasureRow), measures)
    session.execute(insert(TagRow), tags)


@st.composite
def leaf_rules(draw: st.DrawFn) -> Rule:
    field = FIELDS[draw(st.sampled_from(sorted(FIELDS)))]
    pools: dict[FieldKind, Sequence[Any]] = {
        FieldKind.NUMBER: NUMBERS,
        FieldKind.TEXT: ("image3", *WORDS),
        FieldKind.DATE: DAYS,
        FieldKind.CHOICE: field.choices,
        FieldKind.TAG: ("nothing", *TAGS),
    }
    values = st.sampled_from(pools[field.kind])
    operator = draw(st.sampled_from((*field.operators, "within", "list")))
    if operator == "within":
        ra, dec = draw(st.sampled_from(DIRECTIONS))
        return Within(ra, dec, draw(st.sampled_from((0.0, 0.15, 0.25, 1.0, 90.5, 179.0, 180.0))))
    if operator == "list":
        return InList(draw(st.sampled_from(sorted(LISTS))))
    if operator == "in":
        return OneOf(field.name, tuple(draw(st.lists(values, min_size=1, max_size=3))))
    if operator == "between":
        low, high = sorted((draw(values), draw(values)))
        return Between(field.name, low, high)
    if operator == "like":
        patterns = st.text("*?a%_\\bBrxé19dep ", max_size=5)
        return Like(field.name, draw(patterns | values))
    if operator == "is":
        return IsKnown(field.name, draw(st.booleans()))
    return Compare(field.name, operator, draw(values))


def combined(inner: st.SearchStrategy[Rule]) -> st.SearchStrategy[Rule]:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return inner.map(Not) | several.map(And) | several.map(Or)


RULES = st.recursive(leaf_rules(), combined, max_leaves=6)


def test_sql_and_evaluator_agree_on_random_rules_and_rows(session: Session) -> None:
    fill(session, np.random.default_rng(2))
    candidates = select_candidates(session, kind=None)
    assert [c.image_id for c in candidates] == list(range(1, N_ROWS + 1))
    joined = select(ImageRow.id).outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id).order_by(ImageRow.id)
    seen: dict[bool | None, int] = {True: 0, False: 0, None: 0}

    @settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.lists(RULES, min_size=12, max_size=12))
    def compare(rules: list[Rule]) -> None:
        columns = [compile_rule(r, LISTS).label(f"rule_{k}") for k, r in enumerate(rules)]
        rows = session.execute(joined.add_columns(*columns)).all()
        for k, rule in enumerate(rules):
            by_sql = [row[k + 1] for row in rows]
            by_evaluator = [evaluate(rule, c, LISTS) for c in candidates]
            assert by_sql == by_evaluator, format_rule(rule)
            for truth in by_sql:
                seen[truth] += 1
        taken = set(session.scalars(joined.where(compile_rule(rules[0], LISTS))))
        assert taken == {c.image_id for c in candidates if evaluate(rules[0], c, LISTS) is True}

    compare()
    assert min(seen.values()) > 5000, "each truth must occur often for the test to tell anything"


def every_comparison() -> Iterator[str]:
    """Each operator of each field once, patterns with every sign that LIKE knows."""
    pools = {"number": ("1", "3.5"), "date": ("'2006-04-30'", "'2006-05-02'"), "text": ("'R'", "'r'")}
    for field in FIELDS.values():
        low, high = pools.get(field.kind, ("'a_b'", "'deep'") if field.kind is FieldKind.TAG else field.choices[:2])
        for operator in field.operators:
            spelled = {
                "in": [f"in ({low}, {high})"],
                "between": [f"between {low} and {high}"],
                "like": ["like '*_*'", "like 'a%b'", "like '?\\b'"],
                "is": ["is known", "is unknown"],
            }
            yield from (f"{field.name} {text}" for text in spelled.get(operator, [f"{operator} {low}"]))


def test_every_field_and_operator_agrees(session: Session) -> None:
    """Each comparison alone, with and without not, so that none depends on luck."""
    fill(session, np.random.default_rng(3))
    candidates = select_candidates(session, kind=None)
    for text in every_comparison():
        for rule in (parse_rule(text), parse_rule(f"not {text}")):
            query = select(compile_rule(rule)).select_from(ImageRow).outerjoin(MeasureRow).order_by(ImageRow.id)
            assert list(session.scalars(query)) == [evaluate(rule, c) for c in candidates], text


def test_literals_never_become_sql(session: Session) -> None:
    fill(session, np.random.default_rng(4))
    rule = parse_rule("""name = "x' or 1=1; drop table image; --" or tag like "%' or '1'='1" """)
    statement = str(select(ImageRow.id).where(compile_rule(rule)))
    assert "drop" not in statement
    assert "1=1" not in statement
    assert list(session.scalars(select(ImageRow.id).outerjoin(MeasureRow).where(compile_rule(rule)))) == []


def test_a_missing_list_is_an_error_in_sql_too() -> None:
    with pytest.raises(RecipeError, match="list 'f'"):
        compile_rule(parse_rule("image in list('f')"))


# Judging ------------------------------------------------------------------------------------------------------------


def judged_rows(session: Session, image_id: int, grade: Grade | None, seeing: float | None) -> dict[str, int | None]:
    """Give an image a quality row, a machine grade where there is one, and its measures; return the ids."""
    node = session.scalar(select(NodeRow.id)) or _attempt(session)
    assert node
    attempt = session.scalars(select(AttemptRow.id)).one()
    quality = QualityRow(image_id=image_id, attempt_id=attempt, seeing_arcsec=seeing)
    session.add(quality)
    session.flush()
    image = session.get_one(ImageRow, image_id)
    image.quality_id = quality.id
    if grade is not None:
        row = GradeRow(image_id=image_id, source=GradeSource.MACHINE, grade=grade, attempt_id=attempt)
        session.add(row)
        session.flush()
        image.grade_id = row.id
    session.add(MeasureRow(image_id=image_id, seeing_arcsec=seeing, grade=grade))
    session.flush()
    return {"quality_id": image.quality_id, "grade_id": image.grade_id}


def _attempt(session: Session) -> int:
    node = NodeRow(name="n1")
    session.add(node)
    session.flush()
    job = JobRow(
        kind="assess", engine="native", state=JobState.SUCCEEDED, request="{}", request_sha256="0" * 64, script="",
        script_sha256="0" * 64, time_limit_s=1, memory_mb=1, memory_cap_mb=1, tries=1,
    )  # fmt: skip
    session.add(job)
    session.flush()
    session.add(
        AttemptRow(
            job_id=job.id, number=1, node_id=node.id, state=AttemptState.SUCCEEDED, memory_mb=1,
            lease_until=datetime(2026, 1, 1, tzinfo=UTC),
        )
    )  # fmt: skip
    session.flush()
    return node.id


def exposure(session: Session, image_id: int, **values: Any) -> int:
    """Insert an assessed science exposure of M 51 at (200, 47)."""
    row = {
        "name": f"7441{image_id:02d}p", "kind": ImageKind.EXPOSURE, "state": ImageState.ASSESSED, "object": "M 51",
        "object_key": "m51", "instrument": "megacam", "filter": "r", "run": "06AM01", "night": date(2006, 5, 1),
        "ra_deg": 200.0, "dec_deg": 47.0,
    } | values  # fmt: skip
    row["healpix"] = centre_key(row["ra_deg"], row["dec_deg"])
    session.add(ImageRow(id=image_id, **row))
    session.flush()
    return image_id


@pytest.fixture
def survey(session: Session) -> Session:
    """Exposures: 1 good, 2 seeing bad, 3 grade unknown, 4 rejected, 5 not assessed, 6 a flat, 7 of another filter."""
    for k in (1, 2, 3):
        exposure(session, k)
    exposure(session, 4, state=ImageState.REJECTED)
    exposure(session, 5, state=ImageState.REGISTERED)
    exposure(session, 6, frame_type=FrameType.FLAT)
    exposure(session, 7, filter="g", ra_deg=210.0)
    for k, grade, seeing in ((1, Grade.A, 0.7), (2, Grade.B, 0.97), (3, None, 0.6), (7, Grade.C, 0.8)):
        judged_rows(session, k, grade, seeing)
    for k in (1, 7):
        ra = session.get_one(ImageRow, k).ra_deg or 0.0
        for number in (1, 0):
            corners = [(ra + number, 46.5), (ra + 0.5 + number, 46.5), (ra + 0.5 + number, 47.5)]
            session.add(
                DetectorRow(
                    image_id=k, number=number, hdu=number, name=f"ccd{number}", n_x=10, n_y=10,
                    polygon_ra_deg=[c[0] for c in corners], polygon_dec_deg=[c[1] for c in corners],
                )
            )  # fmt: skip
            session.flush()
        write_footprint(session, k, [[(ra, 46.5), (ra + 1.5, 46.5), (ra + 1.5, 47.5)]])
    session.add(TagRow(image_id=1, name="deep"))
    session.flush()
    return session


def test_judges_every_candidate_and_names_the_clause(survey: Session) -> None:
    judged = judge(survey, parse_rule("grade in (A, B, C) and seeing < 0.9"))
    assert [c.image_id for c in judged.chosen] == [1, 7]
    assert [(o.candidate.image_id, o.clause.sentence) for o in judged.left_out] == [
        (2, "seeing < 0.9: 0.97"),
        (3, "grade unknown"),
        (4, "state != rejected: rejected"),
        (5, "quality unknown"),
    ]
    bounded = judge(survey, parse_rule("seeing < 0.9"), association_filter(survey, filter_name="r", object_key="m51"))
    assert [c.image_id for c in bounded.chosen] == [1, 3]
    listed = judge(survey, parse_rule("image in list('l')"), lists={"l": {"744102p", "744104p"}})
    assert [c.image_id for c in listed.chosen] == [2]


def test_no_rule_takes_what_is_rejected_or_not_assessed(survey: Session) -> None:
    judged = judge(survey, parse_rule("name like '*'"))
    assert {o.candidate.image_id for o in judged.left_out} == {4, 5}


def test_candidates_come_whole_in_three_statements(survey: Session) -> None:
    statements: list[str] = []
    connection = survey.connection()
    event.listen(connection, "before_cursor_execute", lambda *a: statements.append(a[2]))
    candidates = select_candidates(survey)
    assert len(statements) == 3
    assert [c.image_id for c in candidates] == [1, 2, 3, 4, 5, 7]
    first = candidates[0]
    row = survey.get_one(ImageRow, 1)
    assert (first.quality_id, first.grade_id) == (row.quality_id, row.grade_id)
    assert None not in (first.quality_id, first.grade_id)
    assert (first.name, first.object_key, first.night, first.grade) == ("744101p", "m51", date(2006, 5, 1), Grade.A)
    assert first.tags == {"deep"}
    assert [p[0] for p in first.polygons_deg] == [(200.0, 46.5), (201.0, 46.5)]
    assert candidates[1].polygons_deg == ()
    assert select_candidates(survey, footprints=False)[0].polygons_deg == ()
    assert select_candidates(survey, [ImageRow.filter == "nothing"]) == []


def test_area_bounds_the_candidates_by_footprint(survey: Session) -> None:
    inside = association_filter(survey, circle=Circle(210.4, 46.9, 0.2))
    assert [c.image_id for c in select_candidates(survey, inside)] == [7]
    nowhere = association_filter(survey, circle=Circle(0.0, 0.0, 0.2))
    assert select_candidates(survey, nowhere) == []


def test_a_selection_keeps_rule_clauses_values_and_rows_judged(survey: Session) -> None:
    person = PersonRow(name="ada", role=PersonRole.OPERATOR)
    survey.add(person)
    survey.flush()
    judged = judge(survey, parse_rule("Grade IN (A,B,C)  and seeing<0.9"))
    selection_id = record_selection(survey, judged, person.id)
    row = survey.get_one(SelectionRow, selection_id)
    assert row.rule == "grade in (A, B, C) and seeing < 0.9"
    assert row.rule_sha256 == rule_sha256(judged.rule)
    assert row.person_id == person.id
    members = {
        m.image_id: m
        for m in survey.scalars(select(SelectionMemberRow).where(SelectionMemberRow.selection_id == selection_id))
    }
    assert sorted(members) == [1, 2, 3, 4, 5, 7]
    assert {k for k, m in members.items() if m.chosen} == {1, 7}
    assert (members[1].clause, members[1].value) == (None, None)
    assert (members[2].clause, members[2].value) == ("seeing < 0.9", "0.97")
    assert (members[3].clause, members[3].value) == ("grade in (A, B, C)", "unknown")
    image = survey.get_one(ImageRow, 2)
    assert (members[2].quality_id, members[2].grade_id) == (image.quality_id, image.grade_id)


def test_a_selection_of_nothing_is_kept_too(session: Session) -> None:
    judged = judge_candidates(parse_rule("grade = A"), [])
    selection_id = record_selection(session, judged)
    assert session.get_one(SelectionRow, selection_id).person_id is None
