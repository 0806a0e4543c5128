"""What must A and B be at the start: zero, random, or made from W?

    h = W x + s B A x      dB = s dhᵀ (x Aᵀ)      dA = s (dh B)ᵀ x

With one of the two at zero a fresh adapter changes nothing. But the gradient of each passes through
the other: beside a zero it is zero, so that the other has to wait for a step, and with both at zero
neither ever moves. Both random move at once, away from a base that is spoilt already. With PiSSA
both move at once from the base itself, since what the adapter adds was taken out of W before.

Beside the starts, two variants that keep the usual start and change how fast one learns: rsLoRA
(α/√r) and LoRA+ (B learns 16 times as fast as A).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minilora.autograd import no_grad
from minilora.data.batches import Batches, collate
from minilora.experiments import initialisation_figure
from minilora.experiments.initialisation_figure import ROUNDING
from minilora.experiments.lab import stats
from minilora.experiments.lab.experiment import Experiment, Plan, Point, Row
from minilora.experiments.lab.tuning import Setup, model_for, optimizer_for, task_of, tune
from minilora.ops import IGNORE
from minilora.optim import Schedule, clip_gradients
from minilora.training import loss_and_gradients

STEPS = 150
# How many steps' gradients are looked at.
FIRST = 20


@dataclass(frozen=True)
class Arm:
    """A start or a variant, and the learning rates that it may choose from.

    init   as LoraConfig's;  zero   which of "A", "B" is set to zero after that
    """

    init: bool | str = True
    zero: tuple[str, ...] = ()
    scaling: str = "r"
    lr_ratio: float = 1.0
    lrs: tuple[float, ...] = (1.6e-3, 5e-3, 1.6e-2, 5e-2)


ARMS = {
    "A random, B = 0": Arm(),
    "A = 0, B random": Arm(False, ("A",)),
    "both random": Arm(False),
    # There is nothing to choose: no rate moves it.
    "both 0": Arm(zero=("A",), lrs=(5e-3,)),
    "PiSSA": Arm("pissa"),
    "rsLoRA": Arm(scaling="sqrt_r"),
    # The rate is A's; B's goes from 5e-3 to 1.6e-1.
    "LoRA+": Arm(lr_ratio=16.0, lrs=(3e-4, 1e-3, 3e-3, 1e-2)),
}
USUAL = "A random, B = 0"
# start → whose gradient has to be zero at first, by the formulas above.
WAITS: dict[str, set[str]] = {
    USUAL: {"A"},
    "A = 0, B random": {"B"},
    "both random": set(),
    "both 0": {"A", "B"},
    "PiSSA": set(),
}
# By those who proposed them, of much larger models. What rsLoRA claims is about high ranks.
CLAIMED_BETTER = ("PiSSA", "LoRA+")
# arm → how many rates, of a quick run.
QUICK = {USUAL: 2, "PiSSA": 1}


def points(rows: list[Row], plan: Plan) -> list[Point]:
    """Every arm at each of its rates; then at the best of them with the seeds reported on."""
    seeds = stats.CHOOSING_SEEDS[:1] if plan.quick else stats.CHOOSING_SEEDS
    steps = plan.steps or (3 if plan.quick else STEPS)
    wanted = []
    for name in QUICK if plan.quick else ARMS:
        arm = ARMS[name]
        lrs = arm.lrs[: QUICK[name]] if plan.quick else arm.lrs
        choosing = [
            _point(name, "choose", lr, seed, steps)
            for lr in (lrs if len(lrs) > 1 else ())
            for seed in seeds
        ]
        wanted += choosing
        found = [r for p in choosing for r in stats.where(rows, **p)]
        if len(found) == len(choosing):
            lr = stats.best(found) if choosing else lrs[0]
            wanted += [_point(name, "report", lr, seed, steps) for seed in plan.seeds]
    return wanted


def _point(name: str, role: str, lr: float, seed: int, steps: int) -> Point:
    arm = ARMS[name]
    setup = Setup(
        init=arm.init,
        scaling=arm.scaling,
        lr_ratio=arm.lr_ratio,
        lr=lr,
        seed=seed,
        steps=steps,
        glances=1,
    )
    return setup.point(role=role, arm=name, zero=list(arm.zero))


def measure(point: Point) -> dict[str, Any]:
    """The tuning's result; of those reported on also what `first_steps` sees."""
    setup, zero = Setup.of(point), tuple(point["zero"])
    seen = first_steps(setup, zero) if point["role"] == "report" else {}
    result, _ = tune(setup, model=prepared(setup, zero))
    return {**seen, **result}


def prepared(setup: Setup, zero: tuple[str, ...]) -> Any:
    """The base with its fresh adapter, A or B set to zero where that is asked for."""
    model = model_for(setup)
    for layer in model.layers().values():
        for part in zero:
            getattr(layer, f"lora_{part}")["default"].weight.data[:] = 0
    return model


