"""The graph of a plan's jobs: columns by depth, edges as curves, states by class, many alike in one box; inline SVG."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

BOX_W = 132.0
BOX_H = 40.0
GAP_X = 44.0
GAP_Y = 12.0
MAX_BOXES = 80
FOLD_FROM = 7
"""So many jobs of one kind at one place of the graph share a box."""
WORST_FIRST = ("FAILED", "HELD", "RUNNING", "READY", "WAITING", "CANCELLED", "PRUNED", "SUCCEEDED")

Edges = Sequence[tuple[int, int, str]]


@dataclass(frozen=True)
class GraphNode:
    """A job of the graph."""

    id: int
    kind: str
    state: str
    note: str


@dataclass(frozen=True)
class Box:
    """What is drawn as one: a job, or many of a kind with the same neighbours; `id` is that of the first."""

    id: int
    jobs: tuple[GraphNode, ...]
    depth: int

    @property
    def state(self) -> str:
        """The state that asks for eyes first."""
        found = {j.state for j in self.jobs}
        return next((s for s in WORST_FIRST if s in found), self.jobs[0].state)


def draw_graph(nodes: Sequence[GraphNode], edges: Edges, plan_id: int | None = None) -> Markup:
    """Return the graph as SVG; empty where there are no jobs or too many boxes to draw.

    A box of many jobs leads to the list of them, where the plan is given.
    """
    boxes, between = fold_graph(nodes, edges)
    if not 0 < len(boxes) <= MAX_BOXES:
        return Markup("")
    places = _places(boxes)
    width = max(x for x, _ in places.values()) + BOX_W + 2
    height = max(y for _, y in places.values()) + BOX_H + 2
    curves = "".join(_curve(places[p], places[c], k) for p, c, k in _reduced(between))
    drawn = "".join(_box(b, plan_id, *places[b.id]) for b in boxes)
    return Markup(  # noqa: S704  words are escaped in the boxes
        f'<svg class="graph" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'role="img" aria-label="jobs and their edges">{curves}{drawn}</svg>'
    )


def fold_graph(nodes: Sequence[GraphNode], edges: Edges) -> tuple[list[Box], list[tuple[int, int, str]]]:
    """Return boxes by id, and the edges between them: jobs of one kind, depth and kind of children share one.

    Fewer than `FOLD_FROM` of them stay apart.
    """
    known = {n.id: n for n in nodes}
    inner = [(p, c, k) for p, c, k in edges if p in known and c in known]
    depth = _depths(nodes, inner)
    children: dict[int, set[str]] = defaultdict(set)
    for p, c, _ in inner:
        children[p].add(known[c].kind)
    alike: dict[tuple[str, int, frozenset[str]], list[GraphNode]] = defaultdict(list)
    for n in sorted(nodes, key=lambda n: n.id):
        alike[n.kind, depth[n.id], frozenset(children[n.id])].append(n)
    boxes: list[Box] = []
    for (_, deep, _), same in alike.items():
        parts = [tuple(same)] if len(same) >= FOLD_FROM else [(n,) for n in same]
        boxes += [Box(part[0].id, part, deep) for part in parts]
    home = {n.id: b.id for b in boxes for n in b.jobs}
    between = dict.fromkeys((home[p], home[c], k) for p, c, k in inner)
    return sorted(boxes, key=lambda b: b.id), sorted(between)


def _depths(nodes: Sequence[GraphNode], edges: Edges) -> dict[int, int]:
    """Return the longest way to each job; an edge leads from a lower id to a higher one."""
    depth = {n.id: 0 for n in nodes}
    for parent, child, _ in sorted(edges, key=lambda e: e[1]):
        depth[child] = max(depth[child], depth[parent] + 1)
    return depth


def _places(boxes: Sequence[Box]) -> dict[int, tuple[float, float]]:
    columns: dict[int, list[int]] = defaultdict(list)
    for b in boxes:
        columns[b.depth].append(b.id)
    tallest = max(len(c) for c in columns.values())
    places = {}
    for d, ids in columns.items():
        top = (tallest - len(ids)) * (BOX_H + GAP_Y) / 2
        for i, box in enumerate(ids):
            places[box] = (1 + d * (BOX_W + GAP_X), 1 + top + i * (BOX_H + GAP_Y))
    return places


def _reduced(edges: Sequence[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Leave out an edge where a way of two edges says the same: the drawing stays readable."""
    children: dict[int, set[int]] = defaultdict(set)
    for p, c, _ in edges:
        children[p].add(c)
    return [(p, c, k) for p, c, k in edges if not any(c in children[m] for m in children[p] if m != c)]


def _curve(one: tuple[float, float], other: tuple[float, float], kind: str) -> str:
    x0, y0, x1, y1 = one[0] + BOX_W, one[1] + BOX_H / 2, other[0], other[1] + BOX_H / 2
    bend = max(20.0, (x1 - x0) / 2)
    line = f"M{x0:.0f} {y0:.0f}C{x0 + bend:.0f} {y0:.0f} {x1 - bend:.0f} {y1:.0f} {x1:.0f} {y1:.0f}"
    return f'<path class="edge {kind}" d="{line}"/>'


def _box(b: Box, plan_id: int | None, x: float, y: float) -> str:
    return _one_job(b.jobs[0], x, y) if len(b.jobs) == 1 else _many_jobs(b, plan_id, x, y)


def _one_job(n: GraphNode, x: float, y: float) -> str:
    return (
        f'<a class="job s{escape(n.state)}" href="/jobs/{n.id}"><title>{escape(n.note)}</title>'
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX_W:.0f}" height="{BOX_H:.0f}" rx="4"/>'
        f'<text x="{x + 12:.0f}" y="{y + 17:.0f}">{escape(n.kind)} <tspan class="dim">{n.id}</tspan></text>'
        f'<text class="st" x="{x + 12:.0f}" y="{y + 32:.0f}">{escape(n.state.lower())}</text></a>'
    )


def _many_jobs(b: Box, plan_id: int | None, x: float, y: float) -> str:
    """Draw a box for many jobs: their number, the state that asks for eyes first, and a bar of all states."""
    counts = Counter(n.state for n in b.jobs)
    order = [s for s in reversed(WORST_FIRST) if s in counts] + sorted(set(counts) - set(WORST_FIRST))
    told = ", ".join(f"{counts[s]} {s.lower()}" for s in order)
    kind = escape(b.jobs[0].kind)
    link = f"/jobs?plan={plan_id}&amp;kind={kind}" if plan_id is not None else f"/jobs/{b.id}"
    bar, at = "", x + 12
    for state in order:
        width = (BOX_W - 24) * counts[state] / len(b.jobs)
        bar += f'<rect class="part s{escape(state)}" x="{at:.1f}" y="{y + 34:.0f}" width="{width:.1f}" height="3"/>'
        at += width
    worst = f"{counts[b.state]} {b.state.lower()}"
    return (
        f'<a class="job many s{escape(b.state)}" href="{link}"><title>{escape(told)}</title>'
        f'<rect x="{x + 4:.0f}" y="{y + 3:.0f}" width="{BOX_W - 4:.0f}" height="{BOX_H - 1:.0f}" rx="4"/>'
        f'<rect x="{x:.0f}" y="{y - 1:.0f}" width="{BOX_W - 4:.0f}" height="{BOX_H:.0f}" rx="4"/>'
        f'<text x="{x + 12:.0f}" y="{y + 15:.0f}">{len(b.jobs)} × {kind}</text>'
        f'<text class="st" x="{x + 12:.0f}" y="{y + 29:.0f}">{escape(worst)}</text>{bar}</a>'
    )
