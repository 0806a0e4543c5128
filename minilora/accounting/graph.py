"""The tape as a graph: which operations a step records, what each keeps, and where backward stops.

Of a model with frozen weights, the same batch is sent through once more with every weight of the
base trained and the adapters switched off. Nothing is copied for it: a forward pass writes into no
weight, so the weights are thawed for as long as it takes. Both tapes are then walked side by side
from their ends: an input of an operation is at the same place in both, so what the second has and
the first has not is exactly what freezing spares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple

from minilora.accounting.recorded import (
    Kept,
    Part,
    Weight,
    all_trained,
    forward,
    modules_by_weights,
    names_of,
)
from minilora.autograd import Function, Tensor
from minilora.errors import ConfigError
from minilora.nn import Module
from minilora.ops import Linear, LoRALinear
from minilora.quant.linear import packed_weights

ABOVE, BELOW = -1, -2  # ends of arrows that lead out of the part that is looked at
LARGEST = 80  # operations in one picture


class Arrow(NamedTuple):
    """From an operation to an older one whose result it took, by their places in `boxes`.

    kind   "gradient": it flows here; "stopped": it would, were nothing frozen;
           "absent": the operation that it would come from is not on the tape
    """

    start: int
    end: int
    kind: str


@dataclass
class Box:
    """One operation.

    on_tape   False if only full fine-tuning would record it
    keeps     what it holds;  adds   what full fine-tuning would hold besides
    stops     inputs to which no gradient goes, where no more is known of them
    """

    op: str
    module: str
    on_tape: bool
    keeps: list[Kept] = field(default_factory=list)
    adds: list[Kept] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)


@dataclass
class TapeGraph:
    """A tape, or one block's part of it, newest operation first.

    held        bytes that it keeps, each array once, at the oldest operation that keeps it, which
                for the angles of rotary positions may be one of a block below
    held_full   what it would keep in full fine-tuning; None if all is trained, or nobody tried
    block       the block's number; None for the whole tape
    """

    boxes: list[Box]
    arrows: list[Arrow]
    held: int
    held_full: int | None
    block: int | None


def tape_graph(loss: Tensor, model: Module | None = None, *, block: int | None = 0) -> TapeGraph:
    """The graph of a loss as it stands, before backward.

    model   tells parameters apart from activations and gives them their names; without it the
            whole tape is taken, and a frozen array that an operation keeps counts as kept
    block   which one; None: the whole tape

    Raises ConfigError for a block that there is not, and a tape that is too long for a picture;
    TapeError if nothing was recorded, or backward has let go of it.
    """
    if model is None:
        return _graph(Part(loss, {}, {}), None, None)
    names, prefix = names_of(model), _prefix(model, block)
    return _graph(Part(loss, names, modules_by_weights(loss, names), prefix), None, block)


def step_graph(model: Module, ids: Any, labels: Any, *, block: int | None = 0) -> TapeGraph:
    """The graph of a step on ids and labels (B, T), with full fine-tuning beside it if it can be.

    Raises what `tape_graph` and the model's `loss` raise.
    """
    prefix = _prefix(model, block)
    part = forward(model, ids, labels, prefix)
    whole = all(p.requires_grad for p in model.parameters())
    if whole or packed_weights(model):  # of a base in few bits there is no full fine-tuning
        return _graph(part, None, block)
    with all_trained(model):
        full = forward(model, ids, labels, prefix)
    return _graph(part, full, block)


def _prefix(model: Any, block: int | None) -> str:
    """Where the paths of a block's modules begin. ConfigError if there is no such block."""
    if block is None:
        return ""
    n = model.config.n_layers
    if isinstance(block, bool) or not isinstance(block, int) or not 0 <= block < n:
        raise ConfigError(f"there is no block {block!r}: this model has the blocks 0 to {n - 1}")
    return f"model.layers.{block}."


def _graph(part: Part, full: Part | None, block: int | None) -> TapeGraph:
    pairs = _pairs(part, full)
    if not pairs:
        raise ConfigError(
            f"the tape has no operation of block {block}; with checkpointing it has none before "
            "backward, so switch that off for the picture"
        )
    if len(pairs) > LARGEST:
        raise ConfigError(
            f"{len(pairs)} operations are too many for one picture (at most {LARGEST}); choose a "
            "model and a block, e.g. block=0"
        )
    mates = {spared: op for op, spared in pairs if op is not None and spared is not None}
    boxes = [_box(op, spared, part, full, mates) for op, spared in pairs]
    arrows = list(_arrows(pairs, part, full))
    return TapeGraph(boxes, arrows, part.held, full.held if full else None, block)


