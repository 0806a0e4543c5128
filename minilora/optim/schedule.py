"""The learning rate over a run: up in a straight line, then down."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from minilora.errors import ConfigError

if TYPE_CHECKING:
    from minilora.optim.adamw import AdamW


class Schedule:
    """The learning rate of each step, as a factor of what the optimizer was given.

    It rises in a straight line over `warmup` steps, then falls to `final` at step `total`:
    kind "cosine" along half a cosine, "linear" along a line, "constant" not at all.

    Raises ConfigError for settings outside of what is allowed.
    """

    def __init__(self, kind: str, total: int, warmup: int = 0, final: float = 0.0):
        if kind not in ("cosine", "linear", "constant"):
            raise ConfigError(f"schedule {kind!r} must be cosine, linear or constant")
        if not 0 <= warmup <= total or total < 1 or not 0 <= final <= 1:
            raise ConfigError(
                f"a schedule of {total} steps with {warmup} of warm-up, ending at {final} of the "
                "rate: needs 0 <= warm-up <= steps, at least one step, and an end in [0, 1]"
            )
        self.kind, self.total, self.warmup, self.final = kind, total, warmup, final

    def factor(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        fall = {"cosine": 0.5 * (1 - math.cos(math.pi * done)), "linear": done, "constant": 0.0}
        return 1 - (1 - self.final) * fall[self.kind]

    def apply(self, optimizer: AdamW, step: int) -> None:
        """Set the rate of every group for this step."""
        for group in optimizer.groups:
            group["lr"] = group["initial_lr"] * self.factor(step)
