"""Which matrices to adapt, when there is one number of parameters to spend?

Every set of matrices gets the rank that comes nearest to one budget, that of q and v at rank 8, so
few matrices get a high rank and many a low one. A rank is a whole number: a set whose nearest rank
misses the budget by more than a tenth is measured at the ranks on both sides of it, so that what
comes of more parameters can be told from what comes of more matrices. α = 2r: the scaling is 2
everywhere.

The LoRA paper asked this of attention alone (arXiv 2106.09685, table 5), where q with v did best,
and q or k alone worst. Later work finds that the MLP's matrices are needed as well (QLoRA,
arXiv 2305.14314, section 4).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from minilora.bases import load_base
from minilora.experiments import targets_figure
from minilora.experiments.lab import stats
from minilora.experiments.lab.experiment import Experiment, Plan, Point, Row
from minilora.experiments.lab.tuning import Setup, tune
from minilora.peft.config import find_targets
from minilora.peft.lora import adaptable

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
SETS = {
    "q": ("q_proj",),
    "k": ("k_proj",),
    "v": ("v_proj",),
    "o": ("o_proj",),
    "q+v": ("q_proj", "v_proj"),
    "q+k+v+o": ATTENTION,
    "MLP": MLP,
    "all": ATTENTION + MLP,
}
# task → steps. The cipher, twelve letters to be learnt by heart, takes longer than an order.
TASKS = {"sort-descending": 150, "cipher": 200}
QUICK_TASKS, QUICK_ARMS = {"sort-descending": 3}, ("q r=16", "q+v r=8")
LRS = (1.6e-3, 5e-3, 1.6e-2, 5e-2)
# One is enough to choose among rates that lie a factor of three apart, and halves the cost.
CHOOSING = stats.CHOOSING_SEEDS[0]
# What an arm may miss the budget by before it is measured on both sides of it.
MISS = 0.1


class Arm(NamedTuple):
    """A set of matrices with a rank; `parameters` in all."""

    name: str
    targets: tuple[str, ...]
    rank: int
    parameters: int


@lru_cache(1)
def arms() -> tuple[Arm, ...]:
    """Every set, at the rank or ranks that come nearest to what q and v at rank 8 take."""
    linears = adaptable(load_base("skills"))

    def cost(targets: tuple[str, ...]) -> int:
        return sum(sum(linears[path].weight.shape) for path in find_targets(linears, targets))

    return tuple(
        Arm(f"{name} r={r}", targets, r, r * cost(targets))
        for name, targets in SETS.items()
        for r in ranks(cost(targets), 8 * cost(SETS["q+v"]))
    )


def ranks(cost: int, budget: int) -> list[int]:
    """The rank whose r · cost is nearest to the budget; those on both sides if it misses by much.

    cost   parameters of one rank
    """
    below = max(1, budget // cost)
    nearest = min((below, below + 1), key=lambda r: abs(r * cost - budget))
    far = abs(nearest * cost - budget) > MISS * budget
    return [below, below + 1] if far and below * cost < budget else [nearest]


def points(rows: list[Row], plan: Plan) -> list[Point]:
    """Every arm at every rate with one seed; then at its best rate with those reported on."""
    lrs = LRS[1:2] if plan.quick else LRS
    wanted = []
    for task, steps in QUICK_TASKS.items() if plan.quick else TASKS.items():
        for arm in arms():
            if plan.quick and arm.name not in QUICK_ARMS:
                continue
            setup = Setup(
                task=task,
                rank=arm.rank,
                alpha=2.0 * arm.rank,
                target_modules=arm.targets,
                steps=plan.steps or steps,
                glances=1,
                seed=CHOOSING,
            )
            choosing = [replace(setup, lr=lr).point(role="choose", arm=arm.name) for lr in lrs]
            wanted += choosing
            found = [r for p in choosing for r in stats.where(rows, **p)]
            if len(found) < len(choosing):
                continue
            lr = stats.best(found)
            wanted += [
                replace(setup, lr=lr, seed=seed).point(role="report", arm=arm.name)
                for seed in plan.seeds
            ]
    return wanted


def measure(point: Point) -> dict[str, Any]:
    """What the tuning of `Setup.of(point)` learnt and forgot; a rate is chosen by validation."""
    return tune(Setup.of(point), test=point["role"] != "choose")[0]


def draw(rows: list[Row], path: str | Path) -> None:
    """A panel a task, the arms down the side in the order of `SETS`."""
    targets_figure.draw(rows, path, tuple(TASKS), tuple(arm.name for arm in arms()))


def answer(rows: list[Row]) -> str:
    """The ranking of each task, and what becomes of the two claims."""
    said = []
    for task in TASKS:
        reported = stats.where(rows, role="report", task=task)
        if not reported:
            said.append(f"{task}: not measured.")
            continue
        values = _values(reported)
        said.append(f"{task}: {_ranking(values)} {_claims(values)}")
        zero = [name for name, v in values.items() if max(v) <= 0.01]
        if zero:
            said.append(f"{task}: never above 1 %: {'; '.join(zero)}.")
    said += [_budget(rows), _edges(rows), _diverged(rows)]
    return "\n".join(s for s in said if s)


def set_of(arm: str) -> str:
    """The set of matrices of an arm's name, which has its rank besides."""
    return arm.split(" r=")[0]


