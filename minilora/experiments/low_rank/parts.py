"""Parts of ΔW: what else one could keep than its strongest directions, at the same cost."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from minilora.autograd import Tensor, no_grad
from minilora.data.batches import collate
from minilora.data.instructions import Example
from minilora.nn import Linear, Module
from minilora.peft.lora import adaptable


def budget(D: np.ndarray, k: int) -> int:
    """Two thin factors of rank k: k (out + in) numbers, if there are so many."""
    return min(k * sum(D.shape), D.size)


def largest_entries(D: np.ndarray, n: int) -> np.ndarray:
    """D with all but the n entries of the greatest size at 0."""
    kept = np.zeros_like(D)
    where = np.argsort(-np.abs(D), axis=None, kind="stable")[:n]
    kept.flat[where] = D.flat[where]
    return kept


def active_rows(D: np.ndarray, n: int, activity: np.ndarray) -> np.ndarray:
    """D with all rows at 0 but those of the most active neurons, as many as come next to n entries.

    activity   of each row (out,)
    """
    kept = np.zeros_like(D)
    where = np.argsort(-activity, kind="stable")[: max(1, round(n / D.shape[1]))]
    kept[where] = D[where]
    return kept


def random_entries(D: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """D with all but n random entries at 0."""
    kept = np.zeros_like(D)
    where = rng.permutation(D.size)[:n]
    kept.flat[where] = D.flat[where]
    return kept


def random_subspace(D: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """D projected onto k random directions of its smaller side."""
    if D.shape[0] < D.shape[1]:
        return random_subspace(D.T, k, rng).T
    Q, _ = np.linalg.qr(rng.normal(size=(D.shape[1], min(k, D.shape[1]))))
    return D @ Q @ Q.T


class _Listening(Module):
    """A Linear that adds up the size of what comes out of it."""

    def __init__(self, inner: Linear):
        self.inner, self.total = inner, np.zeros(inner.weight.shape[0])

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        self.total += np.abs(y.data).sum(axis=(0, 1), dtype=np.float64)
        return y


def row_activity(model: Any, examples: list[Example]) -> dict[str, np.ndarray]:
    """path → mean |W x| of each output neuron (out,), over all tokens of the examples.

    The model is spent: its matrices are replaced by ones that listen.
    """
    ears = {path: _Listening(linear) for path, linear in matrices(model).items()}
    for path, ear in ears.items():
        model.set_submodule(path, ear)
    # Of one length at a time, so that no padding is listened to.
    by_length: dict[int, list[Example]] = defaultdict(list)
    for example in examples:
        by_length[len(example.ids)].append(example)
    with no_grad():
        for alike in by_length.values():
            model.hidden(collate(alike)[0])
    tokens = sum(len(example.ids) for example in examples)
    return {path: ear.total / tokens for path, ear in ears.items()}


def matrices(model: Any) -> dict[str, Linear]:
    """path → each matrix of the blocks: all there are but the head."""
    return {path: linear for path, linear in adaptable(model).items() if path != "lm_head"}
