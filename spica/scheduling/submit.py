"""Records the jobs of a plan in one transaction: ids first, then texts that name each other, then rows and edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from spica.db.job import NewJob, create_jobs, reserve_job_ids
from spica.model.job import EdgeKind, Input, Request
from spica.model.recipe import Recipe
from spica.model.record import to_json
from spica.scheduling.script import render_script


@dataclass(frozen=True)
class Upstream:
    """An input that another job of the same batch will make: its index, the role it has there, its role here."""

    role: str
    draft: int
    product: str
    item: str | None = None


@dataclass(frozen=True)
class Draft:
    """A job before it has a number. `sections` are the recipe's sections that its step reads."""

    kind: str
    engine: str
    label: str
    recipe: Recipe
    files: tuple[Input, ...] = ()
    upstream: tuple[Upstream, ...] = ()
    needs: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    subject_id: int | None = None
    facts: dict[str, object] = field(default_factory=dict)
    min_inputs: int = 1
    node_id: int | None = None
    priority: int = 0


def submit_jobs(session: Session, plan_id: int, drafts: Sequence[Draft]) -> list[int]:
    """Write the rows of all drafts and return their ids in order."""
    ids = reserve_job_ids(session, len(drafts))
    jobs = [_new_job(draft, ids, i) for i, draft in enumerate(drafts)]
    create_jobs(session, plan_id, jobs)
    return ids


def _new_job(draft: Draft, ids: Sequence[int], index: int) -> NewJob:
    request = _request(draft, ids)
    parents = {ids[i]: EdgeKind.AFTER for i in draft.after} | {ids[i]: EdgeKind.NEEDS for i in draft.needs}
    limits = draft.recipe.resources
    return NewJob(
        id=ids[index],
        kind=draft.kind,
        engine=draft.engine,
        label=draft.label,
        request=request,
        script=render_script(draft.kind, request),
        image_id=draft.subject_id,
        parents=parents,
        priority=draft.priority,
        node_id=draft.node_id,
        time_limit_s=limits.time_limit_s,
        memory_mb=limits.memory_mb,
        memory_cap_mb=limits.memory_cap_mb,
        tries=limits.tries,
    )


def _request(draft: Draft, ids: Sequence[int]) -> Request:
    made = tuple(Input(role=u.role, item=u.item, job=ids[u.draft], product=u.product) for u in draft.upstream)
    return Request(
        kind=draft.kind,
        engine=draft.engine,
        recipe=to_json(draft.recipe),
        recipe_sha256=draft.recipe.sha256(),
        inputs=draft.files + made,
        subject=None if draft.subject_id is None else f"image:{draft.subject_id}",
        label=draft.label,
        facts=dict(draft.facts),
        min_inputs=draft.min_inputs,
    )
