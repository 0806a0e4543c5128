"""What rank and alpha do: capacity, overfitting, and how both hang together with the learning rate.

Six small questions on one base, most of them about the skill sort-descending:

    r × lr       at one α, under α/r and under α/√r: does the best learning rate stay?
    α × lr       at r = 8: is α a second learning rate?
    r × α        at one learning rate: which α does a rank want?
    memory       random facts by heart: how many bits does a rank hold (`memory`)?
    few examples training and test accuracy by rank: does a high one overfit?
    first step   without training: what rank does to the first update (`first_step`)
"""

from __future__ import annotations

from typing import Any

from minilora.evaluation import exact_match
from minilora.experiments.lab import stats
from minilora.experiments.lab.experiment import Experiment, Plan, Point, Row
from minilora.experiments.lab.learning_rates import best_lr, tuned
from minilora.experiments.lab.tuning import SCALINGS, Setup, task_of
from minilora.experiments.rank_alpha.answering import answer
from minilora.experiments.rank_alpha.figure import draw
from minilora.experiments.rank_alpha.first_step import first_step_change, first_steps
from minilora.experiments.rank_alpha.memory import memorize
from minilora.experiments.rank_alpha.rows import (
    ALPHA,
    ALPHA_LR,
    FEW,
    FIRST_STEP,
    LR,
    MEMORY,
    R_ALPHA,
    R_LR,
)

__all__ = ["EXPERIMENT", "first_step_change", "measure", "points"]

STEPS, MEMORY_STEPS = 150, 300
RANKS = (1, 4, 16, 64)
LRS = (5e-4, 1.6e-3, LR, 1.6e-2, 5e-2)
# α goes by 4, and so do the learning rates beside it: every α·lr is met by several α.
ALPHAS = (4, ALPHA, 64)
LRS_BY_4 = (LR / 16, LR / 4, LR, 4 * LR, 16 * LR)
FACTS, MEMORY_RANKS, MEMORY_LRS = (16, 128), (1, 2, 4, 8, 16), (LR, 1.6e-2, 5e-2)
FEW_EXAMPLES = (32, 128)


def points(rows: list[Row], plan: Plan) -> list[Point]:
    """All grids; and, once their learning rates are known, few examples and reported memory."""
    ranks = RANKS[:2] if plan.quick else RANKS
    grid = _r_lr(plan, ranks)
    first = {"arm": FIRST_STEP, "role": "report", "ranks": list(RANKS)}
    return [
        *grid,
        *_alpha_lr(plan),
        *_r_alpha(plan, ranks),
        *_memory(rows, plan),
        *_few(rows, plan, grid, ranks),
        first,
    ]


def measure(point: Point) -> dict[str, Any]:
    """Memory: bits; first step: useful change; else a tuning, with `train` where examples are few.

    train   accuracy on the examples that were trained on
    """
    if point["arm"] == FIRST_STEP:
        return {"first_step": first_steps(point["ranks"])}
    if point["arm"] == MEMORY:
        return memorize(point)
    setup = Setup.of(point)
    result, model = tuned(setup)
    if point["arm"] == FEW:
        seen = task_of(setup.task, setup.seed).train[: setup.examples]
        result["train"] = None if result["diverged"] else exact_match(model, seen)
    return result


def _r_lr(plan: Plan, ranks: tuple[int, ...]) -> list[Point]:
    return [
        _setup(plan, rank=r, lr=lr, scaling=scaling, seed=seed).point(role="report", arm=R_LR)
        for scaling in SCALINGS
        for r in ranks
        if r > 1 or scaling == SCALINGS[0]  # α/1 is α/√1
        for lr in ((LR,) if plan.quick else LRS)
        for seed in _seeds(plan)
    ]


def _alpha_lr(plan: Plan) -> list[Point]:
    return [
        _setup(plan, rank=8, alpha=a, lr=lr, seed=seed).point(role="report", arm=ALPHA_LR)
        for a in (ALPHAS[:1] if plan.quick else ALPHAS)
        for lr in ((LR,) if plan.quick else LRS_BY_4)
        for seed in _seeds(plan)
    ]


def _r_alpha(plan: Plan, ranks: tuple[int, ...]) -> list[Point]:
    """Only what `_r_lr` has not: there are its rows at ALPHA."""
    return [
        _setup(plan, rank=r, alpha=a, seed=seed).point(role="report", arm=R_ALPHA)
        for r in (ranks[:1] if plan.quick else ranks)
        for a in (ALPHAS[:1] if plan.quick else ALPHAS)
        if a != ALPHA
        for seed in _seeds(plan)[:2]
    ]


def _memory(rows: list[Row], plan: Plan) -> list[Point]:
    """Each rank at the best of a few learning rates, found with facts of another seed."""
    wanted = []
    for n in FACTS[:1] if plan.quick else FACTS:
        for r in MEMORY_RANKS[:1] if plan.quick else MEMORY_RANKS:
            seed = stats.CHOOSING_SEEDS[0]
            tries = [
                _facts(plan, n, r, lr, seed).point(role="choose", arm=MEMORY, facts=n)
                for lr in (MEMORY_LRS[:2] if plan.quick else MEMORY_LRS)
            ]
            wanted += tries
            found = _measured(tries, rows)
            if found is not None:
                lr = stats.best(found, "lr", "share")
                wanted += [
                    _facts(plan, n, r, lr, s).point(role="report", arm=MEMORY, facts=n)
                    for s in _seeds(plan)
                ]
    return wanted


def _few(rows: list[Row], plan: Plan, grid: list[Point], ranks: tuple[int, ...]) -> list[Point]:
    """Each rank at the learning rate that is its best, under α/r, with examples enough.

    The best of three seeds: with seeds added later it is still the same.
    """
    wanted = []
    for r in ranks[:1] if plan.quick else ranks:
        tries = stats.where(grid, rank=r, scaling=SCALINGS[0])
        found = _measured([p for p in tries if p["seed"] in _seeds(plan)[:3]], rows)
        lr = None if found is None else best_lr(found)
        if lr is not None:
            wanted += [
                _setup(plan, rank=r, lr=lr, examples=n, seed=seed).point(role="report", arm=FEW)
                for n in (FEW_EXAMPLES[:1] if plan.quick else FEW_EXAMPLES)
                for seed in _seeds(plan)
            ]
    return wanted


def _facts(plan: Plan, n: int, r: int, lr: float, seed: int) -> Setup:
    """All facts in every batch, α = 2r."""
    steps = plan.steps or (6 if plan.quick else MEMORY_STEPS)
    return Setup(
        task="memory",
        rank=r,
        alpha=2 * r,
        lr=lr,
        steps=steps,
        batch_size=n,
        examples=n,
        glances=0,
        seed=seed,
    )


def _setup(plan: Plan, **chosen: Any) -> Setup:
    steps = plan.steps or (4 if plan.quick else STEPS)
    return Setup(
        **{"alpha": ALPHA, "lr": LR, "steps": steps, "glances": 1 if plan.quick else 5, **chosen}
    )


def _seeds(plan: Plan) -> list[int]:
    return list(plan.seeds)[: 1 if plan.quick else None]


def _measured(wanted: list[Point], rows: list[Row]) -> list[Row] | None:
    """The rows of these points; None while one is missing."""
    found = [stats.where(rows, **point) for point in wanted]
    return [row for each in found for row in each] if all(found) else None


EXPERIMENT = Experiment(
    name="rank_alpha",
    question="What do rank and alpha do: capacity, overfitting, and the learning rate they want?",
    points=points,
    measure=measure,
    draw=draw,
    answer=answer,
)
