"""Every arrow of `spica.model.job.ARROWS`, and nothing else changes the state of a job.

Rows are locked in the order of their ids, and an edge always leads from a lower id to a higher one: transactions
that end two parents at once wait for each other at the child and cannot block each other for ever.
"""

from spica.db.job.attempt import (
    AttemptEnd,
    Claimed,
    FencedError,
    Lease,
    abort,
    adopt,
    claim,
    fail,
    lose,
    mark_started,
    note_late_result,
    reap,
    renew_leases,
    requeue,
    succeed,
)
from spica.db.job.create import NewJob, create_jobs, reserve_job_ids
from spica.db.job.move import assign_node
from spica.db.job.order import cancel, hold, resubmit, unhold
from spica.db.job.read import (
    Pending,
    attempts_of_job,
    edges_of_job,
    events_of_job,
    live_attempts,
    live_inputs,
    need_job,
    pending_work,
    read_job,
)

__all__ = [
    "AttemptEnd",
    "Claimed",
    "FencedError",
    "Lease",
    "NewJob",
    "Pending",
    "abort",
    "adopt",
    "assign_node",
    "attempts_of_job",
    "cancel",
    "claim",
    "create_jobs",
    "edges_of_job",
    "events_of_job",
    "fail",
    "hold",
    "live_attempts",
    "live_inputs",
    "lose",
    "mark_started",
    "need_job",
    "note_late_result",
    "pending_work",
    "read_job",
    "reap",
    "renew_leases",
    "requeue",
    "reserve_job_ids",
    "resubmit",
    "succeed",
    "unhold",
]
