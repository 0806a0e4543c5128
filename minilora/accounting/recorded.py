"""What a forward pass recorded, and where: each operation's module, and the arrays it keeps.

A tape knows operations and arrays, no names. Names come from the model: an array that is a
parameter's is told by its memory, and the module that an operation belongs to by watching while
it is recorded, or, of a tape that nobody watched, from the parameters it reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from minilora.accounting.ledger import owner
from minilora.autograd import Function, Tensor, tape, watch
from minilora.errors import TapeError
from minilora.nn import Module, current_module
from minilora.peft import PeftModel

Names = dict[int, tuple[str, Tensor]]  # memory of an array → whose it is, with its path


class Kept(NamedTuple):
    """An array that an operation keeps for backward.

    same_as   if an older operation keeps the same one, which is where it counts: that one's
              module and what it calls it, as `model.layers.0.self_attn.q_proj.x`
    """

    name: str
    shape: tuple[int, ...]
    nbytes: int
    same_as: str


class Weight(NamedTuple):
    """A parameter that an operation reads."""

    name: str
    shape: tuple[int, ...]
    nbytes: int
    trainable: bool


class Part:
    """The operations of a tape whose modules' paths begin with `prefix`, oldest first.

    whole     all operations of the tape;  modules   path by operation
    kept      the arrays that each operation of the whole tape keeps, weights left out
    sharers   memory of an array → the operations that keep it, and what they call it
    held      bytes that the part keeps, each array at the oldest operation that keeps it

    Raises TapeError if nothing was recorded, or backward has let go of it.
    """

    def __init__(self, loss: Tensor, names: Names, modules: dict[Function, str], prefix: str = ""):
        self.names, self.modules = names, modules
        self.whole = list(tape(loss))[::-1]
        if not self.whole:
            raise TapeError("nothing was recorded for this loss: no trainable weight led to it")
        self.ops = [op for op in self.whole if f"{modules.get(op, '')}.".startswith(prefix)]
        self.sharers: dict[int, list[tuple[Function, str]]] = {}
        self.kept = {op: list(self._kept(op)) for op in self.whole}
        self.held = sum(k.nbytes for op in self.ops for k in self.kept[op] if not k.same_as)

    def _kept(self, op: Function) -> Iterator[Kept]:
        for name, array in saved(op).items():
            whole = owner(array)
            if id(whole) in self.names:
                continue
            same = self.sharers.setdefault(id(whole), [])
            first = f"{self.modules.get(same[0][0], '')}.{same[0][1]}".strip(".") if same else ""
            same.append((op, name))
            yield Kept(name, tuple(array.shape), whole.nbytes, first)

    def sharers_of(self, op: Function, name: str) -> list[tuple[Function, str]]:
        """All who keep the array that `op` calls `name`."""
        return self.sharers[id(owner(saved(op)[name]))]

    def weights(self, op: Function) -> dict[Tensor, str]:
        """The parameters that an operation has at hand, with short names."""
        found: dict[Tensor, str] = {}
        for name, edge in zip(vars(op.needs), op.edges, strict=True):
            if isinstance(edge, Tensor):
                path, _ = self.names.get(id(owner(edge.data)), (name, edge))
                found[edge] = last(path, 2)
        for name in self.weights_saved(op):
            path, p = self.names[id(owner(saved(op)[name]))]
            found[p] = last(path, 2)
        return found

    def weights_saved(self, op: Function) -> list[str]:
        """What an operation calls those parameters that it keeps for backward."""
        return [n for n, array in saved(op).items() if id(owner(array)) in self.names]


def forward(model: Any, ids: Any, labels: Any, prefix: str) -> Part:
    """Compute the loss as a step does, and tell what was recorded."""
    notes = _Modules(model)
    with watch(notes):
        loss = model.loss(ids, labels, training=True, rng=np.random.default_rng(0))
    return Part(loss, names_of(model), notes.of, prefix)


@contextmanager
def all_trained(model: Module) -> Iterator[None]:
    """Inside this `with` the base is trained as a whole, and adapters are switched off."""
    before = {p: p.requires_grad for p in model.parameters()}
    with model.disable_adapter() if isinstance(model, PeftModel) else nullcontext():
        try:
            model.requires_grad_(True)
            yield
        finally:
            for p, wanted in before.items():
                p.requires_grad = wanted


def saved(op: Function) -> dict[str, Any]:
    """What an operation keeps, by name. TapeError if backward has let go of it."""
    if "_op" in vars(op.saved):
        raise TapeError("backward has let go of what this tape kept; draw it before backward")
    return vars(op.saved)


def names_of(model: Module) -> Names:
    """Whose memory it is: parameters by their arrays."""
    return {id(owner(p.data)): (plain(path), p) for path, p in model.named_parameters()}


def modules_by_weights(loss: Tensor, names: Names) -> dict[Function, str]:
    """The module of each operation, guessed from the parameters: its own, else the last block's."""
    found, block = {}, ""
    for op in list(tape(loss))[::-1]:
        arrays = [e.data for e in op.edges if isinstance(e, Tensor)] + [*saved(op).values()]
        paths = [names[id(owner(a))][0] for a in arrays if id(owner(a)) in names]
        if paths:
            found[op] = re.sub(r"(\.lora_[AB])?\.[^.]+$", "", paths[0])
            inside = re.match(r"model\.layers\.\d+", found[op])
            block = inside[0] if inside else ""
        else:
            found[op] = block
    return found


def plain(path: str) -> str:
    """A path as it is in the base, without what adapters put around it."""
    path = path.removeprefix("base_model.model.").replace(".base_layer", "")
    path = re.sub(r"\.lora_dropout(\.[^.]+)?$", "", path)  # part of the bypass
    return re.sub(r"\.(lora_[AB])\.[^.]+", r".\1", path)


def last(path: str, n: int = 1) -> str:
    """The last n parts of a path."""
    return ".".join(path.split(".")[-n:])


class _Modules:
    """Notes in which module each operation is recorded."""

    def __init__(self, model: Module):
        self.paths: dict[Any, str] = {m: plain(path) for path, m in model.named_modules()}
        self.of: dict[Function, str] = {}

    def recorded(self, op: Function) -> None:
        self.of[op] = self.paths.get(current_module(), "")

    def passed(self, op: Function, gradients: dict[Any, Any]) -> None:
        """Backward is none of its business."""
