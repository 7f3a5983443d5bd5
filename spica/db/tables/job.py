"""Plans, selections, jobs, attempts and their history."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from spica.db.tables.base import Base, enum_type, instant, key, stamp
from spica.model.association import Mode
from spica.model.job import Arrow, AttemptState, EdgeKind, JobState, Outcome

JOB_STATE = enum_type(JobState, "job_state")
ATTEMPT_STATE = enum_type(AttemptState, "attempt_state")


class RecipeRow(Base):
    """A frozen recipe."""

    __tablename__ = "recipe"
    id: Mapped[int] = key()
    sha256: Mapped[str] = mapped_column(Text, unique=True, comment="hash of the canonical parameters")
    name: Mapped[str] = mapped_column(Text, comment="name it was read under")
    parameters: Mapped[str] = mapped_column(Text, comment="all parameters, canonical JSON")
    created_at: Mapped[datetime] = stamp("when it was first used")


class SelectionRow(Base):
    """A rule as it was judged once."""

    __tablename__ = "selection"
    id: Mapped[int] = key()
    rule: Mapped[str] = mapped_column(Text, comment="text of the rule")
    rule_sha256: Mapped[str] = mapped_column(Text, comment="hash of the text")
    created_at: Mapped[datetime] = stamp("when it was judged")
    rule_version_id: Mapped[int | None] = mapped_column(
        ForeignKey("rule_version.id"), index=True, comment="saved version it was judged by; NULL: none"
    )
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"), comment="who; NULL: the command line")


class SelectionMemberRow(Base):
    """One candidate of a selection: in, or out with the clause."""

    __tablename__ = "selection_member"
    selection_id: Mapped[int] = mapped_column(
        ForeignKey("selection.id", ondelete="CASCADE"), primary_key=True, comment="of which selection"
    )
    image_id: Mapped[int] = mapped_column(
        ForeignKey("image.id"), primary_key=True, index=True, comment="which candidate"
    )
    chosen: Mapped[bool] = mapped_column(Boolean, comment="in or out")
    clause: Mapped[str | None] = mapped_column(Text, comment="first clause that failed, or was unknown")
    value: Mapped[str | None] = mapped_column(Text, comment="value the clause saw; 'unknown' where it was")
    quality_id: Mapped[int | None] = mapped_column(ForeignKey("quality.id"), comment="quality judged")
    grade_id: Mapped[int | None] = mapped_column(ForeignKey("grade.id"), comment="grade judged")


class PlanRow(Base):
    """The jobs of one association, or of one intake."""

    __tablename__ = "plan"
    __table_args__ = (
        Index(
            "uq_plan_product_hash",
            "product_hash",
            unique=True,
            postgresql_where=text("product_hash IS NOT NULL AND NOT abandoned"),
        ),
    )
    id: Mapped[int] = key()
    mode: Mapped[Mode] = mapped_column(enum_type(Mode, "plan_mode"), comment="how exposures were chosen")
    label: Mapped[str] = mapped_column(Text, comment="what people call it")
    object_key: Mapped[str | None] = mapped_column(Text, comment="normalised object")
    instrument: Mapped[str | None] = mapped_column(Text, comment="instrument")
    filter: Mapped[str | None] = mapped_column(Text, comment="filter")
    ra_deg: Mapped[float | None] = mapped_column(Float, comment="centre of the circle, degree")
    dec_deg: Mapped[float | None] = mapped_column(Float, comment="centre of the circle, degree")
    radius_deg: Mapped[float | None] = mapped_column(Float, comment="radius of the circle, degree")
    recipe_id: Mapped[int | None] = mapped_column(ForeignKey("recipe.id"), comment="frozen recipe")
    selection_id: Mapped[int | None] = mapped_column(
        ForeignKey("selection.id"), comment="how its exposures were judged"
    )
    product_hash: Mapped[str | None] = mapped_column(
        Text, comment="hash of inputs, measures judged, recipe, engine and version; makes nothing twice"
    )
    abandoned: Mapped[bool] = mapped_column(
        Boolean, server_default=text("false"), comment="its product will not be made; the same may be planned again"
    )
    supersedes_id: Mapped[int | None] = mapped_column(
        ForeignKey("plan.id"), comment="older plan whose product this replaces"
    )
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"), comment="who; NULL: the command line")
    created_at: Mapped[datetime] = stamp("when it was made")


class JobRow(Base):
    """One shell script and what became of it."""

    __tablename__ = "job"
    __table_args__ = (
        Index("ix_job_claim", text("priority DESC"), "id", postgresql_where=text("state = 'READY'")),
        Index("ix_job_state", "state", "id"),
        Index("ix_job_bound", "node_id", "id", postgresql_where=text("state = 'READY' AND node_id IS NOT NULL")),
        Index("ix_job_error", "error_kind", "id", postgresql_where=text("error_kind IS NOT NULL")),
        Index("ix_job_ended", "ended_at"),
        CheckConstraint("tries >= 1", "tries_positive"),
    )
    id: Mapped[int] = key()
    plan_id: Mapped[int | None] = mapped_column(ForeignKey("plan.id"), index=True, comment="of which plan")
    kind: Mapped[str] = mapped_column(Text, comment="kind of step")
    engine: Mapped[str] = mapped_column(Text, comment="engine that runs it")
    label: Mapped[str] = mapped_column(Text, server_default="", comment="what people call it")
    image_id: Mapped[int | None] = mapped_column(ForeignKey("image.id"), index=True, comment="image it makes or judges")
    state: Mapped[JobState] = mapped_column(JOB_STATE, comment="state; only spica.db.job changes it")
    priority: Mapped[int] = mapped_column(Integer, server_default="0", comment="higher first")
    node_id: Mapped[int | None] = mapped_column(ForeignKey("node.id"), comment="node that must run it; NULL: any")
    request: Mapped[str] = mapped_column(Text, comment="request.json")
    request_sha256: Mapped[str] = mapped_column(Text, comment="hash of the request")
    script: Mapped[str] = mapped_column(Text, comment="run.sh")
    script_sha256: Mapped[str] = mapped_column(Text, comment="hash of the script")
    time_limit_s: Mapped[int] = mapped_column(Integer, comment="ended after this, s")
    memory_mb: Mapped[int] = mapped_column(Integer, comment="resident memory it may take, MB")
    memory_cap_mb: Mapped[int] = mapped_column(Integer, comment="memory is not doubled beyond this, MB")
    tries: Mapped[int] = mapped_column(SmallInteger, comment="attempts at most since it was last submitted")
    tries_from: Mapped[int] = mapped_column(
        Integer, server_default="0", comment="attempts made before it was last resubmitted"
    )
    not_before: Mapped[datetime | None] = instant("not claimed before")
    cancel_requested_at: Mapped[datetime | None] = instant("when a person asked to end it")
    pruned_by_id: Mapped[int | None] = mapped_column(ForeignKey("job.id"), comment="parent whose end pruned it")
    supersedes_id: Mapped[int | None] = mapped_column(ForeignKey("job.id"), comment="older job that this does again")
    error_kind: Mapped[str | None] = mapped_column(Text, comment="class of the error that ended it")
    error_text: Mapped[str | None] = mapped_column(Text, comment="what happened and what to do")
    created_at: Mapped[datetime] = stamp("when it was planned")
    ended_at: Mapped[datetime | None] = instant("when it ended")


class JobEdgeRow(Base):
    """An edge between jobs."""

    __tablename__ = "job_edge"
    parent_id: Mapped[int] = mapped_column(
        ForeignKey("job.id", ondelete="CASCADE"), primary_key=True, comment="goes first"
    )
    child_id: Mapped[int] = mapped_column(
        ForeignKey("job.id", ondelete="CASCADE"), primary_key=True, index=True, comment="waits"
    )
    kind: Mapped[EdgeKind] = mapped_column(enum_type(EdgeKind, "edge_kind"), comment="needs or after")


class AttemptRow(Base):
    """One run of a job's script on one node."""

    __tablename__ = "attempt"
    __table_args__ = (
        UniqueConstraint("job_id", "number"),
        Index("uq_attempt_live", "job_id", unique=True, postgresql_where=text("state IN ('SUBMITTED', 'RUNNING')")),
        Index("ix_attempt_node", "node_id", "state"),
    )
    id: Mapped[int] = key()
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), comment="of which job")
    number: Mapped[int] = mapped_column(Integer, comment="counts from 1 within the job")
    fence: Mapped[int] = mapped_column(
        BigInteger, Identity(), unique=True, comment="only the newest fence of a job may be harvested"
    )
    node_id: Mapped[int] = mapped_column(ForeignKey("node.id"), comment="on which node")
    state: Mapped[AttemptState] = mapped_column(ATTEMPT_STATE, comment="state")
    lease_until: Mapped[datetime] = stamp("the node must renew before", server_default=None)
    pid: Mapped[int | None] = mapped_column(Integer, comment="process group on the node")
    pid_started: Mapped[float | None] = mapped_column(Float, comment="start time of the process, s since the epoch")
    external_id: Mapped[str | None] = mapped_column(Text, comment="number in a batch system")
    memory_mb: Mapped[int] = mapped_column(Integer, comment="memory it was given, MB")
    started_at: Mapped[datetime] = stamp("when it was claimed")
    ended_at: Mapped[datetime | None] = instant("when it ended")
    exit_code: Mapped[int | None] = mapped_column(Integer, comment="exit code; negative: the signal")
    seconds: Mapped[float | None] = mapped_column(Float, comment="wall time, s")
    peak_memory_mb: Mapped[float | None] = mapped_column(Float, comment="peak resident memory, MB")
    error_kind: Mapped[str | None] = mapped_column(Text, comment="class of the error")
    error_text: Mapped[str | None] = mapped_column(Text, comment="what happened")
    log_tail: Mapped[str | None] = mapped_column(Text, comment="last lines of the log")
    log_file_id: Mapped[int | None] = mapped_column(ForeignKey("file.id"), comment="whole log")
    result_sha256: Mapped[str | None] = mapped_column(Text, comment="hash of the result that was harvested")


