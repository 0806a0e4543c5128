"""The figure of a sweep: those panels that its grid's axes allow, a row of them for each task."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minilora import plots
from minilora.errors import ConfigError
from minilora.experiments.lab.experiment import Row
from minilora.experiments.lab.stats import percent, spread
from minilora.experiments.sweep import Group, groups, ranked, surely, targets_text

MOST = 8  # settings that the list of the best shows

Panel = Callable[[Any, list[Group]], None]


def draw(rows: Sequence[Row], path: str | Path) -> None:
    """One picture of all rows. ConfigError if there are none.

    Heat maps and lines show at each place the best of the settings that share it, as chosen by
    validation: nothing is averaged but seeds.
    """
    if not rows:
        raise ConfigError("a sweep without rows has no figure; run `minilora sweep` first")
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    by_task = {task: ranked([row for row in rows if row["task"] == task]) for task in tasks}
    panels = [panel for panel, fits in PANELS if any(fits(each) for each in by_task.values())]
    cells = [(task, panel) for task in tasks for panel in panels]
    columns = len(panels) if len(tasks) > 1 else min(2, len(panels))
    lines = -(-len(cells) // columns)
    height = 1.4 + lines * max(3.6, 1 + 0.36 * len(_axis(groups(rows), "rank")))
    with plots.figure(columns, rows=lines, width=2 + 4.6 * columns, height=height) as (fig, axes):
        grid = list(getattr(axes, "flat", [axes]))
        for ax, (task, panel) in zip(grid, cells, strict=False):
            panel(ax, by_task[task])
            if len(tasks) > 1:
                ax.set_title(f"{task}: {ax.get_title(loc='left')}")
        for ax in grid[len(cells) :]:
            ax.set_axis_off()
        plots.save(fig, path, _caption(rows, by_task, columns), _alt(by_task, panels))


def _caption(rows: Sequence[Row], by_task: dict[str, list[Group]], columns: int) -> str:
    seeds = sorted({row["seed"] for row in rows})
    first = rows[0]
    said = [f"best ({task}), is {each[0].label}: {surely(each[0])}" for task, each in
            by_task.items()]  # fmt: skip
    said.append(
        f"{first['steps']} steps of {first['batch_size']}, seeds {', '.join(map(str, seeds))}; "
        "chosen by validation, shown on test; orange: the best that a panel shows"
    )
    said.append(rows[-1]["command"])
    width = 30 + 62 * columns
    return "\n".join(line for each in said for line in textwrap.wrap(each, width))


def _axis(found: Sequence[Group], name: str) -> list[Any]:
    """The values of a knob of LoRA's, in order."""
    return sorted({getattr(g.setup, name) for g in found if g.setup.method == "lora"})


def _heat(ax: Any, found: list[Group], knob: str, label: str) -> None:
    ranks, values = _axis(found, "rank"), _axis(found, knob)
    cells: dict[tuple[int, int], Group] = {}
    for group in found:  # from best to worst, so the first in a cell is its best
        if group.setup.method == "lora":
            place = ranks.index(group.setup.rank), values.index(getattr(group.setup, knob))
            cells.setdefault(place, group)
    table = [[float("nan")] * len(values) for _ in ranks]
    notes = [[""] * len(values) for _ in ranks]
    for (i, j), group in cells.items():
        mean, low, high = spread(group.new)
        table[i][j] = mean
        notes[i][j] = f"{100 * low:.0f}–{100 * high:.0f}" if len(group.new) > 1 else ""
    plots.heat_map(
        ax,
        table,
        rows=[str(r) for r in ranks],
        columns=[f"{v:g}" for v in values],
        notes=notes if any(any(line) for line in notes) else None,
        ringed=list(cells)[:1],
    )
    ax.set(xlabel=label, ylabel="rank r")
    ax.set_title(f"New task right, %: rank and {label.split(' ')[0]}")


def _rank_alpha(ax: Any, found: list[Group]) -> None:
    _heat(ax, found, "alpha", "α")


def _rank_lr(ax: Any, found: list[Group]) -> None:
    _heat(ax, found, "lr", "lr (highest learning rate)")


