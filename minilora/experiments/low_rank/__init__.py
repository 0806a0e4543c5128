"""Is the change that full fine-tuning makes really of low rank?

LoRA's bet is that ΔW can be written with few directions. Here ΔW is taken apart (its spectrum,
accuracy with parts of it), compared to what LoRA learns at each rank, held against a problem of
which the rank is known, and looked at for two more claims: that adapters of different ranks find
the same directions, and that LoRA adds directions that the base had not.

    full        full fine-tuning, ΔW = W - W0 in the blocks' matrices
    lora        LoRA on the same matrices, scaling 2 at every rank, and once with a louder one
    planted     a linear problem whose ΔW has rank 8
    subspaces   how far adapters of rank 8 and 64 share their directions
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minilora.experiments.lab.experiment import Experiment, Plan, Point, Row
from minilora.experiments.lab.stats import CHOOSING_SEEDS, best, where
from minilora.experiments.lab.tuning import Setup
from minilora.experiments.low_rank.answering import answer
from minilora.experiments.low_rank.figure import draw
from minilora.experiments.low_rank.measuring import measure

STEPS = 150
FULL_LRS = (5e-4, 1e-3, 2e-3, 4e-3)
LORA_LRS = (1e-3, 3e-3, 1e-2)
# (rank, α): scaling 2 throughout, and one four times as loud.
ARMS = ((1, 2), (2, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 128), (8, 64))
THIN, WIDE = 8, 64


def points(rows: list[Row], plan: Plan) -> list[Point]:
    """Learning rates first, on seeds of their own; then what is reported, each at its best one."""
    steps = plan.steps or (4 if plan.quick else STEPS)
    # What is seen on the way is of no use to a quick plan, and costs more than its steps.
    common = Setup(target_modules="all-linear", steps=steps, glances=1 if plan.quick else 5)
    full = replace(common, method="full")
    arms = ((THIN, 16),) if plan.quick else ARMS
    seeds = plan.seeds[:1] if plan.quick else plan.seeds
    full_lrs, lora_lrs = (FULL_LRS[1:2], LORA_LRS[1:2]) if plan.quick else (FULL_LRS, LORA_LRS)
    extent = {
        "ks": [0, 8] if plan.quick else [0, 1, 2, 4, 8, 16, 32, 64, 128],
        "factors": [0.0, 1.0] if plan.quick else [0.0, 0.25, 0.5, 0.75, 1.0],
        "strings": 50 if plan.quick else 500,
        "every": 2 if plan.quick else 10,
    }
    of_lora = {k: v for k, v in extent.items() if k != "ks"}
    wanted = _arm(rows, full, "full", full_lrs, CHOOSING_SEEDS[: len(full_lrs)], seeds, extent)
    for rank, alpha in arms:
        setup = replace(common, rank=rank, alpha=alpha)
        wanted += _arm(rows, setup, "lora", lora_lrs, CHOOSING_SEEDS[:1], seeds, of_lora)
    wanted += [_planted(seed, plan.quick) for seed in seeds]
    return wanted + _subspaces(rows, common, plan, lora_lrs)


def _arm(
    rows: list[Row],
    setup: Setup,
    kind: str,
    lrs: tuple[float, ...],
    choosing: tuple[int, ...],
    seeds: Any,
    more: dict[str, Any],
) -> list[Point]:
    """The points that choose this arm's learning rate, and once it is chosen those to report."""
    wanted = [
        replace(setup, lr=lr, seed=seed).point(kind=kind, role="choose")
        for lr in lrs
        for seed in choosing
    ]
    lr = _chosen(rows, wanted)
    if lr is not None:
        wanted += [
            replace(setup, lr=lr, seed=seed).point(kind=kind, role="report", **more)
            for seed in seeds
        ]
    return wanted


def _chosen(rows: list[Row], choosing: list[Point]) -> float | None:
    """The learning rate with the best validation, once all of these points are measured."""
    measured = [row for point in choosing for row in where(rows, **point)[:1]]
    return best(measured) if len(measured) == len(choosing) else None


def _planted(seed: int, quick: bool) -> Point:
    return {
        "kind": "planted",
        "role": "report",
        "seed": seed,
        "size": 64,
        "true_rank": 8,
        "ranks": [4, 8] if quick else [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16],
        "steps": 200 if quick else 600,
        "lr": 1e-2,
    }


def _subspaces(rows: list[Row], common: Setup, plan: Plan, lrs: tuple[float, ...]) -> list[Point]:
    """For each seed an adapter of rank 8, a wide one, and the wide one of the next seed."""
    seeds = list(plan.seeds[:1] if plan.quick else plan.seeds)
    wide = 16 if plan.quick else WIDE

    def chosen(rank: int) -> float | None:
        setups = [replace(common, rank=rank, alpha=2 * rank, lr=lr) for lr in lrs]
        return _chosen(
            rows,
            [replace(s, seed=CHOOSING_SEEDS[0]).point(kind="lora", role="choose") for s in setups],
        )

    # A quick plan has but one arm, whose rate serves both.
    thin_lr, wide_lr = chosen(THIN), chosen(THIN if plan.quick else WIDE)
    if thin_lr is None or wide_lr is None:
        return []
    widths = {"i": [1, 2, 4, 8], "j": [j for j in (1, 2, 4, 8, 16, 32, 64) if j <= wide]}
    setup = replace(common, rank=THIN, alpha=2 * THIN, lr=thin_lr, glances=1)
    return [
        replace(setup, seed=seed).point(
            kind="subspaces",
            role="report",
            other=following,
            wide_rank=wide,
            wide_lr=wide_lr,
            alone="layers.2.self_attn.q_proj",
            **widths,
        )
        # With two seeds the pairs (a, b) and (b, a) still differ in whose thin adapter it is.
        for seed, following in zip(seeds, [*seeds[1:], _after(seeds)], strict=True)
    ]


def _after(seeds: list[int]) -> int:
    """The seed that closes the ring: the first, or for a ring of one the number after it."""
    return seeds[0] if len(seeds) > 1 else seeds[0] + 1


EXPERIMENT = Experiment(
    name="low_rank",
    question="Is the change that full fine-tuning makes really of low rank?",
    points=points,
    measure=measure,
    draw=draw,
    answer=answer,
)
