"""The ledger: every array that a training step holds, by kind and by owner.

    with minilora.ledger(model, optimizer) as l:
        minilora.train_step(model, optimizer, ids, labels)
    print(l.table())

It reads the parameters, the optimizer and the tape; neither operations nor methods know of it. An
array that several operations keep is entered once, and a view as the array it looks into, so that
the sum is what is really held, to the byte. It works on arrays and on shadows (`shadow.py`) alike:
a prediction is this same ledger over a step that was not computed.
"""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from minilora.accounting.shadow import Shadow, books_of
from minilora.autograd import Function, Tensor, tape, watch
from minilora.nn import current_module
from minilora.optim import AdamW
from minilora.runtime import resident_peak

KINDS = ("weights", "gradients", "optimizer", "activations", "buffers")


class Entry(NamedTuple):
    """One array.

    owner   path of the parameter, or of the module in which an operation kept the array
    op      the operation, for activations;  name  what it calls the array
    """

    kind: str
    owner: str
    op: str
    name: str
    nbytes: int
    shape: tuple[int, ...]
    dtype: str
    requires_grad: bool


class Moment(NamedTuple):
    """What was held at one point of the step, in bytes by kind, and where that was."""

    seconds: float
    phase: str
    op: str
    activations: int
    gradients: int
    buffers: int


@dataclass
class _Tape:
    """One thread's: what it holds now, and what it held when it held the most."""

    held: dict[int, tuple[int, Entry]] = field(default_factory=dict)
    of_op: dict[Function, list[int]] = field(default_factory=dict)
    now: int = 0
    most: int = 0
    at_most: list[Entry] = field(default_factory=list)
    parts: int = 0
    flight: int = 0
    begun: int = 0
    going_back: bool = False


class Ledger:
    """What a step held. Made by `ledger(...)`.

    entries    every array: weights, gradients, moments, and the activations where they were most
    peak       the most bytes held at once, workspace inside of operations included: for arrays as
               `tracemalloc` saw it (exact with one thread), for shadows as their books say
    timeline   bytes by kind after each operation, forward and backward
    resident   the most that the process has ever held, of everything; 0 for shadows

    Open it before the forward pass: what is on a tape already is not entered any more.
    """

    def __init__(self, model: Any, optimizer: AdamW):
        self.peak = 0
        self.resident = 0
        self.timeline: list[Moment] = []
        self._lock = threading.Lock()
        self._tapes: dict[int, _Tape] = {}
        self._model, self._optimizer = model, optimizer
        self._paths = {module: path for path, module in model.named_modules()}
        self._names = {p: name for name, p in model.named_parameters()}
        self._weights = {id(owner(p.data)) for p in self._names}
        self._reached: set[Tensor] = set()
        self._gradients = 0
        self._began = time.perf_counter()

    def recorded(self, op: Function) -> None:
        """Forward has put an operation on the tape of this thread."""
        with self._lock:
            mine = self._tape()
            mine.begun += not mine.of_op
            mine.going_back = False
            module = self._paths.get(current_module(), "")
            keys = []
            for name, array in vars(op.saved).items():
                whole = owner(array)
                key = id(whole)
                if key in self._weights:
                    continue
                keys.append(key)
                if key in mine.held:
                    count, entry = mine.held[key]
                    mine.held[key] = count + 1, entry
                    continue
                entry = Entry(
                    "activations",
                    module,
                    type(op).__name__,
                    name,
                    whole.nbytes,
                    tuple(array.shape),
                    str(array.dtype),
                    False,
                )
                mine.held[key] = 1, entry
                mine.now += whole.nbytes
            mine.of_op[op] = keys
            self._note("forward", op)

    def passed(self, op: Function, gradients: dict[Any, Any]) -> None:
        """Backward has passed an operation of this thread's tape, which let its arrays go."""
        with self._lock:
            mine = self._tape()
            if not mine.going_back:
                mine.going_back = True
                if mine.now > mine.most:
                    mine.most = mine.now
                    mine.at_most = [entry for _, entry in mine.held.values()]
            for key in mine.of_op.pop(op, []):
                count, entry = mine.held[key]
                if count > 1:
                    mine.held[key] = count - 1, entry
                else:
                    del mine.held[key]
                    mine.now -= entry.nbytes
            leaves = {leaf: g for leaf, g in gradients.items() if leaf in self._names}
            self._gradients += sum(leaf.data.nbytes for leaf in leaves.keys() - self._reached)
            self._reached |= leaves.keys()
            held = sum(g.nbytes for g in leaves.values())
            mine.parts = max(mine.parts, held)
            mine.flight = sum(g.nbytes for g in gradients.values()) - held
            self._note("backward", op)

    def _tape(self) -> _Tape:
        return self._tapes.setdefault(threading.get_ident(), _Tape())

    def _note(self, phase: str, op: Function) -> None:
        tapes = self._tapes.values()
        self.timeline.append(
            Moment(
                time.perf_counter() - self._began,
                phase,
                type(op).__name__,
                sum(t.now for t in tapes),
                self._gradients,
                sum(t.flight for t in tapes),
            )
        )

    @property
    def entries(self) -> list[Entry]:
        """Every array, once."""
        rows = []
        for p, name in self._names.items():
            rows.append(_of("weights", name, p.data, p.requires_grad))
            if p in self._reached:
                rows.append(_of("gradients", name, p.data, True))
        for p, moment, array in self._optimizer.moments():
            rows.append(_of("optimizer", self._names.get(p, ""), array, True, moment))
        for each in self._tapes.values():
            rows += each.at_most
        return rows

    @property
    def paged(self) -> int:
        """Bytes of moments that lie in a file: they count in no total, as nobody need hold them."""
        return self._optimizer.paged_bytes

    @property
    def totals(self) -> dict[str, int]:
        """Bytes by kind, at most.

        `buffers` are the parts of gradients that stand beside the sum until they are added to it,
        where a batch is taken in several: of each thread the largest.
        """
        sums: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        for entry in self.entries:
            sums[entry.kind] += entry.nbytes
        if sum(t.begun for t in self._tapes.values()) > 1:
            sums["buffers"] = sum(t.parts for t in self._tapes.values())
        return {kind: sums[kind] for kind in KINDS}

    def curve(self, points: int = 200) -> list[list[float]]:
        """[share of the step's operations done, bytes held]: forward rises, backward falls."""
        standing = self.totals["weights"] + self.totals["optimizer"]
        n = len(self.timeline)
        chosen = sorted({round(i * (n - 1) / max(1, points - 1)) for i in range(min(points, n))})
        return [
            [(i + 1) / n, standing + m.activations + m.gradients + m.buffers]
            for i, m in ((i, self.timeline[i]) for i in chosen)
        ]

    def by_owner(self, kind: str = "activations") -> dict[str, int]:
        """Bytes of one kind by owner, the largest first."""
        sums: Counter[str] = Counter()
        for entry in self.entries:
            if entry.kind == kind:
                sums[f"{entry.owner} {entry.op}.{entry.name}" if entry.op else entry.owner] += (
                    entry.nbytes
                )
        return dict(sums.most_common())

    def table(self) -> str:
        """The totals as a person reads them."""
        lines = [f"{kind:<12}{nbytes:>16,} bytes" for kind, nbytes in self.totals.items()]
        total = sum(self.totals.values())
        lines += [f"{'total':<12}{total:>16,} bytes", f"{'peak':<12}{self.peak:>16,} bytes"]
        if self.paged:
            lines.append(f"{'paged':<12}{self.paged:>16,} bytes, of m and v in a file, in no total")
        if self.resident:
            rest = self.resident - self.peak
            lines.append(
                f"{'resident':<12}{self.resident:>16,} bytes, of the whole process at most: "
                f"{rest:,} more for Python, libraries, what was loaded, and memory that is kept"
            )
        return "\n".join(lines)


