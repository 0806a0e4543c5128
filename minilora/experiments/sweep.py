"""A grid of one's own: every combination of methods, tasks, ranks, alphas, learning rates, targets.

Unlike the experiments, a sweep claims nothing beforehand. It says which settings did best, how much
that depends on the seed, and how sure a share of so many questions can be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from minilora.bases import load_base
from minilora.data import skills
from minilora.errors import ConfigError
from minilora.experiments.lab.experiment import Experiment, Plan, Point, Row
from minilora.experiments.lab.running import run
from minilora.experiments.lab.stats import percent, spread
from minilora.experiments.lab.tuning import SCALINGS, Setup, task_of, tune
from minilora.peft.lora import check_config
from minilora.training import check_count

METHODS = ("full", "lora")
LR = {"full": 1e-3, "lora": 5e-3}
Targets = str | tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """The values of each axis; one that is not given has one value.

    alphas   None: twice the rank
    lrs      None: 5e-3 for LoRA, 1e-3 for full

    Full fine-tuning has no ranks, alphas, target modules or scalings, and so not a point for each.
    ConfigError for an axis without values, or with one that is not allowed.
    """

    methods: Sequence[str] = ("lora",)
    tasks: Sequence[str] = ("sort-descending",)
    ranks: Sequence[int] = (8,)
    alphas: Sequence[float] | None = None
    lrs: Sequence[float] | None = None
    target_modules: Sequence[Targets] = (("q_proj", "v_proj"),)
    scalings: Sequence[str] = ("r",)
    seeds: Sequence[int] = (0,)
    steps: int = 150
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if name in ("steps", "batch_size") or values is None:
                continue
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise ConfigError(f"{name} = {values!r} must be at least one value, in a list")
        check_count("steps", self.steps)
        check_count("batch_size", self.batch_size)
        _check_among("method", self.methods, METHODS)
        _check_among("scaling", self.scalings, SCALINGS)
        for lr in self.lrs or ():
            if not 0 < lr < math.inf:
                raise ConfigError(f"learning rate {lr!r} must be a number above 0")
        for name in self.tasks:
            skills.skill(name)
        if "lora" in self.methods:
            base = load_base("skills")
            loras = (setup.lora_config() for setup in self.setups() if setup.method == "lora")
            for config in dict.fromkeys(loras):
                check_config(base, config)

    def setups(self) -> Iterator[Setup]:
        """Every tuning of the grid, the seeds of one after the other."""
        common: dict[str, Any] = {"steps": self.steps, "batch_size": self.batch_size}
        for method, task in product(self.methods, self.tasks):
            for knobs in self._knobs() if method == "lora" else iter(({},)):
                for lr, seed in product(self.lrs or (LR[method],), self.seeds):
                    yield Setup(task=task, method=method, lr=lr, seed=seed, **common, **knobs)

    def _knobs(self) -> Iterator[dict[str, Any]]:
        for rank, targets, scaling in product(self.ranks, self.target_modules, self.scalings):
            for alpha in self.alphas or (2 * rank,):
                yield {
                    "rank": rank,
                    "alpha": alpha,
                    "target_modules": targets,
                    "scaling": scaling,
                }


def _check_among(what: str, values: Sequence[str], allowed: Sequence[str]) -> None:
    for value in values:
        if value not in allowed:
            raise ConfigError(f"{what} {value!r} must be one of {', '.join(allowed)}")


def measure(point: Point) -> dict[str, Any]:
    """Tune once; besides what `tune` tells, of how many questions the shares are."""
    setup = Setup.of(point)
    result, _ = tune(setup)
    return {**result, "test_questions": len(task_of(setup.task, setup.seed).test)}


def sweep(
    grid: Grid,
    out: str | Path,
    *,
    jobs: int | None = None,
    dask: str | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
    track: str | None = None,
    command: str | None = None,
) -> list[Row]:
    """Measure what `out`/sweep.jsonl has not yet of the grid; all its rows, in the file's order.

    A grid may be extended by giving another one for the same folder: rows of before are kept, and
    returned too. Only steps and batch size must stay, for what is trained longer is no rival.

    The other arguments, and what is raised, are those of `running.run`.
    """

    def points(rows: list[Row], plan: Plan) -> list[Point]:
        for row in rows:
            if row["batch_size"] != grid.batch_size:
                raise ConfigError(
                    f"{path} has rows of batch size {row['batch_size']}, and {grid.batch_size} is "
                    "asked for; such rows do not go together: choose another folder"
                )
        return [setup.point() for setup in grid.setups()]

    path = Path(out) / "sweep.jsonl"
    return run(
        replace(EXPERIMENT, points=points),
        Plan(tuple(grid.seeds), grid.steps),
        path,
        jobs=jobs,
        dask=dask,
        progress=progress,
        say=say,
        track=track,
        command=command or "minilora.experiments.sweep.sweep(…)",
    )


@dataclass(frozen=True)
class Group:
    """All seeds of one setting."""

    setup: Setup  # of the first seed
    rows: list[Row]

    @property
    def validation(self) -> float:
        """What settings are chosen by: mean over the seeds, on questions not tested on."""
        return spread(row["new_validation"] or 0.0 for row in self.rows)[0]

    @property
    def new(self) -> list[float]:
        return [row["new"] for row in self.rows if row["new"] is not None]

    @property
    def old(self) -> list[float]:
        return [row["old"] for row in self.rows if row["old"] is not None]

    @property
    def label(self) -> str:
        s = self.setup
        if s.method == "full":
            return f"full, lr {s.lr:g}"
        scaling = "" if s.scaling == "r" else f" α/{'√r' if s.scaling == 'sqrt_r' else s.scaling}"
        return (
            f"LoRA r={s.rank} α={s.alpha:g}{scaling} {targets_text(s.target_modules)}, lr {s.lr:g}"
        )


def groups(rows: Sequence[Row]) -> list[Group]:
    """Rows that differ in nothing but the seed, together; the order is that of the rows."""
    found: dict[str, Group] = {}
    for row in rows:
        setup = Setup.of(row)
        key = str(asdict(replace(setup, seed=0, alpha=float(setup.alpha), lr=float(setup.lr))))
        found.setdefault(key, Group(setup, [])).rows.append(row)
    return list(found.values())


def ranked(rows: Sequence[Row]) -> list[Group]:
    """Settings from best to worst on validation; of equal ones the smaller first."""

    def key(group: Group) -> tuple[float, int, float]:
        return -group.validation, group.rows[0]["trainable_parameters"], group.setup.lr

    return sorted(groups(rows), key=key)


def targets_text(targets: Targets) -> str:
    """As one writes them on the command line of a sweep: names joined by +."""
    return targets if isinstance(targets, str) else "+".join(targets)


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Where the true share lies, at 95 %, if `share` of n questions were right (Wilson, 1927)."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def surely(group: Group) -> str:
    """What a setting reached on the test, over its seeds, and how sure the mean can be."""
    if not group.new:
        return "nothing measured"
    n = group.rows[0]["test_questions"]
    mean = sum(group.new) / len(group.new)
    low, high = wilson(mean, n)
    seeds = f"{len(group.new)} seed{'s' if len(group.new) > 1 else ''}"
    return (
        f"{percent(group.new)} over {seeds}; of {n} questions, so 95 % sure between "
        f"{100 * low:.0f} and {100 * high:.0f} %"
    )


def answer(rows: Sequence[Row]) -> str:
    """The best setting of each task, what it forgot, and which runs came to nothing."""
    if not rows:
        return "Nothing measured yet."
    said = []
    for task in dict.fromkeys(row["task"] for row in rows):
        best = ranked([row for row in rows if row["task"] == task])[0]
        said.append(
            f"{task}: best on validation is {best.label}. On the test: {surely(best)}. "
            f"Of the old skills is left: {percent(best.old)}."
        )
    diverged = [group.label for group in groups(rows) if any(r["diverged"] for r in group.rows)]
    if diverged:
        said.append(f"Diverged, and counted as 0: {'; '.join(diverged)}.")
    return "\n".join(said)


def table(rows: Sequence[Row], most: int = 8) -> str:
    """The best settings, a line each, as chosen by validation."""
    lines = [("new", "old", "parameters", "seeds", "setting")]
    tasks = len({row["task"] for row in rows}) > 1
    for group in ranked(rows)[:most]:
        lines.append(
            (
                percent(group.new),
                percent(group.old),
                f"{group.rows[0]['trainable_parameters']:,}",
                str(len(group.rows)),
                (f"{group.setup.task}: " if tasks else "") + group.label,
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    return "\n".join(
        "  ".join([*(c.rjust(w) for c, w in zip(line, widths, strict=False)), line[4]])
        for line in lines
    )


def _draw(rows: list[Row], path: str | Path) -> None:
    from minilora.experiments.sweep_figure import draw

    draw(rows, path)


EXPERIMENT = Experiment(
    name="sweep",
    question="Which settings of a grid learn the task best?",
    points=lambda rows, plan: [],
    measure=measure,
    draw=_draw,
    answer=answer,
)
