"""The snapshot shows what the tables hold: read whole, read again in parts, and kept by its keeper."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.orm import Session

from spica.db.engine import Database, notify
from spica.db.grade import add_grade, withdraw_grade
from spica.db.image import set_state
from spica.db.pages.listing import distributions, facets, read_distributions, read_facets
from spica.db.selection import COLUMNS
from spica.db.snapshot import (
    Changes,
    Snapshot,
    SnapshotKeeper,
    load_snapshot,
    ordered,
    refresh_snapshot,
    row_place,
    spread,
)
from spica.db.snapshot import load as loading
from spica.db.snapshot.columns import GRADE_NAMES, IMAGE_NAMES, WORD_NAMES
from spica.db.tables.image import ImageRow, MeasureRow, TagRow
from spica.db.tables.job import JobRow
from spica.db.tables.person import PersonRow
from spica.db.tables.product import StackInputRow
from spica.db.tables.quality import GradeRow
from spica.model.errors import TransientError
from spica.model.grade import Grade, GradeSource
from spica.model.image import FrameType, ImageKind, ImageState
from spica.model.job import JobState, Outcome
from spica.model.person import PersonRole

spreading: Any = importlib.import_module("spica.db.snapshot.spread")  # the package has a function of that name
_SPEC = importlib.util.spec_from_file_location("shared_selection", Path(__file__).with_name("test_selection.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
SELECTION = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(SELECTION)


def job_values(number: int, state: JobState, kind: str) -> dict[str, Any]:
    return {
        "id": number, "kind": kind, "engine": "native", "state": state, "request": "{}", "request_sha256": "0" * 64,
        "script": "", "script_sha256": "0" * 64, "time_limit_s": 1, "memory_mb": 1, "memory_cap_mb": 1, "tries": 1,
    }  # fmt: skip


def fill(session: Session, rng: np.random.Generator) -> None:
    """Insert random images with grades by three people and the machine, stacks' inputs, tags and jobs."""
    SELECTION.fill(session, rng)
    session.add_all(PersonRow(id=k, name=f"p{k}", role=PersonRole.GRADER) for k in (1, 2, 3))
    session.execute(insert(JobRow), [job_values(k, JobState.READY, ("assess", "stack")[k % 2]) for k in range(1, 31)])
    session.flush()
    for _ in range(400):
        graded(session, rng)
    stacks = list(session.scalars(select(ImageRow.id).where(ImageRow.kind == ImageKind.STACK)))
    outcomes = (*Outcome, None)
    session.add_all(
        StackInputRow(stack_id=s, image_id=int(i), outcome=outcomes[int(rng.integers(len(outcomes)))])
        for s in stacks
        for i in rng.choice(np.arange(1, 200), 3, replace=False)
    )
    session.flush()
    session.execute(text("SELECT setval(pg_get_serial_sequence('image', 'id'), 1000)"))


def graded(session: Session, rng: np.random.Generator, image: int | None = None) -> int:
    """Give a random grade; return the image."""
    chosen = int(rng.integers(1, SELECTION.N_ROWS)) if image is None else image
    person = (None, 1, 2, 3)[int(rng.integers(4))]
    source = GradeSource.HUMAN if person is not None or rng.random() < 0.1 else GradeSource.MACHINE
    letter = tuple(Grade)[int(rng.integers(4))]
    row = GradeRow(image_id=chosen, source=source, grade=letter, person_id=person, blind=bool(rng.random() < 0.2))
    row.seconds = None if rng.random() < 0.5 else 3.5
    row.withdrawn_at = datetime(2026, 1, 1, tzinfo=UTC) if rng.random() < 0.2 else None
    session.add(row)
    session.flush()
    return chosen


@pytest.fixture
def filled(database: Database) -> Database:
    """Return a database with a random survey."""
    with database.begin() as session:
        fill(session, np.random.default_rng(5))
    return database


def snapshot_of(database: Database) -> Snapshot:
    with database.read() as session:
        return load_snapshot(session)


