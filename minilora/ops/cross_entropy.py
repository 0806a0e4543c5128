"""Cross entropy: how surprised the model is by the right token, in nats.

Untrained over V tokens the loss is about ln V, and its gradient is as simple as any: what the model
said minus what was right. Tokens labelled -100 are not asked for: they count neither in the sum nor
in the mean, and their gradient is exactly zero.
"""

from __future__ import annotations

import numpy as np

from minilora.autograd import Function
from minilora.errors import DataError, DTypeError, ShapeError
from minilora.runtime import split

IGNORE = -100

# Rows of logits made at a time: at most this many numbers, so that a vocabulary of 50,000 does
# not hold a quarter of a gigabyte of logits for 1,000 tokens.
_CHUNK = 4_000_000


class CrossEntropy(Function):
    """L = -Σ ln p_t[label_t] / n,  p = softmax(z)     z (…, V) logits   labels (…)   L a scalar

    dz_t = (p_t - onehot(label_t)) / n for a token with a label, 0 for one labelled -100

    n is the number of labelled tokens here, unless given: where a batch is split over threads,
    each divides by the number in the whole batch, so that the parts add up to the mean.

    Kept: p of the labelled tokens, and which they are.
    """

    def forward(ctx, z, *, labels, n_targets=None):
        labels = np.asarray(labels)
        if labels.shape != z.shape[:-1]:
            raise ShapeError(
                f"CrossEntropy: logits {z.shape} need labels {z.shape[:-1]}, not {labels.shape}"
            )
        ctx.shape = z.shape
        ctx.n = count_targets(labels) if n_targets is None else n_targets
        asked, wanted = _targets(labels.ravel(), z.shape[-1])
        loss, p = _surprise(z.reshape(-1, z.shape[-1])[asked], wanted)
        if ctx.needs.z:
            ctx.save(p=p, asked=asked, wanted=wanted)
        return np.asarray(loss / ctx.n, z.dtype)

    def backward(ctx, dloss):
        p, asked, wanted = ctx.saved.p, ctx.saved.asked, ctx.saved.wanted
        dz = np.zeros((int(np.prod(ctx.shape[:-1])), ctx.shape[-1]), p.dtype, like=p)
        dz[asked] = _minus_onehot(p, wanted) * (dloss / ctx.n)
        return dz.reshape(ctx.shape)


class LinearCrossEntropy(Function):
    """L = CrossEntropy(x Wᵀ)     x (…, C)   W (V, C)   labels (…)   L a scalar

    dz = (p - onehot) / n     dx = dz W     dW = dzᵀ x

    The same as Linear and CrossEntropy one after the other, but logits exist only for a chunk of
    tokens at a time, and not at all for tokens without a label. A chunk's logits are good for all
    three results, so backward's products are made here, before the next chunk takes their place;
    what is left for backward is to scale them by dL.

    Kept: dx of the labelled tokens, and dW (V, C) if W is trained. Never the logits.
    """

    def forward(ctx, x, W, *, labels, n_targets=None):
        labels = np.asarray(labels)
        if labels.shape != x.shape[:-1] or x.shape[-1] != W.shape[-1]:
            raise ShapeError(
                f"LinearCrossEntropy: x {x.shape}, W {W.shape} and labels "
                f"{labels.shape} do not fit; they are (…, C), (V, C) and (…)"
            )
        ctx.shape = x.shape
        n = count_targets(labels) if n_targets is None else n_targets
        asked, wanted = _targets(labels.ravel(), W.shape[0])
        x = x.reshape(-1, x.shape[-1])[asked]
        dx = np.empty_like(x) if ctx.needs.x else None
        dW = np.zeros_like(W) if ctx.needs.W else None
        loss = 0.0
        most = max(1, _CHUNK // W.shape[0])
        for chunk in split(len(x), -(-len(x) // most)):
            surprise, p = _surprise(x[chunk] @ W.T, wanted[chunk])
            loss += surprise
            if ctx.needs.x or ctx.needs.W:
                dz = _minus_onehot(p, wanted[chunk])
                dz /= n
                if dx is not None:
                    dx[chunk] = dz @ W
                if dW is not None:
                    dW += dz.T @ x[chunk]
                del dz
            del p  # before the next chunk's logits are made: two chunks need not be there at once
        ctx.save(dx=dx, dW=dW, asked=asked if ctx.needs.x else None)
        return np.asarray(loss / n, x.dtype)

    def backward(ctx, dloss):
        dx = None
        if ctx.needs.x:
            size = int(np.prod(ctx.shape[:-1])), ctx.shape[-1]
            dx = np.zeros(size, dloss.dtype, like=ctx.saved.dx)
            dx[ctx.saved.asked] = ctx.saved.dx * dloss
            dx = dx.reshape(ctx.shape)
        dW = None
        if ctx.needs.W:
            dW = ctx.saved.dW  # as large as the head, and nobody else's: scaled in place
            dW *= dloss
        return dx, dW


def count_targets(labels: np.ndarray) -> int:
    """How many tokens are asked for. DataError if there is none: their mean would be 0/0."""
    if labels.dtype.kind not in "iu":
        raise DTypeError(f"labels must be integers, not {labels.dtype}; use .astype(np.int64)")
    n = int((labels != IGNORE).sum())
    if n == 0:
        raise DataError(
            f"none of the {labels.size} labels is a target, all are {IGNORE}: there is no mean "
            "over no token. Check the mask, and that answers were not cut off"
        )
    return n


def _targets(labels: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where a token is asked for, and which one."""
    asked = np.flatnonzero(labels != IGNORE)
    wanted = labels[asked]
    if wanted.size and (wanted.min() < 0 or wanted.max() >= vocab_size):
        bad = wanted.min() if wanted.min() < 0 else wanted.max()
        raise DataError(f"label {bad} must be a token, 0 to {vocab_size - 1}, or {IGNORE}")
    return asked, wanted


def _surprise(z: np.ndarray, wanted: np.ndarray) -> tuple[float, np.ndarray]:
    """-Σ ln p[wanted], and p = softmax(z), which is written over z, for logits z (N, V)."""
    if len(z) == 0:
        return 0.0, z
    z -= z.max(axis=-1, keepdims=True)
    right = z[np.arange(len(z)), wanted]
    p = np.exp(z, out=z)
    total = p.sum(axis=-1, keepdims=True)
    loss = float((np.log(total[:, 0]) - right).sum(dtype=np.float64))
    p /= total
    return loss, p


def _minus_onehot(p: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """p - onehot(wanted), written over p."""
    p[np.arange(len(p)), wanted] -= 1
    return p
