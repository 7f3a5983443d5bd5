"""The runner of steps: a result last of all and for every end, exit codes, floors, engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spica.files.checksum import sha256_file
from spica.model.errors import RecipeError
from spica.model.job import ItemOutcome, Outcome, Reason
from spica.steps import __main__ as runner
from spica.steps import base
from spica.steps.base import Step, StepContext, find_step


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, step_bench: Any) -> Any:
    """Return a runner of one action as if it were a step."""

    def run(action: Any, **more: Any) -> Any:
        monkeypatch.setattr(runner, "find_step", lambda kind, engine: Step(kind="play", run=action))
        return step_bench.run("play", [], **more)

    return run


def _product(context: StepContext) -> None:
    path = context.folder / "table.json"
    path.write_text("[]")
    context.add_product("measures", path, item="image:1")
    context.used("image:1")


def test_products_are_announced_with_size_and_hash(play: Any) -> None:
    ran = play(_product)
    (product,) = ran.result.products
    assert (ran.code, ran.result.exit_code, ran.result.failure) == (0, 0, None)
    assert (product.size, product.sha256) == (2, sha256_file(ran.path("measures")))
    assert (product.small, product.media_type, product.path) == (True, "application/json", "table.json")
    assert ran.result.fence.startswith("fence-")


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (base.DataError("these data are odd; look at them"), 20, "data"),
        (RecipeError("no such word; mend it"), 21, "recipe"),
        (OSError(28, "No space left on device"), 75, "transient"),
        (MemoryError(), 75, "memory"),
        (ZeroDivisionError("division"), 1, "bug"),
    ],
)
def test_a_failure_has_a_result_with_outcomes_but_no_products(play: Any, error: Any, code: int, kind: str) -> None:
    def action(context: StepContext) -> None:
        _product(context)
        context.record(Reason("x", "y"))
        raise error

    ran = play(action)
    assert (ran.code, ran.result.exit_code, ran.result.failure.kind) == (code, code, kind)
    assert (ran.result.products, ran.result.records) == ((), ())
    assert [o.item for o in ran.result.outcomes] == ["image:1"]
    assert not ran.result.done


@pytest.mark.parametrize(
    ("used", "left", "min_inputs", "min_fraction", "good"),
    [(2, 1, 2, 0.0, True), (1, 2, 2, 0.0, False), (3, 1, 1, 0.75, True), (2, 2, 1, 0.75, False), (0, 2, 0, 0.0, True)],
)
def test_the_floor_decides(play: Any, used: int, left: int, min_inputs: int, min_fraction: float, good: bool) -> None:
    def action(context: StepContext) -> None:
        for i in range(used):
            context.used(f"image:{i + 1}")
        for i in range(left):
            context.left_out(f"image:{used + i + 1}", Reason("cloud", "too cloudy"))
        context.left_out("image:1", Reason("dead", "a dead detector"), detector=3)

    ran = play(action, min_inputs=min_inputs, min_fraction=min_fraction)
    assert (ran.code == 0) is good
    if not good:
        assert ran.code == 20
        assert f"{used} of {used + left} inputs could be used" in ran.result.failure.text
        assert "too cloudy" in ran.result.failure.text


def test_what_was_left_out_before_stays_told(play: Any) -> None:
    before = ItemOutcome("image:5", Outcome.LEFT_OUT, None, Reason("not_solved", "the solution left it out"))
    ran = play(_product, left_out=(before,))
    assert ran.whole()["image:5"] == before


def test_the_result_is_the_last_thing_written(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    real = runner.write_result

    def spy(folder: Path, result: Any) -> None:
        seen.append(sorted(p.name for p in folder.iterdir()))
        real(folder, result)

    monkeypatch.setattr(runner, "write_result", spy)
    ran = play(_product)
    assert seen == [["inputs.json", "table.json"]]
    assert sorted(p.name for p in ran.folder.iterdir()) == ["inputs.json", "result.json", "table.json"]


def test_an_unknown_engine_or_kind_names_the_known(step_bench: Any) -> None:
    with pytest.raises(RecipeError, match=r"no engine is called 'warp9'.*astromatic"):
        find_step("stack", "warp9")
    ran = step_bench.run("fold", [])
    assert ran.code == 21
    assert "no step is called 'fold'" in ran.result.failure.text


def test_an_input_that_is_not_there_is_told_by_its_role(step_bench: Any) -> None:
    ran = step_bench.run("stack", [])
    assert ran.code == 20
    assert "0 inputs measures" in ran.result.failure.text
