"""The figure of `forgetting`: the plane of learned and forgotten, by old data, task and method."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minilora import plots
from minilora.errors import ConfigError
from minilora.experiments.forgetting.arms import (
    EASY,
    HARD,
    LEVEL,
    Arm,
    Row,
    arms,
    language_rows,
    nll_at,
    rate,
    share,
)
from minilora.experiments.lab.stats import percent, spread

_COMMAND = "minilora experiment forgetting"


def draw(rows: list[Row], path: str | Path) -> None:
    """Five panels: three planes, the language model, and every arm at 90 % of the new skill."""
    every, language = arms(rows), language_rows(rows)
    if not every and not language:
        raise ConfigError(f"there are no reported runs to draw; run `{_COMMAND}` first")
    main = [a for a in every if a.rows[0].get("lr_by") != "other"]
    easy = [a for a in main if a.rows[0]["task"] == EASY]
    hard = [a for a in main if a.rows[0]["task"] == HARD]
    lora = [a for a in easy if a.method == "LoRA q,v r=8"]
    low = 1.5 + 0.23 * len(every)
    with plots.figure(1, width=12, height=8.5 + low) as (fig, whole):
        whole.remove()
        # Two parts that are laid out each by itself: the dots' labels are long.
        top, bottom = fig.subfigures(2, 1, height_ratios=[8.5, low])
        axes = top.subplots(2, 2)
        plane(axes[0, 0], [a for a in easy if a.method == "full"], f"{EASY} (easy): full")
        plane(axes[0, 1], lora, f"{EASY} (easy): LoRA q,v r=8, adapter on")
        plane(axes[1, 0], hard, f"{HARD} (hard): full and LoRA on all seven")
        _language(axes[1, 1], language)
        dots(bottom.subplots(), every)
        text = caption(rows, _COMMAND, "in brackets behind a rate: how it was found")
        plots.save(fig, path, text, _alt(every, language))


def plane(ax: Any, some: Sequence[Arm], title: str, level: float = LEVEL) -> None:
    """Paths of arms over new skill (x) and old skills (y), from top left, where the base is.

    Thin: each seed. Thick: the mean at each step. Marker: the mean over seeds at `level`, with
    their range. The label stands beside the path's end.
    """
    ax.axvline(100 * level, color=plots.FAINT, linewidth=1, zorder=0)
    ax.set(xlim=(-3, 103), ylim=(-4, 104))
    ends, labels = [], []
    several = len({a.method for a in some}) > 1
    dashes = dict(zip(sorted({a.replay for a in some}), plots.DASHES, strict=False))
    for a in some:
        marker = plots.METHODS[a.rows[0]["method"]][0]
        path = _mean_path(a.rows)
        if not path:
            continue
        for r in a.rows:
            ax.plot(*_xy(r["curve"]), dashes[a.replay], color=plots.INK, linewidth=0.5, alpha=0.35)
        ax.plot(*_xy(path), marker, linestyle=dashes[a.replay], color=plots.INK, markersize=3)
        _at_level(ax, a, marker, level)
        ends.append((100 * path[-1]["new"], 100 * path[-1]["old"]))
        words = [_short(a.method)] if several else []
        missed = f" ({a.missed})" if a.missed else ""
        labels.append(", ".join([*words, f"ρ {share(a.replay)}"]) + missed)
    beside(ax, ends, labels)
    if not ends:
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center")
    ax.set(xlabel="new skill, exactly right, %", ylabel="old skills, exactly right, %")
    ax.set_title(title)


def _at_level(ax: Any, a: Arm, marker: str, level: float) -> None:
    mean, low, high = (100 * v for v in spread(a.left))
    if a.left:
        ax.plot([100 * level] * 2, [low, high], "-", color=plots.INK, linewidth=2.5, alpha=0.5)
        ax.plot(100 * level, mean, marker, color=plots.INK, markersize=7)


def _mean_path(rows: Sequence[Row]) -> list[dict[str, float]]:
    """The mean over seeds at each step that all of them have; of runs that held, if any did."""
    held = [r for r in rows if not r.get("diverged")] or list(rows)
    by_step = [{c["step"]: c for c in r["curve"]} for r in held if r.get("curve")]
    steps = sorted(set.intersection(*map(set, by_step))) if by_step else []
    return [
        {k: sum(looks[s][k] for looks in by_step) / len(by_step) for k in ("new", "old")}
        for s in steps
    ]


def _xy(curve: Sequence[Row]) -> tuple[list[float], list[float]]:
    return [100 * c["new"] for c in curve], [100 * c["old"] for c in curve]


def _short(method: str) -> str:
    return method.removesuffix(" r=8")


def beside(
    ax: Any, ends: Sequence[tuple[float, float]], labels: Sequence[str], right: float = 105
) -> None:
    """Labels at x = right, each as near to its path's end as they do not touch, and leaders."""
    low, high = ax.get_ylim()
    size = (high - low) / 100
    places = spread_out([(y - low) / size for _, y in ends], 5)
    for (x, y), place, label in zip(ends, places, labels, strict=True):
        to = low + size * place
        ax.plot([x, right], [y, to], color=plots.INK, linewidth=0.5, alpha=0.5, clip_on=False)
        ax.text(right + 0.7, to, label, va="center", fontsize=9)
    ax.set_ylim(low, high)


