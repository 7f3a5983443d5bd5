"""`spica restack`: by name or all that are stale; what it says, what it records, and how it ends."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select, text

from spica.cli import main as door
from spica.db.grade import add_grade
from spica.db.tables.job import PlanRow
from spica.model.association import Mode
from spica.model.grade import Grade, GradeSource
from spica.model.recipe import Recipe
from spica.reference.catalogue import make_catalogue, write_reference
from spica.reference.store import ReferenceStore
from spica.scheduling.select import schedule
from spica.scheduling.wish import Wish


class Survey:
    """A stack of two exposures that counts as made, and the command on its workspace."""

    def __init__(self, world: Any, capfd: pytest.CaptureFixture[str]) -> None:
        self.world, self.database, self.capfd = world, world.database, capfd
        with self.database.begin() as session:
            context = world.attempt(session)
            self.ids = [world.exposure(session, context, name) for name in ("a", "b")]
        (planned,) = schedule(self.database, world.workspace, Wish(Mode.SURVEY), Recipe()).plans
        self.stack, self.name = int(planned.image or 0), planned.label
        self.finish()

    def finish(self) -> None:
        with self.database.begin() as session:
            session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
            session.execute(text("UPDATE image SET state = 'made' WHERE kind = 'stack'"))

    def spoil(self, *names: int) -> None:
        with self.database.begin() as session:
            for n in names:
                add_grade(session, self.ids[n], GradeSource.HUMAN, Grade.D)

    def plans(self) -> int:
        with self.database.read() as session:
            return int(session.scalar(select(func.count()).select_from(PlanRow)) or 0)

    def run(self, *words: Any) -> tuple[int, str, str]:
        self.capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            door.main(["--workspace", str(self.world.workspace.folder), "restack", *map(str, words)])
        out, err = self.capfd.readouterr()
        return int(ended.value.code or 0), out, err


@pytest.fixture
def survey(world: Any, tmp_path: Any, capfd: pytest.CaptureFixture[str]) -> Survey:
    rng = np.random.default_rng(8)
    stars = make_catalogue(
        rng.uniform(149.4, 150.6, 3000), rng.uniform(1.4, 2.6, 3000), err_ra_mas=1.0, err_dec_mas=1.0, epoch_yr=2016.0,
        mags={"r": rng.uniform(14, 20, 3000)}, mag_errors={"r": 0.01}, mag_system="AB", source="stars",
    )  # fmt: skip
    ReferenceStore(world.workspace.reference_folder).add(write_reference(tmp_path / "stars.fits", stars), "stars")
    return Survey(world, capfd)


def test_nothing_stale_is_nothing_to_do(survey: Survey) -> None:
    code, out, err = survey.run("--stale")
    assert (code, out) == (4, "")
    assert "no stack is stale" in err
    code, out, _ = survey.run("--stale", "--dry-run", "--json")
    assert code == 4
    assert json.loads(out) == {"dry_run": True, "stacks": [], "failed": 0}
    code, out, _ = survey.run(survey.name)
    assert (code, survey.plans()) == (0, 1)
    assert "nothing is done twice" in out


def test_a_dry_run_tells_reasons_and_members_and_records_nothing(survey: Survey) -> None:
    survey.spoil(1)
    code, out, err = survey.run("--stale", "--dry-run")
    assert (code, err, survey.plans()) == (0, "", 1)
    assert f"{survey.name}: would be planned as" in out
    assert "1 exposure, 1 leaves" in out
    assert "grade of b changed from A to D" in out
    code, out, _ = survey.run(survey.stack, "--dry-run", "--json")
    said = json.loads(out)
    (one,) = said["stacks"]
    assert (code, said["dry_run"], one["id"], one["outcome"], one["plan"]) == (0, True, survey.stack, "planned", None)
    assert (one["lost"], one["gained"]) == ([{"id": survey.ids[1], "name": "b"}], [])
    assert {r["code"] for r in one["reasons"]} == {"grade", "leaves"}


def test_what_is_stale_is_planned_once(survey: Survey) -> None:
    survey.spoil(1)
    code, out, _ = survey.run("--stale", "--json")
    (one,) = json.loads(out)["stacks"]
    assert (code, one["outcome"], survey.plans()) == (0, "planned", 2)
    with survey.database.read() as session:
        plan = session.get_one(PlanRow, one["plan"])
        assert plan.supersedes_id is not None
    assert one["jobs"]
    assert survey.run("--stale")[0] == 4, "what is planned again is stale no more"
    code, out, _ = survey.run(survey.name)
    assert (code, survey.plans()) == (0, 2)
    assert f"plan {one['plan']} makes or made" in out


def test_refusals_end_with_their_codes(survey: Survey) -> None:
    survey.spoil(0, 1)
    code, out, _ = survey.run("--stale")
    assert code == 4
    assert "none of the 2 exposures" in out
    with survey.database.begin() as session:
        session.execute(text("UPDATE image SET state = 'running' WHERE kind = 'stack'"))
    code, out, _ = survey.run(survey.name)
    assert code == 3
    assert "wait for its jobs" in out
    assert survey.plans() == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "or --stale"),
        (("x", "--stale"), "or --stale"),
        (("nowhere",), "no image is called 'nowhere'"),
        (("a",), "a is an exposure, not a stack"),
    ],
)
def test_words_that_name_no_stack_are_usage(survey: Survey, words: tuple[str, ...], said: str) -> None:
    code, out, err = survey.run(*words)
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    assert said in err
    assert survey.plans() == 1
