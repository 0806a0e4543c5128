"""Dropout: while training, each element is silenced with probability p, the rest made louder.

Srivastava et al., JMLR 15 (2014). Scaling by 1/(1-p) keeps the mean, so that nothing needs to be
done when not training.
"""

from __future__ import annotations

import numpy as np

from minilora.autograd import Function
from minilora.errors import ConfigError


class Dropout(Function):
    """y = x · m / (1-p), m = 1 with probability 1-p, else 0     dx = dy · m / (1-p)

    Kept: m, one byte an element.
    """

    def forward(ctx, x, *, p: float, rng: np.random.Generator):
        if not 0 <= p < 1:
            raise ConfigError(f"dropout p = {p} must be at least 0 and below 1")
        mask = rng.random(x.shape, np.float32) >= p
        ctx.scale = 1 / (1 - float(p))
        ctx.save(mask=mask if ctx.needs.x else None)
        return x * mask * ctx.scale

    def backward(ctx, dy):
        return dy * ctx.saved.mask * ctx.scale
