"""What an arm is and costs, apart from what it learns: one model, opened and looked at.

Everything is tried out on the model itself, nothing is taken from a table: whether the fresh method
gives the base's logits, whether it can be merged and what that changes, how long a text still fits,
what a step takes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from minilora.accounting import ledger, predict
from minilora.autograd import no_grad
from minilora.bases import load_base
from minilora.data.batches import Batches
from minilora.errors import AdapterError, ConfigError, MiniloraError
from minilora.experiments.lab.tuning import Setup, model_for, optimizer_for, task_of
from minilora.experiments.lab.turns import by_turns
from minilora.peft import PeftModel
from minilora.training import train_step

TURNS = 7  # of timing, after one that does not count


def open_books(setup: Setup, turns: int = TURNS) -> dict[str, Any]:
    """An arm's properties and costs, as JSON can say them.

    trainable_parameters, total_parameters, bytes (by kind, and at the peak), flops (by purpose)
    start_gap      largest difference of a logit from the base's, before the first step; 0: none
    merge_gap      the same between merged and not, after some steps; None: `unmergeable` says why
    text_places    how many tokens the longest text has that still fits
    step_seconds, full_step_seconds   medians of `turns`, one step of each by turns; `times_full`
                   is the median of their ratios
    refused        what the model said if the method finds no room in it; then nothing else is here
    """
    try:
        model = model_for(setup)
    except ConfigError as error:
        return {"refused": str(error)}
    batches = Batches(task_of(setup.task, setup.seed).train, setup.batch_size, seed=setup.seed)
    ids = batches[0][0]
    start_gap = gap(_logits(model, ids), _logits(load_base("skills"), ids))
    result = {
        "trainable_parameters": model.n_parameters(trainable=True),
        "total_parameters": model.n_parameters(),
        "start_gap": start_gap,
        "text_places": longest_text(model),
        **_step(setup, model, batches[0]),
        **_time(setup, model, batches[0], turns),
    }
    return result | _merge(model, ids)


def _logits(model: Any, ids: np.ndarray) -> np.ndarray:
    """ids (B, T) → (B, T, V)"""
    with no_grad():
        return model(ids).data


def gap(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference; 0.0 only if every bit is the same."""
    return float(np.abs(a - b).max())


def longest_text(model: Any) -> int:
    """How many tokens the longest text has that the model still reads; found by trying."""
    least, most = 0, 2 * model.config.max_positions
    while least < most:
        length = (least + most + 1) // 2
        try:
            _logits(model, np.zeros((1, length), np.int64))
            least = length
        except MiniloraError:
            most = length - 1
    return least


def _step(setup: Setup, model: Any, batch: Any) -> dict[str, Any]:
    """Bytes held in one step, measured; multiplications and additions, predicted."""
    optimizer = optimizer_for(model, setup)
    with ledger(model, optimizer) as kept:
        train_step(model, optimizer, *batch, threads=1, max_grad_norm=1.0)
    config = None
    if isinstance(model, PeftModel):
        (config,) = model.peft_config.values()
    flops = predict(model.config, peft=config, labels=batch[1]).flops
    return {
        "bytes": {**kept.totals, "peak": kept.peak},
        "flops": {**asdict(flops), "total": flops.total},
    }


def _time(setup: Setup, model: Any, batch: Any, turns: int) -> dict[str, Any]:
    """Seconds of a step, by turns with one of full fine-tuning: what else the machine does
    falls upon both."""
    full = Setup(method="full", seed=setup.seed)

    def step_of(tuned: Any, setup: Setup) -> Callable[[int], float]:
        optimizer = optimizer_for(tuned, setup)
        return lambda turn: train_step(tuned, optimizer, *batch, threads=1, max_grad_norm=1.0)

    taken = by_turns([step_of(model, setup), step_of(model_for(full), full)], turns)
    own, of_full = zip(*taken, strict=True)
    return {
        "step_seconds": statistics.median(own),
        "full_step_seconds": statistics.median(of_full),
        "times_full": statistics.median(a / b for a, b in taken),
    }


def _merge(model: Any, ids: np.ndarray) -> dict[str, Any]:
    """Merge what some steps have taught, and compare; full fine-tuning has nothing to merge."""
    if not isinstance(model, PeftModel):
        return {"merge_gap": None, "unmergeable": None}
    before = _logits(model, ids)
    try:
        model.merge_adapter()
    except AdapterError as error:
        return {"merge_gap": None, "unmergeable": str(error)}
    return {"merge_gap": gap(before, _logits(model, ids)), "unmergeable": None}
