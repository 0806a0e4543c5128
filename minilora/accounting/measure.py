"""What does a training step hold in memory? Take one, and keep the books."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minilora.accounting.ledger import ledger
from minilora.optim import AdamW
from minilora.training import train_step


@dataclass(frozen=True)
class StepBytes:
    """Bytes of one step, by kind, measured; see `Ledger`.

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
    """Take one real step, and count. It is a step like any other: the parameters move."""
    with ledger(model, optimizer) as kept:
        train_step(model, optimizer, ids, labels)
    totals = kept.totals
    return StepBytes(
        totals["weights"],
        totals["gradients"],
        totals["optimizer"],
        totals["activations"],
        kept.peak,
    )
