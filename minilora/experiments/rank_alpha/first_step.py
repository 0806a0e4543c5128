"""The first step of a LoRA layer: how much useful change it makes, by rank, without training.

    h = W x + s B A x,    B = 0,    G = dL/dB = s gᵀ (x Aᵀ)    with g = dL/dh

SGD moves B by -lr G, Adam in its first step by -lr sign(G). Of the change Δh that follows, what
counts is the part along -g. For SGD it grows as s² r, so s = α/√r keeps it level over ranks
(arXiv 2312.03732); for Adam, whose step is as large whatever the gradient, as s r: s = α/r does.
"""

from __future__ import annotations

import numpy as np

from minilora.errors import ConfigError

OPTIMIZERS = ("adam", "sgd")
N, TOKENS, DRAWS = 128, 64, 8


def first_step_change(
    x: np.ndarray, g: np.ndarray, A: np.ndarray, s: float, optimizer: str, lr: float = 1.0
) -> float:
    """-⟨Δh, g⟩ / ‖g‖ after one step from B = 0.

    x           inputs (T, in)
    g           gradients of the loss at the outputs (T, out)
    A           (r, in)
    s           scaling of the bypass
    optimizer   "sgd" or "adam"
    """
    if optimizer not in OPTIMIZERS:
        raise ConfigError(f"optimizer {optimizer!r} must be one of {', '.join(OPTIMIZERS)}")
    squeezed = x @ A.T
    G = s * (g.T @ squeezed)
    B = -lr * (np.sign(G) if optimizer == "adam" else G)
    change = s * (squeezed @ B.T)
    return float(-(change * g).sum() / np.linalg.norm(g))


def first_steps(ranks: list[int]) -> dict[str, list[float]]:
    """`{"adam, α/r": [by rank], …}`: useful change relative to the lowest rank.

    Gaussian x and g, A as a fresh adapter has it; mean of 8 draws, α = 1.
    """
    found = {}
    for optimizer in OPTIMIZERS:
        for label, power in (("α/r", 1.0), ("α/√r", 0.5)):
            means = [
                sum(_drawn(r, r**-power, optimizer, d) for d in range(DRAWS)) / DRAWS for r in ranks
            ]
            found[f"{optimizer}, {label}"] = [m / means[0] for m in means]
    return found


def _drawn(r: int, s: float, optimizer: str, draw: int) -> float:
    rng = np.random.default_rng([draw, r])
    x, g = rng.standard_normal((2, TOKENS, N))
    A = rng.uniform(-(N**-0.5), N**-0.5, (r, N))
    return first_step_change(x, g, A, s, optimizer)
