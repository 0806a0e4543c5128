"""The figure of `rank_alpha`: where the best learning rate lies, what α does, what rank holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minilora import plots
from minilora.errors import ConfigError
from minilora.experiments.lab import stats
from minilora.experiments.lab.learning_rates import SCORE
from minilora.experiments.lab.stats import column
from minilora.experiments.rank_alpha.rows import (
    ALPHA,
    ALPHA_LR,
    LR,
    MEMORY,
    Row,
    easy,
    few,
    gap,
    memories,
    rank_by_alpha,
    scaled,
)

NAMES = {"r": "α/r", "sqrt_r": "α/√r"}


def draw(rows: list[Row], path: str | Path) -> None:
    """Six panels, those without rows said to be so. ConfigError if no row can be drawn."""
    if not any("lr" in r for r in rows):
        raise ConfigError(
            "there are no rows to draw; measure some with `minilora experiment rank_alpha`"
        )
    with plots.figure(3, rows=2, width=13, height=8.4) as (fig, axes):
        words = [
            heat(axes[0, 0], scaled(rows, "r"), "lr", f"Scaling α/r, α = {ALPHA}"),
            heat(axes[0, 1], scaled(rows, "sqrt_r"), "lr", f"Scaling α/√r, α = {ALPHA}"),
            heat(axes[0, 2], rank_by_alpha(rows), "alpha", f"α by rank at lr {LR:g}, α/r"),
            _products(axes[1, 0], stats.where(rows, arm=ALPHA_LR)),
            capacity_by_rank(axes[1, 1], rows),
            gap_by_rank(axes[1, 2], rows),
        ]
        plots.save(fig, path, _caption(rows), "\n".join(words))


def heat(ax: Any, rows: list[Row], by: str, title: str) -> str:
    """Accuracy by rank and `by`, the best of each row ringed; the same in words."""
    ax.set_title(title)
    if not rows:
        return plots.not_measured(ax, title)
    ranks, columns = sorted({r["rank"] for r in rows}), sorted({r[by] for r in rows})
    cells = [[column(stats.where(rows, rank=r, **{by: c}), "new") for c in columns] for r in ranks]
    ringed = []
    for i, r in enumerate(ranks):
        some = stats.where(rows, rank=r)
        if len({row[by] for row in some}) > 1:  # of one alone, to be the best says nothing
            ringed.append((i, columns.index(stats.best(some, by, SCORE))))
    plots.heat_map(
        ax,
        [[stats.spread(v)[0] for v in row] for row in cells],
        rows=[str(r) for r in ranks],
        columns=[f"{c:g}" for c in columns],
        notes=[[_range(v) for v in row] for row in cells],
        ringed=ringed,
    )
    ax.set(xlabel="learning rate" if by == "lr" else "α", ylabel="rank r")
    lines = [f"{title}: new skill right on the test, by rank and {by}; best on validation starred."]
    for i, (r, row) in enumerate(zip(ranks, cells, strict=True)):
        shown = [
            f"{c:g}{'*' if (i, j) in ringed else ''} {stats.percent(v)}"
            for j, (c, v) in enumerate(zip(columns, row, strict=True))
        ]
        lines.append(f"  r = {r}: {', '.join(shown)}")
    return "\n".join(lines)


def _range(values: list[float]) -> str:
    """`94 to 100`, in percent; nothing for one value."""
    if len(values) < 2:
        return ""
    return f"{100 * min(values):.0f} to {100 * max(values):.0f}"


def _products(ax: Any, rows: list[Row]) -> str:
    """Accuracy over α·lr, one line an α."""
    title = f"One knob? α·lr at r = {rows[0]['rank']}" if rows else "One knob? α·lr"
    ax.set_title(title)
    if not column(rows, "new"):
        return plots.not_measured(ax, title)
    lines = {}
    for a in sorted({r["alpha"] for r in rows}):
        some = stats.where(rows, alpha=a)
        lines[f"α = {a:g}"] = {a * lr: column(stats.where(some, lr=lr), "new") for lr in _lrs(some)}
    ax.set_xscale("log")
    return _lines(ax, lines, title, "α · learning rate", "new skill right, %")


def capacity_by_rank(ax: Any, rows: list[Row]) -> str:
    """Share of the facts' bits that is stored, and accuracy of the easy task, by rank."""
    title = "Capacity: what a rank holds"
    ax.set_title(title)
    lines = {}
    for n, ranks in memories(rows).items():
        bits = next(iter(ranks.values()))[0]["information_bits"]
        label = f"{n} facts, {bits:,.0f} bits"
        lines[label] = {r: column(each, "share") for r, each in ranks.items()}
    some = easy(rows)
    if some:
        task = next(iter(some.values()))[0]["task"]
        lines[f"{task}, right"] = {r: column(each, "new") for r, each in some.items()}
    if not any(any(v for v in line.values()) for line in lines.values()):
        return plots.not_measured(ax, title)
    _rank_axis(ax, {r for line in lines.values() for r in line})
    return _lines(ax, lines, title, "rank r", "bits stored, or answers right, %")


