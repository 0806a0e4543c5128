"""Operations that fold axes: what went into one number gets that number's gradient back."""

from __future__ import annotations

import numpy as np

from minilora.autograd import Function
from minilora.errors import ShapeError


def _axes(op: str, axis, shape: tuple[int, ...]) -> tuple[int, ...]:
    """`axis` (None, a number or several) as a tuple of axes from 0."""
    asked = range(len(shape)) if axis is None else (axis,) if np.ndim(axis) == 0 else axis
    for a in asked:
        if not -len(shape) <= a < len(shape):
            raise ShapeError(f"{op}: axis {a} of a tensor of shape {shape} does not exist")
    axes = tuple(int(a) % len(shape) for a in asked)
    if len(set(axes)) < len(axes):
        raise ShapeError(f"{op}: axes {axis} of a tensor of shape {shape} name one axis twice")
    return axes


class _Fold(Function):
    """What sum, mean and max share: the folded axes, and dy laid out to broadcast over them."""

    def fold(ctx, x: np.ndarray, axis) -> tuple[int, ...]:
        ctx.axes = _axes(type(ctx).__name__, axis, x.shape)
        ctx.shape = x.shape
        return ctx.axes

    def unfold(ctx, dy: np.ndarray) -> np.ndarray:
        kept = tuple(1 if i in ctx.axes else n for i, n in enumerate(ctx.shape))
        return dy.reshape(kept)


class Sum(_Fold):
    """y = Σ x over axes     dx = dy, repeated along them

    Kept: nothing.
    """

    def forward(ctx, x, *, axis=None, keepdims=False):
        return x.sum(axis=ctx.fold(x, axis), keepdims=keepdims)

    def backward(ctx, dy):
        return np.broadcast_to(ctx.unfold(dy), ctx.shape).copy()


class Mean(_Fold):
    """y = Σ x / n over axes     dx = dy / n, repeated along them

    Kept: nothing.
    """

    def forward(ctx, x, *, axis=None, keepdims=False):
        axes = ctx.fold(x, axis)
        ctx.n = int(np.prod([x.shape[a] for a in axes]))
        return x.mean(axis=axes, keepdims=keepdims)

    def backward(ctx, dy):
        return np.broadcast_to(ctx.unfold(dy) / ctx.n, ctx.shape).copy()


class Max(_Fold):
    """y = max x over axes     dx = dy where x is the maximum, shared evenly between equals

    Kept: one bool an element.
    """

    def forward(ctx, x, *, axis=None, keepdims=False):
        axes = ctx.fold(x, axis)
        y = x.max(axis=axes, keepdims=True)
        ctx.save(winners=x == y if ctx.needs.x else None)
        return y if keepdims else y.squeeze(axes)

    def backward(ctx, dy):
        winners = ctx.saved.winners
        return winners * (
            ctx.unfold(dy) / winners.sum(axis=ctx.axes, keepdims=True, dtype=dy.dtype)
        )
