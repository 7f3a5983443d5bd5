"""What the end of a process means for its attempt: the one place where exit codes, signals and results are judged."""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass

from spica.model.job import ExitCode, Result


class Killed(enum.StrEnum):
    """Why the daemon itself ended a process."""

    CANCEL = "cancel"
    TIME = "time_limit"
    MEMORY = "out_of_memory"
    FENCED = "fenced"


class Action(enum.StrEnum):
    """What follows."""

    SUCCEED = "succeed"
    FAIL = "fail"
    REQUEUE = "requeue"
    ABORT = "abort"
    LEAVE = "leave"


@dataclass(frozen=True)
class Ended:
    """What the daemon saw of a process that ended. `exit_code` negative is a signal, None unknown (adopted)."""

    exit_code: int | None
    killed: Killed | None = None
    seconds: float | None = None
    peak_memory_mb: float | None = None


@dataclass(frozen=True)
class Decision:
    """What to do with the attempt, the class of the error, and the sentence for people."""

    action: Action
    kind: str | None = None
    text: str | None = None
    killed: bool = False

    @property
    def out_of_memory(self) -> bool:
        """Whether the next attempt should get more memory."""
        return self.kind == Killed.MEMORY


OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Signals that come from outside (the kernel's memory killer, a person, a host going down): tried again."""

_BY_CODE = {
    ExitCode.BUG: ("bug", "the step broke; see its log and report it"),
    ExitCode.DATA: ("data", "these data cannot be processed; see its log"),
    ExitCode.RECIPE: ("recipe", "a person must edit the recipe; see its log"),
    ExitCode.CONFLICT: ("conflict", "the world moved while it ran; plan again"),
    ExitCode.TRANSIENT: ("transient", "something it needs is away for now"),
}


def classify_exit(ended: Ended, result: Result | None, flaw: str | None = None) -> Decision:
    """Decide about an attempt whose process has ended.

    Parameters
    ----------
    ended : what was seen of the process.
    result : its result where that is whole and bears the right fence, else None.
    flaw : what is wrong with the result file where there is one that is not whole.

    Notes
    -----
    What the daemon did itself comes first. A signal from outside (`OUTSIDE`) is tried again, any other is final. A code
    of the shell above 128 means the signal of the tool it ran. Exit 0 without a whole result is final. Of an adopted
    process the code is unknown: its result speaks, and without one it is tried again.
    """
    if ended.killed is not None:
        return _by_daemon(ended)
    code = ended.exit_code
    number = _signal_of(code)
    if number is not None:
        return _by_signal(number)
    if code in (None, ExitCode.DONE):
        return _by_result(code, result, flaw)
    return _by_code(int(code or 0), result)


def _by_daemon(ended: Ended) -> Decision:
    if ended.killed is Killed.CANCEL:
        return Decision(Action.ABORT, "cancelled", "ended because a person asked", killed=True)
    if ended.killed is Killed.MEMORY:
        used = f" ({ended.peak_memory_mb:.0f} MB)" if ended.peak_memory_mb else ""
        return Decision(Action.REQUEUE, Killed.MEMORY, f"took more memory than it was given{used}", killed=True)
    if ended.killed is Killed.TIME:
        spent = f" after {ended.seconds:.0f} s" if ended.seconds else ""
        return Decision(
            Action.FAIL, Killed.TIME, f"ended{spent} at its time limit; raise it in the recipe", killed=True
        )
    return Decision(Action.LEAVE, Killed.FENCED, "another attempt has taken its place", killed=True)


def _signal_of(code: int | None) -> int | None:
    if code is None:
        return None
    if code < 0:
        return -code
    return code - 128 if 128 < code <= 128 + 64 else None


def _by_signal(number: int) -> Decision:
    name = signal.Signals(number).name if number in {s.value for s in signal.Signals} else f"signal {number}"
    if number in OUTSIDE:
        return Decision(Action.REQUEUE, "killed", f"ended from outside by {name}", killed=True)
    return Decision(Action.FAIL, "signal", f"the step broke by {name}; see its log and report it")


def _by_result(code: int | None, result: Result | None, flaw: str | None) -> Decision:
    if result is not None and result.done:
        return Decision(Action.SUCCEED)
    if result is not None:
        return _by_code(result.exit_code, result)
    if code is None:
        why = flaw or "it ended unwatched and left no result"
        return Decision(Action.REQUEUE, "lost", why, killed=True)
    return Decision(Action.FAIL, "no_result", f"exit 0 but {flaw or 'it left no result'}; see its log and report it")


def _by_code(code: int, result: Result | None) -> Decision:
    known = ExitCode(code) if code in set(ExitCode) else ExitCode.BUG
    kind, text = _BY_CODE.get(known, _BY_CODE[ExitCode.BUG])
    if result is not None and result.failure is not None:
        kind, text = result.failure.kind, result.failure.text
    elif known is ExitCode.BUG and code != ExitCode.BUG:
        text = f"exit code {code}; {text}"
    action = Action.REQUEUE if known is ExitCode.TRANSIENT else Action.FAIL
    return Decision(action, kind, text)
