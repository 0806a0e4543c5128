"""A problem of which the rank is known, so that one sees whether LoRA finds it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from minilora.autograd import Tensor
from minilora.nn import Linear
from minilora.optim import AdamW, Schedule
from minilora.peft import LoraConfig, LoraLinear
from minilora.peft.lora import Switch
from minilora.spectra import singular_values


def planted(point: dict[str, Any]) -> dict[str, Any]:
    """A linear problem of which the rank is known: at which r does LoRA's loss reach 0?

    Targets y = W* x with W* = W0 + ΔW*, ΔW* of rank `true_rank`, n Gaussian inputs X (n, d), and
    loss ‖(W − W*) Xᵀ‖² / n. As X has full column rank, (W − W0) Xᵀ takes every value of rank r
    whose rows are X's, so the least loss at rank r is what Eckart and Young leave of ΔW* Xᵀ:
    Σ_{i>r} σᵢ(ΔW* Xᵀ)² / n. That is Σ_{i>r} σᵢ(ΔW*)² for inputs of covariance exactly 1.

    `losses` and `floors` are shares of the loss at the start, W0's.
    """
    d, true, rng = point["size"], point["true_rank"], np.random.default_rng(point["seed"])
    W0 = rng.normal(size=(d, d)) / np.sqrt(d)
    left, right = (np.linalg.qr(rng.normal(size=(d, true)))[0] for _ in range(2))
    target = (left * np.linspace(1, 0.3, true)) @ right.T
    X = rng.normal(size=(8 * d, d))
    fit = partial(_fit, W0, target, X, steps=point["steps"], lr=point["lr"], seed=point["seed"])
    s = singular_values(target @ X.T)
    start = float((s**2).sum()) / len(X)
    change, full_loss = fit(None)
    found = singular_values(change)
    return {
        "losses": [fit(r)[1] / start for r in point["ranks"]],
        "floors": [float((s[r:] ** 2).sum()) / len(X) / start for r in point["ranks"]],
        "full_loss": full_loss / start,
        "full_rank_found": int((found > 1e-3 * found[0]).sum()),
        "diverged": None,
    }


def _fit(
    W0: np.ndarray,
    target: np.ndarray,
    X: np.ndarray,
    rank: int | None,
    *,
    steps: int,
    lr: float,
    seed: int,
) -> tuple[np.ndarray, float]:
    """ΔW and its loss after training on all of X: LoRA of that rank, or W itself for None."""
    n_out, n_in = W0.shape
    layer: Any = Linear(n_in, n_out, dtype=np.float64)
    layer.weight.data[:] = W0
    if rank is not None:
        layer.weight.requires_grad = False
        layer = LoraLinear(layer, Switch(active="planted"))
        layer.add("planted", LoraConfig(rank, 2 * rank), np.random.default_rng(seed))
    optimizer = AdamW(layer.parameters(), lr=lr)
    schedule = Schedule("cosine", steps, warmup=steps // 20)
    x, y = Tensor(X), Tensor(X @ (W0 + target).T)
    for step in range(steps):
        error = layer(x) - y
        ((error * error).sum() * (1 / len(X))).backward()
        schedule.apply(optimizer, step)
        optimizer.step()
        optimizer.zero_grad()
    change = layer.delta("planted") if rank is not None else layer.weight.data - W0
    return change, float((((change - target) @ X.T) ** 2).sum()) / len(X)
