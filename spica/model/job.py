"""Jobs, attempts and the one table of arrows between their states.

The table serves the documentation (`docs/states.md`), the PostgreSQL enum, the code in `spica.db.job` and one
randomised test. A job is a wish, an attempt is a fact, its history is rows.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from spica.model.record import canonical_sha256


class JobState(enum.StrEnum):
    """State of a job."""

    HELD = "HELD"
    WAITING = "WAITING"
    READY = "READY"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    PRUNED = "PRUNED"


class AttemptState(enum.StrEnum):
    """State of one attempt at a job."""

    SUBMITTED = "SUBMITTED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    ABORTED = "ABORTED"
    LOST = "LOST"


class EdgeKind(enum.StrEnum):
    """`needs`: the child is pruned with the parent; `after`: any end of the parent will do."""

    NEEDS = "needs"
    AFTER = "after"


ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.PRUNED})
DEAD = frozenset({JobState.FAILED, JobState.CANCELLED, JobState.PRUNED})
LIVE_ATTEMPTS = frozenset({AttemptState.SUBMITTED, AttemptState.RUNNING})


class Arrow(enum.StrEnum):
    """What moves a job."""

    CREATE = "create"
    RELEASE = "release"
    CLAIM = "claim"
    ADOPT = "adopt"
    SUCCEED = "succeed"
    FAIL = "fail"
    REQUEUE = "requeue"
    PRUNE = "prune"
    HOLD = "hold"
    UNHOLD = "unhold"
    CANCEL_REQUEST = "cancel_request"
    CANCEL = "cancel"
    RESUBMIT = "resubmit"


@dataclass(frozen=True)
class Transition:
    """One arrow: the states it may leave, the states it may reach, and who draws it."""

    arrow: Arrow
    sources: frozenset[JobState]
    targets: frozenset[JobState]
    who: str
    also: str


def _arrow(arrow: Arrow, sources: str, targets: str, who: str, also: str) -> tuple[Arrow, Transition]:
    return arrow, Transition(
        arrow,
        frozenset(JobState(s) for s in sources.split()),
        frozenset(JobState(s) for s in targets.split()),
        who,
        also,
    )


ARROWS: dict[Arrow, Transition] = dict(
    [
        _arrow(Arrow.CREATE, "", "WAITING READY", "scheduler", "edges, texts, sha256"),
        _arrow(Arrow.RELEASE, "WAITING", "READY", "the transaction that ends the last parent", "event"),
        _arrow(Arrow.CLAIM, "READY", "RUNNING", "daemon", "attempt with fence and lease"),
        _arrow(Arrow.ADOPT, "RUNNING", "RUNNING", "a restarted daemon", "event"),
        _arrow(Arrow.SUCCEED, "RUNNING", "SUCCEEDED", "harvest", "products, measures, children"),
        _arrow(Arrow.FAIL, "RUNNING", "FAILED", "harvest or reaper", "error class, log tail; descendants pruned"),
        _arrow(
            Arrow.REQUEUE, "RUNNING", "READY", "harvest or reaper", "not_before; memory doubled after out of memory"
        ),
        _arrow(Arrow.PRUNE, "WAITING READY HELD", "PRUNED", "the end of a needed parent", "event naming the parent"),
        _arrow(Arrow.HOLD, "WAITING READY", "HELD", "person", "who, why"),
        _arrow(Arrow.UNHOLD, "HELD", "WAITING READY PRUNED", "person", "by the states of its parents"),
        _arrow(Arrow.CANCEL_REQUEST, "RUNNING", "RUNNING", "person", "the daemon ends the process group"),
        _arrow(
            Arrow.CANCEL, "WAITING READY HELD RUNNING", "CANCELLED", "person or reaper", "who, why; descendants pruned"
        ),
        _arrow(
            Arrow.RESUBMIT,
            "FAILED CANCELLED PRUNED",
            "WAITING READY",
            "person or revival of a parent",
            "who, why; revives the descendants pruned because of it",
        ),
    ]
)


class ExitCode(enum.IntEnum):
    """Exit codes of a step."""

    DONE = 0
    BUG = 1
    DATA = 20
    RECIPE = 21
    CONFLICT = 22
    TRANSIENT = 75


class JobKind(enum.StrEnum):
    """Kinds of jobs that Spica itself plans; plug-in steps add their own words."""

    ASSESS = "assess"
    MASTER = "master"
    ASTROMETRY = "astrometry"
    CALIBRATE = "calibrate"
    STACK = "stack"
    QUALITY = "quality"
    CATALOGUE = "catalogue"
    DELIVER = "deliver"


class Outcome(enum.StrEnum):
    """What became of one item of a step; a frame never disappears."""

    USED = "used"
    USED_WITH_WARNING = "used_with_warning"
    LEFT_OUT = "left_out"
    IGNORED = "ignored"


@dataclass(frozen=True)
class Reason:
    """Why: a stable code, a sentence, and where it applies the value and the limit it broke."""

    code: str
    text: str
    value: float | str | None = None
    limit: float | str | None = None


@dataclass(frozen=True)
class ItemOutcome:
    """Outcome of one item (`image:17`, `file:3`), of one detector or of all (`detector` None)."""

    item: str
    outcome: Outcome
    detector: int | None = None
    reason: Reason | None = None


@dataclass(frozen=True)
class FileRef:
    """A file by its content: what it is, never where it lies."""

    id: int
    sha256: str
    name: str
    size: int


@dataclass(frozen=True)
class Input:
    """One input of a request: a known file, or the products of another job by role (exactly one of the two)."""

    role: str
    item: str | None = None
    file: FileRef | None = None
    job: int | None = None
    product: str | None = None


@dataclass(frozen=True)
class Request:
    """Frozen with the plan: what a job is asked to do. `request.json`.

    `recipe` holds the sections of the frozen recipe that the step reads, `facts` what the step must know beyond
    its files (JSON values only). `subject` names the image the job makes or judges.
    """

    kind: str
    engine: str
    recipe: dict[str, Any]
    recipe_sha256: str
    inputs: tuple[Input, ...] = ()
    subject: str | None = None
    label: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    min_inputs: int = 1
    min_fraction: float = 0.0
    format: str = "spica-request/1"

    def sha256(self) -> str:
        """Return the hash of the canonical text."""
        return canonical_sha256(self)


@dataclass(frozen=True)
class ResolvedInput:
    """An input as a file on this node; `path` is absolute and exists only in `inputs.json`."""

    role: str
    item: str | None
    detector: int | None
    file: FileRef
    path: str


@dataclass(frozen=True)
class Inputs:
    """What the daemon resolved at claim time. `inputs.json`."""

    job: int
    attempt: int
    fence: str
    inputs: tuple[ResolvedInput, ...]
    left_out: tuple[ItemOutcome, ...] = ()
    format: str = "spica-inputs/1"


@dataclass(frozen=True)
class ProductRef:
    """A file that a step made, below its attempt folder.

    `role` is its seat (`weight`, `catalogue`, `head`, `preview`), `item` the image it belongs to, `small` whether it is
    also stored centrally, `media_type` what a browser should think of it.
    """

    role: str
    path: str
    sha256: str
    size: int
    name: str
    item: str | None = None
    detector: int | None = None
    small: bool = False
    media_type: str = "application/octet-stream"


@dataclass(frozen=True)
class Failure:
    """Why a step did not succeed; `kind` is the class of `spica.model.errors`."""

    kind: str
    text: str


@dataclass(frozen=True)
class Result:
    """Last thing that a step writes. `result.json`.

    `records` are the rows that the harvest writes: objects with a `type` (see `spica.model.harvest`).
    """

    job: int
    attempt: int
    fence: str
    kind: str
    engine: str
    version: str
    exit_code: int
    products: tuple[ProductRef, ...] = ()
    outcomes: tuple[ItemOutcome, ...] = ()
    records: tuple[dict[str, Any], ...] = ()
    measures: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None
    seconds: float = 0.0
    peak_memory_mb: float | None = None
    format: str = "spica-result/1"

    @property
    def done(self) -> bool:
        """Whether the step says that it succeeded."""
        return self.exit_code == ExitCode.DONE and self.failure is None


def item_of_image(image_id: int) -> str:
    """Return the item name of an image row."""
    return f"image:{image_id}"


def item_of_file(file_id: int) -> str:
    """Return the item name of a file row."""
    return f"file:{file_id}"


def item_id(item: str) -> tuple[str, int]:
    """Split `image:17` into its noun and its number."""
    noun, _, number = item.partition(":")
    return noun, int(number)
