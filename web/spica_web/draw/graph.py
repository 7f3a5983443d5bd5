"""The graph of a plan's jobs: columns by depth, edges as curves, states by class; inline SVG."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

BOX_W = 132.0
BOX_H = 40.0
GAP_X = 44.0
GAP_Y = 12.0
MAX_NODES = 80


@dataclass(frozen=True)
class GraphNode:
    """A job of the graph."""

    id: int
    kind: str
    state: str
    note: str


def draw_graph(nodes: Sequence[GraphNode], edges: Sequence[tuple[int, int, str]]) -> Markup:
    """Return the graph as SVG; empty where there are no jobs or too many to draw."""
    if not 0 < len(nodes) <= MAX_NODES:
        return Markup("")
    known = {n.id for n in nodes}
    inner = [(p, c, k) for p, c, k in edges if p in known and c in known]
    places = _places(nodes, inner)
    width = max(x for x, _ in places.values()) + BOX_W + 2
    height = max(y for _, y in places.values()) + BOX_H + 2
    curves = "".join(_curve(places[p], places[c], k) for p, c, k in _reduced(inner))
    boxes = "".join(_box(n, *places[n.id]) for n in nodes)
    return Markup(  # noqa: S704  words are escaped in the boxes
        f'<svg class="graph" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'role="img" aria-label="jobs and their edges">{curves}{boxes}</svg>'
    )


def _depths(nodes: Sequence[GraphNode], edges: Sequence[tuple[int, int, str]]) -> dict[int, int]:
    """Return the longest way to each job; an edge leads from a lower id to a higher one."""
    depth = {n.id: 0 for n in nodes}
    for parent, child, _ in sorted(edges, key=lambda e: e[1]):
        depth[child] = max(depth[child], depth[parent] + 1)
    return depth


def _places(nodes: Sequence[GraphNode], edges: Sequence[tuple[int, int, str]]) -> dict[int, tuple[float, float]]:
    depth = _depths(nodes, edges)
    columns: dict[int, list[int]] = defaultdict(list)
    for n in sorted(nodes, key=lambda n: n.id):
        columns[depth[n.id]].append(n.id)
    tallest = max(len(c) for c in columns.values())
    places = {}
    for d, ids in columns.items():
        top = (tallest - len(ids)) * (BOX_H + GAP_Y) / 2
        for i, job in enumerate(ids):
            places[job] = (1 + d * (BOX_W + GAP_X), 1 + top + i * (BOX_H + GAP_Y))
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


def _box(n: GraphNode, x: float, y: float) -> str:
    return (
        f'<a class="job s{escape(n.state)}" href="/jobs/{n.id}" data-live="job:{n.id}"><title>{escape(n.note)}</title>'
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX_W:.0f}" height="{BOX_H:.0f}" rx="4"/>'
        f'<text x="{x + 12:.0f}" y="{y + 17:.0f}">{escape(n.kind)} <tspan class="dim">{n.id}</tspan></text>'
        f'<text class="st" x="{x + 12:.0f}" y="{y + 32:.0f}">{escape(n.state.lower())}</text></a>'
    )
