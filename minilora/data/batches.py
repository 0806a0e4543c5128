"""Batches: which examples a step sees is a function of the seed and the step's number alone.

So there is no state to save: a run that was stopped at step k goes on with step k's batch.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import count, takewhile
from typing import Any

import numpy as np

from minilora.data.instructions import Example
from minilora.data.packing import Packed, check_fits, check_length, collate_packed, pack
from minilora.errors import ConfigError, DataError
from minilora.ops import IGNORE

# Examples that are sorted by length together, in batches: more leave less padding, and less chance.
POOL = 32

Row = Example | Packed


def collate(examples: Sequence[Row], pad_id: int = 0) -> tuple[np.ndarray, np.ndarray]:
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
    bucket       examples of similar length share a batch, so that there is less padding
    pack         rows hold several examples each, at most so many tokens (`packing.py`): a batch is
                 then ids, labels and start, and an epoch has fewer rows than examples

    Every epoch has each example once. A share that is not a whole number of rows is right on
    average: 5 % of 64 rows is 3 rows in most batches and 4 in some. Raises ConfigError, DataError
    for values outside of this.
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
        bucket: bool = False,
        pack: int | None = None,
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
        if pack is not None:
            check_length(pack)
            check_fits([*examples, *(old if replay else ())], pack)
            if bucket:
                raise ConfigError("bucket=True beside pack: packed rows are all but full already")
        self.examples, self.old = examples, old
        self.batch_size, self.replay, self.seed, self.pad_id = batch_size, replay, seed, pad_id
        self.bucket, self.pack = bucket, pack
        self._epochs: dict[tuple[int, int], list[Any]] = {}  # of those that were looked at last
        self._sizes: dict[int, int] = {}

    def rows(self, step: int) -> list[Any]:
        """The examples of a step, old and new mixed; packed rows if they are packed."""
        n_old = self._old_before(step + 1) - self._old_before(step)
        new = self._take(0, self._new_before(step), self.batch_size - n_old)
        rows = new + self._take(1, self._old_before(step), n_old)
        order = np.random.default_rng([self.seed, 2, step]).permutation(len(rows))
        return [rows[i] for i in order]

    def __getitem__(self, step: int) -> tuple[Any, ...]:
        """ids and labels (B, T) of a step, counted from 0; and start, if rows are packed."""
        rows = self.rows(step)
        return (
            collate(rows, self.pad_id) if self.pack is None else collate_packed(rows, self.pad_id)
        )

    def filled(self, steps: int | None = None) -> float:
        """The share of places that hold a token, no padding, in so many steps; None: an epoch."""
        if steps is None:
            steps = math.ceil(self._size(0) / self.batch_size)
        batches = [[len(row.ids) for row in self.rows(step)] for step in range(steps)]
        return sum(map(sum, batches)) / sum(len(each) * max(each) for each in batches)

    def padding_saved(self) -> float:
        """Of the padding that plain batches of these examples have, the share that is spared here.

        In an epoch, for each token that is computed; 0 if there is none to spare.
        """
        plain = Batches(
            self.examples, self.batch_size, seed=self.seed, old=self.old, replay=self.replay
        )
        before, now = (1 / batches.filled() - 1 for batches in (plain, self))
        return 1 - now / before if before else 0.0

    def _old_before(self, step: int) -> int:
        """How many old rows the steps before this one have had."""
        return int(self.replay * self.batch_size * step)

    def _new_before(self, step: int) -> int:
        """How many new rows they have had."""
        return step * self.batch_size - self._old_before(step)

    def _size(self, stream: int) -> int:
        """Rows in an epoch; of packed ones as many in each, as lengths alone decide."""
        if stream not in self._sizes:
            pool = self.old if stream else self.examples
            self._sizes[stream] = len(pool if self.pack is None else self._epoch(stream, 0))
        return self._sizes[stream]

    def _take(self, stream: int, first: int, n: int) -> list[Any]:
        """n rows of an endless row of epochs, from the first-th on."""
        size = self._size(stream) if n else 1
        places = (divmod(i, size) for i in range(first, first + n))
        return [self._epoch(stream, epoch)[i] for epoch, i in places]

    def _epoch(self, stream: int, epoch: int) -> list[Any]:
        """The rows of an epoch, in their order: new ones (stream 0) or old ones (stream 1)."""
        if (stream, epoch) not in self._epochs:
            pool = self.old if stream else self.examples
            order = np.random.default_rng([self.seed, stream, epoch]).permutation(len(pool))
            rows: list[Any] = [pool[i] for i in order]
            if self.pack is not None:
                rows = pack(rows, self.pack)
                again = np.random.default_rng([self.seed, 3 + stream, epoch])
                rows = [rows[i] for i in again.permutation(len(rows))]
            elif self.bucket and not stream:
                rows = self._bucketed(rows, epoch)
            while len(self._epochs) > 3:
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[stream, epoch] = rows
        return self._epochs[stream, epoch]

    def _bucketed(self, rows: list[Example], epoch: int) -> list[Example]:
        """The rows of an epoch so that each batch has a run of those sorted by length."""
        lengths = np.array([len(row.ids) for row in rows])
        pools = np.arange(len(rows)) // (POOL * self.batch_size)
        runs = np.diff(self._cuts(epoch * len(rows), (epoch + 1) * len(rows)))
        # Which batch gets which run is drawn; otherwise short ones would always come first.
        order = np.random.default_rng([self.seed, 5, epoch]).permutation(len(runs))
        first = np.empty(len(runs), np.int64)
        first[order] = np.cumsum(runs[order]) - runs[order]
        by_length = np.lexsort((lengths, pools))
        return [rows[i] for f, n in zip(first, runs, strict=True) for i in by_length[f : f + n]]

    def _cuts(self, first: int, last: int) -> list[int]:
        """Where batches begin among the new rows from the first-th to the last, these included."""
        most = 1 + math.ceil(last / (self.batch_size * (1 - self.replay)))
        step = bisect_left(range(most), first, key=self._new_before)
        inside = takewhile(lambda n: n < last, map(self._new_before, count(step)))
        return [first, *(n for n in inside if n > first), last]
