"""Softmax: scores to shares that sum to one.

Adding a constant to all scores of a row changes nothing, so the row's maximum is taken off first:
then no exponential is above 1, and scores of ten thousand stay finite.
"""

from __future__ import annotations

import numpy as np

from minilora.autograd import Function


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis; rows may hold -inf, but not only."""
    p = np.exp(x - x.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    return p


def softmax_backward(dp: np.ndarray, p: np.ndarray) -> np.ndarray:
    """dx = p · (dp - Σ dp p): a score raises its own share and lowers all others."""
    return p * (dp - np.vecdot(dp, p)[..., None])


class Softmax(Function):
    """p_i = e^{x_i} / Σ_j e^{x_j} over the last axis     dx = p · (dp - Σ_j dp_j p_j)

    Kept: p.
    """

    def forward(ctx, x):
        p = softmax(x)
        ctx.save(p=p if ctx.needs.x else None)
        return p

    def backward(ctx, dp):
        return softmax_backward(dp, ctx.saved.p)


class LogSoftmax(Function):
    """y_i = x_i - ln Σ_j e^{x_j} over the last axis     dx = dy - p Σ_j dy_j,  p = e^y

    Kept: y.
    """

    def forward(ctx, x):
        shifted = x - x.max(axis=-1, keepdims=True)
        y = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        ctx.save(y=y if ctx.needs.x else None)
        return y

    def backward(ctx, dy):
        return dy - np.exp(ctx.saved.y) * dy.sum(axis=-1, keepdims=True)
