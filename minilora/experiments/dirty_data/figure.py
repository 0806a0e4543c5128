"""The figure of `dirty_data`: what is left of the skill, by the share of dirty rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilora import plots
from minilora.errors import ConfigError
from minilora.experiments.dirty_data.answering import CLEAN, mean, new, shares
from minilora.experiments.dirty_data.dirt import KINDS
from minilora.experiments.lab.stats import percent

Row = dict[str, Any]

HIGH = 13  # names nearer to one another than that, in points, are moved apart


def draw(rows: list[Row], path: str | Path) -> None:
    """Clean test over the share of dirty rows, a line a kind. ConfigError without rows."""
    lines = {kind: found for kind in KINDS if any(found := shares(rows, kind))}
    if not lines and not new(rows, CLEAN, 0):
        raise ConfigError(
            "there are no rows to draw; measure some with `minilora experiment dirty_data`"
        )
    places = {s: i for i, s in enumerate(sorted({s for ss in lines.values() for s in ss} | {0.0}))}
    with plots.figure(1, width=10.5, height=5.2) as (fig, ax):
        words = ["Clean test, % of whole answers right, by the share of dirty rows."]
        ends = []
        for arm, kind in enumerate(KINDS):
            if kind in lines:
                ends.append(_line(ax, rows, kind, arm, places))
                said = ", ".join(f"{s:.0%} {percent(new(rows, kind, s))}" for s in lines[kind])
                words.append(f"  {KINDS[kind].label}: {said}")
        if new(rows, CLEAN, 0):
            _clean(ax, new(rows, CLEAN, 0))
            words.append(f"  clean: {percent(new(rows, CLEAN, 0))}")
        ax.set(
            xlabel="share of dirty rows, % (places evenly apart)",
            ylabel="clean test, % of whole answers right",
            ylim=(-4, 104),
            xlim=(-0.2, max(1, len(places) - 1) + 1.2),
        )
        ax.set_xticks(list(places.values()), [f"{100 * s:g}" for s in places])
        ax.set_title("What each kind of dirt costs")
        _name(ax, ends)
        plots.save(fig, path, caption(rows), "\n".join(words))


def _line(
    ax: Any, rows: list[Row], kind: str, arm: int, places: dict[float, int]
) -> tuple[str, float, float]:
    """One kind's line; its label, and where the line ends."""
    measured = shares(rows, kind)
    values = [[100 * v for v in new(rows, kind, s)] for s in measured]
    xs = [float(places[s]) for s in measured]
    plots.spread_line(ax, xs, values, KINDS[kind].label, arm, direct=False)
    return KINDS[kind].label, xs[-1], mean(values[-1])


def _clean(ax: Any, values: list[float]) -> None:
    """What there is without dirt: a band across."""
    low, high = 100 * min(values), 100 * max(values)
    ax.axhspan(low, high, color=plots.FAINT, alpha=0.35, linewidth=0)
    place = {"xytext": (4, 7), "textcoords": "offset points", "fontsize": 10}
    ax.annotate("clean, all seeds", (0, high), xycoords=ax.get_yaxis_transform(), **place)


def _name(ax: Any, ends: list[tuple[str, float, float]]) -> None:
    """A name beside each line's end, those that are near one another moved apart.

    To be called when the axes have their limits.
    """
    to_points = 72 / ax.figure.dpi
    taken: dict[float, list[float]] = {}
    for name, x, y in sorted(ends, key=lambda end: end[2]):
        up = float(ax.transData.transform((x, y))[1]) * to_points
        above = taken.setdefault(x, [])
        place = max([up, *(a + HIGH for a in above)])
        above.append(place)
        ax.annotate(
            name,
            (x, y),
            xytext=(10, place - up),
            textcoords="offset points",
            va="center",
            fontsize=10,
        )


def caption(rows: list[Row]) -> str:
    def every(what: str) -> str:
        return ", ".join(str(v) for v in sorted({r[what] for r in rows}))

    return (
        f"{every('task')}, {every('examples')} rows, {every('steps')} steps of "
        f"{every('batch_size')}; LoRA r = {every('rank')} on q_proj, v_proj, lr {every('lr')}; "
        f"seeds {every('seed')}\n"
        "marker: mean; shaded: range over seeds; the test is the same and clean throughout; "
        "minilora experiment dirty_data"
    )
