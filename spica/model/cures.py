"""What helps against each class of error: one table of sentences and of the acts that people may order.

The class of an error is the `kind` of `spica.model.errors`, or the word with which the daemon judges the end of a
process. Where a plug-in brings a class of its own, the exit code of the step decides.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from spica.model.errors import (
    ConflictError,
    DataError,
    NothingToDoError,
    RecipeError,
    SpicaError,
    TransientError,
    UsageError,
)
from spica.model.job import ExitCode


class CureAct(enum.StrEnum):
    """What a person may order against an error."""

    RETRY = "retry"
    RETRY_MEMORY = "retry_memory"
    RETRY_TIME = "retry_time"
    AGAIN = "again"
    HOLD_REST = "hold_rest"


@dataclass(frozen=True)
class Cure:
    """What helps, as a sentence, and the acts that apply it, the best first."""

    text: str
    acts: tuple[CureAct, ...]


_RETRY, _AGAIN, _HOLD = CureAct.RETRY, CureAct.AGAIN, CureAct.HOLD_REST

CURES: dict[str, Cure] = {
    DataError.kind: Cure(
        "Look at the exposures that it names: leave them out by a rule, or let a recipe with wider limits do it again.",
        (_AGAIN, _RETRY),
    ),
    RecipeError.kind: Cure("Correct the recipe where the message says, and do it again with that.", (_AGAIN,)),
    ConflictError.kind: Cure("The world moved while it ran: retry, or plan again.", (_RETRY, _AGAIN)),
    TransientError.kind: Cure(
        "Something outside is away (disk, database, node): hold what waits, mend it, then retry.", (_RETRY, _HOLD)
    ),
    NothingToDoError.kind: Cure("Nothing was left to do: widen the rule or the recipe, then do it again.", (_AGAIN,)),
    UsageError.kind: Cure("The words of the request do not fit: correct the recipe and do it again.", (_AGAIN,)),
    SpicaError.kind: Cure(
        "The step broke: report it with its log, hold the others of its kind, and retry once it is mended.",
        (_HOLD, _RETRY),
    ),
    "signal": Cure(
        "The step broke: report it with its log, hold the others of its kind, and retry once it is mended.",
        (_HOLD, _RETRY),
    ),
    "no_result": Cure(
        "It ended without a whole result: see whether its disk is full, report it with its log, then retry.",
        (_RETRY, _HOLD),
    ),
    "out_of_memory": Cure(
        "Retry with twice the memory, or smaller strips by the recipe.", (CureAct.RETRY_MEMORY, _AGAIN)
    ),
    "time_limit": Cure("Retry with twice the time, or a quicker recipe.", (CureAct.RETRY_TIME, _AGAIN)),
    "killed": Cure("It was ended from outside (a host that goes down, a person): retry.", (_RETRY,)),
    "lost": Cure("Its node fell silent: see whether it lives, then retry.", (_RETRY,)),
    "fenced": Cure(
        "Another attempt took its place: nothing is to be done; retry where that one failed too.", (_RETRY,)
    ),
    "cancelled": Cure("A person ended it: retry if it is wanted after all.", (_RETRY,)),
}
"""Class of error -> what helps."""

_BY_CODE = {
    ExitCode.DONE: "no_result",
    ExitCode.DATA: DataError.kind,
    ExitCode.RECIPE: RecipeError.kind,
    ExitCode.CONFLICT: ConflictError.kind,
    ExitCode.TRANSIENT: TransientError.kind,
}


def cure_of(kind: str | None, exit_code: int | None = None) -> Cure:
    """Return what helps against an error, by its class, else by the exit code of the step (negative: a signal)."""
    if kind in CURES:
        return CURES[kind]
    if exit_code is not None and (exit_code < 0 or 128 < exit_code <= 192):
        return CURES["signal"]
    code = ExitCode(exit_code) if exit_code in set(ExitCode) else ExitCode.BUG
    return CURES[_BY_CODE.get(code, SpicaError.kind)]
