"""Packing: several examples in one row, none of which sees another.

Padding is computed like everything else, only for nothing. Where examples are of unequal length,
rows are filled up with other examples instead: each token then says where in its row its own text
begins, attention does not look beyond that, and positions are counted from there. So each example
gets the numbers that it would get alone (Krell et al., arXiv 2107.02027), and the loss over all
targets of a batch does not know how they lay in rows.

Best fit, longest first: the next example goes into the row that it leaves least room in.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from minilora.data.instructions import Example
from minilora.errors import ConfigError, DataError
from minilora.ops.cross_entropy import IGNORE


@dataclass(frozen=True)
class Packed:
    """A row of several examples: `ids`, `labels` and `start`, lists of T, and how many there are.

    start: where in the row the example begins that each token belongs to.
    """

    ids: list[int]
    labels: list[int]
    start: list[int]
    n_examples: int

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Packed:
        """These examples, one behind the other."""
        ids: list[int] = []
        labels: list[int] = []
        start: list[int] = []
        n = 0
        for example in examples:
            n += 1
            begins = len(ids)
            ids += example.ids
            # Nothing foretells the first token; before it stands the last one of another text.
            labels += [IGNORE, *example.labels[1:]]
            start += [begins] * len(example.ids)
        return cls(ids, labels, start, n)

    @property
    def n_targets(self) -> int:
        """Tokens that count in the loss."""
        return sum(label != IGNORE for label in self.labels)


def pack(examples: Sequence[Example], length: int) -> list[Packed]:
    """Rows of at most `length` tokens, with each example whole in one of them.

    length    may be more than the context: each example counts its own positions

    How many rows come out depends on the lengths of the examples alone, not on their order; that
    only decides between examples of one length. Raises ConfigError for a length that is no whole
    number, DataError naming an example that is longer.
    """
    check_length(length)
    check_fits(examples, length)
    rows: list[list[Example]] = []
    # Rows by how much room is left in them, and the rooms that there are, in order.
    with_room: defaultdict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []
    for example in sorted(examples, key=lambda e: -len(e.ids)):
        size = len(example.ids)
        at = bisect_left(rooms, size)
        if at == len(rooms):
            rows.append([])
            row, room = len(rows) - 1, length
        else:
            room = rooms[at]
            row = with_room[room].pop()
            if not with_room[room]:
                rooms.pop(at)
        rows[row].append(example)
        left = room - size
        if not with_room[left]:
            insort(rooms, left)
        with_room[left].append(row)
    return [Packed.of(row) for row in rows]


def check_length(length: int) -> None:
    """ConfigError if `length` is no whole number from 2."""
    if isinstance(length, bool) or not isinstance(length, int) or length < 2:
        raise ConfigError(f"packing into rows of {length!r} tokens: it must be a whole number >= 2")


def check_fits(examples: Sequence[Example], length: int) -> None:
    """DataError naming the longest example if it does not fit into a row."""
    i, longest = max(enumerate(examples), key=lambda each: len(each[1].ids), default=(0, None))
    if longest is not None and len(longest.ids) > length:
        raise DataError(
            f"{longest.where or f'examples[{i}]'}: {len(longest.ids)} tokens do not fit into "
            f"packed rows of {length}; take rows of at least {len(longest.ids)}, or shorten it"
        )


def collate_packed(rows: Sequence[Packed], pad_id: int = 0) -> tuple[np.ndarray, ...]:
    """ids, labels and start (B, T), filled up on the right to the longest row.

    Each token of padding is a text of its own, at position 0, of which nothing is asked.
    """
    if not rows:
        raise DataError("the batch is empty; it needs at least one row")
    T = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), T), pad_id, np.int64)
    labels = np.full((len(rows), T), IGNORE, np.int64)
    start = np.tile(np.arange(T), (len(rows), 1))
    for i, row in enumerate(rows):
        n = len(row.ids)
        ids[i, :n], labels[i, :n], start[i, :n] = row.ids, row.labels, row.start
    return ids, labels, start
