"""A graph of a saga as an SVG document that needs no other program: layers from top to bottom, arrows between them.

A node stands one layer below the lowest of those that lead to it. Good for the flows of sagas, which are sequences with
branches; for anything wilder there is DOT.
"""

from __future__ import annotations

from html import escape
from typing import Final, NamedTuple

from saga_worker.admin.graph import COLOURS, Graph, Kind, Node

NODE_HEIGHT: Final = 30
LAYER: Final = 64
GAP: Final = 24
MARGIN: Final = 24
CHARACTER: Final = 7.2  # as wide as one is thought to be
_SMALL: Final = (Kind.FORK, Kind.JOIN, Kind.LOOP)
_ROUND: Final = (Kind.START, Kind.END, *_SMALL)


class Place(NamedTuple):
    """The middle of a node, and half of its width."""

    x: float
    y: float
    half: float


def svg(graph: Graph) -> str:
    """The picture as a document of its own."""
    places = _places(graph)
    width = max(place.x + place.half for place in places.values()) + MARGIN + 40
    height = max(place.y for place in places.values()) + NODE_HEIGHT / 2 + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" '
        f'font-size="12"><title>{escape(graph.title)}</title><rect width="100%" height="100%" fill="white"/>',
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z"/></marker></defs>',
    ]
    for edge in graph.edges:
        source, target = places[edge.source], places[edge.target]
        parts.append(_arrow(source, target, is_back=edge.is_back))
        if edge.label:
            parts.append(_edge_text(source, target, edge.label, is_back=edge.is_back))
    parts += [_box(node, places[node.id]) for node in graph.nodes]
    return "\n".join([*parts, "</svg>", ""])


def _places(graph: Graph) -> dict[str, Place]:
    layers = _layers(graph)
    rows: dict[int, list[Node]] = {}
    for node in graph.nodes:
        rows.setdefault(layers[node.id], []).append(node)
    widths = {number: sum(2 * _half(node) + GAP for node in row) - GAP for number, row in rows.items()}
    middle = MARGIN + max(widths.values()) / 2
    places = {}
    for number, row in rows.items():
        x = middle - widths[number] / 2
        for node in row:
            half = _half(node)
            places[node.id] = Place(x + half, MARGIN + NODE_HEIGHT / 2 + number * LAYER, half)
            x += 2 * half + GAP
    return places


def _layers(graph: Graph) -> dict[str, int]:
    """The longest way to each node; nodes are listed so that who leads to one comes before it."""
    layers: dict[str, int] = {}
    for node in graph.nodes:
        above = [edge.source for edge in graph.edges if edge.target == node.id and not edge.is_back]
        layers[node.id] = max((layers[source] + 1 for source in above), default=0)
    return layers


def _half(node: Node) -> float:
    return max(18.0, len(node.label) * CHARACTER / 2 + (18 if node.kind is Kind.TEST else 10))


def _box(node: Node, place: Place) -> str:
    fill = COLOURS[node.seen] if node.seen is not None else "white"
    stroke = f'fill="{fill}" stroke="black" stroke-width="{3 if node.is_pivot else 1}"'
    x, y, half, rise = place.x, place.y, place.half, NODE_HEIGHT / 2
    if node.kind is Kind.TEST:
        corners = f"{x - half:.1f},{y:.1f} {x:.1f},{y - rise:.1f} {x + half:.1f},{y:.1f} {x:.1f},{y + rise:.1f}"
        shape = f'<polygon points="{corners}" {stroke}/>'
    else:
        radius = rise if node.kind in _ROUND else 3
        dashes = ' stroke-dasharray="5 3"' if node.kind in (Kind.WAIT, Kind.SLEEP) else ""
        shape = (
            f'<rect x="{x - half:.1f}" y="{y - rise:.1f}" width="{2 * half:.1f}" height="{NODE_HEIGHT}" '
            f'rx="{radius:.0f}" {stroke}{dashes}/>'
        )
    words = f"{node.kind}: {node.label}" + (f", {node.seen}" if node.seen is not None else "")
    return f"<g><title>{escape(words)}</title>{shape}{_text(x, y + 4, node.label)}</g>"


def _arrow(source: Place, target: Place, *, is_back: bool) -> str:
    rise = NODE_HEIGHT / 2
    if is_back:  # around the right side
        x = max(source.x + source.half, target.x + target.half) + 30
        path = (
            f"M{source.x + source.half:.1f},{source.y:.1f} C{x:.1f},{source.y:.1f} {x:.1f},{target.y:.1f} "
            f"{target.x + target.half:.1f},{target.y:.1f}"
        )
    else:
        from_y, to_y = source.y + rise, target.y - rise
        half_way = (from_y + to_y) / 2
        path = (
            f"M{source.x:.1f},{from_y:.1f} C{source.x:.1f},{half_way:.1f} {target.x:.1f},{half_way:.1f} "
            f"{target.x:.1f},{to_y:.1f}"
        )
    dashes = ' stroke-dasharray="4 3"' if is_back else ""
    return f'<path d="{path}" fill="none" stroke="black"{dashes} marker-end="url(#arrow)"/>'


def _edge_text(source: Place, target: Place, label: str, *, is_back: bool) -> str:
    if is_back:
        return _text(max(source.x + source.half, target.x + target.half) + 8, (source.y + target.y) / 2, label, "start")
    return _text((source.x + target.x) / 2 + 6, source.y + NODE_HEIGHT / 2 + 13, label, "start")


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
