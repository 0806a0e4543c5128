"""Prompt, prefix, adapter or LoRA: what does one budget of trained numbers buy?

Each method at up to four sizes that train about equally many numbers; IA³ and BitFit have one size,
full fine-tuning is the line to reach. Each arm has its own learning rate, from a ladder of √10 that
goes on where the best lies at an end, chosen by likelihood on validation with a seed of its own.

Three kinds of points: open books (what an arm costs and is, nothing learnt), rates tried, and the
reported tunings. An arm that finds no room in the model is in the books only, with the reason.
"""

from __future__ import annotations

from typing import Any

from minilora.experiments.lab.experiment import Experiment, Plan, Point, Row
from minilora.experiments.lab.learning_rates import LADDER, best_lr, tuned
from minilora.experiments.lab.stats import CHOOSING_SEEDS, where
from minilora.experiments.lab.tuning import Setup
from minilora.experiments.relatives.answering import answer
from minilora.experiments.relatives.arms import ARMS, MIDDLES, QUICK, Arm
from minilora.experiments.relatives.books import TURNS, open_books
from minilora.experiments.relatives.figure import draw

STEPS = 150
# A prompt's vectors begin with entries of about 1, and want to move as far.
RUNGS = (*LADDER, 1.6, 5.0)
FIRST, MOST = 3, 7  # rates an arm begins with, and ends with at the most
CHOOSING_SEED = CHOOSING_SEEDS[0]


def points(rows: list[Row], plan: Plan) -> list[Point]:
    """Books of every arm; of those with room rates to choose from; then the best, reported."""
    wanted = []
    for arm in QUICK if plan.quick else ARMS:
        books = _point(arm, plan, "books")
        wanted.append(books)
        opened = where(rows, **books)
        if opened and not opened[0].get("refused"):
            wanted += _tunings(arm, rows, plan)
    return wanted


def _tunings(arm: Arm, rows: list[Row], plan: Plan) -> list[Point]:
    middle = RUNGS.index(MIDDLES[arm.method])
    around = 0 if plan.quick else FIRST // 2
    lrs = list(RUNGS[middle - around : middle + around + 1])
    while True:
        tries = [_point(arm, plan, "choose", lr, CHOOSING_SEED) for lr in lrs]
        found = [where(rows, **point) for point in tries]
        if not all(found):
            return tries
        best = best_lr([r for each in found for r in each])
        further = None if plan.quick else _beyond(lrs, best)
        if further is None:
            break
        lrs = sorted([*lrs, further])
    seeds = list(plan.seeds)[: 1 if plan.quick else None]
    return tries + [_point(arm, plan, "report", best, seed) for seed in seeds]


def _beyond(lrs: list[float], best: float | None) -> float | None:
    """The next rung on the side where the best rate is the last that was tried; None: enough."""
    if best is None or len(lrs) >= MOST or best not in (lrs[0], lrs[-1]):
        return None
    i = RUNGS.index(best) + (1 if best == lrs[-1] else -1)
    return RUNGS[i] if 0 <= i < len(RUNGS) else None


def _point(arm: Arm, plan: Plan, role: str, lr: float | None = None, seed: int = 0) -> Point:
    steps = plan.steps or (4 if plan.quick else STEPS)
    rate = MIDDLES[arm.method] if lr is None else lr
    # While a rate is chosen nobody looks on the way.
    glances = 5 if role == "report" and not plan.quick else 1
    setup = Setup(**arm.chosen, lr=rate, steps=steps, glances=glances, seed=seed)
    turns = {"turns": 1 if plan.quick else TURNS} if role == "books" else {}
    return setup.point(role=role, arm=arm.name, budget=arm.budget, **turns)


def measure(point: Point) -> dict[str, Any]:
    """Open books; or a tuning, with the likelihood of the validation answers."""
    setup = Setup.of(point)
    if point["role"] == "books":
        return open_books(setup, point["turns"])
    return tuned(setup, test=point["role"] == "report")[0]


EXPERIMENT = Experiment(
    name="relatives",
    question="Prompt, prefix, adapter or LoRA: what does one budget of trained numbers buy?",
    points=points,
    measure=measure,
    draw=draw,
    answer=answer,
    seeds=(0, 1, 2, 3, 4),
)
