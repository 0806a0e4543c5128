"""LoRA's best learning rate: about ten times full fine-tuning's, whatever the rank?

Each arm's rates are tried on validation with seeds of their own, on a ladder of √10; if the best is
the lowest or the highest that was tried, the ladder goes on. At its best rate each arm is then
measured on the test. After 100 steps not every arm has learnt everything, so that they can be told
apart; how soon 90 % are right is the second measure.

α = 2r throughout, so that α/r is 2 for every rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minilora.experiments.lab.experiment import Experiment, Plan, Point, Row
from minilora.experiments.lab.learning_rates import LADDER, best_lr, tuned
from minilora.experiments.lab.stats import CHOOSING_SEEDS, where
from minilora.experiments.lab.tuning import Setup
from minilora.experiments.learning_rate.answering import answer
from minilora.experiments.learning_rate.figure import draw
from minilora.experiments.learning_rate.rows import FULL, PLAIN, q_v

STEPS = 100
LADDER_START, MOST = 5, 8  # rates an arm begins with, and ends with at the most


@dataclass(frozen=True)
class Arm:
    """What is tuned, and the rung in the middle of its first rates."""

    chosen: dict[str, Any]
    middle: float


def _lora(rank: int, middle: float, **more: Any) -> Arm:
    return Arm({"rank": rank, "alpha": 2 * rank, **more}, middle)


ARMS = {
    FULL: Arm({"method": "full"}, 5e-4),
    **{q_v(r): _lora(r, 5e-3) for r in (1, 4, 8, 16, 64)},
    "LoRA all-linear r = 8": _lora(8, 1.6e-3, target_modules="all-linear"),
    "rsLoRA": _lora(8, 1.6e-3, scaling="sqrt_r"),
    "LoRA+ λ = 16": _lora(8, 1.6e-3, lr_ratio=16.0),
    "PiSSA": _lora(8, 1.6e-3, init="pissa"),
}


def points(rows: list[Row], plan: Plan) -> list[Point]:
    """Rates to choose from, further ones where the best lies at an end; then the best, reported."""
    names = [FULL, PLAIN, "LoRA+ λ = 16"] if plan.quick else list(ARMS)
    wanted = []
    for name in names:
        lrs = _first_rates(ARMS[name].middle, plan)
        while True:
            tries = [
                _point(name, lr, seed, plan, "choose")
                for lr in lrs
                for seed in (CHOOSING_SEEDS[:1] if plan.quick else CHOOSING_SEEDS)
            ]
            measured = [where(rows, **point) for point in tries]
            best = best_lr([r for each in measured for r in each]) if all(measured) else None
            further = None if plan.quick else _beyond(lrs, best)
            if further is None:
                break
            lrs = sorted([*lrs, further])
        wanted += tries
        if best is not None:
            seeds = list(plan.seeds)[: 1 if plan.quick else None]
            wanted += [_point(name, best, seed, plan, "report") for seed in seeds]
    return wanted


def measure(point: Point) -> dict[str, Any]:
    """A tuning, with the likelihood of the validation answers and when 90 % were right."""
    return tuned(Setup.of(point), test=point["role"] != "choose")[0]


def _first_rates(middle: float, plan: Plan) -> list[float]:
    i = LADDER.index(middle)
    if plan.quick:
        return [LADDER[i]]
    return list(LADDER[i - LADDER_START // 2 : i + LADDER_START // 2 + 1])


def _beyond(lrs: list[float], best: float | None) -> float | None:
    """The next rung on the side where the best rate is the last that was tried; None: enough."""
    if best is None or len(lrs) >= MOST or best not in (lrs[0], lrs[-1]):
        return None
    i = LADDER.index(best) + (1 if best == lrs[-1] else -1)
    return LADDER[i] if 0 <= i < len(LADDER) else None


def _point(name: str, lr: float, seed: int, plan: Plan, role: str) -> Point:
    steps = plan.steps or (4 if plan.quick else STEPS)
    glances = 1 if plan.quick else 10
    setup = Setup(**ARMS[name].chosen, lr=lr, steps=steps, glances=glances, seed=seed)
    return setup.point(role=role, arm=name)


EXPERIMENT = Experiment(
    name="learning_rate",
    question="Is LoRA's best learning rate about ten times full fine-tuning's, whatever the rank?",
    points=points,
    measure=measure,
    draw=draw,
    answer=answer,
)
