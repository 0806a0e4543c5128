"""The figure of `relatives`: what a budget buys, and what a step of it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilora import plots
from minilora.errors import ConfigError
from minilora.experiments.lab import stats
from minilora.experiments.relatives.arms import MIDDLE, Measured, Row, measured

Ending = tuple[str, float, float]  # a method's name, and where its line ends
NEAR, HIGH = 55, 13  # names nearer to one another than that, in points, are moved apart


def draw(rows: list[Row], path: str | Path) -> None:
    """Two panels. ConfigError if no row can be drawn."""
    arms = measured(rows)
    if not any(a.parameters for a in arms):
        raise ConfigError(
            "there are no rows to draw; measure some with `minilora experiment relatives`"
        )
    with plots.figure(2, width=13, height=5) as (fig, axes):
        words = [learnt(axes[0], arms), cost(axes[1], arms)]
        plots.save(fig, path, caption(rows, arms), "\n".join(words))


def methods(arms: list[Measured]) -> dict[str, list[Measured]]:
    """Method → its arms, the smallest first; full fine-tuning is a line, and not among them."""
    found: dict[str, list[Measured]] = {}
    for a in sorted((a for a in arms if a.parameters), key=lambda a: a.parameters or 0):
        if a.method != "full":
            found.setdefault(a.method, []).append(a)
    return found


def learnt(ax: Any, arms: list[Measured]) -> str:
    """New skill over trained parameters, a method a line, full across."""
    title = "What a budget buys"
    ax.set_title(title)
    some = [a for a in arms if a.new]
    if not some:
        return plots.not_measured(ax, title)
    words = [f"{title}: new skill right on the test, by trained parameters."]
    lines = {m: [(a, [100 * v for v in a.new]) for a in each] for m, each in methods(some).items()}
    endings = []
    for method, each in lines.items():
        xs = [a.parameters or 0 for a, _ in each]
        endings.append(_line(ax, method, xs, [values for _, values in each]))
        said = ", ".join(f"{a.parameters:,} {stats.percent(a.new)}" for a, _ in each)
        words.append(f"  {plots.NAMES[method]}: {said}")
    for a in some:
        if a.method == "full":
            _across(ax, [100 * v for v in a.new], f"full, {a.parameters:,}")
            words.append(f"  full: {a.parameters:,} {stats.percent(a.new)}")
    _axes(ax)
    ax.set(ylabel="new skill right on the test, %", ylim=(-4, 108))
    _name(ax, endings)
    return "\n".join(words)


def cost(ax: Any, arms: list[Measured]) -> str:
    """A step's work and time against full fine-tuning's: arms of the middle budget or of none."""
    title = "What a step costs"
    ax.set_title(title)
    opened = [(a, a.books) for a in arms if a.books and not a.refused]
    line = next((b for a, b in opened if a.method == "full"), None)
    some = [(a, b) for a, b in opened if a.budget in (None, MIDDLE)]
    if line is None or len(some) < 2:
        return plots.not_measured(ax, title)
    words = [
        f"{title}, at about {MIDDLE:,} trained numbers or a method's one size: multiplications and "
        "additions, and time, as multiples of full's."
    ]
    names = []
    for y, (a, b) in enumerate(some):
        work, time = b["flops"]["total"] / line["flops"]["total"], b["times_full"]
        ax.plot([work, time], [y, y], "-", color=plots.FAINT, zorder=1)
        for x, fill in ((time, "white"), (work, plots.INK)):
            ax.plot(x, y, "o", color=plots.INK, markerfacecolor=fill, markersize=7)
        above: Any = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
        ax.annotate(f"{work:.2f}", (work, y), fontsize=9, **above)
        names.append(f"{a.name}\n{a.parameters:,}")
        words.append(f"  {a.name}, {a.parameters:,} numbers: {work:.2f} and {time:.2f}")
    ax.set_yticks(range(len(some)), names, fontsize=9)
    ax.set_ylim(len(some) - 0.5, -0.6)
    ax.axvline(1, color=plots.INK, linewidth=1)
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, 0.45), max(high, 2) * 1.5)
    ticks = [t for t in (0.5, 1, 2, 4, 8, 16) if t < ax.get_xlim()[1]]
    ax.set_xticks(ticks, [f"{t:g}×" for t in ticks])
    ax.minorticks_off()
    ax.set(xlabel="against a step of full fine-tuning: ● work, ○ time")
    return "\n".join(words)


def _line(ax: Any, method: str, xs: list[int], values: list[list[float]]) -> Ending:
    """Means joined, the range over seeds as a bar; where the line ends, and whose it is."""
    marker, dash = plots.METHODS[method]
    means = [sum(v) / len(v) for v in values]
    ax.plot(xs, means, linestyle=dash, marker=marker, color=plots.INK, markersize=7)
    ax.vlines(xs, [min(v) for v in values], [max(v) for v in values], color=plots.INK, alpha=0.4)
    return plots.NAMES[method], xs[-1], means[-1]


def _name(ax: Any, endings: list[Ending]) -> None:
    """Write each method's name beside its line's end, those that are near one another apart.

    To be called when the axes have their limits.
    """
    taken: list[tuple[float, float]] = []
    to_points = 72 / ax.figure.dpi
    for name, x, y in sorted(endings, key=lambda e: (e[2], e[1])):
        right, up = (c * to_points for c in ax.transData.transform((x, y)))
        place = up
        while any(abs(right - r) < NEAR and abs(place - u) < HIGH for r, u in taken):
            place += 1
        taken.append((right, place))
        ax.annotate(
            name,
            (x, y),
            xytext=(9, place - up),
            textcoords="offset points",
            va="center",
            fontsize=10,
        )


def _across(ax: Any, values: list[float], label: str) -> None:
    """Full fine-tuning: a line across, its range shaded."""
    mean = sum(values) / len(values)
    ax.axhspan(min(values), max(values), color=plots.INK, alpha=0.12, linewidth=0)
    ax.axhline(mean, color=plots.INK, linewidth=1.2)
    place = {"xytext": (2, 4), "textcoords": "offset points", "fontsize": 10}
    ax.annotate(label, (0, mean), xycoords=ax.get_yaxis_transform(), va="bottom", **place)


def _axes(ax: Any) -> None:
    ax.set_xscale("log")
    ax.set_xlim(ax.get_xlim()[0], ax.get_xlim()[1] * 1.8)  # room for the names
    ax.set(xlabel="trained parameters")


def caption(rows: list[Row], arms: list[Measured]) -> str:
    """Settings, seeds, what found no room, and the command."""
    tried, told = (stats.where(rows, role=role) for role in ("choose", "report"))
    refused = "; ".join(f"{a.name}: no room" for a in arms if a.refused)
    return (
        f"{_all(rows, 'task')}, {_all(rows, 'steps')} steps of {_all(rows, 'batch_size')}; LoRA on "
        f"q_proj, v_proj with α = 2r; each arm's own learning rate, chosen with seed "
        f"{_all(tried, 'seed')}, reported with seeds {_all(told, 'seed')}\n"
        f"marker: mean; bar, band: range over seeds{'; ' + refused if refused else ''}; "
        "minilora experiment relatives"
    )


def _all(rows: list[Row], what: str) -> str:
    return ", ".join(str(v) for v in sorted({r[what] for r in rows})) or "none"
