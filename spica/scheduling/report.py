"""Reports of a plan or a night: chosen, left out and why, made; as lines, JSON or one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from html import escape

from sqlalchemy import select
from sqlalchemy.orm import Session

from spica.db.overview import list_images, list_jobs, list_stacks
from spica.db.tables.image import ImageRow
from spica.db.tables.job import JobRow, PlanRow, RecipeRow, SelectionMemberRow, SelectionRow
from spica.db.tables.product import StackInputRow
from spica.files.workspace import Workspace
from spica.model.errors import UsageError
from spica.model.image import ImageKind
from spica.model.job import Outcome
from spica.model.overview import ImageEntry, JobEntry, StackEntry


@dataclass(frozen=True)
class Member:
    """One candidate of a plan: in or out, and what decided."""

    id: int
    name: str
    used: bool
    clause: str | None
    value: str | None


@dataclass(frozen=True)
class Report:
    """What happened in one plan or one night."""

    title: str
    rule: str | None
    recipe: str | None
    members: tuple[Member, ...]
    images: tuple[ImageEntry, ...]
    stacks: tuple[StackEntry, ...]
    jobs: tuple[JobEntry, ...]


def plan_report(session: Session, workspace: Workspace, plan_id: int) -> Report:
    """Report on a plan.

    Raises
    ------
    UsageError
        Where there is no such plan.
    """
    plan = session.get(PlanRow, plan_id)
    if plan is None:
        raise UsageError(f"no plan {plan_id}; see the plan column of spica jobs --json")
    rule = session.scalar(select(SelectionRow.rule).where(SelectionRow.id == plan.selection_id))
    recipe = session.scalar(select(RecipeRow.sha256).where(RecipeRow.id == plan.recipe_id))
    return Report(
        title=f"plan {plan.id}: {plan.label} ({plan.mode.value})",
        rule=rule,
        recipe=recipe,
        members=_members(session, plan),
        images=tuple(list_images(session, workspace, [ImageRow.plan_id == plan.id])),
        stacks=tuple(list_stacks(session, workspace, [ImageRow.plan_id == plan.id])),
        jobs=tuple(list_jobs(session, workspace, [JobRow.plan_id == plan.id])),
    )


def _members(session: Session, plan: PlanRow) -> tuple[Member, ...]:
    product = select(ImageRow.id).where(ImageRow.plan_id == plan.id, ImageRow.kind != ImageKind.EXPOSURE)
    query = (
        select(ImageRow.id, ImageRow.name, SelectionMemberRow, StackInputRow)
        .join(SelectionMemberRow, SelectionMemberRow.image_id == ImageRow.id)
        .outerjoin(StackInputRow, (StackInputRow.image_id == ImageRow.id) & StackInputRow.stack_id.in_(product))
        .where(SelectionMemberRow.selection_id == plan.selection_id)
        .order_by(ImageRow.id)
    )
    return tuple(_member(i, n, m, g) for i, n, m, g in session.execute(query))


def _member(image_id: int, name: str, judged: SelectionMemberRow, given: StackInputRow | None) -> Member:
    if given is None:
        clause = judged.clause if not judged.chosen else "another association"
        return Member(image_id, name, False, clause, judged.value)
    if given.outcome is Outcome.LEFT_OUT:
        return Member(image_id, name, False, given.text or given.code, None)
    return Member(image_id, name, True, None, None)


def night_report(session: Session, workspace: Workspace, night: str) -> Report:
    """Report on the exposures of a night, and the stacks they entered."""
    try:
        day = date.fromisoformat(night)
    except ValueError:
        raise UsageError(f"{night!r} is no plan number and no night; write a number or YYYY-MM-DD") from None
    exposures = select(ImageRow.id).where(ImageRow.night == day, ImageRow.kind == ImageKind.EXPOSURE)
    stacks = select(StackInputRow.stack_id).where(StackInputRow.image_id.in_(exposures))
    return Report(
        title=f"night {night}",
        rule=None,
        recipe=None,
        members=(),
        images=tuple(list_images(session, workspace, [ImageRow.night == day])),
        stacks=tuple(list_stacks(session, workspace, [ImageRow.id.in_(stacks)])),
        jobs=(),
    )


def report_lines(report: Report) -> list[str]:
    """Return the report as lines for a terminal."""
    lines = [report.title]
    if report.rule:
        lines.append(f"rule    {report.rule}")
    if report.recipe:
        lines.append(f"recipe  {report.recipe[:16]}")
    lines += [f"{'in ' if m.used else 'out'} {m.name}" + ("" if m.used else f": {_why(m)}") for m in report.members]
    lines += [
        f"image {i.name}: {i.state} {i.grade or '-'} {'; '.join(r.text for r in i.reason)}" for i in report.images
    ]
    lines += [
        f"stack {s.name}: {s.state}, {s.n_inputs or 0} inputs, seeing {_number(s.seeing_arcsec)}" for s in report.stacks
    ]
    lines += [f"job {j.id} {j.kind}: {j.state} {j.error or ''}".rstrip() for j in report.jobs]
    return lines


def _why(member: Member) -> str:
    return f"{member.clause} ({member.value})" if member.value else str(member.clause)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


STYLE = (
    "body{font:14px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1b212b}"
    "table{border-collapse:collapse;width:100%;margin:1rem 0}td,th{text-align:left;padding:4px 8px;"
    "border-bottom:1px solid #d5dbe5}th{font-weight:600}td.n{font-variant-numeric:tabular-nums}"
)


def report_html(report: Report) -> str:
    """Return the report as one HTML page that needs nothing else; all text is escaped."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        f"<title>{escape(report.title)}</title><style>{STYLE}</style><h1>{escape(report.title)}</h1>",
    ]
    if report.rule:
        parts.append(f"<p>rule <code>{escape(report.rule)}</code></p>")
    members = [(m.name, "in" if m.used else "out", "" if m.used else _why(m)) for m in report.members]
    parts.append(_table("Candidates", ("exposure", "", "why"), members))
    images = [
        (i.name, i.state, i.grade or "-", _number(i.seeing_arcsec), "; ".join(r.text for r in i.reason))
        for i in report.images
    ]
    parts.append(_table("Exposures", ("exposure", "state", "grade", "seeing, arcsec", "reasons"), images))
    stacks = [
        (
            s.name,
            s.state,
            str(s.n_inputs or 0),
            _number(s.seeing_arcsec),
            _number(s.limiting_mag),
            s.delivered_path or "-",
        )
        for s in report.stacks
    ]
    parts.append(_table("Stacks", ("stack", "state", "inputs", "seeing, arcsec", "limiting mag", "delivered"), stacks))
    jobs = [
        (str(j.id), j.kind, j.state, "-" if j.seconds is None else f"{j.seconds:.1f}", j.error or "")
        for j in report.jobs
    ]
    parts.append(_table("Jobs", ("job", "kind", "state", "s", "error"), jobs))
    return "\n".join(p for p in parts if p) + "</html>\n"


def _table(title: str, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td class='n'>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<h2>{escape(title)}</h2><table><tr>{head}</tr>{body}</table>"
