"""One batch, and for each of its rows an adapter of its own.

Who serves many adapters gets requests for all of them at the same time. W x asks nothing about
adapters, so it is computed once for the whole batch; only the thin bypass is each row's own:

    h_b = W x_b + s_b B_b A_b x_b          for row b and its adapter

(`LoraLinear.by_row`). What puts something else in the place of W is computed for each adapter on
its rows, which are then put together again. Which row uses which is a context variable, set for
the time of one call; no operation knows of it.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from minilora import ops
from minilora.autograd import Tensor
from minilora.errors import AdapterError

BASE = "__base__"  # PEFT's name for a row without an adapter


class Rows:
    """Which adapter each row of a batch uses.

    owner   the Switch of the model that is meant: another model pays no attention
    names   for each row an adapter, or None: the base alone
    """

    def __init__(self, owner: Any, names: Sequence[str | None]):
        self.owner, self.names = owner, tuple(names)

    def groups(self, here: Container[str | None]) -> dict[str | None, list[int]]:
        """adapter → its rows; under None all rows whose adapter is not among those `here`."""
        found: dict[str | None, list[int]] = {}
        for row, name in enumerate(self.names):
            found.setdefault(name if name in here else None, []).append(row)
        return found

    def only(self, rows: Sequence[int]) -> Rows:
        """Of some of the rows, for whatever computes those apart."""
        return Rows(self.owner, [self.names[row] for row in rows])

    def check(self, n_rows: int) -> None:
        """AdapterError if a batch has another number of rows."""
        if n_rows != len(self.names):
            raise AdapterError(
                f"adapter_names has {len(self.names)} names and the batch {n_rows} rows; give one "
                f"name for each row, {BASE!r} for a row without an adapter"
            )


_rows: ContextVar[Rows | None] = ContextVar("rows", default=None)


def current_rows(owner: Any) -> Rows | None:
    """What each row uses in this call, or None if that was not said of this owner's model."""
    rows = _rows.get()
    return rows if rows is not None and rows.owner is owner else None


@contextmanager
def using_rows(rows: Rows) -> Iterator[None]:
    """Inside this `with` each row of the batch uses its own adapter."""
    before = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(before)


def put_back(pieces: Sequence[tuple[Sequence[int], Tensor]]) -> Tensor:
    """Groups of rows, each with where its rows belong, as the one batch they are of."""
    rows = np.concatenate([places for places, _ in pieces])
    together = ops.concatenate([piece for _, piece in pieces])
    if (rows[:-1] < rows[1:]).all():
        return together
    return together[np.argsort(rows)]
