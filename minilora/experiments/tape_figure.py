"""One block's tape as a picture: what is kept, what is trained, and where backward stops.

Read it from above, as the gradient flows. Each role has its colour, and besides a hatch or a kind
of line and the word for it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any, NamedTuple

from minilora.accounting.graph import ABOVE, BELOW, Arrow, Box, TapeGraph, step_graph, tape_graph
from minilora.autograd import Tensor
from minilora.experiments.layered import Point, layered
from minilora.experiments.tape_words import box_rows, describe_tape, headline, label
from minilora.plots import ACTIVATIONS, FROZEN, GRADIENT, INK, TRAINABLE

ROW, HEAD, TEXT, MARGIN = 17, 22, 11, 18
WIDEST = 900  # pixels of a notebook's page
SMALLEST = 10  # a text in smaller pixels is not read, so rather than that it is wider
LETTER = 6.5  # of TEXT pixels in a wide font, on average

STOP = "no gradient"
ABSENT = "#8C8C8C"  # what is not on the tape

# kind of row → colour, filling, dashes
SWATCHES = {
    "keeps": (ACTIVATIONS, "url(#kept)", ""),
    "shares": (ACTIVATIONS, "white", ""),
    "adds": (ACTIVATIONS, "#F6E9F3", "3 2"),
    "frozen": (FROZEN, FROZEN, ""),
    "trained": (TRAINABLE, "url(#trained)", ""),
    "stops": (FROZEN, "white", "1 2"),
}
LEGEND = (
    ("keeps", "kept for backward, with its bytes"),
    ("shares", "the same array, counted once"),
    ("adds", "kept only in full fine-tuning"),
    ("frozen", "frozen weight, no gradient"),
    ("trained", "trained weight, gets a gradient"),
    ("gradient", "the gradient's way"),
    ("stopped", "no gradient goes here"),
    ("absent", "only in full fine-tuning"),
)
# kind of arrow → how its line is drawn
LINES: dict[str, dict[str, Any]] = {
    "gradient": {"stroke": GRADIENT, "stroke_width": 1.8, "marker_end": "url(#head)"},
    "stopped": {
        "stroke": FROZEN,
        "stroke_width": 2.2,
        "stroke_dasharray": "0.1 5",
        "stroke_linecap": "round",
        "marker_end": "url(#stop)",
    },
    "absent": {"stroke": ABSENT, "stroke_width": 1.2, "stroke_dasharray": "5 4"},
}


def draw_tape(loss: Tensor, model: Any = None, *, block: int | None = 0) -> str:
    """The tape of a loss as an SVG picture, before backward.

    model   gives names, and tells weights apart from what is kept; without it the whole tape is
            drawn, and a frozen array that an operation keeps counts as kept
    block   which of the model's blocks; None: the whole tape

    What full fine-tuning would hold cannot be told from a loss alone; `draw_step` tells it.

    Raises ConfigError for a block that there is not, and for more operations than fit; TapeError
    if nothing was recorded or backward is over; MissingExtraError without the extra `graph`.
    """
    return draw(tape_graph(loss, model, block=block))


def draw_step(model: Any, ids: Any, labels: Any, *, block: int | None = 0) -> str:
    """One block's tape in a step on ids and labels (B, T), as an SVG picture.

    If weights are frozen, what full fine-tuning would hold besides is drawn too, faintly.
    Raises what `draw_tape` and the model's `loss` raise.
    """
    return draw(step_graph(model, ids, labels, block=block))


class _Card(NamedTuple):
    """What is written into a box; `box` is None for an end of the graph."""

    box: Box | None
    title: str
    rows: list[tuple[str, str, int]]

    @property
    def size(self) -> tuple[float, float]:
        letters = max((len(text) for _, text, _ in self.rows), default=0)
        width = max(letters * LETTER + 32, len(self.title) * LETTER * 1.12 + 20)
        return round(width), HEAD + ROW * len(self.rows) + (5 if self.rows else 0)


def draw(graph: TapeGraph) -> str:
    """A graph of a tape as an SVG picture, 900 pixels wide unless text would get too small."""
    cards = [
        _Card(box, label(graph, i), box_rows(box, graph.block)) for i, box in enumerate(graph.boxes)
    ]
    index = {i: i for i in range(len(cards))}
    for end in (ABOVE, BELOW):
        if any(end in arrow[:2] for arrow in graph.arrows):
            index[end] = len(cards)
            cards.append(_Card(None, label(graph, end), []))
    placed = layered(
        [card.size for card in cards],
        [(index[a.start], index[a.end], STOP if a.kind == "stopped" else "") for a in graph.arrows],
    )
    lines = headline(graph)
    top = 24 * len(lines) + 2 * MARGIN
    width = max(placed.width, len(lines[0]) * 8, 460) + 2 * MARGIN
    height = top + placed.height + 3 * ROW + 3 * MARGIN
    root = _sheet(width, height)
    ET.SubElement(root, "title").text = " ".join(lines)
    ET.SubElement(root, "desc").text = describe_tape(graph)
    _patterns(root)
    _put(root, "rect", width="100%", height="100%", fill="white")
    for i, line in enumerate(lines):
        _put(root, "text", line, x=MARGIN, y=MARGIN + 14 + 24 * i, font_size=15, font_weight="bold")
    body = _put(root, "g", transform=f"translate({(width - placed.width) / 2:.1f} {top})")
    for arrow, curve, middle in zip(graph.arrows, placed.curves, placed.labels, strict=True):
        _arrow(body, arrow, curve, middle)
    for card, middle in zip(cards, placed.boxes, strict=True):
        _card(body, card, middle)
    legend = _put(root, "g", transform=f"translate({MARGIN} {top + placed.height + MARGIN:.0f})")
    _legend(legend, graph, cards)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _sheet(width: float, height: float) -> ET.Element:
    scale = min(1.0, max(WIDEST / width, SMALLEST / TEXT))
    return ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width:.0f} {height:.0f}",
            "width": f"{width * scale:.0f}",
            "height": f"{height * scale:.0f}",
            "role": "img",
            "font-family": "Helvetica, Arial, sans-serif",
            "font-size": str(TEXT),
            "fill": INK,
        },
    )


def _put(parent: ET.Element, tag: str, text: str | None = None, **options: Any) -> ET.Element:
    """A new element; underscores in names stand for hyphens."""
    names = {name.rstrip("_").replace("_", "-"): str(value) for name, value in options.items()}
    made = ET.SubElement(parent, tag, names)
    made.text = text
    return made


def _patterns(root: ET.Element) -> None:
    """The hatches of the roles, and what stands at the ends of arrows."""
    defs = _put(root, "defs")
    for name, colour, strokes in (
        ("kept", ACTIVATIONS, "M0 0L5 5M5 0L0 5"),
        ("trained", TRAINABLE, "M-1 1L1 -1M0 5L5 0M4 6L6 4"),
    ):
        hatch = _put(defs, "pattern", id=name, width=5, height=5, patternUnits="userSpaceOnUse")
        _put(hatch, "rect", width=5, height=5, fill=colour)
        _put(hatch, "path", d=strokes, stroke="white", stroke_width=0.9)
    for name, colour, d in (("head", GRADIENT, "M0 0L8 4L0 8Z"), ("stop", FROZEN, "M5 0H8V8H5Z")):
        marker = _put(
            defs, "marker", id=name, markerWidth=8, markerHeight=8, refX=7.5, refY=4,
            orient="auto", markerUnits="userSpaceOnUse",
        )  # fmt: skip
        _put(marker, "path", d=d, fill=colour)


def _arrow(body: ET.Element, arrow: Arrow, curve: list[Point], middle: Point | None) -> None:
    start, *rest = [f"{x:.1f} {y:.1f}" for x, y in curve]
    ends: dict[str, Any] = {"data_from": arrow.start, "data_to": arrow.end}
    d = f"M{start}C{' '.join(rest[:-1])}L{rest[-1]}"
    _put(body, "path", d=d, fill="none", class_=arrow.kind, **ends, **LINES[arrow.kind])
    if middle is not None:
        x, y = middle
        options = {"text_anchor": "middle", "fill": FROZEN, "font_style": "italic"}
        _put(body, "text", STOP, x=f"{x:.1f}", y=f"{y + 4:.1f}", **options)


def _card(body: ET.Element, card: _Card, middle: Point) -> None:
    width, height = card.size
    x, y = middle[0] - width / 2, middle[1] - height / 2
    group = _put(body, "g", transform=f"translate({x:.1f} {y:.1f})")
    frame: dict[str, Any] = {"fill": "white", "stroke": INK, "stroke_width": 1.2}
    if card.box is None:
        frame |= {"rx": 11, "stroke": FROZEN, "fill": "#F4F4F4"}
    else:
        group.set("class", "op")
        group.set("data-op", card.box.op)
        group.set("data-module", card.box.module)
        if not card.box.on_tape:
            frame |= {"stroke": ABSENT, "stroke_dasharray": "5 4"}
    _put(group, "rect", width=width, height=height, **({"rx": 3} | frame))
    _put(group, "text", card.title, x=8 if card.rows else width / 2, y=15, font_weight="bold",
         text_anchor="start" if card.rows else "middle")  # fmt: skip
    for i, (kind, text, nbytes) in enumerate(card.rows):
        row = _put(group, "g", transform=f"translate(8 {HEAD + i * ROW})", class_=kind)
        row.set("data-bytes", str(nbytes))
        _swatch(row, kind)
        if kind == "trained":
            _put(row, "path", d="M-20 7H-1", fill="none", class_="into", **LINES["gradient"])
        _put(row, "text", text, x=18 if kind in SWATCHES else 0, y=11)


def _swatch(row: ET.Element, kind: str) -> None:
    """A small square that shows a kind of array, or a piece of a line that shows one of arrow."""
    if kind in SWATCHES:
        stroke, fill, dashes = SWATCHES[kind]
        dashed = {"stroke_dasharray": dashes} if dashes else {}
        _put(row, "rect", x=0.5, y=1.5, width=12, height=11, stroke=stroke, fill=fill, **dashed)
    elif kind in LINES:
        _put(row, "path", d="M0 7H24", fill="none", **LINES[kind])


def _legend(group: ET.Element, graph: TapeGraph, cards: list[_Card]) -> None:
    """What the swatches and lines mean, of those that there are."""
    there = {kind for card in cards for kind, _, _ in card.rows} | {a.kind for a in graph.arrows}
    for i, (kind, text) in enumerate(each for each in LEGEND if each[0] in there):
        row = _put(group, "g", transform=f"translate({i // 3 * 240} {i % 3 * ROW})")
        _swatch(row, kind)
        _put(row, "text", text, x=30 if kind in LINES else 18, y=11)
