"""Matrix products, where nearly all the work of a Transformer is done.

A product y = x Wᵀ costs one product forward and two backward, one for each input. Which of the two
are made depends on which gradients are wanted: that is all there is to "freezing".
"""

from __future__ import annotations

import numpy as np

from minilora.autograd import Function
from minilora.errors import ShapeError
from minilora.ops.elementwise import unbroadcast


def rows(x: np.ndarray) -> np.ndarray:
    """(…, n) as a matrix (all the leading axes, n): one large product instead of many small."""
    return x.reshape(-1, x.shape[-1])


def linear(x: np.ndarray, W: np.ndarray) -> np.ndarray:
    """x Wᵀ over the last axis: (…, in), (out, in) → (…, out)."""
    return (rows(x) @ W.T).reshape(*x.shape[:-1], W.shape[0])


def _broadcast(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether the leading axes of two stacks of matrices broadcast."""
    pairs = zip(reversed(x.shape[:-2]), reversed(y.shape[:-2]), strict=False)
    return all(a == b or 1 in (a, b) for a, b in pairs)


class MatMul(Function):
    """z = x y     x (…, n, k)   y (…, k, m)   z (…, n, m), leading axes broadcast

    dx = dz yᵀ     dy = xᵀ dz

    Kept: each factor, for the other's gradient.
    """

    def forward(ctx, x, y):
        if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-2] or not _broadcast(x, y):
            raise ShapeError(
                f"MatMul: x {x.shape} and y {y.shape} do not fit; both need two axes or more, "
                "x's last must equal y's last but one, and the axes before must broadcast"
            )
        ctx.shapes = x.shape, y.shape
        ctx.save(x=x if ctx.needs.y else None, y=y if ctx.needs.x else None)
        return x @ y

    def backward(ctx, dz):
        dx = dy = None
        if ctx.needs.x:
            dx = unbroadcast(dz @ np.swapaxes(ctx.saved.y, -1, -2), ctx.shapes[0])
        if ctx.needs.y:
            dy = unbroadcast(np.swapaxes(ctx.saved.x, -1, -2) @ dz, ctx.shapes[1])
        return dx, dy


class Linear(Function):
    """y = x Wᵀ + b     x (…, in)   W (out, in)   b (out,) or None   y (…, out)

    dx = dy W     dW = dyᵀ x     db = dy     (dW and db summed over all leading axes)

    Kept: x only for dW, W only for dx. With W frozen, x is not kept and dW not computed.
    """

    def forward(ctx, x, W, b=None):
        if W.ndim != 2 or x.shape[-1:] != W.shape[1:] or (b is not None and b.shape != W.shape[:1]):
            bias = "" if b is None else f" and b {b.shape}"
            raise ShapeError(
                f"Linear: x {x.shape} and W {W.shape}{bias} do not fit; with W (out, in), x's last "
                "axis must be in, and b (out,)"
            )
        ctx.save(x=x if ctx.needs.W else None, W=W if ctx.needs.x else None)
        y = linear(x, W)
        return y if b is None else y + b

    def backward(ctx, dy):
        dx = linear(dy, ctx.saved.W.T) if ctx.needs.x else None
        dW = rows(dy).T @ rows(ctx.saved.x) if ctx.needs.W else None
        if not hasattr(ctx.needs, "b"):
            return dx, dW
        db = rows(dy).sum(axis=0) if ctx.needs.b else None
        return dx, dW, db
