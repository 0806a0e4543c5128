"""What is forgotten while a new skill is learnt, at the same accuracy on the new skill?

Two runs that have learnt differently much cannot be compared in what they forgot. So each is asked
at the moment at which it first has 90 % of the new skill (validation, a straight line between two
looks). Learnt are an easy skill, `swap-ends`, and a hard one, `cipher`: a table by heart.

Where old data is mixed in, the old skills are lost at first and come back while one goes on. What
learns slower has then had more of it at 90 %; so the step is told, and what is left at the end.

How learning rates are found. Full fine-tuning and LoRA r=8 on q and v: for each share of old data
on a grid of its own, factors of about √10, by the new skill at the end (validation, mean of the
choosing seeds, of equal ones the lowest). The other ranks take the rate of r=8. LoRA on all seven
matrices, and everything on the hard task, have a fixed one. Which of these it was is in `lr_by`.

Published, for comparison: on Llama-3.2-3B and MetaMathQA, PEFT's public board of methods has full
fine-tuning (lr 1e-5) at an accuracy of 0.472 with 0.030 forgotten, and LoRA r=64 with rsLoRA at
0.513 with 0.111: more learnt, and more forgotten. "LoRA Learns Less and Forgets Less" (arXiv
2405.09673) finds what its title says, with far more data.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minilora.autograd import no_grad
from minilora.bases import load_base, smollm2
from minilora.data.batches import Batches, collate
from minilora.errors import MiniloraError
from minilora.experiments.compare import weights_hash
from minilora.experiments.forgetting.answering import answer
from minilora.experiments.forgetting.arms import EASY, HARD
from minilora.experiments.forgetting.figure import draw
from minilora.experiments.lab.experiment import Experiment, Plan, Point, Row
from minilora.experiments.lab.stats import CHOOSING_SEEDS, best, where
from minilora.experiments.lab.tuning import (
    Setup,
    model_for,
    optimizer_for,
    score,
    task_of,
    trained,
    tune,
)
from minilora.experiments.tasks import ORDERS, Task, load_task

REPLAYS = (0.0, 0.01, 0.05, 0.1)
FULL_LRS = (1e-4, 3.2e-4, 1e-3, 3.2e-3)
LORA_LRS = (1.6e-3, 5e-3, 1.6e-2)
# With these the hard task is learnt in time.
FIXED_FULL, FIXED_ALL_LINEAR = 1e-3, 3e-3
LANGUAGE_LRS = {"full": (5e-5, 2e-5), "lora": (2e-3, 1e-3)}
# After these shares of the steps one looks at the language model; a look takes it seconds.
LANGUAGE_LOOKS = (0.2, 0.3, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class _Arm:
    """A kind of run, of which learning rate and seed are open.

    lrs       to choose from; one: it is taken as it is
    rate_of   the arm whose choice of a rate is taken; None: its own
    seeds     how many of the plan's are run; None: all
    others    also report the two rates nearest to the chosen one
    off       measure, with one seed, what is left when the adapter is switched off
    """

    name: str
    setup: Setup
    lrs: tuple[float, ...]
    rate_of: _Arm | None = None
    seeds: int | None = 3
    others: bool = False
    off: bool = False


def points(rows: list[Row], plan: Plan) -> list[Point]:
    """All runs that can be asked for by now: the choice of rates, then what is reported."""
    wanted: list[Point] = []
    for arm in _arms(plan):
        choosing = _choosing(arm.rate_of or arm, plan)
        wanted += [] if arm.rate_of else choosing
        measured = [where(rows, **point) for point in choosing]
        if all(measured):
            lr = best(r for some in measured for r in some) if choosing else arm.lrs[0]
            wanted += _reported(arm, lr, plan)
    return _language_points(rows, plan) + wanted  # the longest first


def _arms(plan: Plan) -> list[_Arm]:
    """Every arm; quick: one of each kind."""
    easy = Setup(task=EASY, steps=plan.steps or 120, glances=24)
    hard = Setup(task=HARD, steps=plan.steps or 200, glances=25)
    if plan.quick:
        easy = replace(easy, steps=plan.steps or 4, glances=2)
        mixed = replace(easy, replay=0.05)
        return [
            _Arm("full", replace(easy, method="full"), FULL_LRS[1:3], seeds=1, others=True),
            _Arm("LoRA q,v r=8", mixed, LORA_LRS[1:2], seeds=1, off=True),
        ]
    full, hard_full, some = replace(easy, method="full"), replace(hard, method="full"), []
    for share in REPLAYS:
        none = share == 0
        some += [
            _Arm("full", replace(full, replay=share), FULL_LRS, seeds=None, others=none),
            _Arm("LoRA q,v r=8", replace(easy, replay=share), LORA_LRS, others=none, off=none),
        ]
    r_8 = some[1]
    some += [_Arm(f"LoRA q,v r={r}", replace(easy, rank=r), LORA_LRS, r_8) for r in (1, 64)]
    for share in (0.0, 0.05, 0.1):
        some.append(_Arm("full", replace(hard_full, replay=share), (FIXED_FULL,)))
        for task in (easy, hard):
            wide = replace(task, target_modules="all-linear", replay=share)
            some.append(_Arm("LoRA all seven r=8", wide, (FIXED_ALL_LINEAR,)))
    return some


def _choosing(arm: _Arm, plan: Plan) -> list[Point]:
    """The runs from which an arm's rate is chosen; none if it is fixed."""
    seeds = CHOOSING_SEEDS[:1] if plan.quick else CHOOSING_SEEDS
    return [
        replace(arm.setup, lr=lr, seed=seed, glances=1).point(
            role="choose", base="skills", arm=arm.name
        )
        for lr in (arm.lrs if len(arm.lrs) > 1 else ())
        for seed in seeds
    ]