def _pairs(part: Part, full: Part | None) -> list[tuple[Function | None, Function | None]]:
    """Each operation with what stands in its place in full fine-tuning, newest first."""
    if full is None:
        return [(op, None) for op in reversed(part.ops)]
    mates: dict[Function, Function] = {}
    waiting = [(part.ops[-1], full.ops[-1])] if part.ops and full.ops else []
    inside, spared_inside = set(part.ops), set(full.ops)
    while waiting:
        op, spared = waiting.pop()
        if spared in mates or op not in inside or spared not in spared_inside:
            continue
        if not _same_kind(op, spared):  # an adapter of several operations in the place of one
            op = next(_beside(op, spared, part), op)
        mates[spared] = op
        if _same_kind(op, spared):
            ends = list(zip(op.edges, spared.edges, strict=False))
        else:
            ends = [(e, spared.edges[0]) for e in _exits(op, part)]
        waiting += [(a, b) for a, b in ends if isinstance(a, Function) and isinstance(b, Function)]
    alone = inside - set(mates.values())
    both = [(mates.get(spared), spared) for spared in reversed(full.ops)]
    return [*both, *((op, None) for op in reversed(part.ops) if op in alone)]


def _box(
    op: Function | None,
    spared: Function | None,
    part: Part,
    full: Part | None,
    mates: dict[Function, Function],
) -> Box:
    weights: dict[Tensor, str] = {}
    keeps: list[Kept] = []
    adds: list[Kept] = []
    stops: list[str] = []
    module = ""
    if spared is not None and full is not None:
        module = full.modules[spared]
        weights |= full.weights(spared)
        adds = [k for k in full.kept[spared] if not k.same_as]
        adds = [k for k in adds if not _held(full.sharers_of(spared, k.name), mates)]
    if op is not None:
        module = part.modules.get(op, "")
        weights |= part.weights(op)
        keeps = part.kept[op]
        if spared is None:
            inputs = zip(vars(op.needs), op.edges, strict=True)
            known = part.weights_saved(op)
            stops = [name for name, edge in inputs if edge is None and name not in known]
    rows = [Weight(n, p.shape, p.data.nbytes, p.requires_grad) for p, n in weights.items()]
    name = type(spared if op is None else op).__name__
    return Box(name, module, op is not None, keeps, adds, rows, stops)


def _held(sharers: list[tuple[Function, str]], mates: dict[Function, Function]) -> bool:
    """Whether one of those who would keep an array in full fine-tuning keeps it in this step."""
    return any(s in mates and name in vars(mates[s].saved) for s, name in sharers)


def _arrows(pairs: list, part: Part, full: Part | None) -> Iterator[Arrow]:
    place = {op: i for i, pair in enumerate(pairs) for op in pair if op is not None}
    top, kind = (part, "gradient") if part.ops or full is None else (full, "absent")
    inside = set(top.ops)
    taken = {e for op in top.whole if op not in inside for e in op.edges} | {top.whole[-1]}
    yield from (Arrow(ABOVE, place[op], kind) for op in top.ops if op in taken)
    for i, (op, spared) in enumerate(pairs):
        flows = _targets([] if op is None else op.edges, place)
        yield from (Arrow(i, end, "gradient") for end in flows)
        if op is None and spared is not None:
            yield from (Arrow(i, end, "absent") for end in _targets(spared.edges, place))
        elif op is not None and spared is not None:
            ends = _targets(_spared_edges(op, spared, part), place)
            yield from (Arrow(i, end, "stopped") for end in ends if end not in flows)


def _spared_edges(op: Function, spared: Function, part: Part) -> list[Any]:
    """The inputs to which gradient would go in full fine-tuning, and does not."""
    if _same_kind(op, spared):
        pairs = zip_longest(op.edges, spared.edges)
        return [would for goes, would in pairs if goes is None]
    return [] if any(_exits(op, part)) else list(spared.edges)


def _targets(edges: Iterable[Any], place: dict[Function, int]) -> list[int]:
    """Where gradients go that take those edges: places of boxes, or BELOW."""
    return list(dict.fromkeys(place.get(e, BELOW) for e in edges if isinstance(e, Function)))


def _beside(op: Function, spared: Function, part: Part) -> Iterator[Function]:
    """What reads the frozen weight, of those operations that an adapter is made of."""
    for edge in op.edges:
        if isinstance(edge, Function) and part.modules.get(edge) == part.modules.get(op):
            if _same_kind(edge, spared) and edge.edges[1] is None:
                yield edge
            yield from _beside(edge, spared, part)


def _exits(op: Function, part: Part) -> Iterator[Function]:
    """The older operations that the module of `op` took its input from."""
    for edge in op.edges:
        if isinstance(edge, Function):
            if part.modules.get(edge) == part.modules.get(op):
                yield from _exits(edge, part)
            else:
                yield edge


def _same_kind(op: Function, spared: Function) -> bool:
    """Whether the inputs of both are in the same places."""
    return type(op) is type(spared) or {type(op), type(spared)} <= {Linear, LoRALinear}
