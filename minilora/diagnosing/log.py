"""What can be wrong with a run, told from the log that it wrote: a line for each step."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilora.diagnosing.finding import Said
from minilora.errors import FormatError
from minilora.files.reading import reading

# Fewer steps than this say nothing about where the loss is going.
FEWEST = 10
# A jump is a loss so many times the largest of the steps before it, and so many nats above it.
JUMP, NATS, WINDOW = 2.0, 0.5, 10


@dataclass(frozen=True)
class Step:
    """One line of a log: the step's number from 1, its loss in nats a token, its learning rate."""

    step: int
    loss: float
    lr: float | None


def read_log(path: str | Path) -> list[Step]:
    """The steps of a `log.jsonl`; NaN and null are losses that are not finite.

    Raises FormatError naming the line.
    """
    steps = []
    with reading(path, "a run's log"), open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                said = json.loads(line)  # which takes NaN, as other programs write it
                loss = math.nan if said["loss"] is None else float(said["loss"])
                lr = said.get("lr")
                steps.append(Step(int(said["step"]), loss, None if lr is None else float(lr)))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise FormatError(
                    f'{path}, line {number}: should be {{"step": …, "loss": …, "lr": …}}; '
                    "take the line out, or name the adapter's folder alone"
                ) from error
    return steps


def loss_not_finite(steps: list[Step]) -> Said:
    """The losses: the first that is NaN or infinite."""
    bad = [s for s in steps if not math.isfinite(s.loss)]
    if bad:
        yield (
            f"the loss is {bad[0].loss} from step {bad[0].step} on, of {len(steps)}",
            "Lower the learning rate, clip the gradients (max_grad_norm), look at its batch",
        )


def loss_never_fell(steps: list[Step]) -> Said:
    """The losses: the middle one of the first tenth, and that of the last."""
    losses = [s.loss for s in steps if math.isfinite(s.loss)]
    if len(losses) < FEWEST:
        return
    tenth = max(3, len(losses) // 10)
    first, last = statistics.median(losses[:tenth]), statistics.median(losses[-tenth:])
    if last >= 0.99 * first:
        yield (
            f"the loss never fell: {first:.4g} in the first {tenth} steps, {last:.4g} in the last",
            "If it stands still, nothing is trained: run minilora.doctor(model, optimizer, batch); "
            "if it wanders, the learning rate is too low, too high, or all was known before",
        )


def loss_jumps(steps: list[Step]) -> Said:
    """The losses: steps far above all of the ten before."""
    finite = [s for s in steps if math.isfinite(s.loss)]
    jumps = []
    for i in range(WINDOW, len(finite)):
        before = max(s.loss for s in finite[i - WINDOW : i])
        if finite[i].loss > max(JUMP * before, before + NATS):
            jumps.append((finite[i], before))
    if jumps:
        at, before = jumps[0]
        yield (
            f"the loss jumps at step {at.step}, from at most {before:.3g} to {at.loss:.3g}"
            + (f", and {len(jumps) - 1} times more" if len(jumps) > 1 else ""),
            "Lower the learning rate, warm up longer or clip the gradients; one jump alone may be "
            "a bad example in that batch",
        )


def learning_rate_stays_zero(steps: list[Step]) -> Said:
    """The learning rates: all of them zero."""
    rates = [s.lr for s in steps if s.lr is not None]
    if rates and not any(rates):
        yield (
            f"the learning rate was 0 in all {len(rates)} steps",
            "Give a rate above 0, and look at the schedule's warm-up and its length",
        )


OF_LOGS: tuple[Any, ...] = (
    loss_not_finite,
    learning_rate_stays_zero,
    loss_never_fell,
    loss_jumps,
)