@contextmanager
def ledger(model: Any, optimizer: AdamW) -> Iterator[Ledger]:
    """Keep the books over the step taken inside this `with`."""
    kept = Ledger(model, optimizer)
    before = kept.totals["weights"] + kept.totals["optimizer"]
    with watch(kept), _meter(model) as most:
        yield kept
    kept.peak = before + most()
    if not isinstance(next(iter(model.parameters())).data, Shadow):
        kept.resident = resident_peak()


@contextmanager
def _meter(model: Any) -> Iterator[Callable[[], int]]:
    """A function that tells the most bytes that came to be at once inside this `with`."""
    first = next(iter(model.parameters())).data
    if isinstance(first, Shadow):
        account = books_of(first)
        before = account.held
        account.peak = before
        yield lambda: account.peak - before
        return
    ours = not tracemalloc.is_tracing()
    if ours:
        tracemalloc.start()
    seen: list[int] = []
    try:
        tracemalloc.reset_peak()
        already, _ = tracemalloc.get_traced_memory()
        yield lambda: seen[0]
    finally:
        seen.append(tracemalloc.get_traced_memory()[1] - already)
        if ours:
            tracemalloc.stop()


def owner(array: Any) -> Any:
    """What owns the memory that an array looks into: another array, or a shadow's block."""
    if isinstance(array, Shadow):
        return array.block
    below = getattr(array, "base", None)
    return owner(below) if type(below) is type(array) else array


def _of(kind: str, path: str, array: Any, trained: bool, name: str = "") -> Entry:
    held_as = getattr(array, "data_type", str(array.dtype))  # of a packed one its format
    return Entry(kind, path, "", name, array.nbytes, tuple(array.shape), held_as, trained)


def activation_bytes(loss: Tensor, model: Any) -> int:
    """Bytes of the arrays on the tape of `loss` that the model's weights are not."""
    weights = {id(owner(p.data)) for p in model.parameters()}
    kept = {id(w): w for op in tape(loss) for w in map(owner, vars(op.saved).values())}
    return sum(array.nbytes for key, array in kept.items() if key not in weights)
