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
from minilora.data.instructions import Example
from minilora.errors import DataError
from minilora.ops import IGNORE
from minilora.runtime import keep_memory, n_threads, parallel


def exact_match(model: Any, examples: Sequence[Example], batch_size: int = 128) -> float:
    """The share of examples in [0, 1] whose whole answer greedy generation would give.

    Examples of which nothing is asked do not count. Raises DataError if there are no others.
    """
    if not examples:
        raise DataError("there are no examples to test on")
    _check_targets(examples)

    def count(rows: Sequence[Example]) -> int:
        ids, labels = collate(rows)
        asked = labels[:, 1:] != IGNORE
        with no_grad():
            h = model.hidden(ids[:, :-1]).data[asked]
            # A few rows of logits at a time: all of them would be large for a large vocabulary.
            step = max(1, 4_000_000 // model.config.vocab_size)
            parts = [h[i : i + step] for i in range(0, len(h), step)]
            chosen = [model.lm_head(Tensor(part)).data.argmax(axis=-1) for part in parts]
        wrong = np.zeros(asked.shape, bool)
        wrong[asked] = np.concatenate(chosen) != labels[:, 1:][asked]
        return int((~wrong.any(axis=1)).sum())

    asked_for = [e for e in examples if e.n_targets]
    return sum(_by_batches(model, count, asked_for, batch_size)) / len(asked_for)


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
