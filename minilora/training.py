"""Training: forward, loss, backward, update, in plain sight.

`train_step` is one whole step, and `train` repeats it with batches, a schedule, a log and
checkpoints. Every step depends only on the seed, its number and the state before it, so a run that
was stopped and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from minilora.autograd import Parameter, backward
from minilora.data.batches import Batches
from minilora.errors import ConfigError, DataError, NonFiniteError
from minilora.ops import count_targets
from minilora.optim import AdamW, Schedule, clip_gradients, global_norm
from minilora.resuming import (
    History,
    begin_log,
    ctrl_c,
    load_checkpoint,
    log_step,
    save_checkpoint,
)
from minilora.runtime import Turns, in_a_share, keep_memory, n_threads, parallel, split

Gradients = dict[Parameter, np.ndarray]


def train_step(
    model: Any,
    optimizer: AdamW,
    ids: np.ndarray,
    labels: np.ndarray,
    start: np.ndarray | None = None,
    *,
    max_grad_norm: float | None = None,
    accumulate: int = 1,
    seed: int = 0,
    threads: int | None = None,
) -> float:
    """One whole step: forward, loss, backward, update. Returns the loss, a mean in nats a token.

    ids, labels     (B, T) integers; labels are -100 where nothing is asked, and not shifted
    start           (B, T) of packed rows: where in its row each token's text begins
    max_grad_norm   gradients are scaled down together so that their norm is at most this
    accumulate      take the batch in this many parts, one after the other: the same gradient,
                    less memory
    seed            of dropout in this step
    threads         that share the rows; None: as many as `runtime.n_threads()`

    Gradients are values here: `.grad` stays None. Ctrl-C in the update takes effect after it.

    Raises NonFiniteError, before the update, naming what was not finite; DataError if no token is
    labelled; and whatever the model raises. The parameters are then as they were.
    """
    keep_memory()
    loss, gradients = loss_and_gradients(
        model, ids, labels, start, accumulate=accumulate, seed=seed, threads=threads
    )
    if not any(p in gradients for p in optimizer.parameters()):
        raise ConfigError(
            "the optimizer trains none of the parameters that have a gradient; make it after "
            "set_adapter() or whatever else decides what is trainable"
        )
    norm = check_finite(model, loss, gradients, step=optimizer.t + 1)
    if max_grad_norm is not None:
        clip_gradients(gradients, max_grad_norm, norm)
    with ctrl_c() as wanted:  # an update is whole, or has not begun
        optimizer.step(gradients)
    if wanted.is_set():
        signal.raise_signal(signal.SIGINT)
    return loss


def loss_and_gradients(
    model: Any,
    ids: np.ndarray,
    labels: np.ndarray,
    start: np.ndarray | None = None,
    *,
    accumulate: int = 1,
    seed: int = 0,
    threads: int | None = None,
) -> tuple[float, Gradients]:
    """The loss of a batch, and its gradient for every trainable parameter, as values.

    The rows are shared out to threads. Each runs forward and backward on a tape of its own, over
    parameters that all read and none writes; dividing by the number of targets in the whole batch
    makes the parts add up to the mean. Each hands in a parameter's gradient as soon as it has it,
    so that only one set of them is held. They are added in the order of the rows: the result
    depends on the number of threads but never on which of them was faster.
    """
    ids, labels = np.asarray(ids), np.asarray(labels)
    if ids.ndim != 2 or ids.shape[0] == 0 or labels.shape != ids.shape:
        raise DataError(
            f"ids {ids.shape} and labels {labels.shape} must both be (batch, time), alike, with at "
            "least one row"
        )
    start = None if start is None else np.asarray(start)
    if start is not None and start.shape != ids.shape:
        raise DataError(f"start {start.shape} must be (batch, time), as ids {ids.shape}")
    check_count("accumulate", accumulate)
    n_targets = count_targets(labels[:, 1:])

    total, gradients = 0.0, _Sum()
    for part in split(len(ids), accumulate):
        pieces = split(part.stop - part.start, 1 if in_a_share() else threads or n_threads())
        rows = [slice(part.start + p.start, part.start + p.stop) for p in pieces]
        turns = Turns(len(rows))
        share = partial(
            _share,
            model,
            ids,
            labels,
            start,
            rows=rows,
            turns=turns,
            into=gradients,
            n_targets=n_targets,
            seed=seed,
        )
        size = model.n_parameters() if len(rows) == 1 else 0  # counted only where it matters
        total += sum(parallel(share, range(len(rows)), size=size))
    return total, gradients.sums


def _share(
    model: Any,
    ids: np.ndarray,
    labels: np.ndarray,
    start: np.ndarray | None,
    i: int,
    *,
    rows: list[slice],
    turns: Turns,
    into: _Sum,
    n_targets: int,
    seed: int,
) -> float:
    """Forward and backward of the i-th share of the rows: its loss."""

    def hand_in(p: Any, g: np.ndarray) -> None:
        with turns.take(i, p):
            into.add(p, g)

    packed = {} if start is None else {"start": start[rows[i]]}
    # Numbers that grow too large are found in the loss or the gradients, once, and named.
    with turns.share(), np.errstate(over="ignore", invalid="ignore"):
        loss = model.loss(
            ids[rows[i]],
            labels[rows[i]],
            **packed,
            n_targets=n_targets,
            training=True,
            rng=np.random.default_rng([seed, rows[i].start]),
        )
        backward(loss, hand_in=hand_in)
        return loss.item()


class _Sum:
    """Gradients that come in parts."""

    def __init__(self) -> None:
        self.sums: Gradients = {}
        self._ours: set[Parameter] = set()  # what may be written to

    def add(self, p: Parameter, g: np.ndarray) -> None:
        """Add a part. The first is kept as it came: an operation may have given it to others."""
        if p not in self.sums:
            self.sums[p] = g
        elif p in self._ours:
            self.sums[p] += g
        else:
            self.sums[p] = self.sums[p] + g
            self._ours.add(p)


def check_finite(model: Any, loss: float, gradients: Mapping[Any, np.ndarray], step: int) -> float:
    """The gradients' global norm. NonFiniteError, naming step and tensor, if it is not finite."""
    advice = "nothing was updated; lower the learning rate, clip the gradients, or look at the data"
    if not math.isfinite(loss):
        raise NonFiniteError(f"step {step}: the loss is {loss}; {advice}")
    norm = global_norm(gradients.values())
    if not math.isfinite(norm):
        bad = [
            n
            for n, p in model.named_parameters()
            if p in gradients and not np.isfinite(gradients[p]).all()
        ]
        what = bad[0] if bad else "the sum of the squares (each number is finite, but too large)"
        raise NonFiniteError(f"step {step}: the gradient of {what} is not finite; {advice}")
    return norm


