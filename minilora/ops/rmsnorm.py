"""RMSNorm: each token's vector brought to length √C, then weighed channel by channel.

Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv 1910.07467.
"""

from __future__ import annotations

import numpy as np

from minilora.autograd import Function
from minilora.errors import ShapeError
from minilora.ops.matmul import rows


class RMSNorm(Function):
    """y = g · n,  n = x / s,  s = √(mean x² + ε)     x (…, C)   g (C,)   y (…, C)

    dn = dy · g     dx = (dn - n · mean(dn · n)) / s     dg = Σ dy · n

    The second term of dx takes out the part along n: a longer x gives the same y.

    Kept: x and one s a token, g if dx is wanted. n is computed again, which costs one division
    an element and saves an array of x's size.
    """

    def forward(ctx, x, g, *, eps):
        if x.shape[-1:] != g.shape:
            raise ShapeError(f"RMSNorm: x {x.shape} and g {g.shape}: x's last axis must be g's")
        s = np.sqrt(np.vecdot(x, x)[..., None] / x.shape[-1] + eps)
        ctx.save(
            x=x if ctx.needs.x or ctx.needs.g else None,
            s=s if ctx.needs.x or ctx.needs.g else None,
            g=g if ctx.needs.x else None,
        )
        return x / s * g

    def backward(ctx, dy):
        n = ctx.saved.x / ctx.saved.s
        dx = dg = None
        if ctx.needs.g:
            dg = rows(dy * n).sum(axis=0)
        if ctx.needs.x:
            dn = dy * ctx.saved.g
            dx = (dn - n * (np.vecdot(dn, n)[..., None] / n.shape[-1])) / ctx.saved.s
        return dx, dg
