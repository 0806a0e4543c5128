"""The LoRA bypass: a frozen W, and beside it a narrow way down to r numbers and up again.

Hu et al., "LoRA", arXiv 2106.09685, section 4.1. It stands here twice on purpose: as one operation
whose whole backward is derived by hand, and composed of plain operations, whose backward the tape
derives. A test holds the two together to 1e-12.
"""

from __future__ import annotations

import numpy as np

from minilora.autograd import Function, Tensor
from minilora.errors import ShapeError
from minilora.ops.elementwise import Add, Mul
from minilora.ops.matmul import Linear, linear, rows


class LoRALinear(Function):
    """h = x Wᵀ + s (x Aᵀ) Bᵀ     x (…, in)   W (out, in)   A (r, in)   B (out, r)   h (…, out)

    With u = x Aᵀ (…, r), what comes back along the bypass is

    dB = s dhᵀ u     du = s dh B     dA = duᵀ x     and for the layer below, both ways together,
    dx = dh W + du A

    W is frozen: there is no dW. But dx still passes through W, so freezing saves one product of
    three, not the whole of backward. While B = 0, du and so dA are exactly zero, and dB is not.

    Kept: x for dA, u for dB, B and A for the way back, W for dx. u is r wide: nearly nothing.
    """

    def forward(ctx, x, W, A, B, *, scaling):
        _check(x, W, A, B)
        u = linear(x, A)
        n = ctx.needs
        ctx.scaling = scaling = float(scaling)  # a NumPy float64 would widen everything
        ctx.save(
            x=x if n.A else None,
            u=u if n.B else None,
            B=B if n.x or n.A else None,
            A=A if n.x else None,
            W=W if n.x else None,
        )
        h = linear(x, W)
        h += linear(u, scaling * B)
        return h

    def backward(ctx, dh):
        dx = dA = dB = None
        if ctx.needs.B:
            dB = ctx.scaling * (rows(dh).T @ rows(ctx.saved.u))
        if ctx.needs.x or ctx.needs.A:
            du = linear(dh, ctx.scaling * ctx.saved.B.T)
            if ctx.needs.A:
                dA = rows(du).T @ rows(ctx.saved.x)
            if ctx.needs.x:
                dx = linear(dh, ctx.saved.W.T)
                dx += linear(du, ctx.saved.A.T)
        return dx, None, dA, dB


def lora_linear(x: Tensor, W: Tensor, A: Tensor, B: Tensor, *, scaling: float) -> Tensor:
    """h = x Wᵀ + s (x Aᵀ) Bᵀ by hand; W must be frozen, since no dW is derived."""
    if W.requires_grad:
        raise ShapeError(
            "LoRALinear derives no gradient for W: freeze it (W.requires_grad = False), or use "
            "lora_linear_composed, which trains all three"
        )
    return LoRALinear.apply(x, W, A, B, scaling=scaling)


def lora_linear_composed(
    x: Tensor, W: Tensor, A: Tensor, B: Tensor, *, scaling: float, x_bypass: Tensor | None = None
) -> Tensor:
    """The same from plain operations. The bypass may read another x (after dropout, say)."""
    u = Linear.apply(x if x_bypass is None else x_bypass, A)
    return Add.apply(Linear.apply(x, W), Mul.apply(Linear.apply(u, B), scaling))


def _check(x: np.ndarray, W: np.ndarray, A: np.ndarray, B: np.ndarray) -> None:
    fits = (
        W.ndim == A.ndim == B.ndim == 2
        and x.shape[-1] == W.shape[1] == A.shape[1]
        and B.shape == (W.shape[0], A.shape[0])
    )
    if not fits:
        raise ShapeError(
            f"LoRALinear: x {x.shape}, W {W.shape}, A {A.shape} and B {B.shape} do not fit; they "
            "are (…, in), (out, in), (r, in) and (out, r)"
        )
