"""A Function is one operation: forward, backward, and what is kept between the two.

It is written as a class of three parts that fit on one screen,

    class Linear(Function):
        \"\"\"y = x Wᵀ     dx = dy W     dW = dyᵀ x\"\"\"

        def forward(ctx, x, W):
            ctx.save(x=x if ctx.needs.W else None, W=W if ctx.needs.x else None)
            return x @ W.T

        def backward(ctx, dy):
            dx = dy @ ctx.saved.W if ctx.needs.x else None
            dW = dy.T @ ctx.saved.x if ctx.needs.W else None
            return dx, dW

and used as `Linear.apply(x, W)`. The object itself, `ctx`, is what stands on the tape. Arrays that
backward needs go through one door, `ctx.save`, by name, and only if a gradient that uses them is
wanted: so the tape can say what it holds, and a frozen weight makes it hold less. Shapes, axes and
other small facts may simply be set on `ctx`.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from minilora.autograd.tensor import Tensor, grad_enabled, is_array
from minilora.autograd.watching import watchers
from minilora.errors import DTypeError, TapeError

_order = itertools.count()


class Function:
    """One operation on the tape. Subclasses write `forward` and `backward`.

    forward(ctx, *arrays, **options) -> array
        Positional arguments are the inputs as arrays (None where an optional one is absent),
        keyword-only arguments are options through which no gradient flows.
    backward(ctx, dy) -> gradient of each input, in order; None where none is wanted
        `dy` has the shape of forward's result. It belongs to the tape: do not write into it.

    needs    needs.x is True if the gradient of input x is wanted
    saved    saved.x is the array that was given to `save(x=...)`
    edges    where the gradient of each input goes: an earlier operation, a trainable leaf, or None
    order    when it was applied: larger is later
    """

    forward: Callable[..., np.ndarray]
    backward: Callable[..., Any]

    needs: SimpleNamespace
    saved: SimpleNamespace
    edges: tuple[Function | Tensor | None, ...]
    order: int

    def __init__(self) -> None:
        self.saved = SimpleNamespace()

    def save(self, **arrays: np.ndarray | None) -> None:
        """Keep arrays for backward, by name; None is not kept."""
        self.saved.__dict__.update((k, a) for k, a in arrays.items() if a is not None)

    def release(self) -> None:
        """Let go of what was saved. Backward can pass here once only."""
        self.saved = _Released(type(self).__name__)

    @classmethod
    def apply(cls, *inputs: Any, **options: Any) -> Tensor:
        """Compute forward, and put the operation on the tape if some gradient is wanted.

        Raises DTypeError if float inputs are of different types.
        """
        dtype = _common_dtype(cls.__name__, inputs)
        tensors = [None if x is None else _as_tensor(x, dtype) for x in inputs]
        recording = grad_enabled()
        wanted = [recording and t is not None and t.requires_grad for t in tensors]

        ctx = cls()
        ctx.needs = SimpleNamespace(
            **dict(zip(_input_names(cls.forward, len(inputs)), wanted, strict=True))
        )
        y = ctx.forward(*(None if t is None else t.data for t in tensors), **options)
        y = y if is_array(y) else np.asarray(y)  # a sum over all is a number, no array
        if dtype is not None and y.dtype.kind == "f" and y.dtype != dtype:
            raise DTypeError(
                f"{cls.__name__} was given {dtype} and made {y.dtype}: somewhere in its forward "
                "stands an array or a NumPy scalar of another type"
            )
        if not any(wanted):
            return Tensor(y)
        ctx.edges = tuple(
            (t.node or t) if t is not None and w else None
            for t, w in zip(tensors, wanted, strict=True)
        )
        ctx.order = next(_order)
        for watcher in watchers():
            watcher.recorded(ctx)
        return Tensor(y, node=ctx)


class _Released(SimpleNamespace):
    """Stands where the saved arrays were, and says so to whoever asks for one."""

    def __init__(self, op: str):
        super().__init__()
        self.__dict__["_op"] = op

    def __getattr__(self, name: str) -> Any:
        raise TapeError(
            f"backward has already passed {self.__dict__['_op']} and freed the arrays it had kept; "
            "run the forward pass again before a second backward"
        )


@cache
def _input_names(forward: Callable[..., np.ndarray], n: int) -> tuple[str, ...]:
    """The names of forward's inputs: x, W, … or x0, x1, … for a `*xs`."""
    names: list[str] = []
    for p in list(inspect.signature(forward).parameters.values())[1:]:
        if p.kind is p.VAR_POSITIONAL:
            names += [f"{p.name.removesuffix('s')}{i}" for i in range(n - len(names))]
        elif p.kind is p.POSITIONAL_OR_KEYWORD:
            names.append(p.name)
    if len(names) < n:
        raise TypeError(
            f"{forward.__qualname__} takes the inputs {', '.join(names)}, but {n} were given"
        )
    return tuple(names[:n])


def _common_dtype(op: str, inputs: tuple[Any, ...]) -> np.dtype | None:
    """The one float type of all the arrays among the inputs, or None if there are none."""
    arrays = [x for x in inputs if isinstance(x, Tensor) or is_array(x)]
    found = {x.dtype for x in arrays if x.dtype.kind == "f"}
    if len(found) > 1:
        names = " and ".join(sorted(str(d) for d in found))
        raise DTypeError(
            f"{op} was given {names}; minilora does not mix types: convert one of them "
            "(training runs in float32, gradient checks in float64)"
        )
    return found.pop() if found else None


def _as_tensor(x: Any, dtype: np.dtype | None) -> Tensor:
    if isinstance(x, Tensor):
        return x
    if isinstance(x, bool | int | float) and dtype is not None:
        return Tensor(np.asarray(x, dtype=dtype))
    return Tensor(x)
