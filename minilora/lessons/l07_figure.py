"""Figures and tables of lesson 07: best rates by rank, what rank holds, one setting, targets."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minilora import plots
from minilora.errors import ConfigError
from minilora.experiments import targets
from minilora.experiments.lab.stats import column, percent, where
from minilora.experiments.rank_alpha.figure import NAMES, capacity_by_rank, gap_by_rank, heat
from minilora.experiments.rank_alpha.rows import (
    ALPHA,
    ALPHA_LR,
    FEW,
    LR,
    MEMORY,
    R_ALPHA,
    R_LR,
    Row,
    by_rank,
    rank_by_alpha,
    scaled,
)
from minilora.experiments.targets_figure import TABLE_5

_COMMAND = "minilora experiment rank_alpha"
# A share of the loss that is as good as none; where the axis ends.
_LEAST = 1e-12


def table(rows: list[Row]) -> list[list[str]]:
    """Heads, then a line for each scaling and rank: new skill right by learning rate."""
    lrs = sorted({r["lr"] for r in where(rows, arm=R_LR)})
    body = [
        [name, str(rank), *(percent(column(where(each, lr=lr), "new")) for lr in lrs)]
        for scaling, name in NAMES.items()
        for rank, each in by_rank(scaled(rows, scaling)).items()
    ]
    return [["scaling", "r", *(f"lr {lr:g}" for lr in lrs)], *body]


def draw_rates(rows: list[Row], path: str | Path) -> None:
    """Accuracy by rank and learning rate, under α/r and under α/√r, the best of a rank ringed.

    ConfigError without rows of that grid.
    """
    some = _of(rows, R_LR)
    with plots.figure(2, width=9.5, height=4.2) as (fig, axes):
        words = [
            heat(ax, scaled(rows, scaling), "lr", f"Scaling {name}, α = {ALPHA}")
            for ax, (scaling, name) in zip(axes, NAMES.items(), strict=True)
        ]
        caption = f"{_about(some)}: new skill right on the test, %, and the range; ring: best on"
        plots.save(fig, path, f"{caption} validation\n{_COMMAND}", "\n".join(words))


def draw_room(rows: list[Row], path: str | Path) -> None:
    """Left what a rank holds of facts, right training less test with few examples."""
    some = _of(rows, MEMORY, FEW)
    with plots.figure(2, width=10, height=4.6) as (fig, axes):
        words = [capacity_by_rank(axes[0], rows), gap_by_rank(axes[1], rows)]
        seeds = sorted({r["seed"] for r in some if r.get("role") == "report"})
        caption = (
            "each rank at a learning rate of its own; shaded: range over seeds "
            f"{', '.join(map(str, seeds))}; {_COMMAND}"
        )
        plots.save(fig, path, caption, "\n".join(words))


def draw_planted(
    ranks: Sequence[int],
    losses: Sequence[float],
    floors: Sequence[float],
    true: int,
    path: str | Path,
) -> None:
    """Loss that LoRA of each rank ends with, and the least that the rank allows."""
    with plots.figure(1, width=8, height=3.9) as (fig, ax):
        for values, marker, dash, size, label in (
            (floors, "s", "none", 11, "least that rank r allows"),
            (losses, "o", "-", 5, "LoRA of rank r, trained"),
        ):
            shown = [max(_LEAST, v) for v in values]
            face = "none" if marker == "s" else plots.INK
            style = {"linestyle": dash, "marker": marker, "markersize": size}
            ax.plot(ranks, shown, color=plots.INK, markerfacecolor=face, label=label, **style)
        ax.axvline(true, color=plots.FAINT, linewidth=0.8, zorder=0)
        ax.text(true + 0.15, 1, f"planted rank: {true}", va="top")
        ax.set_yscale("log")
        ax.set_ylim(_LEAST / 10, 4)
        ax.set_xticks(ranks, [str(r) for r in ranks])
        ax.set(xlabel="rank r", ylabel="loss, share of the base's")
        ax.legend(loc="lower left")
        pairs = zip(ranks, losses, floors, strict=True)
        told = "; ".join(
            f"r = {r}: {max(_LEAST, x):.2g}, least {max(_LEAST, f):.2g}" for r, x, f in pairs
        )
        alt = (
            f"Loss over rank, logarithmic, with a line at the planted rank {true}. What LoRA ends "
            f"with, and the least possible (no lower than {_LEAST:g} is shown): {told}."
        )
        plots.save(fig, path, f"what is below {_LEAST:g} is drawn there", alt)


def knobs(rows: list[Row]) -> dict[str, list[Any]]:
    """Every r, α and learning rate that was measured under α/r with a curve."""
    some = _curves(rows)
    return {k: sorted({r[v] for r in some}) for k, v in _KNOBS.items()}


_KNOBS = {"r": "rank", "alpha": "alpha", "lr": "lr"}


def nearest(rows: list[Row], r: int, alpha: float, lr: float) -> list[Row]:
    """All seeds of that setting; if it was not measured, of the one of its rank next to it in α·lr.

    Of several as near, the one whose α is nearest.
    """
    some = where(_curves(rows), rank=r)
    if not some:
        raise ConfigError(f"no curve of r = {r} to draw; run `{_COMMAND}` first")

    def off(row: Row) -> tuple[float, float]:
        product, a = row["alpha"] * row["lr"] / (alpha * lr), row["alpha"] / alpha
        return round(abs(math.log(product)), 6), round(abs(math.log(a)), 6)

    best = min(some, key=off)
    return where(some, alpha=best["alpha"], lr=best["lr"])


def draw_knobs(
    rows: list[Row], r: int | None, alpha: float | None, lr: float | None, path: str | Path
) -> None:
    """The learning curve of a setting, or of the nearest one; without a setting a map r × α."""
    if r is None or alpha is None or lr is None:
        some = rank_by_alpha(rows)
        if not some:
            raise ConfigError(f"no rows of r × α to draw; run `{_COMMAND}` first")
        with plots.figure(1, width=7, height=4.2) as (fig, ax):
            words = heat(ax, some, "alpha", f"New skill right, by r and α at lr {LR:g}, %")
            caption = f"{_about(some)}; test; ring: best on validation\n{_COMMAND}"
            plots.save(fig, path, caption, words)
        return
    some = nearest(rows, r, alpha, lr)
    a, rate = some[0]["alpha"], some[0]["lr"]
    title = f"r = {r}, α = {a:g}, lr {rate:g}: s = α/r = {a / r:g}, α·lr = {a * rate:.3g}"
    if (a, rate) != (alpha, lr):
        title = f"α = {alpha:g}, lr {lr:g} not measured; nearest in α·lr:\n{title}"
    steps = sorted({c["step"] for s in some for c in s["curve"]})
    told = [f"{title}. Right on validation, over steps."]
    with plots.figure(1, width=7, height=4.2) as (fig, ax):
        ax.set_title(title)
        ends = {}
        for arm, (what, label) in enumerate((("new", "new skill"), ("old", "old skills"))):
            values = [
                [100 * c[what] for s in some for c in s["curve"] if c["step"] == step]
                for step in steps
            ]
            plots.spread_line(ax, steps, values, label, arm, direct=False)
            ends[label] = _mean(values[-1])
            each = zip(steps, values, strict=True)
            told.append(f"{label}: " + ", ".join(f"{n} {_mean(v):.0f} %" for n, v in each) + ".")
        for label, side in zip(sorted(ends, key=lambda e: ends[e]), ("top", "bottom"), strict=True):
            place = {"xytext": (8, 0), "textcoords": "offset points"}
            ax.annotate(label, (steps[-1], ends[label]), va=side, **place)
        ax.set(xlabel="step", ylabel="answers right, %", ylim=(-4, 104))
        ax.set_xticks(steps)
        ax.set_xlim(-0.03 * max(steps), 1.18 * max(steps))
        caption = f"{_about(some)}; validation\n{_COMMAND}"
        plots.save(fig, path, caption, " ".join(told))


def by_targets(rows: list[Row]) -> list[list[str]]:
    """Heads, then a line for each set of matrices: numbers trained, what it learns, the paper.

    The paper's are of another model and task: only their order can be compared.
    """
    reported = where(rows, role="report")
    body = []
    for arm in targets.arms():
        of_arm = [where(reported, arm=arm.name, task=task) for task in targets.TASKS]
        shares = [percent(r["new"] for r in each) for each in of_arm]
        paper = TABLE_5.get(targets.set_of(arm.name))
        body.append([arm.name, f"{arm.parameters:,}", *shares, f"{paper} %" if paper else "–"])
    return [["matrices", "trained", *targets.TASKS, "LoRA paper"], *body]


def claims(rows: list[Row]) -> list[tuple[str, str, str]]:
    """Task, claim and verdict, of all that `targets` says of its rows."""
    found = []
    for line in targets.answer(rows).splitlines():
        for claim, verdict in re.findall(r"That ([^:]+): ([a-z ]+) \(", line):
            found.append((line.split(":")[0], claim, verdict))
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _curves(rows: list[Row]) -> list[Row]:
    """Tunings under α/r; of a run that was measured for two questions, once."""
    return [
        row
        for arm in (R_LR, ALPHA_LR, R_ALPHA)
        for row in where(rows, arm=arm, scaling="r")
        if row.get("curve")
    ]


def _of(rows: list[Row], *arms: str) -> list[Row]:
    some = [r for r in rows if r["arm"] in arms]
    if not some:
        raise ConfigError(f"there are no rows to draw; run `{_COMMAND}` first")
    return some


def _about(rows: list[Row]) -> str:
    first, seeds = rows[0], sorted({r["seed"] for r in rows})
    return (
        f"{first['task']}, LoRA on q_proj and v_proj, {first['steps']} steps of "
        f"{first['batch_size']}, seeds {', '.join(map(str, seeds))}"
    )
