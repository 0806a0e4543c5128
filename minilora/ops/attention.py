"""Causal attention: each token takes a weighted mean of the values of itself and those before it.

Vaswani et al., arXiv 1706.03762; several query heads sharing one key/value head: Ainslie et al.,
arXiv 2305.13245.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minilora.autograd import Function
from minilora.errors import ShapeError
from minilora.ops.softmax import softmax, softmax_backward

# The first place that each query sees (B, T) or (B, 1), and how many places are seen by all.
Texts = tuple[np.ndarray, int]


class Attention(Function):
    """s = q kᵀ / √D + mask     p = softmax(s)     y = p v

    q, y (B, H, T, D)   k, v (B, K, S, D), K heads of keys and values each serving H/K of queries.
    The T queries are the last T of the S places; query t sees keys up to its own place, and, where
    `start` is given, only some of these (`texts`).

    dv = pᵀ dy     dp = dy vᵀ     ds = p · (dp - Σ dp p)     dq = ds k / √D     dk = dsᵀ q / √D

    Kept: p, with B·H·T·S numbers the largest array of a long step; k for dq, q for dk, v for both.
    """

    def forward(ctx, q, k, v, *, start=None):
        _check(q, k, v, start)
        p = _shares(q, k, texts(start, q.shape[2], k.shape[2]))
        n = ctx.needs
        ctx.save(
            p=p if n.q or n.k or n.v else None,
            q=q if n.k else None,
            k=k if n.q else None,
            v=v if n.q or n.k else None,
        )
        return (p @ v).reshape(q.shape)

    def backward(ctx, dy):
        p = ctx.saved.p
        shape, scale = dy.shape, dy.shape[-1] ** -0.5
        dy = _stacked(dy, p.shape[1])
        dq = dk = dv = None
        if ctx.needs.v:
            dv = p.swapaxes(-1, -2) @ dy
        if ctx.needs.q or ctx.needs.k:
            ds = softmax_backward(dy @ ctx.saved.v.swapaxes(-1, -2), p)
            ds *= scale
            if ctx.needs.q:
                dq = (ds @ ctx.saved.k).reshape(shape)
            if ctx.needs.k:
                dk = ds.swapaxes(-1, -2) @ _stacked(ctx.saved.q, p.shape[1])
        return dq, dk, dv


class BlockAttention(Function):
    """The same, a block of queries at a time: memory grows with the length, not with its square.

    Each block sees whole rows of scores, up to its own last key, so its softmax is the plain one;
    what a longer block would compute beyond that key and mask away is not computed at all, nor
    what stands before the first text that it has a part of. After Dao et al., "FlashAttention",
    arXiv 2205.14135; what they split along the keys as well, with a running softmax, is for a
    GPU's small fast memory.

    Kept: q, k and v. p is computed again in backward: one product more, beside four.
    """

    def forward(ctx, q, k, v, *, start=None, block):
        _check(q, k, v, start)
        ctx.texts, ctx.block = texts(start, q.shape[2], k.shape[2]), block
        n = ctx.needs
        wanted = n.q or n.k or n.v
        ctx.save(
            q=q if wanted else None,
            k=k if wanted else None,
            v=v if n.q or n.k else None,
        )
        y = np.empty_like(q)
        for rows, keys, those in _blocks(q, k, block, ctx.texts):
            p = _shares(q[:, :, rows], k[:, :, keys], those)
            y[:, :, rows] = (p @ v[:, :, keys]).reshape(q[:, :, rows].shape)
        return y

    def backward(ctx, dy):
        q, k, n = ctx.saved.q, ctx.saved.k, ctx.needs
        K, scale = k.shape[1], q.shape[-1] ** -0.5
        dq = np.empty_like(q) if n.q else None
        dk = np.zeros_like(k) if n.k else None
        dv = np.zeros_like(k) if n.v else None
        for rows, keys, those in _blocks(q, k, ctx.block, ctx.texts):
            p = _shares(q[:, :, rows], k[:, :, keys], those)
            dyb = _stacked(dy[:, :, rows], K)
            if dv is not None:
                dv[:, :, keys] += p.swapaxes(-1, -2) @ dyb
            if dq is None and dk is None:
                continue
            ds = softmax_backward(dyb @ ctx.saved.v[:, :, keys].swapaxes(-1, -2), p)
            ds *= scale
            if dq is not None:
                dq[:, :, rows] = (ds @ k[:, :, keys]).reshape(dy[:, :, rows].shape)
            if dk is not None:
                dk[:, :, keys] += ds.swapaxes(-1, -2) @ _stacked(q[:, :, rows], K)
        return dq, dk, dv


def _blocks(
    q: np.ndarray, k: np.ndarray, size: int, those: Texts | None
) -> Iterator[tuple[slice, slice, Texts | None]]:
    """Runs of queries, each with the keys that some query of the run may see, and their texts."""
    T, S = q.shape[2], k.shape[2]
    for begin in range(0, T, size):
        rows = slice(begin, min(begin + size, T))
        end = S - T + rows.stop
        if those is None or those[0].shape[1] == 1:
            yield rows, slice(0, end), those
        else:
            first, for_all = those[0][:, rows], those[1]
            least = 0 if for_all else int(first.min())
            yield rows, slice(least, end), (first - least, for_all)


def _stacked(q: np.ndarray, K: int) -> np.ndarray:
    """(B, H, T, D) as (B, K, H/K · T, D): the query heads of a key head one below another."""
    B, H, T, D = q.shape
    return q.reshape(B, K, H // K * T, D)


def texts(start: np.ndarray | None, T: int, S: int) -> Texts | None:
    """What `start` says of T queries on S places: the first place each sees, and how many all see.

    start (B,)     where each row's first token stands: what precedes it is padding
    start (B, n)   several texts in a row: where, counted among its last n places, the text begins
                   that each of these belongs to; places before the last n are seen by all
    """
    if start is None:
        return None
    if start.ndim == 1:
        return start[:, None], 0
    before = S - start.shape[1]
    first = np.zeros((len(start), T), start.dtype)
    first[:, T - start.shape[1] :] = start + before
    return first, before


def _shares(q: np.ndarray, k: np.ndarray, those: Texts | None) -> np.ndarray:
    """p = softmax(q kᵀ / √D + mask), (B, K, H/K · T, S), for the last T of S places."""
    B, H, T, D = q.shape
    _, K, S, _ = k.shape
    s = (_stacked(q, K) @ k.swapaxes(-1, -2)).reshape(B, K, H // K, T, S)
    s *= D**-0.5
    s += _mask(T, S, those, q.dtype)
    return softmax(s).reshape(B, K, H // K * T, S)


def _mask(T: int, S: int, those: Texts | None, dtype: np.dtype) -> np.ndarray:
    """0 where query t may look at key s, -inf elsewhere: (T, S), or (B, 1, 1, T, S) with texts."""
    place, key = np.arange(S - T, S)[:, None], np.arange(S)
    seen = key <= place
    if those is not None:
        first, for_all = those
        own = (key >= first[:, :, None]) | (key < for_all)
        # A padding query sees itself, so that its row of the softmax has something to sum.
        seen = (seen & own | (key == place))[:, None, None]
    return np.where(seen, 0, -np.inf).astype(dtype)


def _check(q: np.ndarray, k: np.ndarray, v: np.ndarray, start: np.ndarray | None) -> None:
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
    if start is not None and not (
        start.shape == q.shape[:1]
        or (start.ndim == 2 and len(start) == len(q) and 0 < start.shape[1] <= q.shape[2])
    ):
        raise ShapeError(
            f"Attention: start {start.shape} does not fit q {q.shape}; it is (B,), or (B, n) for "
            "the last n <= T tokens"
        )
