"""Looking up a token's vector: a product with a one-hot matrix that nobody writes down."""

from __future__ import annotations

import numpy as np

from minilora.autograd import Function
from minilora.errors import DTypeError, ShapeError


class Embedding(Function):
    """y = W[ids]     W (V, C)   ids (…) integers   y (…, C)

    dW[v] = Σ dy over all places where ids = v; zero for tokens that do not occur

    Kept: the ids.
    """

    def forward(ctx, W, *, ids):
        ids = np.asarray(ids)
        check_ids(ids, W.shape[0])
        ctx.shape = W.shape
        # A copy, since a view would hold the whole batch that it looks into.
        ctx.save(ids=ids.copy() if ctx.needs.W else None)
        return W[ids]

    def backward(ctx, dy):
        ids, dy = ctx.saved.ids.ravel(), dy.reshape(-1, ctx.shape[1])
        # Equal ids side by side, then one sum for each run: `np.add.at` does the same, slower.
        order = np.argsort(ids, kind="stable")
        tokens, starts = np.unique(ids[order], return_index=True)
        dW = np.zeros(ctx.shape, dy.dtype, like=dy)
        dW[tokens] = np.add.reduceat(dy[order], starts, axis=0)
        return dW


def check_ids(ids: np.ndarray, vocab_size: int) -> None:
    """Refuse ids that are no integers, none at all, or outside of the vocabulary."""
    if ids.dtype.kind not in "iu":
        raise DTypeError(f"token ids must be integers, not {ids.dtype}; use ids.astype(np.int64)")
    if ids.size == 0:
        raise ShapeError(f"token ids of shape {ids.shape} hold no token: the batch is empty")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        bad = low if low < 0 else high
        raise ShapeError(
            f"token id {bad} is outside of the vocabulary, whose ids are 0 to {vocab_size - 1}; "
            "encode the text with this model's own tokenizer"
        )