def words_of(snapshot: Snapshot, name: str) -> list[str | None]:
    return [snapshot.images.word(name, row) for row in range(len(snapshot.images))]


def assert_same(one: Snapshot, other: Snapshot) -> None:
    """Two snapshots hold the same; codes may differ, words may not."""
    for name in IMAGE_NAMES:
        if name in WORD_NAMES:
            assert words_of(one, name) == words_of(other, name), name
        else:
            np.testing.assert_array_equal(getattr(one.images, name), getattr(other.images, name), name)
    for name in GRADE_NAMES:
        np.testing.assert_array_equal(getattr(one.grades, name), getattr(other.grades, name), name)
    for name in ("id", "state", "plan"):
        np.testing.assert_array_equal(getattr(one.jobs, name), getattr(other.jobs, name), name)
    assert [one.jobs.words[k] for k in one.jobs.kind] == [other.jobs.words[k] for k in other.jobs.kind]
    assert one.jobs.counts() == other.jobs.counts()
    assert {k: v.tolist() for k, v in one.images.tags.items()} == {k: v.tolist() for k, v in other.images.tags.items()}


# Reading --------------------------------------------------------------------------------------------------------------


def nan(value: float | None) -> float:
    return np.nan if value is None else float(value)


def test_columns_are_the_tables(filled: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row by row by the object mapper; blocks smaller than the tables, so that their seams are crossed."""
    monkeypatch.setattr(loading, "BLOCK_ROWS", 64)
    snapshot = snapshot_of(filled)
    images = snapshot.images
    with filled.read() as session:
        rows = session.execute(
            select(ImageRow, MeasureRow).outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id).order_by(ImageRow.id)
        ).all()
    assert images.id.tolist() == [i.id for i, _ in rows]
    assert len(images) == len(rows) == SELECTION.N_ROWS
    for row, (i, m) in enumerate(rows):
        told = (list(ImageKind)[images.kind[row]], list(ImageState)[images.state[row]], images.name[row])
        assert told == (i.kind, i.state, i.name)
        assert list(FrameType)[images.frame[row]] is i.frame_type
        words = tuple(images.word(name, row) for name in WORD_NAMES)
        assert words == (i.object_key, i.filter, i.run, i.instrument, i.object)
        assert images.day(row) == i.night
        assert images.usable[row] == (i.state is not ImageState.REJECTED and i.quality_id is not None)
        numbers = [nan(v) for v in (i.exptime_s, i.airmass, i.mjd, i.ra_deg, i.dec_deg)]
        names = ("exptime", "airmass", "mjd", "ra", "dec")
        np.testing.assert_array_equal([images.column(n)[row] for n in names], numbers)
        np.testing.assert_array_equal(images.seeing[row], nan(m and m.seeing_arcsec))
        np.testing.assert_array_equal(images.n_stars[row], nan(m and m.n_stars))
        assert images.grade[row] == (0 if m is None or m.grade is None else list(Grade).index(m.grade) + 1)
    assert images.row_of([3, 10**9, 1]).tolist() == [2, -1, 0]
    assert images.code("filter", "no such") == -2


def test_what_grades_say_together(filled: Database) -> None:
    """Newest machine grade, graders and disagreement, counted again in plain Python."""
    snapshot = snapshot_of(filled)
    images = snapshot.images
    with filled.read() as session:
        grades = session.scalars(select(GradeRow).order_by(GradeRow.id)).all()
        inputs = session.scalars(select(StackInputRow)).all()
    assert snapshot.grades.id.tolist() == [g.id for g in grades]
    assert images.id[snapshot.grades.row].tolist() == [g.image_id for g in grades] == snapshot.grades.image.tolist()
    assert snapshot.grades.person.tolist() == [g.person_id or 0 for g in grades]
    assert snapshot.grades.created.tolist() == pytest.approx([g.created_at.timestamp() for g in grades])
    assert snapshot.grades.withdrawn.tolist() == [g.withdrawn_at is not None for g in grades]
    assert snapshot.grades.blind.tolist() == [g.blind for g in grades]
    np.testing.assert_array_equal(snapshot.grades.seconds, np.array([nan(g.seconds) for g in grades], dtype=np.float32))
    standing = [g for g in grades if g.withdrawn_at is None]
    for row, image_id in enumerate(images.id.tolist()):
        mine = [g for g in standing if g.image_id == image_id]
        by_person = {g.person_id: g.grade for g in mine if g.source is GradeSource.HUMAN}
        machine = [g.grade for g in mine if g.source is GradeSource.MACHINE]
        assert images.n_graders[row] == len(by_person)
        assert images.split[row] == (len(set(by_person.values())) > 1)
        assert images.machine[row] == (list(Grade).index(machine[-1]) + 1 if machine else 0)
        used = [s for s in inputs if s.image_id == image_id and s.outcome in (Outcome.USED, Outcome.USED_WITH_WARNING)]
        assert images.stacked[row] == len(used)
    assert images.split.any()
    assert images.stacked.max() > 1


def test_an_empty_survey_is_a_snapshot_too(database: Database) -> None:
    empty = snapshot_of(database)
    assert (len(empty.images), len(empty.grades), len(empty.jobs)) == (0, 0, 0)
    assert set(empty.jobs.counts().values()) == {0}
    assert empty.images.row_of([1]).tolist() == [-1]
    with database.begin() as session:
        fill(session, np.random.default_rng(9))
    with database.read() as session:
        made = refresh_snapshot(session, empty, Changes())
    assert made is not None
    assert_same(made, snapshot_of(database))


# Reading again --------------------------------------------------------------------------------------------------------


def disturb(session: Session, rng: np.random.Generator, step: int) -> Changes:
    """Change a few things at random; return what a listener would have heard of them."""
    changes = Changes()
    low, high = session.execute(select(func.min(ImageRow.id), func.max(ImageRow.id))).one()
    some = [int(i) for i in rng.integers(low, high + 1, 3)]
    for image in some:
        session.execute(
            update(ImageRow).where(ImageRow.id == image).values(
                filter=f"new{step % 3}", exptime_s=float(rng.uniform()), state=ImageState.MADE
            )
        )  # fmt: skip
        session.execute(update(MeasureRow).where(MeasureRow.image_id == image).values(seeing_arcsec=None))
        session.execute(delete(TagRow).where(TagRow.image_id == image, TagRow.name == "deep"))
        if session.get(ImageRow, image) is not None:
            session.merge(TagRow(image_id=image, name=f"word{step % 4}"))
    session.execute(update(GradeRow).where(GradeRow.image_id == some[0]).values(withdrawn_at=func.now()))
    graded(session, rng)
    fresh = [2000 + step * 10 + k for k in range(int(rng.integers(0, 3)))]
    between = [] if step % 3 else [1000 - step]  # a transaction that began long ago
    for image in fresh + between:
        values = {"name": f"fresh{image}", "kind": ImageKind.EXPOSURE, "state": ImageState.REGISTERED}
        session.execute(insert(ImageRow), [{"id": image, "object": "M 1", "object_key": "m1", **values}])
        graded(session, rng, image)
    session.execute(insert(JobRow), [job_values(100 + step, JobState.HELD, f"kind{step % 3}")])
    moved = int(rng.integers(1, 31))
    session.execute(update(JobRow).where(JobRow.id == moved).values(state=JobState.RUNNING))
    session.flush()
    changes.images.update(some + between)
    changes.jobs.add(moved)
    return changes


def test_parts_read_again_are_the_whole_read_again(filled: Database) -> None:
    """After each of many random changes the refreshed snapshot equals one that is read anew; older ones stay."""
    rng = np.random.default_rng(8)
    snapshot = first = snapshot_of(filled)
    kept = {name: getattr(first.images, name).copy() for name in IMAGE_NAMES}
    for step in range(25):
        with filled.begin() as session:
            changes = disturb(session, rng, step)
        with filled.read() as session:
            made = refresh_snapshot(session, snapshot, changes)
        assert made is not None
        assert made.version == snapshot.version + 1
        assert made.taken_at > snapshot.taken_at
        assert_same(made, snapshot_of(filled))
        snapshot = made
    assert len(snapshot.images) > len(first.images)
    for name, array in kept.items():
        np.testing.assert_array_equal(getattr(first.images, name), array, name)


def test_only_columns_that_changed_are_new(filled: Database) -> None:
    old = snapshot_of(filled)
    with filled.begin() as session:
        set_state(session, 7, ImageState.FAILED)
    with filled.read() as session:
        made = refresh_snapshot(session, old, Changes(images={7}))
    assert made is not None
    assert {n for n in IMAGE_NAMES if getattr(made.images, n) is not getattr(old.images, n)} <= {"state", "usable"}
    assert made.images.state is not old.images.state
    assert made.grades is old.grades
    assert made.jobs is old.jobs
    with filled.read() as session:
        again = refresh_snapshot(session, made, Changes(images={7}, jobs={3}))
    assert again is not None
    assert again.images is made.images
    assert again.version == made.version
    with pytest.raises(ValueError, match="read-only"):
        made.images.state[0] = 1


def test_an_image_that_is_gone_asks_for_everything(filled: Database) -> None:
    old = snapshot_of(filled)
    with filled.begin() as session:
        session.execute(delete(StackInputRow))
        session.execute(update(ImageRow).where(ImageRow.id == 9).values(grade_id=None))
        session.execute(delete(ImageRow).where(ImageRow.id == 9))
    with filled.read() as session:
        assert refresh_snapshot(session, old, Changes(images={9})) is None


# Order and spread -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sort", ["", "-id", "seeing", "-seeing", "object", "-filter", "night", "-night", "name",
                                  "-name", "grade", "-grade", "state", "n_stars", "-mjd", "nonsense"])  # fmt: skip
def test_pages_and_neighbours_are_those_of_a_sorted_list(
    filled: Database, sort: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By walking along an order of all, and by looking at the values of some: the same."""
    snapshot = snapshot_of(filled)
    rows = np.flatnonzero(np.random.default_rng(1).random(len(snapshot.images)) < 0.7)
    name, down = sort.removeprefix("-"), sort.startswith("-")
    with filled.read() as session:
        joined = select(ImageRow.id).outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        columns = {**COLUMNS, "id": ImageRow.id, "object": ImageRow.object}
        order = [ImageRow.id]
        if name in columns:
            column = columns[name]
            order.insert(0, column.desc().nulls_last() if down else column.asc().nulls_last())
        wanted = [i for i in session.scalars(joined.order_by(*order)) if i - 1 in set(rows.tolist())]
    for few in (0, 50_000):
        monkeypatch.setattr(spreading, "FEW_ROWS", few)
        found = [ordered(snapshot, rows, sort, offset, 7) for offset in range(0, len(rows) + 7, 7)]
        assert snapshot.images.id[np.concatenate(found)].tolist() == wanted
    for position in (0, 1, len(wanted) // 2, len(wanted) - 2, len(wanted) - 1):
        row = wanted[position] - 1
        place = row_place(snapshot, rows, sort, row)
        assert place is not None
        around = [None, *[i - 1 for i in wanted], None]
        assert (place.previous, place.next) == (around[position], around[position + 2])
        assert (place.position, place.total) == (position + 1, len(wanted))
    outside = int(np.setdiff1d(np.arange(len(snapshot.images)), rows)[0])
    assert row_place(snapshot, rows, sort, outside) is None


def test_a_ranking_tells_how_any_rows_are_spread(filled: Database) -> None:
    snapshot = snapshot_of(filled)
    rng = np.random.default_rng(5)
    values = np.round(rng.normal(1.0, 0.2, len(snapshot.images)), 2)  # some are equal
    values[::7] = np.nan
    snapshot = dataclasses.replace(snapshot, images=dataclasses.replace(snapshot.images, seeing=values))
    ranked = spreading.ranking(snapshot, "seeing")
    assert spreading.ranking(snapshot, "seeing") is ranked
    for share in (0.0, 0.3, 1.0):
        rows = np.flatnonzero(rng.random(len(values)) < share)
        known = values[rows][~np.isnan(values[rows])]
        np.testing.assert_array_equal(ranked.values[ranked.places(rows)], np.sort(known))
    changed = dataclasses.replace(snapshot, images=dataclasses.replace(snapshot.images, seeing=values + 1.0))
    assert spreading.ranking(changed, "seeing").values[0] == ranked.values[0] + 1.0


def test_spread_counts_every_known_value(filled: Database) -> None:
    snapshot = snapshot_of(filled)
    rng = np.random.default_rng(4)
    values = rng.normal(1.0, 0.2, len(snapshot.images))
    values[::5] = np.nan
    snapshot = dataclasses.replace(snapshot, images=dataclasses.replace(snapshot.images, seeing=values))
    mask = rng.random(len(values)) < 0.8
    found = spread(snapshot, mask, "seeing", bins=10)
    known = values[mask & ~np.isnan(values)]
    assert found.n == len(known) == sum(found.counts) + found.below + found.above
    np.testing.assert_allclose((found.p01, found.median, found.p99), np.percentile(known, (1, 50, 99)))
    counts, _ = np.histogram(known, bins=10, range=(found.low, found.high))
    assert found.counts == tuple(counts)
    whole = spread(snapshot, None, "seeing", bins=4, low=0.0, high=2.0)
    assert whole.counts == tuple(np.histogram(values[~np.isnan(values)], bins=4, range=(0.0, 2.0))[0])
    none = spread(snapshot, np.zeros(len(values), dtype=bool), "seeing", bins=4)
    assert (none.n, none.counts) == (0, (0, 0, 0, 0))
    assert np.isnan(none.median)


def test_distributions_and_facets_are_those_of_the_tables(filled: Database) -> None:
    snapshot = snapshot_of(filled)
    compared = 0
    with filled.read() as session:
        told = read_facets(session)
        for image in session.scalars(select(ImageRow).where(ImageRow.id.in_(range(1, 60)))):
            if image.filter is None:
                continue
            by_sql, found = read_distributions(session, image), distributions(snapshot, image.id)
            assert found.keys() == by_sql.keys()
            for name, wanted in by_sql.items():
                one = found[name]
                assert one.n == wanted.n == sum(one.counts)
                assert (one.low, one.high) == pytest.approx((wanted.low, wanted.high))
                known = getattr(session.get(MeasureRow, image.id), name, None) is not None
                assert one.below == (pytest.approx(wanted.below) if known else None)
                compared += 1
        exposed = session.scalars(select(ImageRow).where(ImageRow.kind == ImageKind.EXPOSURE)).all()
    assert compared > 20
    found_facets = facets(snapshot)
    assert (found_facets.filters, found_facets.nights) == (told.filters, told.nights)
    assert set(found_facets.objects) <= set(told.objects)
    assert sum(found_facets.n_objects) == sum(e.object is not None for e in exposed)
    for night, n in zip(found_facets.nights, found_facets.n_nights, strict=True):
        assert n == sum(e.night == night for e in exposed)


# The keeper -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def keep(filled: Database) -> Iterator[Callable[[], SnapshotKeeper]]:
    """Return a maker of keepers that follow the survey, each with a listener; they are stopped after the test."""
    over = threading.Event()
    made: list[tuple[SnapshotKeeper, threading.Thread]] = []

    def make() -> SnapshotKeeper:
        keeper = SnapshotKeeper(filled)

        def hear() -> None:
            with filled.listen() as listener:
                keeper.note(["resync"])
                while not over.is_set():
                    if told := listener.wait(0.2):
                        keeper.note(told)

        thread = threading.Thread(target=hear)
        thread.start()
        keeper.start()
        made.append((keeper, thread))
        return keeper

    yield make
    over.set()
    for keeper, thread in made:
        keeper.stop()
        thread.join()


def wait_for(check: Callable[[], bool], limit_s: float = 5.0) -> bool:
    end = time.monotonic() + limit_s
    while not check() and time.monotonic() < end:
        time.sleep(0.02)
    return check()


def test_own_acts_show_at_once(filled: Database, keep: Callable[[], SnapshotKeeper]) -> None:
    keeper = keep()
    before = keeper.now()
    assert keeper.ready
    for step in range(10):
        with filled.begin() as session:
            grade_id = add_grade(session, 5, GradeSource.HUMAN, tuple(Grade)[step % 4], person_id=1)
        now = keeper.now()
        assert now.images.grade[4] == step % 4 + 1
        assert now.version > before.version
        assert now.taken_at > before.taken_at
        before = now
    with filled.begin() as session:
        withdraw_grade(session, grade_id, None)
    assert_same(keeper.now(), snapshot_of(filled))


def test_acts_of_others_show_in_a_moment(filled: Database, keep: Callable[[], SnapshotKeeper]) -> None:
    keeper = keep()
    keeper.now()
    with Database(filled.url) as other, other.begin() as session:
        set_state(session, 11, ImageState.DELIVERED)
    assert wait_for(lambda: list(ImageState)[keeper.now().images.state[10]] is ImageState.DELIVERED)


def test_a_resync_reads_what_nobody_told(filled: Database, keep: Callable[[], SnapshotKeeper]) -> None:
    keeper = keep()
    keeper.now()
    with Database(filled.url) as other, other.begin() as session:
        session.execute(update(ImageRow).where(ImageRow.id == 3).values(run="untold"))
    with filled.begin() as session:
        notify(session, "resync")
    assert wait_for(lambda: keeper.now().images.word("run", 2) == "untold")
    with filled.begin() as session:
        session.execute(update(ImageRow).where(ImageRow.id == 3).values(run="again"))
        notify(session, "resync")
    assert keeper.now(5.0).images.word("run", 2) == "again"


def test_without_a_listener_the_age_is_told_and_nothing_hangs(filled: Database) -> None:
    """A keeper whose listener is deaf gives the old snapshot with its old age, after the wait and no later."""
    keeper = SnapshotKeeper(filled)
    keeper.note(["resync"])
    keeper.start()
    try:
        before = keeper.now()
        with filled.begin() as session:
            set_state(session, 11, ImageState.DELIVERED)
        start = time.monotonic()
        late = keeper.now(0.2)
        assert time.monotonic() - start < 2.0
        assert late.taken_at == before.taken_at
        assert late.age_s > 0.0
        keeper.note(["image:11", "image:x", "claim:4", "barrier:zz"])
        assert wait_for(lambda: list(ImageState)[keeper.now(0.1).images.state[10]] is ImageState.DELIVERED)
    finally:
        keeper.stop()


def test_a_keeper_that_was_not_started_reads_each_time(filled: Database) -> None:
    keeper = SnapshotKeeper(filled)
    assert not keeper.ready
    assert keeper.now().images.word("run", 0) != "changed"
    with filled.begin() as session:
        session.execute(update(ImageRow).where(ImageRow.id == 1).values(run="changed", night=date(2026, 1, 1)))
    assert keeper.now().images.word("run", 0) == "changed"


def test_the_first_load_is_awaited_or_refused(filled: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = SnapshotKeeper(filled)
    gate = threading.Event()
    monkeypatch.setattr("spica.db.snapshot.keeper.FIRST_WAIT_S", 0.1)
    monkeypatch.setattr("spica.db.snapshot.keeper.load_snapshot", lambda *a: gate.wait(5) and load_snapshot(*a))
    keeper.note(["resync"])
    keeper.start()
    try:
        with pytest.raises(TransientError, match="being read"):
            keeper.now(0.0)
        gate.set()
        assert wait_for(lambda: keeper.ready)
        assert len(keeper.now().images) == SELECTION.N_ROWS
    finally:
        gate.set()
        keeper.stop()
