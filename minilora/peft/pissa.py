"""PiSSA: LoRA that starts from the largest directions of W itself, and trains those.

    W = U S Vᵀ      B₀ = U_r √(S_r/s)      A₀ = √(S_r/s) V_rᵀ      R = W - s B₀ A₀
    h = R x + s B A x

U_r, S_r, V_r are the r largest singular values with their vectors, s is the scaling. Meng et al.,
arXiv 2404.02948. At the start A and B are both other than zero, so both learn from the first step,
and h is W x as before, up to rounding.

R (out, in) takes W's place while the adapter is in use. PEFT writes it over W, so that there
switching the adapter off leaves R, not the base. Here W stays, so that switching off and unloading
give the base back bit for bit and other adapters find the W they were trained beside. The price is
R: one more copy of every matrix that is adapted, which counts as frozen weights in the ledger and
in the number of all parameters.

A folder that is opened elsewhere finds W, not R. So the adapter is saved as what it adds to W,

    s B A - s B₀ A₀ = s [B, -B₀] [A; A₀]

an ordinary LoRA of rank 2r. Opened again it is that: training goes on, with 2r directions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from minilora.peft.config import LoraConfig


def principal_pair(W: np.ndarray, r: int, scaling: float) -> tuple[np.ndarray, np.ndarray]:
    """A (r, in) and B (out, r) of which s B A is as near to W as a matrix of rank r can be."""
    U, S, Vt = np.linalg.svd(W.astype(np.result_type(W, np.float32)), full_matrices=False)
    root = np.sqrt(S[:r] / scaling)
    return root[:, None] * Vt[:r], U[:, :r] * root


def residual(W: np.ndarray, A: np.ndarray, B: np.ndarray, scaling: float) -> np.ndarray:
    """R = W - s B A in float64: of A and B as they are held, so that nothing but R is rounded."""
    return W - scaling * (B.astype(np.float64) @ A.astype(np.float64))


def as_plain_config(config: LoraConfig) -> LoraConfig:
    """The settings of the ordinary LoRA of rank 2r, with the same scaling."""
    louder = 2**0.5 if config.use_rslora else 2
    return replace(
        config,
        r=2 * config.r,
        rank_pattern={key: 2 * r for key, r in config.rank_pattern.items()},
        lora_alpha=louder * config.lora_alpha,
        alpha_pattern={key: louder * alpha for key, alpha in config.alpha_pattern.items()},
        init_lora_weights=True,
    )


def as_plain_pair(
    A: np.ndarray, B: np.ndarray, W: np.ndarray, R: np.ndarray, scaling: float
) -> tuple[np.ndarray, np.ndarray]:
    """[A; A₀] (2r, in) and [B, -B₀] (out, 2r). W - R, of rank r, tells A₀ and B₀ well enough."""
    A0, B0 = principal_pair(W - R, len(A), scaling)
    return np.concatenate([A, A0.astype(A.dtype)]), np.concatenate([B, -B0.astype(B.dtype)], axis=1)
