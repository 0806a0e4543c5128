"""The figure of `targets`: sets of matrices down the side, what each has learnt across."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilora import plots
from minilora.errors import ConfigError
from minilora.experiments.lab import stats
from minilora.experiments.lab.experiment import Row

# The LoRA paper, arXiv 2106.09685, table 5: WikiSQL, accuracy in %; GPT-3, 18 million parameters.
TABLE_5 = {"q": 70.4, "k": 70.0, "v": 73.0, "o": 73.2, "q+v": 73.7, "q+k+v+o": 73.7}

# Under numbers, so that no line runs through them.
_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1}


def draw(rows: list[Row], path: str | Path, tasks: tuple[str, ...], arms: tuple[str, ...]) -> None:
    """A panel a task, and the published numbers beside them.

    tasks, arms   in the order in which they are drawn; those without rows are left out
    """
    reported = stats.where(rows, role="report")
    if not reported:
        raise ConfigError("targets: there are no reported rows to draw; run the experiment first")
    tasks = tuple(t for t in tasks if any(r["task"] == t for r in reported))
    arms = tuple(a for a in arms if any(r["arm"] == a for r in reported))
    with plots.figure(len(tasks) + 1, width=4.4 * (len(tasks) + 1), height=5) as (fig, axes):
        for ax, task in zip(axes, tasks, strict=False):
            _task(ax, arms, [r for r in reported if r["task"] == task])
            ax.set_title(f"{task}: {_steps(reported, task)} steps")
        _published(axes[-1], arms)
        for ax in axes[1:]:
            ax.set_yticks(range(len(arms)), [""] * len(arms))
        axes[0].set_yticks(range(len(arms)), [_label(arm, reported) for arm in arms])
        axes[0].set_ylabel("adapted matrices, rank, trained parameters")
        for ax in axes:
            ax.set_ylim(len(arms) - 0.4, -0.6)
            ax.grid(axis="y", color=plots.FAINT, linewidth=0.5)
            ax.tick_params(axis="y", length=0)
        plots.save(fig, path, _caption(rows, reported), _alt(arms, tasks, reported))


def _label(arm: str, reported: list[Row]) -> str:
    counts = [r["trainable_parameters"] for r in reported if r["arm"] == arm]
    known = [n for n in counts if n]
    return f"{arm}: {known[0]:,}" if known else arm


def _steps(reported: list[Row], task: str) -> str:
    return " or ".join(str(n) for n in sorted({r["steps"] for r in reported if r["task"] == task}))


def _task(ax: Any, arms: tuple[str, ...], rows: list[Row]) -> None:
    for y, arm in enumerate(arms):
        # A run that failed has learnt nothing: it counts, as 0.
        found = [100 * (r.get("new") or 0.0) for r in rows if r["arm"] == arm]
        if not found:
            ax.text(2, y, "not measured", va="center", fontsize=9, bbox=_PAPER)
            continue
        mean, low, high = stats.spread(found)
        ax.plot([low, high], [y, y], color=plots.INK, linewidth=1.2)
        ax.plot(found, [y] * len(found), "o", color=plots.INK, markersize=4, alpha=0.35)
        ax.plot(mean, y, "D", color=plots.INK, markersize=7)
        lrs = "/".join(f"{lr:g}" for lr in sorted({r["lr"] for r in rows if r["arm"] == arm}))
        # On the side where there is room.
        left = high > 60
        place = {"xytext": (-8 if left else 8, 0), "textcoords": "offset points", "fontsize": 9}
        side = {"ha": "right" if left else "left", "va": "center", "bbox": _PAPER}
        ax.annotate(f"{mean:.0f}  (lr {lrs})", (low if left else high, y), **place, **side)
    ax.set(xlabel="new skill exactly right, % (test)", xlim=(-4, 104))


def _published(ax: Any, arms: tuple[str, ...]) -> None:
    seen = set()
    for y, arm in enumerate(arms):
        name = arm.split(" r=")[0]
        if name in TABLE_5 and name not in seen:
            ax.plot(TABLE_5[name], y, "D", color=plots.INK, markerfacecolor="white", markersize=7)
            place = {"xytext": (9, 0), "textcoords": "offset points", "fontsize": 9}
            ax.annotate(
                f"{TABLE_5[name]:.1f}", (TABLE_5[name], y), va="center", bbox=_PAPER, **place
            )
        elif name not in seen:
            ax.text(69.7, y, "not in the table", va="center", fontsize=9, bbox=_PAPER)
        seen.add(name)
    ax.set(xlabel="WikiSQL, right, %", xlim=(69.5, 74.9))
    ax.set_title("published: GPT-3, 18 M parameters")


def _caption(rows: list[Row], reported: list[Row]) -> str:
    some = reported[0]
    tried = sorted({r["lr"] for r in stats.where(rows, role="choose")})
    seeds = ", ".join(map(str, sorted({r["seed"] for r in reported})))
    chosen = f"lr of each arm the best of {', '.join(f'{lr:g}' for lr in tried)} on validation"
    return (
        "LoRA on base skills at one budget of parameters, α = 2r, batch "
        f"{some['batch_size']}; {chosen if tried else 'lr as written'}. Diamond: mean, dots: seeds "
        f"{seeds}, line: their range.\nRight: LoRA paper, arXiv 2106.09685, table 5, one number a "
        "set, accuracy from 69.5 % up.  minilora experiment targets"
    )


def _alt(arms: tuple[str, ...], tasks: tuple[str, ...], reported: list[Row]) -> str:
    said = ["Dot plot. Down: sets of adapted matrices; across: accuracy in %."]
    for task in tasks:
        of_task = [r for r in reported if r["task"] == task]
        parts = []
        for arm in arms:
            found = [r.get("new") or 0.0 for r in of_task if r["arm"] == arm]
            parts.append(f"{_label(arm, reported)} parameters, {stats.percent(found)}")
        said.append(f"Panel {task}, mean (range over seeds): {'; '.join(parts)}.")
    published = ", ".join(f"{name} {value}" for name, value in TABLE_5.items())
    said.append(f"Last panel, LoRA paper's table 5, WikiSQL: {published}.")
    return "\n".join(said)