def spread_out(
    values: Sequence[float], gap: float, low: float = 0, high: float = 100
) -> list[float]:
    """The values, moved so that they are `gap` apart, in the same order and, if they fit, in range.

    First up from `low`, then down from `high`; what has room stays where it is.
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    placed = list(values)
    for rank, i in enumerate(order):
        least = low if rank == 0 else placed[order[rank - 1]] + gap
        placed[i] = max(placed[i], least)
    top = high
    for i in reversed(order):
        placed[i] = min(placed[i], top)
        top = placed[i] - gap
    return placed


def dots(ax: Any, every: Sequence[Arm]) -> None:
    """Old skills at 90 % of the new one for every arm: mean, range, each seed; and at the end."""
    names = []
    for y, a in enumerate(every):
        marker = plots.METHODS[a.rows[0]["method"]][0]
        here = [100 * v for v in a.left]
        if here:
            mean, low, high = spread(here)
            ax.plot([low, high], [y, y], "-", color=plots.INK, linewidth=2.5, alpha=0.4)
            ax.plot(here, [y] * len(here), "|", color=plots.INK, markersize=7, alpha=0.7)
            ax.plot(mean, y, marker, color=plots.INK, markersize=7)
            end = 100 * spread(a.at_end)[0]
            ax.plot(end, y, marker, color=plots.INK, markerfacecolor="white", markersize=6)
        when = "" if a.step is None else f", step {a.step:.0f}"
        ax.text(103, y, a.kept + when, va="center", fontsize=9)
        how = a.rows[0].get("lr_by", "")
        names.append(f"{a.rows[0]['task']}: {a.label}" + (f" ({how})" if how else ""))
        if y and a.rows[0]["task"] != every[y - 1].rows[0]["task"]:
            ax.axhline(y - 0.5, color=plots.FAINT, linewidth=0.8)
    ax.set_yticks(range(len(names)), names, fontsize=9)
    ax.set(xlim=(-3, 102), ylim=(max(len(names), 1) - 0.4, -0.6))
    ax.grid(axis="x", color=plots.FAINT, linewidth=0.4)
    ax.set_axisbelow(True)
    ax.set_xlabel("old skills, exactly right, % (validation)")
    ax.set_title(
        f"Kept when the new skill is at {share(LEVEL)} (filled: mean; ticks: seeds) and at the end "
        "of training (hollow)"
    )


def _language(ax: Any, rows: Sequence[Row]) -> None:
    ax.set_title("SmolLM2, task orders: loss on general text")
    if not rows:
        ax.text(
            0.5,
            0.5,
            "not measured: run `minilora fetch smollm2`,\nthen the experiment again",
            transform=ax.transAxes,
            ha="center",
            va="center",
        )
        ax.set_axis_off()
        return
    ends, labels = [], []
    for i, r in enumerate(rows):
        x = [100 * c["new"] for c in r["curve"]]
        y = [c["general_nll"] for c in r["curve"]]
        marker, dash = plots.METHODS[r["method"]][0], plots.DASHES[i % len(plots.DASHES)]
        ax.plot(x, y, marker, linestyle=dash, color=plots.INK, markersize=5)
        ends.append((x[-1], y[-1]))
        gone = " (diverged)" if r.get("diverged") else ""
        labels.append(f"{plots.NAMES[r['method']]}, lr {rate(r['lr'])}{gone}")
    ax.axvline(100 * LEVEL, color=plots.FAINT, linewidth=1, zorder=0)
    ax.set_xlim(-3, 103)
    beside(ax, ends, labels)
    ax.set(xlabel="new task, exactly right, %", ylabel="nats a token (up is worse)")


def caption(rows: Sequence[Row], command: str, *more: str, width: int = 210) -> str:
    """For each task its steps, batch and learning rates; seeds, and the command that made it."""
    some = [r for r in rows if r.get("role") == "report"]
    text = []
    for task, steps, size in sorted({(r["task"], r["steps"], r["batch_size"]) for r in some}):
        text.append(f"{task}: {steps} steps of {size}")
        for method in plots.METHODS:
            of_method = {r["lr"] for r in some if (r["task"], r["method"]) == (task, method)}
            if of_method:
                rates = ", ".join(map(rate, sorted(of_method)))
                text[-1] += f", {plots.NAMES[method]} lr {rates}"
    text.append("seeds " + ", ".join(str(s) for s in sorted({r["seed"] for r in some})))
    text.append("ρ: share of old data in every batch; curves on validation")
    return textwrap.fill("; ".join([*text, *more, f"`{command}`"]), width)


def _alt(every: Sequence[Arm], language: Sequence[Row]) -> str:
    text = [
        "Planes of new skill (x, % exactly right) and mean of the old skills (y, %), one path an "
        "arm from the base at the top left; a rule at 90 % of the new skill. Below, old skills "
        "there for every arm.",
        in_words(every),
    ]
    for r in language:
        at = nll_at(r)
        where = "never reached" if at is None else f"{at:.2f}"
        first, last = r["curve"][0]["general_nll"], r["curve"][-1]["general_nll"]
        text.append(
            f"SmolLM2 {plots.NAMES[r['method']]} lr {rate(r['lr'])}: loss on general text "
            f"{first:.2f} before, {where} at 90 % of the new task, {last:.2f} at the end."
        )
    return "\n".join(filter(None, text))


def in_words(every: Sequence[Arm]) -> str:
    """Old skills at 90 % of the new one, arm by arm with the range over seeds, a line each."""
    return "\n".join(
        f"{a.rows[0]['task']}, {a.label}: {a.kept}"
        + (f", at step {a.step:.0f}; {percent(a.at_end)} at the end" if a.step else "")
        for a in every
    )
