"""The picture of a benchmark: one line a job, our time as a share of the rival's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilora import plots


def table(report: dict[str, Any]) -> str:
    """The rows as a person reads them."""
    lines = [
        f"{'job':<28}{'ours':>10}{'rival':>10}{'ratio':>8}{'range':>15}{'middle half':>15}"
        f"{'goal':>7}{'ours MB':>9}{'rival MB':>10}"
    ]
    for r in report["rows"]:
        spread = f"{r['ratio_low']:.2f} to {r['ratio_high']:.2f}"
        middle = "{:.2f} to {:.2f}".format(*r["ratio_middle"])
        goal = "" if r["target"] is None else f"{r['target']:.2f}"
        lines.append(
            f"{r['name']:<28}{_seconds(r['ours_seconds']):>10}{_seconds(r['rival_seconds']):>10}"
            f"{r['ratio']:>8.2f}{spread:>15}{middle:>15}{goal:>7}"
            f"{r['ours_rss'] / 1e6:>9.0f}{r['rival_rss'] / 1e6:>10.0f}"
        )
    sides = {r[side] for r in report["rows"] for side in ("ours", "rival")}
    return "\n".join([*lines, *sorted(sides)])


def _seconds(s: float) -> str:
    return f"{s:.2f} s" if s >= 1 else f"{1000 * s:.1f} ms"


def draw(report: dict[str, Any], path: str | Path) -> None:
    """Ratios with their range and middle half, one line a job; left of 1 we are faster."""
    rows = report["rows"]
    with plots.figure(1, width=8, height=1.6 + 0.42 * len(rows)) as (fig, ax):
        for y, r in enumerate(rows):
            ax.plot([r["ratio_low"], r["ratio_high"]], [y, y], color=plots.INK, linewidth=0.8)
            ax.plot(r["ratio_middle"], [y, y], color=plots.INK, linewidth=3)
            ax.plot(r["ratio"], y, "o", color=plots.INK, markersize=8)
            label = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center"}
            ax.annotate(f"{r['ratio']:.2f}", (r["ratio"], y), **label)
            if r["target"] is not None:
                ax.plot(r["target"], y, "|", color=plots.INK, markersize=14)
        ax.axvline(1, color=plots.FAINT, zorder=0)
        ax.set_yticks(range(len(rows)), [r["name"] for r in rows])
        ax.set_ylim(len(rows) - 0.5, -0.7)
        ax.set(xlabel="our time as a share of the rival's (left of 1: faster)")
        ax.set_xlim(0, max(1.1, 1.15 * max(r["ratio_high"] for r in rows)))
        ax.set_title("minilora against PyTorch + PEFT on the same cores")
        pairs = rows[0]["pairs"]
        caption = (
            f"median, middle half (thick) and range of {pairs} pairs taking turns; | is the goal"
        )
        plots.save(fig, path, caption)