def first_steps(setup: Setup, zero: tuple[str, ...]) -> dict[str, Any]:
    """The first steps of `tune`, taken apart: the gradients before each of them and after the last.

    shift          by how much the fresh adapter moves the logits, at most, on the test examples
    dA, dB         norms of the gradient of all A together, of all B; 0 only if each number is 0.
                   None from where they are no longer finite
    moved_A, moved_B   by how much a number in them has moved at most after these steps
    """
    task, model = task_of(setup.task, setup.seed), prepared(setup, zero)
    optimizer = optimizer_for(model, setup)
    batches = Batches(task.train[: setup.examples], setup.batch_size, seed=setup.seed)
    schedule = Schedule("cosine", setup.steps, warmup=setup.steps // 20)
    parts = {
        part: [
            getattr(layer, f"lora_{part}")["default"].weight for layer in model.layers().values()
        ]
        for part in "AB"
    }
    before = {part: [p.data.copy() for p in ps] for part, ps in parts.items()}
    result: dict[str, Any] = {"shift": logit_shift(model, task.test), "dA": [], "dB": []}
    for step in range(min(FIRST, setup.steps) + 1):
        _, gradients = loss_and_gradients(model, *batches[step])
        for part, ps in parts.items():
            result[f"d{part}"].append(_norm([gradients[p] for p in ps]))
        if step == min(FIRST, setup.steps) or None in (result["dA"][-1], result["dB"][-1]):
            break
        schedule.apply(optimizer, step)
        clip_gradients(gradients, 1.0)
        optimizer.step(gradients)
    for part, ps in parts.items():
        result[f"moved_{part}"] = max(
            float(np.abs(p.data - start).max()) for p, start in zip(ps, before[part], strict=True)
        )
    return result


def logit_shift(model: Any, examples: Any) -> float:
    """max |Δlogit| between the adapter and the base, where something is asked."""
    ids, labels = collate(examples)
    asked = labels[:, 1:] != IGNORE
    with no_grad():
        adapted = model(ids[:, :-1]).data[asked]
        with model.disable_adapter():
            base = model(ids[:, :-1]).data[asked]
    return float(np.abs(adapted - base).max())


def _norm(gradients: list[np.ndarray]) -> float | None:
    """√ of the sum of squares in float64, where the square of a float32 other than 0 is not 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        norm = math.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in gradients))
    return norm if math.isfinite(norm) else None


def draw(rows: list[Row], path: str | Path) -> None:
    """A panel for each start, and the accuracies of all arms."""
    initialisation_figure.draw(rows, path, tuple(WAITS), tuple(ARMS))


def answer(rows: list[Row]) -> str:
    """Each start's first gradients, what it does to the base, and whether it learns."""
    said = [_of_start(name, stats.where(rows, role="report", arm=name)) for name in WAITS]
    usual = _accuracies(rows, USUAL)
    said.append(f"{USUAL}: {stats.percent(usual)} at the end." if usual else "")
    for name in ARMS:
        found = _accuracies(rows, name)
        if usual and found and name != USUAL:
            verdict = stats.against(found, usual)
            claim = ""
            if name in CLAIMED_BETTER:
                borne_out = {"better": "confirmed", "suggests better": "suggested"}
                claim = f"; that it is better: {borne_out.get(verdict, 'not here')}"
            said.append(f"{name}: {stats.percent(found)}, against the usual: {verdict}{claim}.")
    said += [_never(rows), _edges(rows), _diverged(rows)]
    return "\n".join(s for s in said if s)


def _of_start(name: str, rows: list[Row]) -> str:
    """What was seen in the first steps, and whether it is as the formulas have it."""
    rows = [r for r in rows if r.get("dA") and r.get("dB")]
    if not rows:
        return f"{name}: not measured."
    first = {part: [r[f"d{part}"][0] for r in rows] for part in "AB"}
    told = ", ".join(f"d{part} {_range(values)}" for part, values in first.items())
    moved = any(r[f"moved_{part}"] for r in rows for part in "AB")
    then = "" if moved else ", and no number has moved after these steps"
    waits = {part for part in "AB" if not any(v is None or v for v in first[part])}
    taught = waits == WAITS[name] and moved == (name != "both 0")
    verdict = "as the formulas say" if taught else "not as the formulas say"
    return f"{name}: at step one {told}{then}, {verdict}; {_shift(rows)}."


def _shift(rows: list[Row]) -> str:
    shift = max(r["shift"] for r in rows)
    if shift == 0:
        return "the fresh adapter changes no logit"
    if shift < ROUNDING:
        return f"the fresh adapter changes logits by rounding alone (at most {shift:.2g})"
    return f"the fresh adapter shifts logits by up to {shift:.2g}: it does not start from the base"


def _never(rows: list[Row]) -> str:
    """Arms that have learnt nothing with any seed."""
    found = {name: _accuracies(rows, name) for name in ARMS}
    never = [name for name, values in found.items() if values and max(values) <= 0.01]
    return f"Never above 1 %: {', '.join(never)}." if never else ""


def _range(values: list[float | None]) -> str:
    if not any(v is None or v for v in values):
        return "exactly 0"
    mean, low, high = stats.spread(values)
    return f"{mean:.2g}" if len(values) == 1 else f"{mean:.2g} ({low:.2g} to {high:.2g})"


def _accuracies(rows: list[Row], arm: str) -> list[float]:
    """Test accuracies of an arm's seeds; a run that failed counts as 0."""
    return [r.get("new") or 0.0 for r in stats.where(rows, role="report", arm=arm)]


def _edges(rows: list[Row]) -> str:
    at_edge = [
        f"{name} ({', '.join(f'{lr:g}' for lr in rates)})"
        for name in ARMS
        if (rates := stats.rates_at_edge(rows, arm=name))
    ]
    return f"Best rate at the edge of those tried: {'; '.join(at_edge)}." if at_edge else ""


def _diverged(rows: list[Row]) -> str:
    lost = [f"{r['arm']}, lr {r['lr']:g}, seed {r['seed']}" for r in rows if r.get("diverged")]
    return f"Diverged, and counted as 0 %: {'; '.join(lost)}." if lost else ""


EXPERIMENT = Experiment(
    name="initialisation",
    question="What must A and B be at the start, so that the adapter learns and the base is kept?",
    points=points,
    measure=measure,
    draw=draw,
    answer=answer,
)