class JobEventRow(Base):
    """One arrow that a job followed."""

    __tablename__ = "job_event"
    id: Mapped[int] = key()
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), index=True, comment="of which job")
    at: Mapped[datetime] = stamp("when", server_default=text("clock_timestamp()"))
    arrow: Mapped[Arrow] = mapped_column(enum_type(Arrow, "job_arrow"), comment="which arrow")
    from_state: Mapped[JobState | None] = mapped_column(JOB_STATE, comment="state before; NULL: created")
    to_state: Mapped[JobState] = mapped_column(JOB_STATE, comment="state after")
    attempt_id: Mapped[int | None] = mapped_column(ForeignKey("attempt.id"), comment="attempt it concerns")
    person_id: Mapped[int | None] = mapped_column(
        ForeignKey("person.id"), comment="who; NULL: Spica itself or the command line"
    )
    cause_job_id: Mapped[int | None] = mapped_column(ForeignKey("job.id"), comment="other job that caused it")
    why: Mapped[str | None] = mapped_column(Text, comment="in words")


class OutcomeRow(Base):
    """What became of one item of one attempt."""

    __tablename__ = "outcome"
    id: Mapped[int] = key()
    attempt_id: Mapped[int] = mapped_column(
        ForeignKey("attempt.id", ondelete="CASCADE"), index=True, comment="of which attempt"
    )
    image_id: Mapped[int | None] = mapped_column(ForeignKey("image.id"), index=True, comment="which image")
    file_id: Mapped[int | None] = mapped_column(
        ForeignKey("file.id"), index=True, comment="which file, where there is no image"
    )
    number: Mapped[int | None] = mapped_column(SmallInteger, comment="index of the detector; NULL: all")
    outcome: Mapped[Outcome] = mapped_column(enum_type(Outcome, "item_outcome"), comment="what became of it")
    code: Mapped[str | None] = mapped_column(Text, comment="stable code of the reason")
    text: Mapped[str | None] = mapped_column(Text, comment="the reason as a sentence")
    value: Mapped[str | None] = mapped_column(Text, comment="value judged")
    limit: Mapped[str | None] = mapped_column(Text, comment="limit it broke")
