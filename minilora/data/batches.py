"""Batches: which examples a step sees is a function of the seed and the step's number alone.

So there is no state to save: a run that was stopped at step k goes on with step k's batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from minilora.data.instructions import Example
from minilora.errors import ConfigError, DataError
from minilora.ops import IGNORE


def collate(examples: Sequence[Example], pad_id: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """ids and labels (B, T), filled up on the right to the longest example.

    What stands on the right is seen by no token before it and has no label, so it changes nothing.
    """
    if not examples:
        raise DataError("the batch is empty; it needs at least one example")
    length = max(len(e.ids) for e in examples)
    ids = np.full((len(examples), length), pad_id, np.int64)
    labels = np.full((len(examples), length), IGNORE, np.int64)
    for i, e in enumerate(examples):
        ids[i, : len(e.ids)] = e.ids
        labels[i, : len(e.labels)] = e.labels
    return ids, labels


class Batches:
    """Batches of examples, epoch after epoch in a new order, as many as one wants.

    examples     what is to be learnt
    batch_size   rows in a batch
    old, replay  examples of before, and the share of every batch that is taken from them, in [0, 1)

    A share that is not a whole number of rows is right on average: 5 % of 64 rows is 3 rows in
    most batches and 4 in some. Raises ConfigError, DataError for values outside of this.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        batch_size: int,
        *,
        seed: int = 0,
        old: Sequence[Example] = (),
        replay: float = 0.0,
        pad_id: int = 0,
    ):
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"batch size {batch_size!r} must be a whole number from 1")
        if not 0 <= replay < 1:
            raise ConfigError(f"replay {replay} must be a share in [0, 1), e.g. 0.05")
        if replay and not old:
            raise ConfigError(
                f"replay {replay} needs old examples to take from, and there are none"
            )
        if not examples:
            raise DataError("there are no examples to train on")
        self.examples, self.old = examples, old
        self.batch_size, self.replay, self.seed, self.pad_id = batch_size, replay, seed, pad_id

    def rows(self, step: int) -> list[Example]:
        """The examples of a step, old and new mixed."""
        n_old = self._old_before(step + 1) - self._old_before(step)
        first_new = step * self.batch_size - self._old_before(step)
        new = self._take(self.examples, first_new, self.batch_size - n_old, 0)
        rows = new + self._take(self.old, self._old_before(step), n_old, 1)
        order = np.random.default_rng([self.seed, 2, step]).permutation(len(rows))
        return [rows[i] for i in order]

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """ids and labels (B, T) of a step, counted from 0."""
        return collate(self.rows(step), self.pad_id)

    def _old_before(self, step: int) -> int:
        """How many old rows the steps before this one have had."""
        return int(self.replay * self.batch_size * step)

    def _take(self, pool: Sequence[Example], first: int, n: int, stream: int) -> list[Example]:
        """n examples of an endless row of epochs, from the first-th on."""
        size = len(pool)
        return [
            pool[_epoch_order(self.seed, stream, i // size, size)[i % size]]
            for i in range(first, first + n)
        ]


@lru_cache(maxsize=8)
def _epoch_order(seed: int, stream: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, stream, epoch]).permutation(size)
