"""Rotary positions: a token's place is an angle by which pairs of channels are turned.

Turned by t·θ and s·θ, the product of a query and a key depends on the distance t - s alone.
Su et al., "RoFormer", arXiv 2104.09864. Channel i is paired with i + D/2, as Hugging Face's Llama
does it (the paper, and llama.cpp's files, pair 2i with 2i + 1).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from minilora.autograd import Function
from minilora.errors import ShapeError


class Rotary(Function):
    """(y₁, y₂) = (x₁, x₂) · (c, c) + (x₂, x₁) · (-s, s)

    x, y (B, T, H, D) in halves     c, s (…, T, 1, D/2)

    dx is dy turned back by the same angle: the transpose of a rotation is its inverse.

    Kept: c and s, which have no axis for the heads and are shared by all layers.
    """

    def forward(ctx, x, *, cos, sin):
        if cos.shape[-1] * 2 != x.shape[-1] or cos.shape[-3] != x.shape[-3]:
            raise ShapeError(
                f"Rotary: x {x.shape} and cos {cos.shape} do not fit; x is (B, T, H, D) and cos "
                "(T, 1, D/2) or (B, T, 1, D/2)"
            )
        ctx.save(cos=cos if ctx.needs.x else None, sin=sin if ctx.needs.x else None)
        return rotate(x, cos, sin)

    def backward(ctx, dy):
        return rotate(dy, ctx.saved.cos, -ctx.saved.sin)


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    # Both halves at once, not one by one: the loops are as long again, 5 % of a small step.
    y = np.roll(x, x.shape[-1] // 2, axis=-1)
    y *= np.concatenate((-sin, sin), axis=-1)
    y += x * np.concatenate((cos, cos), axis=-1)
    return y


@cache
def frequencies(dim: int, theta: float, scaling: tuple[tuple[str, Any], ...]) -> np.ndarray:
    """Radians a token, by pair of channels (dim / 2,)."""
    f = theta ** -(np.arange(0, dim, 2) / dim)
    s = dict(scaling)
    if s.get("rope_type") == "linear":
        return f / s["factor"]
    if s.get("rope_type") == "llama3":
        # Turns within the original context: many, keep; few, slow down; between, in between.
        turns = s["original_max_position_embeddings"] * f / (2 * np.pi)
        low, high = s["low_freq_factor"], s["high_freq_factor"]
        keep = np.clip((turns - low) / (high - low), 0, 1)
        return keep * f + (1 - keep) * f / s["factor"]
    return f
