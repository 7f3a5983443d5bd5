"""What the end of a process means."""

from __future__ import annotations

import signal

import pytest

from spica.model.job import Failure, Result
from spica_daemon.exits import Action, Ended, Killed, classify_exit


def result(code: int = 0, failure: Failure | None = None) -> Result:
    return Result(1, 1, "1", "test", "test", "0", code, failure=failure)


@pytest.mark.parametrize(
    ("ended", "left", "action", "kind"),
    [
        (Ended(0), result(), Action.SUCCEED, None),
        (Ended(None), result(), Action.SUCCEED, None),
        (Ended(0), None, Action.FAIL, "no_result"),
        (Ended(None), None, Action.REQUEUE, "lost"),
        (Ended(None), result(75, Failure("transient", "away")), Action.REQUEUE, "transient"),
        (Ended(0), result(20, Failure("data", "no stars")), Action.FAIL, "data"),
        (Ended(20), None, Action.FAIL, "data"),
        (Ended(21), None, Action.FAIL, "recipe"),
        (Ended(22), None, Action.FAIL, "conflict"),
        (Ended(75), None, Action.REQUEUE, "transient"),
        (Ended(1), None, Action.FAIL, "bug"),
        (Ended(3), None, Action.FAIL, "bug"),
        (Ended(1), result(), Action.FAIL, "bug"),
        (Ended(-signal.SIGKILL), None, Action.REQUEUE, "killed"),
        (Ended(-signal.SIGTERM), result(), Action.REQUEUE, "killed"),
        (Ended(128 + signal.SIGKILL), None, Action.REQUEUE, "killed"),
        (Ended(-signal.SIGSEGV), None, Action.FAIL, "signal"),
        (Ended(128 + signal.SIGABRT), None, Action.FAIL, "signal"),
        (Ended(-signal.SIGTERM, Killed.CANCEL), None, Action.ABORT, "cancelled"),
        (Ended(0, Killed.CANCEL), result(), Action.ABORT, "cancelled"),
        (Ended(-signal.SIGKILL, Killed.MEMORY, 1.0, 900.0), None, Action.REQUEUE, "out_of_memory"),
        (Ended(-signal.SIGTERM, Killed.TIME, 60.0), None, Action.FAIL, "time_limit"),
        (Ended(-signal.SIGTERM, Killed.FENCED), result(), Action.LEAVE, "fenced"),
    ],
)
def test_every_end_has_one_meaning(ended: Ended, left: Result | None, action: Action, kind: str | None) -> None:
    decision = classify_exit(ended, left)
    assert (decision.action, decision.kind) == (action, kind)
    assert decision.out_of_memory == (kind == "out_of_memory")
    assert (decision.text is None) == (action is Action.SUCCEED)


def test_the_words_of_the_step_and_of_the_flaw_are_kept() -> None:
    assert classify_exit(Ended(20), result(20, Failure("data", "no stars"))).text == "no stars"
    assert "product a is not there" in str(classify_exit(Ended(0), None, "product a is not there").text)
