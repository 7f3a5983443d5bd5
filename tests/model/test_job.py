"""Jobs: the one table of arrows makes sense, and requests, inputs and results go through JSON unchanged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spica.model.errors import DataError, RecipeError, SpicaError, TransientError
from spica.model.job import (
    ARROWS,
    DEAD,
    ENDED,
    LIVE_ATTEMPTS,
    Arrow,
    AttemptState,
    ExitCode,
    Failure,
    FileRef,
    Input,
    Inputs,
    ItemOutcome,
    JobState,
    Outcome,
    ProductRef,
    Reason,
    Request,
    ResolvedInput,
    Result,
    item_id,
    item_of_file,
    item_of_image,
)
from spica.model.record import from_json, to_json

S = JobState


def test_the_table_holds_every_arrow_once_under_its_name() -> None:
    assert set(ARROWS) == set(Arrow)
    assert all(t.arrow is name for name, t in ARROWS.items())
    assert all(t.who and t.also and t.targets for t in ARROWS.values())


def test_every_state_is_reached_from_nothing() -> None:
    assert ARROWS[Arrow.CREATE].sources == frozenset()
    reached = set(ARROWS[Arrow.CREATE].targets)
    for _ in S:
        for t in ARROWS.values():
            if t.sources & reached:
                reached |= t.targets
    assert reached == set(S)


def test_success_is_final_and_other_ends_only_resubmit() -> None:
    assert not [t for t in ARROWS.values() if S.SUCCEEDED in t.sources]
    for end in DEAD:
        assert [a for a, t in ARROWS.items() if end in t.sources] == [Arrow.RESUBMIT]
    assert {S.SUCCEEDED} == ENDED - DEAD


def test_every_state_that_has_not_ended_can_end_and_can_be_cancelled() -> None:
    for state in set(S) - ENDED:
        seen = {state}
        for _ in S:
            seen |= {target for t in ARROWS.values() if t.sources & seen for target in t.targets}
        assert S.SUCCEEDED in seen
        assert state in ARROWS[Arrow.CANCEL].sources


def test_only_claim_starts_and_only_a_running_job_succeeds() -> None:
    into_running = {a for a, t in ARROWS.items() if S.RUNNING in t.targets and S.RUNNING not in t.sources}
    assert into_running == {Arrow.CLAIM}
    assert ARROWS[Arrow.CLAIM].sources == {S.READY}
    assert ARROWS[Arrow.SUCCEED].sources == {S.RUNNING}
    assert {a for a, t in ARROWS.items() if S.SUCCEEDED in t.targets} == {Arrow.SUCCEED}
    assert S.RUNNING not in ARROWS[Arrow.PRUNE].sources
    assert {AttemptState.SUBMITTED, AttemptState.RUNNING} == LIVE_ATTEMPTS


REQUEST = Request(
    kind="stack",
    engine="native",
    recipe={"stack": {"combine": "median"}},
    recipe_sha256="0" * 64,
    inputs=(
        Input("exposure", "image:7", FileRef(3, "a" * 64, "744123p.fits.fz", 10)),
        Input("head", None, None, 42, "head"),
    ),
    subject="image:9",
    facts={"names": {"image:7": "744123p"}, "circle": None},
)


def test_requests_through_json_and_back_keep_their_hash() -> None:
    again = from_json(Request, to_json(REQUEST))
    assert again == REQUEST
    assert again.sha256() == REQUEST.sha256()
    assert replace(REQUEST, engine="astromatic").sha256() != REQUEST.sha256()
    assert replace(REQUEST, facts={"circle": 1}).sha256() != REQUEST.sha256()


def test_inputs_and_results_through_json_and_back() -> None:
    left = ItemOutcome("image:7", Outcome.LEFT_OUT, 3, Reason("saturated", "too bright", 0.5, 0.1))
    inputs = Inputs(
        42, 1, "9", (ResolvedInput("exposure", "image:7", None, FileRef(3, "a" * 64, "x", 1), "/d/x"),), (left,)
    )
    assert from_json(Inputs, to_json(inputs)) == inputs
    result = Result(
        42,
        1,
        "9",
        "stack",
        "native",
        "0.1",
        0,
        products=(ProductRef("stack", "s.fits", "b" * 64, 5, "s.fits", "image:9"),),
        outcomes=(left,),
        records=({"type": "grade", "item": "image:9", "grade": "A"},),
        seconds=1.5,
    )
    assert from_json(Result, to_json(result)) == result


def test_done_means_exit_code_zero_and_no_failure() -> None:
    good = Result(1, 1, "1", "stack", "native", "0.1", 0)
    assert good.done
    assert not replace(good, exit_code=ExitCode.DATA).done
    assert not replace(good, failure=Failure("data", "no stars")).done


@pytest.mark.parametrize(("error", "code"), [(DataError, 20), (RecipeError, 21), (TransientError, 75), (SpicaError, 1)])
def test_errors_end_a_step_with_their_exit_code(error: type[SpicaError], code: int) -> None:
    assert error.exit_code == ExitCode(code)
    assert str(error()).strip()
    assert error("why", word="x").values == {"word": "x"}


def test_items() -> None:
    assert item_id(item_of_image(17)) == ("image", 17)
    assert item_id(item_of_file(3)) == ("file", 3)
