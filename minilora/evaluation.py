"""Evaluation: how often the whole answer is right, and how surprised the model is by a text.

An answer counts only if every token of it is the likeliest, end included. Whether greedy
generation would write exactly this answer needs no generating: it does so if, at each place, the
right token is the likeliest after the right tokens before it. So one forward pass tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minilora.autograd import Tensor, no_grad
from minilora.data.batches import collate
from minilora.data.instructions import IGNORE, Example
from minilora.errors import DataError
from minilora.runtime import keep_memory, n_threads, parallel


def exact_match(model: Any, examples: Sequence[Example], batch_size: int = 128) -> float:
    """The share of examples in [0, 1] whose whole answer greedy generation would give.

    Raises DataError if there are no examples.
    """
    if not examples:
        raise DataError("there are no examples to test on")
    _check_targets(examples)

    def count(rows: Sequence[Example]) -> int:
        ids, labels = collate(rows)
        asked = labels[:, 1:] != IGNORE
        with no_grad():
            h = model.hidden(ids[:, :-1]).data
            chosen = model.lm_head(Tensor(h[asked])).data.argmax(axis=-1)
        wrong = np.zeros(asked.shape, bool)
        wrong[asked] = chosen != labels[:, 1:][asked]
        return int((~wrong.any(axis=1)).sum())

    return sum(_by_batches(model, count, examples, batch_size)) / len(examples)


def mean_nll(model: Any, examples: Sequence[Example], batch_size: int = 16) -> float:
    """The mean cross entropy over all labelled tokens of the examples, in nats a token."""
    if not examples:
        raise DataError("there is no text to measure the loss on")
    _check_targets(examples)

    def total(rows: Sequence[Example]) -> tuple[float, int]:
        n = sum(e.n_targets for e in rows)
        with no_grad():
            return (model.loss(*collate(rows)).item() * n if n else 0.0), n

    totals = _by_batches(model, total, examples, batch_size)
    return sum(t for t, _ in totals) / sum(n for _, n in totals)


def _check_targets(examples: Sequence[Example]) -> None:
    if not any(e.n_targets for e in examples):
        raise DataError(
            f"none of the {len(examples)} examples has a target: all labels are {IGNORE}"
        )


def _by_batches(
    model: Any, measure: Any, examples: Sequence[Example], batch_size: int
) -> list[Any]:
    """`measure` of batches of examples of like length, over all threads."""
    keep_memory()
    ordered = sorted(examples, key=lambda e: len(e.ids))
    batches = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
    shares = [batches[i :: n_threads()] for i in range(min(n_threads(), len(batches)))]
    size = model.n_parameters()
    results = parallel(lambda share: [measure(rows) for rows in share], shares, size=size)
    return [one for share in results for one in share]
