"""What does a training step hold in memory? Take one, and count.

Nothing is estimated: weights and moments are counted where they lie, gradients as they are handed
back, activations as the tape holds them at the end of the forward pass, and the peak is what
Python's own bookkeeping of allocations (`tracemalloc`, which NumPy reports to) saw at most.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minilora.autograd import Tensor, tape
from minilora.ops import count_targets
from minilora.optim import AdamW
from minilora.runtime import n_threads, split
from minilora.training import loss_and_gradients, train_step


@dataclass(frozen=True)
class StepBytes:
    """Bytes of one step, by kind.

    weights      all parameters, frozen or not, each array once
    gradients    one for each trainable parameter
    optimizer    the moments
    activations  what the forward pass keeps for backward, over all threads
    peak         the most that is held at once: weights, moments, and whatever else a step makes,
                 workspace and the threads' partial gradients included
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def measure_step(model: Any, optimizer: AdamW, ids: np.ndarray, labels: np.ndarray) -> StepBytes:
    """Count one real step. It is a step like any other: the parameters move."""
    weights = sum(p.data.nbytes for p in model.parameters())
    n_targets = count_targets(labels[:, 1:])
    rng = np.random.default_rng(0)
    shares = [
        model.loss(ids[rows], labels[rows], n_targets=n_targets, training=True, rng=rng)
        for rows in split(len(ids), n_threads())
    ]
    activations = activation_bytes(shares, model)
    del shares
    _, gradients = loss_and_gradients(model, ids, labels)
    gradient_bytes = sum(g.nbytes for g in gradients.values())
    del gradients
    most = _most_traced(lambda: train_step(model, optimizer, ids, labels))
    before = weights + optimizer.state_bytes
    return StepBytes(weights, gradient_bytes, optimizer.state_bytes, activations, before + most)


def _most_traced(work: Callable[[], Any]) -> int:
    """The most bytes that `work` holds at once beyond what is there already."""
    ours = not tracemalloc.is_tracing()
    if ours:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        already, _ = tracemalloc.get_traced_memory()
        work()
        _, most = tracemalloc.get_traced_memory()
    finally:
        if ours:
            tracemalloc.stop()
    return most - already


def activation_bytes(losses: Tensor | list[Tensor], model: Any) -> int:
    """Bytes of the arrays on the tapes of `losses` that the model's weights are not.

    An array that several operations keep is counted once, and a view as the array it looks into.
    """
    weights = {id(_owner(p.data)) for p in model.parameters()}
    kept = {
        id(owner): owner
        for loss in (losses if isinstance(losses, list) else [losses])
        for op in tape(loss)
        for owner in map(_owner, vars(op.saved).values())
        if id(owner) not in weights
    }
    return sum(array.nbytes for array in kept.values())


def _owner(array: np.ndarray) -> np.ndarray:
    """The array whose memory this one looks into."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
