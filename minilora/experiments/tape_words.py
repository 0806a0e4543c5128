"""One block's tape in words: what the picture writes into its boxes, and its text alternative."""

from __future__ import annotations

import re

from minilora.accounting.graph import ABOVE, BELOW, Box, TapeGraph
from minilora.accounting.recorded import Kept, Weight
from minilora.plots import unit


def describe_tape(graph: TapeGraph) -> str:
    """All that the picture of a tape shows: totals, then a line an operation, newest first."""
    lines = headline(graph)
    lines.append("The operations in the order in which the gradient comes by:")
    for i, box in enumerate(graph.boxes):
        rows = box_rows(box, graph.block)
        facts = [f"{text}, gets a gradient" if k == "trained" else text for k, text, _ in rows]
        for kind, how in (("gradient", "gradient goes on to"), ("stopped", "no gradient goes to")):
            ends = [_end(graph, a.end) for a in graph.arrows if a.start == i and a.kind == kind]
            if ends:
                facts.append(f"{how} {' and '.join(ends)}")
        lines.append(f"{i + 1}. {label(graph, i)}: {'; '.join(facts) or 'keeps nothing'}.")
    return "\n".join(lines)


def _end(graph: TapeGraph, end: int) -> str:
    return label(graph, end) if end < 0 else f"{end + 1} ({graph.boxes[end].op})"


def headline(graph: TapeGraph) -> list[str]:
    """What it is a picture of, and the totals."""
    where = "The whole tape" if graph.block is None else f"Block {graph.block}"
    if graph.held_full is None:
        return [f"{where} holds {amount(graph.held)} for backward"]
    lora = any(weight.name.startswith("lora_") for box in graph.boxes for weight in box.weights)
    return [
        f"{where}: {'LoRA' if lora else 'with frozen weights it'} holds {amount(graph.held)} here, "
        f"full fine-tuning would hold {amount(graph.held_full)}"
    ]


def label(graph: TapeGraph, end: int) -> str:
    """What stands in the head of a box, or at an end of an arrow that leads out."""
    if end == ABOVE:
        return "from the loss"
    if end == BELOW:
        flows = any(a.end == BELOW and a.kind == "gradient" for a in graph.arrows)
        return "what is below" if flows else "what is below, where nothing is trained"
    box = graph.boxes[end]
    module = within(box.module, graph.block)
    return f"{box.op} in {module}" if module else box.op


def box_rows(box: Box, block: int | None) -> list[tuple[str, str, int]]:
    """The lines of a box: kind, text, bytes."""
    rows = [] if box.on_tape else [("ghost", "not on the tape", 0)]
    for kept in box.keeps:
        rows.append(_kept(kept, block))
    rows += [("adds", f"full would keep {_array(k)}", k.nbytes) for k in box.adds]
    for w in box.weights:
        name = w.name.removeprefix(f"{box.module.rpartition('.')[2]}.")
        name = re.sub(r"(lora_[AB])\.weight$", r"\1", name)
        rows.append(_weight(w, name))
    return rows + [("stops", f"{name}: no gradient goes here", 0) for name in box.stops]


def _kept(kept: Kept, block: int | None) -> tuple[str, str, int]:
    if kept.same_as:
        return "shares", f"keeps {kept.name} = {within(kept.same_as, block, 2)}", 0
    return "keeps", f"keeps {_array(kept)}", kept.nbytes


def _weight(w: Weight, name: str) -> tuple[str, str, int]:
    if w.trainable:
        return "trained", f"trained {name} {_array(w, '')}", w.nbytes
    return "frozen", f"frozen {name} {_array(w, '')}", w.nbytes


def _array(array: Kept | Weight, name: str | None = None) -> str:
    shape = "×".join(map(str, array.shape)) or "scalar"
    called = array.name if name is None else name
    return f"{called} {shape}, {amount(array.nbytes)}".strip()


def within(path: str, block: int | None, n: int = 1) -> str:
    """The last n parts of a path in a block; of one elsewhere, all but what every path has."""
    own = f"model.layers.{block}."
    if block is not None and f"{path}.".startswith(own):
        return ".".join(path[len(own) :].split(".")[-n:])
    return path.removeprefix("model.")


def amount(nbytes: int) -> str:
    """Bytes as one reads them: `38.9 kB`, three digits of it."""
    size, name = unit(nbytes)
    return f"{nbytes / size:.3g} {name}" if size > 1 else f"{nbytes} {name}"