def _values(reported: list[Row]) -> dict[str, list[float]]:
    """arm → test accuracies of its seeds, the best arm first. A failed run counts as 0."""
    found = {a.name: stats.where(reported, arm=a.name) for a in arms()}
    values = {
        name: [r.get("new") or 0.0 for r in of_arm] for name, of_arm in found.items() if of_arm
    }
    return dict(sorted(values.items(), key=lambda item: -sum(item[1]) / len(item[1])))


def tiers(values: dict[str, list[float]]) -> list[list[str]]:
    """Arms, the best first, in groups in which none is apart from the group's first."""
    groups: list[list[str]] = []
    for name, found in values.items():
        if groups and stats.apart(values[groups[-1][0]], found) == "no difference shown":
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def _ranking(values: dict[str, list[float]]) -> str:
    text, before = "", None
    for tier in tiers(values):
        if before is not None:
            shown = stats.apart(values[before], values[tier[0]]) == "differ"
            text += " > " if shown else " (>) "
        text += " = ".join(f"{name} {stats.percent(values[name])}" for name in tier)
        before = tier[0]
    return f"{text}. [=: no difference shown from the first of the tie; (>): only suggested]"


def _claims(values: dict[str, list[float]]) -> str:
    """Both claims as far as their arms were measured."""
    of_set: dict[str, list[str]] = {
        name: [arm for arm in values if set_of(arm) == name] for name in SETS
    }
    claims = [
        ("q+v beats each matrix alone", of_set["q+v"], [a for s in "qkvo" for a in of_set[s]]),
        ("all matrices beat attention alone", of_set["all"], of_set["q+k+v+o"]),
        ("the MLP beats attention", of_set["MLP"], of_set["q+k+v+o"]),
    ]
    said = []
    for claim, ours, others in claims:
        found = {a: {b: stats.against(values[a], values[b]) for b in others} for a in ours}
        words = [word for each in found.values() for word in each.values()]
        if words:
            told = "; ".join(
                f"{a} " + ", ".join(f"against {b}: {word}" for b, word in each.items())
                for a, each in found.items()
            )
            said.append(f"That {claim}: {_verdict(words)} ({told}).")
    return " ".join(said)


def _verdict(found: list[str]) -> str:
    """What becomes of a claim that some arms are better than others."""
    if all(word == "better" for word in found):
        return "confirmed"
    if all(word in ("better", "suggests better") for word in found):
        return "suggested"
    if any("better" in word for word in found):
        return "in part"
    return "not here"


def _budget(rows: list[Row]) -> str:
    """How many parameters each arm had, and what table 5 says."""
    counts = {r["arm"]: r["trainable_parameters"] for r in rows if r.get("trainable_parameters")}
    if not counts:
        return ""
    told = ", ".join(f"{a.name}: {counts[a.name]:,}" for a in arms() if a.name in counts)
    return (
        f"Trained parameters: {told}. In the LoRA paper's table 5 (GPT-3, WikiSQL, 18 million "
        "parameters): q 70.4, k 70.0, v 73.0, o 73.2, q+v 73.7, q+k+v+o 73.7 %; MLP not tried."
    )


def _edges(rows: list[Row]) -> str:
    """Arms whose best rate is the highest or lowest that was tried: a better one may lie beyond."""
    at_edge = [
        f"{arm.name} on {task} ({', '.join(f'{lr:g}' for lr in rates)})"
        for task in TASKS
        for arm in arms()
        if (rates := stats.rates_at_edge(rows, task=task, arm=arm.name))
    ]
    return f"Best rate at the edge of those tried: {'; '.join(at_edge)}." if at_edge else ""


def _diverged(rows: list[Row]) -> str:
    """Runs that left the finite numbers; they count as 0 %."""
    lost = [
        f"{r['arm']} on {r['task']}, lr {r['lr']:g}, seed {r['seed']}"
        for r in rows
        if r.get("diverged")
    ]
    return f"Diverged, and counted as 0 %: {'; '.join(lost)}." if lost else ""


EXPERIMENT = Experiment(
    name="targets",
    question="Which matrices should LoRA adapt, when the number of parameters is given?",
    points=points,
    measure=measure,
    draw=draw,
    answer=answer,
)