def gap_by_rank(ax: Any, rows: list[Row]) -> str:
    """Training less test accuracy by rank, one line for each number of examples."""
    title = "Overfitting: training less test"
    ax.set_title(title)
    lines = {
        f"{n} examples": {
            r: [g for g in map(gap, each) if g is not None] for r, each in ranks.items()
        }
        for n, ranks in few(rows).items()
    }
    if not any(any(v for v in line.values()) for line in lines.values()):
        return plots.not_measured(ax, title)
    _rank_axis(ax, {r for line in lines.values() for r in line})
    words = _lines(ax, lines, title, "rank r", "gap in accuracy, percentage points")
    for n, ranks in few(rows).items():
        for r, each in ranks.items():
            train, test = (stats.percent(column(each, k)) for k in ("train", "new"))
            words += f"\n  {n} examples, r = {r}: training {train}, test {test}"
    return words


def _lines(
    ax: Any,
    lines: Mapping[str, Mapping[Any, list[float]]],
    title: str,
    x: str,
    y: str,
) -> str:
    """One line a label, in percent, with room for the legend above them; the same in words."""
    words = [f"{title}: {y}, over {x}."]
    for arm, (label, line) in enumerate(lines.items()):
        xs = sorted(line)
        values = [[100 * v for v in line[a]] for a in xs]
        plots.spread_line(ax, xs, values, label, arm, direct=False)
        words.append(f"  {label}: " + ", ".join(f"{a:g}: {stats.percent(line[a])}" for a in xs))
    ax.set(xlabel=x, ylabel=y)
    low, high = (-4, 104) if "%" in y else (min(0, ax.get_ylim()[0]), ax.get_ylim()[1])
    ax.set_ylim(low, high)
    ax.set_yticks([t for t in (range(0, 101, 20) if "%" in y else ax.get_yticks()) if t <= high])
    ax.set_ylim(low, high + (0.1 * len(lines) + 0.04) * (high - low))
    ax.legend(loc="upper left", fontsize=9, handlelength=3.4, borderaxespad=0.1)
    return "\n".join(words)


def _rank_axis(ax: Any, ranks: set[int]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(ranks), [str(r) for r in sorted(ranks)])


def _lrs(rows: list[Row]) -> list[float]:
    return sorted({r["lr"] for r in rows})


def _caption(rows: list[Row]) -> str:
    """Task, steps, batch, learning rates, seeds, command; memory apart, as it has its own."""
    tuned = [r for r in rows if "lr" in r and r["arm"] != MEMORY]
    parts = []
    if tuned:
        parts.append(
            f"{_all(tuned, 'task')}, LoRA on q_proj,v_proj, {_all(tuned, 'steps')} steps of "
            f"{_all(tuned, 'batch_size')}, seeds {_all(tuned, 'seed')}; in the cells mean and "
            "range of test accuracy, %, ring: best on validation"
        )
    remembered = stats.where(rows, arm=MEMORY, role="report")
    if remembered:
        parts.append(
            f"facts: α = 2r, {_all(remembered, 'steps')} steps, all facts in a batch, lr "
            f"{_all(remembered, 'lr')}, seeds {_all(remembered, 'seed')}"
        )
    chosen = {r: each for ranks in few(rows).values() for r, each in ranks.items()}
    lrs = [f"{_all(each, 'lr')} at r = {r}" for r, each in sorted(chosen.items())]
    if lrs:
        parts.append(
            f"few examples: lr as is best for the rank with 8,000 of them, {', '.join(lrs)}"
        )
    return "\n".join([*parts, "minilora experiment rank_alpha"])


def _all(rows: list[Row], what: str) -> str:
    values = sorted({r[what] for r in rows})
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
