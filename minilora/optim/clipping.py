"""Clipping: gradients are scaled down together, so that one wild batch cannot carry all away."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from minilora.autograd import Parameter
from minilora.errors import ConfigError


def global_norm(gradients: Iterable[np.ndarray]) -> float:
    """√ of the sum of the squares of all the gradients' numbers, as if they were one vector."""
    return math.sqrt(sum(_sum_of_squares(g) for g in gradients))


def _sum_of_squares(g: np.ndarray) -> float:
    # In runs of 1024, and those in float64: a single float32 sum of millions is off by 1e-4.
    flat = g.ravel()
    whole = flat.size - flat.size % 1024
    runs, rest = flat[:whole].reshape(-1, 1024), flat[whole:]
    with np.errstate(over="ignore"):  # infinity says as much, and is looked for
        return float(np.vecdot(runs, runs).sum(dtype=np.float64)) + float(np.vecdot(rest, rest))


def clip_gradients(
    gradients: dict[Parameter, np.ndarray], max_norm: float, norm: float | None = None
) -> float:
    """Scale gradients down together, so that their global norm is at most `max_norm`.

    The dict's arrays are replaced one by one, so that only one of them is there twice.

    norm   what it is now, where that is known already

    Returns what it was.
    """
    if not max_norm > 0:
        raise ConfigError(f"max_norm {max_norm} must be above 0")
    norm = global_norm(gradients.values()) if norm is None else norm
    if norm > max_norm:
        scale = max_norm / norm
        for p in gradients:
            gradients[p] = gradients[p] * scale
    return norm
