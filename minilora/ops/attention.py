"""Causal attention: each token takes a weighted mean of the values of itself and those before it.

Vaswani et al., arXiv 1706.03762; several query heads sharing one key/value head: Ainslie et al.,
arXiv 2305.13245.
"""

from __future__ import annotations

import numpy as np

from minilora.autograd import Function
from minilora.errors import ShapeError
from minilora.ops.softmax import softmax, softmax_backward


class Attention(Function):
    """s = q kᵀ / √D + mask     p = softmax(s)     y = p v

    q, y (B, H, T, D)   k, v (B, K, S, D), K heads of keys and values each serving H/K of queries.
    The T queries are the last T of the S places; query t sees keys up to its own place, and
    none before `start` (B,), where given: what precedes a row's first token is padding.

    dv = pᵀ dy     dp = dy vᵀ     ds = p · (dp - Σ dp p)     dq = ds k / √D     dk = dsᵀ q / √D

    Kept: p, with B·H·T·S numbers the largest array of a long step; k for dq, q for dk, v for both.
    """

    def forward(ctx, q, k, v, *, start=None):
        _check(q, k, v)
        B, H, T, D = q.shape
        _, K, S, _ = k.shape
        ctx.group, ctx.scale = H // K, D**-0.5
        q = q.reshape(B, K, ctx.group * T, D)  # the query heads of a key head, one below another
        s = (q @ k.swapaxes(-1, -2)).reshape(B, K, ctx.group, T, S)
        s *= ctx.scale
        s += _mask(T, S, start, q.dtype)
        p = softmax(s).reshape(B, K, ctx.group * T, S)
        n = ctx.needs
        ctx.save(
            p=p if n.q or n.k or n.v else None,
            q=q if n.k else None,
            k=k if n.q else None,
            v=v if n.q or n.k else None,
        )
        return (p @ v).reshape(B, H, T, D)

    def backward(ctx, dy):
        B, H, T, D = dy.shape
        p = ctx.saved.p
        dy = dy.reshape(B, H // ctx.group, ctx.group * T, D)
        dq = dk = dv = None
        if ctx.needs.v:
            dv = p.swapaxes(-1, -2) @ dy
        if ctx.needs.q or ctx.needs.k:
            ds = softmax_backward(dy @ ctx.saved.v.swapaxes(-1, -2), p)
            ds *= ctx.scale
            if ctx.needs.q:
                dq = (ds @ ctx.saved.k).reshape(B, H, T, D)
            if ctx.needs.k:
                dk = ds.swapaxes(-1, -2) @ ctx.saved.q
        return dq, dk, dv


def _mask(T: int, S: int, start: np.ndarray | None, dtype: np.dtype) -> np.ndarray:
    """0 where query t may look at key s, -inf elsewhere: (T, S), or (B, 1, 1, T, S) with start."""
    place, key = np.arange(S - T, S)[:, None], np.arange(S)
    seen = key <= place
    if start is not None:
        # A padding query sees itself, so that its row of the softmax has something to sum.
        seen = (seen & (key >= start[:, None, None]) | (key == place))[:, None, None]
    return np.where(seen, 0, -np.inf).astype(dtype)


def _check(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> None:
    fits = (
        q.ndim == k.ndim == 4
        and k.shape == v.shape
        and (q.shape[0], q.shape[3]) == (k.shape[0], k.shape[3])
        and q.shape[1] % k.shape[1] == 0
        and q.shape[2] <= k.shape[2]
    )
    if not fits:
        raise ShapeError(
            f"Attention: q {q.shape}, k {k.shape} and v {v.shape} do not fit; q is (B, H, T, D), "
            "k and v (B, K, S, D) with K dividing H and T <= S"
        )
