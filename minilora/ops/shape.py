"""Operations that only move elements. Their backward moves the gradients the same way back."""

from __future__ import annotations

import numpy as np

from minilora.autograd import Function
from minilora.errors import ShapeError


class Reshape(Function):
    """y = x, read in order into another shape     dx = dy, read back

    Kept: nothing.
    """

    def forward(ctx, x, *, shape):
        ctx.shape = x.shape
        try:
            return x.reshape(shape)
        except ValueError:
            raise ShapeError(
                f"Reshape: {x.shape} ({x.size} elements) does not fit {shape}"
            ) from None

    def backward(ctx, dy):
        return dy.reshape(ctx.shape)


class Transpose(Function):
    """y[i_axes[0], i_axes[1], …] = x[i_0, i_1, …]     dx: the inverse permutation

    Kept: nothing. Without axes, the last two are exchanged.
    """

    def forward(ctx, x, *, axes=None):
        ctx.axes = axes or (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)
        if sorted(ctx.axes) != list(range(x.ndim)):
            raise ShapeError(f"Transpose: axes {axes} must be a permutation of x {x.shape}'s axes")
        return x.transpose(ctx.axes)

    def backward(ctx, dy):
        return dy.transpose(np.argsort(ctx.axes))


class Slice(Function):
    """y = x[index]     dx = 0 but dy at [index]; an element taken twice gets both

    Kept: nothing but the index.
    """

    def forward(ctx, x, *, index):
        ctx.shape, ctx.index = x.shape, index
        try:
            return x[index]
        except IndexError as error:
            raise ShapeError(f"Slice: [{index}] of a tensor of shape {x.shape}: {error}") from None

    def backward(ctx, dy):
        dx = np.zeros(ctx.shape, dy.dtype, like=dy)
        np.add.at(dx, ctx.index, dy)
        return dx


class Concatenate(Function):
    """y = x0, x1, … end to end along an axis     dx0, dx1, … = dy, cut where they met

    Kept: nothing but the lengths.
    """

    def forward(ctx, *xs, axis=0):
        try:
            y = np.concatenate(xs, axis=axis)
        except ValueError:
            shapes = ", ".join(str(x.shape) for x in xs) or "(none)"
            raise ShapeError(
                f"Concatenate: shapes {shapes} must be at least one, with an axis {axis}, and may "
                "differ only along it"
            ) from None
        ctx.axis = axis
        ctx.cuts = np.cumsum([x.shape[axis] for x in xs])[:-1]
        return y

    def backward(ctx, dy):
        return tuple(np.split(dy, ctx.cuts, axis=ctx.axis))
