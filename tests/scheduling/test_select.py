"""From a wish to jobs: nothing in a dry run, all or nothing otherwise, nothing twice, names that are slugs."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select, text

from spica.db.product import record_product
from spica.db.tables.image import ImageRow
from spica.db.tables.job import JobRow, PlanRow, SelectionMemberRow, SelectionRow
from spica.db.tables.product import StackInputRow
from spica.files.slug import slug
from spica.model.association import Association, Circle, Mode
from spica.model.errors import NothingToDoError, TransientError, UsageError
from spica.model.grade import Grade
from spica.model.image import FileKind
from spica.model.job import ProductRef
from spica.model.product import Role
from spica.model.recipe import read_recipe
from spica.scheduling import select as module
from spica.scheduling.select import label_of, read_members, schedule, sexagesimal
from spica.scheduling.wish import Wish, wish_of

RECIPE = read_recipe([], [])
TABLES = (ImageRow, JobRow, PlanRow, SelectionRow, SelectionMemberRow, StackInputRow)


def _fill(world: Any, n: int = 3, **more: Any) -> list[int]:
    with world.database.begin() as session:
        context = world.attempt(session)
        ids = [world.exposure(session, context, f"exp{i}", at=(150.0 + 0.02 * i, 2.0), **more) for i in range(n)]
        session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
    return ids


def _counts(world: Any) -> list[int]:
    with world.database.read() as session:
        return [session.scalar(select(func.count()).select_from(t)) for t in TABLES]


def _schedule(world: Any, wish: Wish | None = None, recipe: Any = RECIPE, **more: Any) -> Any:
    return schedule(world.database, world.workspace, wish or Wish(Mode.SURVEY), recipe, **more)


def test_a_dry_run_records_nothing(field_world: Any) -> None:
    ids = _fill(field_world)
    before = _counts(field_world)
    done = _schedule(field_world, dry_run=True)
    assert _counts(field_world) == before
    assert [(p.label, p.members, p.plan, p.jobs) for p in done.plans] == [("D2_r", tuple(ids), None, ())]
    assert list(field_world.workspace.roots["data"].iterdir()) == []


def test_a_wish_becomes_rows_once(field_world: Any) -> None:
    ids = _fill(field_world)
    first = _schedule(field_world)
    assert [(p.label, p.members, len(p.jobs)) for p in first.plans] == [("D2_r", tuple(ids), 5)]
    again = _schedule(field_world)
    assert (again.plans, [k.plan for k in again.known]) == ([], [first.plans[0].plan])
    other = _schedule(field_world, recipe=read_recipe([], ["stack.combine=median"]))
    (plan,) = other.plans
    assert plan.label != "D2_r"
    assert plan.label.startswith("D2_r~")
    with field_world.database.read() as session:
        states = [s.name for s in session.scalars(select(JobRow.state).where(JobRow.plan_id == plan.plan))]
    assert sorted(states) == ["READY", "WAITING", "WAITING", "WAITING", "WAITING"]


@pytest.mark.parametrize("at", ["submit_jobs", "plan_image", "draft_jobs"])
def test_a_failure_leaves_nothing_half_written(field_world: Any, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    _fill(field_world, 2)
    with field_world.database.begin() as session:
        context = field_world.attempt(session)
        field_world.exposure(session, context, "green", filter="g")
        session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
    before = _counts(field_world)
    real, calls = getattr(module, at), []

    def fails_the_second_time(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("the power went")
        return real(*args, **more)

    monkeypatch.setattr(module, at, fails_the_second_time)
    with pytest.raises(RuntimeError, match="the power went"):
        _schedule(field_world)
    assert len(calls) == 2
    assert _counts(field_world) == before


def test_what_is_out_is_told_with_its_clause(field_world: Any) -> None:
    _fill(field_world, 2)
    with field_world.database.begin() as session:
        context = field_world.attempt(session)
        bad = field_world.exposure(session, context, "bad", grade=Grade.D)
        blind = field_world.exposure(session, context, "blind", bare=True)
    done = _schedule(field_world, dry_run=True)
    out = {o["id"]: (o["clause"], o["value"]) for o in done.left_out}
    assert out[bad] == ("grade in (A, B, C)", "D")
    assert out[blind] == ("not assessed", "assessed")


def test_an_empty_selection_says_what_kept_most_of_them_out(field_world: Any) -> None:
    _fill(field_world)
    with pytest.raises(NothingToDoError, match=r"3 by seeing < 0\.1"):
        _schedule(field_world, Wish(Mode.SURVEY, rule="seeing < 0.1"))
    with pytest.raises(NothingToDoError, match="near: exp0 exp1 exp2"):
        _schedule(field_world, Wish(Mode.SINGLE, targets=frozenset({"exp9"})))


def test_no_reference_over_the_field_says_how_to_add_one(world: Any) -> None:
    _fill(world)
    before = _counts(world)
    with pytest.raises(TransientError, match="spica reference"):
        _schedule(world)
    assert _counts(world) == before


HOSTILE = [
    "../../etc/passwd",
    "$(rm -rf /)",
    'a"; drop table image; --',
    "M 31 \u2728 \u00e9",
    "a\n\r\tb",
    "-rf",
    "=1+1",
]


def test_an_object_of_blanks_is_unknown(field_world: Any) -> None:
    _fill(field_world, 1, object=" \t ")
    with pytest.raises(NothingToDoError, match="object unknown"):
        _schedule(field_world)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_object_becomes_a_slug(field_world: Any, name: str) -> None:
    ids = _fill(field_world, 2, object=name)
    done = _schedule(field_world)
    (plan,) = done.plans
    assert plan.label == slug(plan.label)
    with field_world.database.read() as session:
        row = session.get_one(ImageRow, plan.image)
        assert row.object == name
        scripts = session.scalars(select(JobRow.script).where(JobRow.plan_id == plan.plan)).all()
    for script in scripts:
        commands = [line for line in script.splitlines() if not line.startswith("#")]
        assert script.isascii()
        assert not any(name.strip() and name in line for line in commands)
    assert set(plan.members) == set(ids)


@pytest.mark.parametrize(
    ("circle", "word"),
    [
        (Circle(0.0, 0.0, 0.1), "000000+000000"),
        (Circle(36.5, -4.5, 0.1), "022600-043000"),
        (Circle(359.999999, -0.0002, 0.1), "235959-000000"),
        (Circle(15.0, 90.0, 0.1), "010000+900000"),
    ],
)
def test_places_are_named_in_sexagesimal(circle: Circle, word: str) -> None:
    assert sexagesimal(circle) == word
    association = Association(Mode.AREA, "x", "cam", "r", (1,), circle=circle)
    candidate = type("C", (), {"name": "e", "object": "x"})()
    assert label_of(association, {1: candidate}) == f"area_{word}_r"


@pytest.mark.parametrize(
    "words",
    [
        {"mode": "area"},
        {"mode": "area", "ra": 1.0, "dec": 2.0},
        {"mode": "survey", "ra": 1.0, "dec": 2.0, "radius": 1.0},
        {"mode": "area", "ra": 361.0, "dec": 2.0, "radius": 1.0},
        {"mode": "area", "ra": 1.0, "dec": 91.0, "radius": 1.0},
        {"mode": "area", "ra": 1.0, "dec": 2.0, "radius": 0.0},
        {"mode": "area", "ra": float("nan"), "dec": 2.0, "radius": 1.0},
    ],
)
def test_a_circle_that_is_none_is_a_usage_error(words: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        wish_of(**words)


def test_a_list_bounds_the_wish(tmp_path: Any, field_world: Any) -> None:
    ids = _fill(field_world)
    path = tmp_path / "wanted.txt"
    path.write_text("# the best\nexp0\nexp2\n")
    done = _schedule(field_world, wish_of("survey", images_file=path), dry_run=True)
    assert [p.members for p in done.plans] == [(ids[0], ids[2])]
    single = _schedule(field_world, wish_of("single", images_file=path), dry_run=True)
    assert sorted(p.label for p in single.plans) == ["exp0_cal", "exp2_cal"]
    assert {p.members for p in single.plans} == {tuple(ids)}, "all that overlap enter the solution"
    with pytest.raises(TransientError, match="cannot be read"):
        wish_of("survey", images_file=tmp_path / "nothing.txt")


def test_a_new_exposure_makes_a_plan_that_replaces_the_made_one(field_world: Any) -> None:
    _fill(field_world, 2)
    first = _schedule(field_world).plans[0]
    with field_world.database.begin() as session:
        session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
        session.execute(text("UPDATE image SET state = 'made' WHERE id = :i"), {"i": first.image})
        context = field_world.attempt(session)
        field_world.exposure(session, context, "late", at=(150.01, 2.0))
    (second,) = _schedule(field_world).plans
    with field_world.database.read() as session:
        assert session.get_one(PlanRow, second.plan).supersedes_id == first.plan
    assert len(second.members) == 3


def test_the_pixels_of_a_raw_exposure_are_those_of_its_latest_preparation(world: Any) -> None:
    (plain, raw) = _fill(world, 2)

    def assess(*roles: Role) -> dict[str, str]:
        made = {}
        with world.database.begin() as session:
            context = world.attempt(session)
            for role in roles:
                file = world.file(session, FileKind.PRODUCT)
                made[role.value] = file.sha256
                product = ProductRef(role.value, file.name, file.sha256, file.size, file.name, item=f"image:{raw}")
                record_product(session, product, file.id, context)
            session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
        return made

    def pixels() -> list[str]:
        with world.database.read() as session:
            members = read_members(session, Association(Mode.SURVEY, "d2", "spicasim", "r", (plain, raw)))
        assert [m.image_id for m in members] == [plain, raw]
        return [m.files["exposure"].sha256 == m.sha256 or m.files["exposure"].sha256 for m in members]

    assert pixels() == [True, True]
    first = assess(Role.FACTS, Role.DETRENDED)
    assert pixels() == [True, first["detrended"]]
    assess(Role.FACTS)  # assessed again, nothing to prepare: the facts describe the exposure's own file
    assert pixels() == [True, True]