def _against_rank(ax: Any, found: list[Group]) -> None:
    """A line for each choice of targets and scaling, at each rank its best α and lr."""
    arms: dict[str, dict[int, Group]] = {}
    for group in found:
        s = group.setup
        if s.method == "lora":
            scaling = ", α/√r" if s.scaling == "sqrt_r" else ""
            arm = arms.setdefault(f"{targets_text(s.target_modules)}{scaling}", {})
            arm.setdefault(s.rank, group)
    ranks = _axis(found, "rank")
    for n, (name, arm) in enumerate(sorted(arms.items())):
        values = [[100 * v for v in arm[r].new] if r in arm else [] for r in ranks]
        plots.spread_line(ax, ranks, values, name, n, direct=False)
    full = next((g for g in found if g.setup.method == "full"), None)
    if full is not None and full.new:
        level = 100 * spread(full.new)[0]
        ax.axhline(level, color=plots.INK, linewidth=0.8, label=f"full, {percent(full.new)}")
    best = next(g for g in found if g.setup.method == "lora")
    if best.new:
        place = best.setup.rank, 100 * spread(best.new)[0]
        ax.plot(*place, "o", color=plots.TRAINABLE, markersize=13, fillstyle="none", zorder=5)
    ax.set_xscale("log", base=2)
    ax.set_xticks(ranks, [str(r) for r in ranks])
    ax.minorticks_off()
    ax.set(xlabel="rank r", ylabel="new task, exactly right, %", ylim=(-4, 104))
    ax.set_title("Accuracy against rank, spread over seeds")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=9, ncols=2)


def _list_of_best(ax: Any, found: list[Group]) -> None:
    """The best settings: mean as a mark, each seed a dot, their range a line."""
    shown = found[:MOST]
    for y, group in enumerate(shown):
        marker, _ = plots.METHODS[group.setup.method]
        mean, low, high = (100 * v for v in spread(group.new))
        ink = plots.TRAINABLE if y == 0 else plots.INK
        ax.plot([low, high], [y, y], color=ink, linewidth=1)
        ax.plot([100 * v for v in group.new], [y] * len(group.new), "|", color=ink, markersize=7)
        ax.plot(mean, y, marker, color=ink, markersize=7)
        above = {"xytext": (0, 6), "textcoords": "offset points", "fontsize": 9}
        ax.annotate(group.label, (0, y), **above)
    ax.set_yticks([])
    ax.set_ylim(len(shown) - 0.5, -0.9)
    ax.set(xlabel="new task, exactly right, %", xlim=(-4, 104))
    more = f" of {len(found)}" if len(found) > MOST else ""
    ax.set_title(f"The best {len(shown)}{more}" if len(found) > 1 else "The one setting")


def _several(name: str) -> Callable[[list[Group]], bool]:
    return lambda found: len(_axis(found, name)) > 1


def _alphas_cross(found: list[Group]) -> bool:
    """Whether α varies by itself, and not only with the rank."""
    pairs = {(g.setup.rank, g.setup.alpha) for g in found if g.setup.method == "lora"}
    return len(pairs) > len({rank for rank, _ in pairs})


PANELS: tuple[tuple[Panel, Callable[[list[Group]], bool]], ...] = (
    (_rank_alpha, _alphas_cross),
    (_rank_lr, _several("lr")),
    (_against_rank, _several("rank")),
    (_list_of_best, lambda found: True),
)


def _alt(by_task: dict[str, list[Group]], panels: list[Panel]) -> str:
    names: dict[Panel, str] = {
        _rank_alpha: "a heat map of rank against alpha",
        _rank_lr: "a heat map of rank against learning rate",
        _against_rank: "lines of accuracy against rank",
        _list_of_best: "a list of the best settings",
    }
    said = [f"A sweep, with {', '.join(names[p] for p in panels)}. Shares of the new task's test "
            "questions that were answered exactly right."]  # fmt: skip
    for task, found in by_task.items():
        said.append(f"{task}: best is {found[0].label}: {surely(found[0])}. All settings:")
        said += [f"  {g.label}: new {percent(g.new)}, old {percent(g.old)}" for g in found]
    return "\n".join(said)
