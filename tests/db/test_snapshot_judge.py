"""Rules over columns mean what the evaluator and SQL say, on random rules and rows full of unknown values."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from spica.db.engine import Database
from spica.db.selection import compile_rule, judge, select_candidates
from spica.db.snapshot import Snapshot, exposures, failed_clauses, first_failed, judge_rows, load_snapshot, taken
from spica.db.tables.image import ImageRow, MeasureRow
from spica.model.errors import RecipeError
from spica.model.image import FrameType, ImageKind, ImageState
from spica.model.selection import InList, Not, Or, Rule, evaluate, explain, format_rule, parse_rule


def _module(name: str) -> Any:
    """Return a neighbouring test module: the makers of random rules and rows are the same."""
    spec = importlib.util.spec_from_file_location(f"shared_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SELECTION = _module("test_selection")
RULES, LISTS = SELECTION.RULES, SELECTION.LISTS
MEANING = {True: 1, False: 0, None: -1}


@pytest.fixture
def filled(database: Database) -> Database:
    """Return a database of images with a third of all values unknown."""
    with database.begin() as session:
        SELECTION.fill(session, np.random.default_rng(11))
    return database


def snapshot_of(database: Database) -> Snapshot:
    with database.read() as session:
        return load_snapshot(session)


def test_columns_and_evaluator_agree_on_random_rules_and_rows(filled: Database) -> None:
    snapshot = snapshot_of(filled)
    with filled.read() as session:
        candidates = select_candidates(session, kind=None)
    seen: Counter[int] = Counter()

    @settings(max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.lists(RULES, min_size=8, max_size=8))
    def compare(rules: list[Rule]) -> None:
        for rule in rules:
            told = judge_rows(snapshot, rule, lists=LISTS)
            assert told.dtype == np.int8
            truths = [evaluate(rule, c, LISTS) for c in candidates]
            assert told.tolist() == [MEANING[t] for t in truths], format_rule(rule)
            seen.update(told.tolist())
            some = np.array([150, 3, 77])
            assert judge_rows(snapshot, rule, some, lists=LISTS).tolist() == told[some].tolist()
            named = first_failed(snapshot, rule, np.arange(len(told)), lists=LISTS)
            clauses = [explain(rule, c, LISTS) for c in candidates]
            assert dict(named) == Counter(c.text for c in clauses if c is not None), format_rule(rule)
            unknown = Counter(c.text for c in clauses if c is not None and c.unknown)
            found = failed_clauses(snapshot, rule, np.arange(len(told)), lists=LISTS)
            assert {f.text: f.n_unknown for f in found if f.n_unknown} == dict(unknown)

    compare()
    assert min(seen[1], seen[0], seen[-1]) > 3000, "each truth must occur often for the test to tell anything"


def test_every_field_and_operator_agrees_with_sql(filled: Database) -> None:
    snapshot = snapshot_of(filled)
    with filled.read() as session:
        for text in SELECTION.every_comparison():
            for rule in (parse_rule(text), parse_rule(f"not {text}")):
                query = select(compile_rule(rule)).select_from(ImageRow).outerjoin(MeasureRow).order_by(ImageRow.id)
                told = [MEANING[truth] for truth in session.scalars(query)]
                assert judge_rows(snapshot, rule).tolist() == told, text


def test_names_fit_patterns_as_the_model_says(database: Database) -> None:
    rng = np.random.default_rng(3)
    letters = np.array(list("ab*?.+[("))
    names = sorted({"".join(rng.choice(letters, rng.integers(1, 9))) for _ in range(300)})
    rows = [
        {"id": k, "name": n, "kind": ImageKind.EXPOSURE, "state": ImageState.ASSESSED} for k, n in enumerate(names, 1)
    ]
    with database.begin() as session:
        session.execute(insert(ImageRow), rows)
        candidates = select_candidates(session, kind=None)
    snapshot = snapshot_of(database)
    assert snapshot.images.name.tolist() == names
    for _ in range(150):
        pattern = "".join(rng.choice(np.array(list("ab*?.+")), rng.integers(1, 8))).replace('"', "")
        rule = parse_rule(f'name like "{pattern}"')
        assert judge_rows(snapshot, rule).tolist() == [MEANING[evaluate(rule, c)] for c in candidates], pattern


def test_a_hostile_pattern_takes_no_long_time(database: Database) -> None:
    row = {"id": 1, "name": "a" * 4000, "kind": ImageKind.EXPOSURE, "state": ImageState.ASSESSED}
    with database.begin() as session:
        session.execute(insert(ImageRow), [row])
    assert judge_rows(snapshot_of(database), parse_rule(f'name like "{"*a" * 40}?b"')).tolist() == [0]


def test_a_missing_list_is_an_error(filled: Database) -> None:
    with pytest.raises(RecipeError, match="list 'f'"):
        judge_rows(snapshot_of(filled), Not(Or((InList("f"), InList("some")))))


def test_taken_is_what_a_plan_takes(filled: Database) -> None:
    """Rejected images, those without quality and calibration frames are out before any rule, as in `judge`."""
    rule = parse_rule("seeing < 1.5 or not airmass > 1")
    with filled.begin() as session:
        for row in session.scalars(select(ImageRow).where(ImageRow.id % 3 == 0)):
            row.frame_type = FrameType.FLAT
        SELECTION.judged_rows(session, _without_measures(session), None, 0.5)
    snapshot = snapshot_of(filled)
    with filled.read() as session:
        judged = judge(session, rule)
    mask = taken(snapshot, rule)
    assert snapshot.images.id[mask].tolist() == [c.image_id for c in judged.chosen]
    rows = np.flatnonzero(exposures(snapshot))
    assert len(rows) == len(judged.chosen) + len(judged.left_out)
    told = {f.text: f.n for f in failed_clauses(snapshot, rule, rows, usable=True)}
    assert told == Counter(o.clause.text for o in judged.left_out)


def _without_measures(session: Session) -> int:
    query = select(ImageRow).outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
    row = session.scalars(
        query.where(MeasureRow.image_id.is_(None), ImageRow.id % 3 != 0).order_by(ImageRow.id).limit(1)
    ).one()
    row.kind, row.state = ImageKind.EXPOSURE, ImageState.ASSESSED
    session.flush()
    return row.id
