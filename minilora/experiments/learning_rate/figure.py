"""The figure of `learning_rate`: accuracy by rate, best rate by rank, variants at their best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilora import plots
from minilora.errors import ConfigError
from minilora.experiments.lab import stats
from minilora.experiments.lab.learning_rates import as_good, best_lr
from minilora.experiments.lab.stats import column
from minilora.experiments.learning_rate.rows import FULL, Row, ranks, ratio, tries, variants

ALL_LINEAR = "LoRA all-linear r = 8"


def draw(rows: list[Row], path: str | Path) -> None:
    """Three panels, those without rows said to be so. ConfigError if no row can be drawn."""
    if not rows:
        raise ConfigError(
            "there are no rows to draw; measure some with `minilora experiment learning_rate`"
        )
    with plots.figure(3, width=14, height=4.8) as (fig, axes):
        words = [
            _rates(axes[0], tries(rows)),
            _by_rank(axes[1], rows),
            _variants(axes[2], variants(rows)),
        ]
        plots.save(fig, path, _caption(rows), "\n".join(words))


def _rates(ax: Any, arms: dict[str, list[Row]]) -> str:
    """Accuracy over learning rate, an arm a line, the best ringed."""
    title = "Which learning rate does an arm want?"
    ax.set_title(title)
    arms = {n: each for n, each in arms.items() if n == FULL or n.startswith("LoRA ")}
    if not any(column(each, "new_validation") for each in arms.values()):
        return plots.not_measured(ax, title)
    words = [f"{title} New skill right on validation, over learning rate; best starred."]
    bests: dict[float, list[str]] = {}
    for arm, (name, each) in enumerate(arms.items()):
        lrs, best = sorted({r["lr"] for r in each}), best_lr(each)
        values = {lr: column(stats.where(each, lr=lr), "new_validation") for lr in lrs}
        plots.spread_line(
            ax, lrs, [[100 * v for v in values[lr]] for lr in lrs], name, arm, direct=False
        )
        if best is not None and values[best]:
            top = 100 * stats.spread(values[best])[0]
            ax.plot(best, top, "o", markersize=12, markerfacecolor="none", color=plots.TRAINABLE)
            bests.setdefault(best, []).append(_short(name))
        words.append(
            f"  {name}: "
            + ", ".join(
                f"{lr:g}{'*' if lr == best else ''} {stats.percent(values[lr])}" for lr in lrs
            )
        )
    ax.set_xscale("log")
    for lr, names in bests.items():
        ax.text(lr, 106, "\n".join(reversed(names)), ha="center", va="bottom", fontsize=9)
    room = 9 * max(map(len, bests.values()), default=0)
    ax.set(xlabel="learning rate", ylabel="new skill right, %", ylim=(-4, 108 + room))
    ax.set_yticks(range(0, 101, 20))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9, handlelength=3.4)
    return "\n".join(words)


def _by_rank(ax: Any, rows: list[Row]) -> str:
    """The best rate by rank, with those that cannot be told from it; full's, and ten times that."""
    title = "Best learning rate by rank"
    ax.set_title(title)
    found, arms = ranks(rows), tries(rows)
    full = arms.get(FULL, [])
    if not found:
        return plots.not_measured(ax, title)
    words = [f"{title}, and the rates that cannot be told from it."]
    series = {f"LoRA on q, v, r = {r}": (float(r), each) for r, each in found.items()}
    if ALL_LINEAR in arms:
        series[ALL_LINEAR] = (8.0 * 1.18, arms[ALL_LINEAR])
    for name, (x, each) in series.items():
        best, good = best_lr(each), as_good(each)
        if best is None:
            continue
        marker = "D" if name == ALL_LINEAR else "o"
        label = "all-linear, r = 8" if marker == "D" else "q, v" if x == min(found) else None
        ax.plot([x, x], [good[0], good[-1]], "-", color=plots.INK, linewidth=4, alpha=0.25)
        ax.plot(x, best, marker, color=plots.INK, markersize=8, label=label)
        times = ratio(each, full)
        of_full = f", {times[0]:.2g} times full's" if times else ""
        words.append(f"  {name}: {best:g} ({good[0]:g} to {good[-1]:g}){of_full}")
    if best_full := best_lr(full):
        good = as_good(full)
        ax.axhspan(good[0] / 1.08, good[-1] * 1.08, color=plots.INK, alpha=0.1, linewidth=0)
        ax.axhline(best_full, color=plots.INK, linestyle="-", linewidth=1.2, label="full")
        ax.axhline(10 * best_full, color=plots.INK, linestyle=":", label="10 × full")
        words.append(f"  full: {best_full:g} ({good[0]:g} to {good[-1]:g})")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(sorted(found), [str(r) for r in sorted(found)])
    low, high = ax.get_ylim()
    ax.set(xlabel="rank r", ylabel="best learning rate", ylim=(low / 1.5, high * 8))
    ax.legend(loc="upper left", ncols=2, fontsize=9, columnspacing=1)
    return "\n".join(words)


def _variants(ax: Any, arms: dict[str, list[Row]]) -> str:
    """Each seed a dot, the mean a line: test accuracy at the arm's own best rate."""
    title = "Variants at r = 8, each at its best"
    ax.set_title(title)
    arms = {n: each for n, each in arms.items() if column(each, "new")}
    if not arms:
        return plots.not_measured(ax, title)
    words = [f"{title}: new skill right on the test."]
    for y, (name, each) in enumerate(arms.items()):
        values = [100 * v for v in column(each, "new")]
        mean, low, high = stats.spread(values)
        ax.plot([low, high], [y, y], "-", color=plots.FAINT, linewidth=2, zorder=1)
        ax.plot(values, [y] * len(values), "o", color=plots.INK, markersize=5, alpha=0.6)
        ax.plot(mean, y, "|", color=plots.INK, markersize=20, markeredgewidth=2)
        words.append(f"  {name}: {stats.percent(column(each, 'new'))} at lr {each[0]['lr']:g}")
    labels = []
    for name, each in arms.items():
        mean, _, _ = stats.spread(column(each, "step_90"))
        soon = "90 % never" if mean != mean else f"90 % at step {mean:.0f}"
        labels.append(f"{name}\nlr {each[0]['lr']:g}\n{soon}")
    ax.set_yticks(range(len(arms)), labels, fontsize=9)
    ax.set_ylim(len(arms) - 0.5, -0.5)
    ax.set(xlabel="new skill right on the test, %")
    ax.margins(x=0.1)
    return "\n".join(words)


def _short(name: str) -> str:
    """An arm's name where there is little room: `r = 4`, `all` (linears), `full`."""
    return "all" if name == ALL_LINEAR else name.removeprefix("LoRA ")


def _caption(rows: list[Row]) -> str:
    tried, told = (stats.where(rows, role=role) for role in ("choose", "report"))
    return (
        f"{_all(rows, 'task')}, {_all(rows, 'steps')} steps of {_all(rows, 'batch_size')}, "
        f"LoRA with α = 2r on q_proj,v_proj unless said; rates tried with seeds "
        f"{_all(tried, 'seed')} on validation, reported with seeds {_all(told, 'seed')} on the "
        "test\nring: best by likelihood; bar, band: rates whose mean lies within the spread of the "
        "best; shaded: range over seeds; minilora experiment learning_rate"
    )


def _all(rows: list[Row], what: str) -> str:
    return ", ".join(str(v) for v in sorted({r[what] for r in rows})) or "none"