def _reported(arm: _Arm, lr: float, plan: Plan) -> list[Point]:
    """The runs of an arm that are reported on."""
    found = "as r=8" if arm.rate_of else "chosen" if len(arm.lrs) > 1 else "fixed"
    rates = {lr: found}
    if arm.others:
        nearest = sorted(arm.lrs, key=lambda each: abs(math.log(each / lr)))
        rates |= dict.fromkeys(nearest[1:3], "other")
    wanted = []
    for rate, how in rates.items():
        # To see what a rate does, a few seeds do.
        for seed in plan.seeds[: arm.seeds][: 3 if how == "other" else None]:
            off = {"off": True} if arm.off and how != "other" and seed == plan.seeds[0] else {}
            setup = replace(arm.setup, lr=rate, seed=seed)
            said = {"role": "report", "base": "skills", "arm": arm.name, "lr_by": how}
            wanted.append(setup.point(**said, **off))
    return wanted


def _language_points(rows: list[Row], plan: Plan) -> list[Point]:
    """Four runs of SmolLM2, if it was fetched; never two full ones at once: each takes 3 GB."""
    if plan.quick or not smollm2.cached_file().is_file():
        return []
    setup = Setup(task=ORDERS, steps=plan.steps or 75, batch_size=8, examples=2000)
    setup = replace(setup, glances=len(LANGUAGE_LOOKS), seed=plan.seeds[0])
    full, lora = (
        [
            replace(setup, method=method, lr=lr).point(
                role="report", base="smollm2", arm=f"smollm2 {method}", lr_by="fixed"
            )
            for lr in LANGUAGE_LRS[method]
        ]
        for method in ("full", "lora")
    )
    done = sum(bool(where(rows, **point)) for point in full)
    return full[: done + 1] + lora


def measure(point: Point) -> dict[str, Any]:
    """Tune once, and tell what was learnt and what was left; see `tune` for the fields."""
    if point["base"] == "smollm2":
        return _measure_language(point)
    setup = Setup.of(point)
    result, model = tune(setup, test=point["role"] != "choose")
    if point.get("off"):
        result |= adapter_off(model, task_of(setup.task, setup.seed))
    return result


def adapter_off(model: Any, task: Task) -> dict[str, Any]:
    """Test scores with the adapter switched off, and whether that is the base, bit for bit.

    Takes the adapters off the model for good: the base's weights are compared, too.
    """
    base, ids = load_base("skills"), collate(task.test[:16])[0]
    with no_grad(), model.disable_adapter():
        scores = score(task, model)
        same = np.array_equal(model(ids).data, base(ids).data)
    same = same and weights_hash(model.unload()) == weights_hash(base)
    return {"new_off": scores["new"], "old_off": scores["old"], "off_is_base": bool(same)}


def _measure_language(point: Point) -> dict[str, Any]:
    """Tune SmolLM2 for orders; the curve holds the loss on general text, in nats a token."""
    setup = Setup.of(point)
    try:
        base = load_base("smollm2")
    except MiniloraError as error:
        return {"skipped": str(error), "curve": []}
    task = load_task(ORDERS, base, seed=setup.seed)
    model = model_for(setup, base)
    looks = {max(1, round(share * setup.steps)) for share in LANGUAGE_LOOKS}
    curve: list[dict[str, Any]] = []

    def look(step: int, loss: float) -> None:
        if step == 0 or step in looks:
            seen = task.glance(model)
            curve.append({"step": step, **{k: seen[k] for k in ("new", "general_nll")}})

    look(0, 0.0)
    began, batches = time.perf_counter(), Batches(task.train, setup.batch_size, seed=setup.seed)
    _, diverged = trained(setup, model, optimizer_for(model, setup), batches, look)
    return {
        "trainable_parameters": model.n_parameters(trainable=True),
        "seconds_training": time.perf_counter() - began,
        "curve": curve,
        "diverged": diverged,
    }


EXPERIMENT = Experiment(
    name="forgetting",
    question="What is forgotten while a new skill is learnt, and what helps against it?",
    points=points,
    measure=measure,
    draw=draw,
    answer=answer,
    seeds=(0, 1, 2, 3, 4),
)
