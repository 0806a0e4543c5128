"""DoRA: how long a row of W is, and where it points, learnt apart.

    h = m ⊙ (W x + s B A x) / ‖W + s B A‖        m (out,), trained        ‖·‖ of each row

Liu et al., arXiv 2402.09353. LoRA turns a row and stretches it in one; here s B A only turns it,
and its length is m. At the start m = ‖W‖ and B = 0, so that h is W x, to the bit.

No gradient goes through the norm, as section 4.3 of the paper proposes: it is a number by which
the rest is divided. That saves the way back through W + s B A, an array of W's size; forward still
makes one in every call, which is what DoRA costs.

PEFT's dropout acts on all but the plain W x, so in training h = W x + m/‖·‖ (W x̃ + s B A x̃) - W x̃
with x̃ = dropout(x).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minilora import ops
from minilora.autograd import Tensor
from minilora.quant.linear import PackedMatrix


def row_norms(W: np.ndarray, A: np.ndarray, B: np.ndarray, scaling: float) -> np.ndarray:
    """‖W + s B A‖ of each row (out,), in their type."""
    if isinstance(W, PackedMatrix):
        pieces = W.pieces()
        return np.concatenate([row_norms(some, A, B[here], scaling) for here, some in pieces])
    V = B @ A
    V *= scaling
    V += W
    return np.sqrt(np.vecdot(V, V))


def dora_linear(
    x: Tensor,
    W: Tensor,
    A: Tensor,
    B: Tensor,
    m: Tensor,
    *,
    scaling: float,
    dropout: Callable[[Tensor], Tensor],
) -> Tensor:
    """h (…, out) from x (…, in); composed of plain operations around LoRA's."""
    gain: Any = m / row_norms(W.data, A.data, B.data, scaling)
    kept = dropout(x)
    lora = ops.lora_linear_composed if W.requires_grad else ops.lora_linear
    h = gain * lora(kept, W, A, B, scaling=scaling)
    return h if kept is x else ops.linear(x, W) + (h - ops.linear(kept, W))


def with_length(V: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Rows V (out, in) brought to the lengths m (out,): the weights of a merged adapter."""
    return V * (m / np.sqrt(np.vecdot(V, V)))[:, None]
