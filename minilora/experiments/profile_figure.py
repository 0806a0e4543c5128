"""A profile as a table and a picture: where a step's time goes, and what could not be saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilora import plots

_NOTE = (
    "LinearCrossEntropy makes the products of its backward in its forward, a chunk at a time.\n"
    "in products: seconds inside of matrix products, measured in steps of their own.\n"
    "of peak: the rate of those products against one large float32 product by one thread.\n"
    "between operations: Python, the tape, sums of gradients, the search for numbers not finite."
)


def table(report: dict[str, Any]) -> str:
    """The rows as a person reads them, and what they come to."""
    whole, peak = report["step_seconds"], report["peak_rate"]
    lines = [
        f"{'operation':<20}{'calls':>7}{'forward':>11}{'backward':>11}{'of step':>11}"
        f"{'in products':>13}{'GFLOP/s':>9}{'of peak':>9}"
    ]
    for r in report["rows"]:
        rate = "" if r["product_rate"] is None else f"{r['product_rate'] / 1e9:.1f}"
        share = "" if r["product_rate"] is None else f"{r['product_rate'] / peak:.0%}"
        lines.append(
            f"{r['op']:<20}{r['calls'] or '':>7}{_ms(r['forward_seconds']):>11}"
            f"{_ms(r['backward_seconds']):>11}{r['seconds'] / whole:>11.1%}"
            f"{_ms(r['product_seconds']):>13}{rate:>9}{share:>9}"
        )
    forward = sum(r["forward_seconds"] for r in report["rows"])
    backward = sum(r["backward_seconds"] for r in report["rows"])
    rate = report["product_rate"]
    lines.append(
        f"{'the step':<20}{'':>7}{_ms(forward):>11}{_ms(backward):>11}{_ms(whole):>11}"
        f"{_ms(report['product_seconds']):>13}{rate / 1e9:>9.1f}{rate / peak:>9.0%}"
    )
    return "\n".join([*lines, "", *summary(report), "", _NOTE])


def summary(report: dict[str, Any]) -> list[str]:
    """What the table comes to, in three sentences."""
    whole, peak = report["step_seconds"], report["peak_rate"]
    least = report["flops"] / peak
    return [
        f"{report['product_share']:.0%} of the step is spent in matrix products, of "
        f"{report['flops'] / 1e9:.2f} GFLOP.",
        f"At this machine's peak of {peak / 1e9:.1f} GFLOP/s they would take {_ms(least)}: with "
        f"the same products no step is more than {whole / least:.1f} times as fast.",
        f"The whole step reaches {report['step_rate'] / 1e9:.1f} GFLOP/s, "
        f"{report['step_rate'] / peak:.0%} of the peak.",
    ]


def _ms(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 10 else f"{1000 * seconds:.2f} ms" if seconds else ""


def draw(report: dict[str, Any], path: str | Path) -> None:
    """Horizontal bars, one an operation: forward, backward, neither; a line for the least time."""
    rows = [r for r in report["rows"] if r["seconds"] > 0]
    peak = report["peak_rate"]
    title = (
        f"One {plots.NAMES[report['method']]} step of {report['base']}, "
        f"{report['batch_size']} × {report['length']} tokens, one thread"
    )
    with plots.figure(1, width=9, height=2.2 + 0.36 * len(rows)) as (fig, ax):
        for y, r in enumerate(rows):
            rest = max(0.0, r["seconds"] - r["forward_seconds"] - r["backward_seconds"])
            left = 0.0
            for seconds, hatch in (
                (r["forward_seconds"], ""),
                (r["backward_seconds"], "////"),
                (rest, "...."),
            ):
                ax.barh(
                    y, 1000 * seconds, left=left, height=0.62,
                    facecolor=plots.FAINT if hatch == "" else "white",
                    edgecolor=plots.INK, linewidth=0.8, hatch=hatch,
                )  # fmt: skip
                left += 1000 * seconds
            least = 1000 * r["flops"] / peak
            if least:
                ax.plot([least, least], [y - 0.42, y + 0.42], color=plots.INK, linewidth=2.5)
            rate = "" if not r["flops"] else f", products at {r['product_rate'] / peak:.0%} of peak"
            ax.text(left, y, f"  {r['seconds'] / report['step_seconds']:.0%}{rate}", va="center")
        _legend(ax)
        ax.set_yticks(range(len(rows)), [r["op"] for r in rows])
        ax.invert_yaxis()
        ax.set(xlabel="milliseconds", title=title)
        ax.set_xlim(0, ax.get_xlim()[1] * 1.3)
        plots.save(fig, path, "\n".join(summary(report)))


def _legend(ax: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    ink: dict[str, Any] = {"edgecolor": plots.INK, "linewidth": 0.8}
    ax.legend(
        handles=[
            Patch(facecolor=plots.FAINT, label="forward", **ink),
            Patch(facecolor="white", hatch="////", label="backward", **ink),
            Patch(facecolor="white", hatch="....", label="neither", **ink),
            Line2D([], [], color=plots.INK, linewidth=2.5, label="its products at the peak rate"),
        ],
        loc="lower right",
    )