def train(
    model: Any,
    optimizer: AdamW,
    batches: Batches,
    *,
    steps: int,
    schedule: Schedule | None = None,
    max_grad_norm: float | None = 1.0,
    accumulate: int = 1,
    seed: int = 0,
    log: str | Path | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    progress: str | None = "training",
    after_step: Callable[[int, float], None] | None = None,
) -> History:
    """Train for `steps` steps.

    batches      batches[step] gives ids and labels, and start if rows are packed
    schedule     of the learning rate; none: constant
    log          a JSONL file that gets a line for each step; begun anew unless resumed
    checkpoint   a file that the whole state is written to, every `checkpoint_every` steps, at the
                 end, and on Ctrl-C
    resume       go on from `checkpoint`, if there is one
    settings     what the run is, as JSON can say it; a checkpoint of other settings is refused
    progress     what the bar is called; None: no bar
    after_step   called with the step's number, from 1, and its loss

    Ctrl-C ends the run after the step under way: the state is whole, and `history.interrupted`
    says so. Raises NonFiniteError, with the state of before that step in place.
    """
    check_count("steps", steps)
    check_count("checkpoint_every", checkpoint_every)
    history = History()
    if resume and checkpoint and Path(checkpoint).exists():
        history = load_checkpoint(checkpoint, model, optimizer, settings)
    first = len(history.losses)
    if log is not None:
        begin_log(Path(log), first)
    bar = tqdm(
        range(first, steps),
        desc=progress,
        initial=first,
        total=steps,
        unit="step",
        disable=progress is None,
        dynamic_ncols=True,
        leave=False,
    )
    with ctrl_c() as wanted, bar:
        for step in bar:
            if schedule is not None:
                schedule.apply(optimizer, step)
            began = time.perf_counter()
            loss = train_step(
                model,
                optimizer,
                *batches[step],
                max_grad_norm=max_grad_norm,
                accumulate=accumulate,
                seed=_step_seed(seed, step),
            )
            history.losses.append(loss)
            history.seconds.append(time.perf_counter() - began)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            if log is not None:
                log_step(log, history, optimizer.groups[0]["lr"])
            if after_step is not None:
                after_step(step + 1, loss)
            history.interrupted = wanted.is_set()
            last = history.interrupted or step + 1 == steps
            if checkpoint and (last or (step + 1) % checkpoint_every == 0):
                save_checkpoint(checkpoint, model, optimizer, history, settings)
            if history.interrupted:
                break
    return history


def check_count(name: str, value: Any) -> None:
    """ConfigError if `value` is no whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} {value!r} must be a whole number from 1")


def _step_seed(seed: int, step: int) -> int:
    """A seed for the dropout of one step."""
    return seed * 1_000_003 + step
