"""SwiGLU's gate: one half of the MLP decides how much of the other half passes.

Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202.
"""

from __future__ import annotations

from minilora.autograd import Function
from minilora.errors import ShapeError
from minilora.ops.elementwise import sigmoid


class SwiGLU(Function):
    """y = g σ(g) · u     g (the gate), u, y (…, F)

    du = dy · g σ(g)     dg = dy · u · σ(g) (1 + g (1 - σ(g)))

    Kept: g and u. σ(g) is computed again, which costs one exponential an element and saves an
    array of g's size, the widest of the block.
    """

    def forward(ctx, g, u):
        if g.shape != u.shape:
            raise ShapeError(f"SwiGLU: gate {g.shape} and up {u.shape} must have one shape")
        ctx.save(g=g if ctx.needs.g or ctx.needs.u else None, u=u if ctx.needs.g else None)
        return g * sigmoid(g) * u

    def backward(ctx, dy):
        g = ctx.saved.g
        s = sigmoid(g)
        silu = g * s
        du = dy * silu if ctx.needs.u else None
        dg = dy * ctx.saved.u * (s + silu * (1 - s)) if ctx.needs.g else None
        return dg, du
