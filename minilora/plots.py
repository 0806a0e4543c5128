"""The one look of all figures.

Colours are roles and nothing else: frozen, trainable, gradient, optimizer, activations. They are
told apart with any kind of colour vision, and each has a hatch besides. Methods and seeds differ by
marker, dash and direct label, in dark ink.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minilora.errors import ConfigError
from minilora.files.atomic import whole_file
from minilora.method_names import LABELS

FROZEN, TRAINABLE, GRADIENT = "#4D4D4D", "#D55E00", "#005AB5"
OPTIMIZER, ACTIVATIONS = "#009E73", "#B5539C"
INK = "#222222"
FAINT = "#BBBBBB"

# role → colour, hatch
ROLES = {
    "frozen weights": (FROZEN, ""),
    "trained weights": (TRAINABLE, "//"),
    "gradients": (GRADIENT, "\\\\"),
    "optimizer": (OPTIMIZER, ".."),
    "activations": (ACTIVATIONS, "xx"),
}
# method → marker, dash
METHODS: dict[str, tuple[str, Any]] = {
    "full": ("s", "-"),
    "lora": ("o", "--"),
    "qlora": ("D", "-."),
    "dora": ("P", (0, (5, 1, 1, 1, 1, 1))),
    "prompt": ("v", ":"),
    "prefix": ("^", (0, (1, 3))),
    "adapter": ("X", (0, (7, 3))),
    "ia3": ("<", (0, (3, 1))),
    "bitfit": (">", (0, (3, 1, 1, 1))),
}
NAMES = LABELS
# For arms that are no methods: the n-th arm of a figure has the n-th marker and dash.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (7, 3)), (0, (3, 1)))

_STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.linewidth": 0.6,
    "figure.facecolor": "white",
    "legend.frameon": False,
    "svg.hashsalt": "minilora",
}


@contextmanager
def figure(
    columns: int, *, rows: int = 1, width: float = 12, height: float = 4
) -> Iterator[tuple[Any, Any]]:
    """A figure with so many panels, in the one look; the figure, and its panels as subplots gives.

    matplotlib is imported here and nowhere else. The figure is drawn without a screen.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        fig = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(fig)
        yield fig, fig.subplots(rows, columns)


FORMATS = ("png", "svg", "pdf")


def check_path(path: str | Path) -> None:
    """ConfigError if a figure's file has no ending that says how to draw it."""
    if Path(path).suffix.lstrip(".") not in FORMATS:
        raise ConfigError(f"figure {str(path)!r} must end in .{', .'.join(FORMATS)}")


def save(fig: Any, path: str | Path, caption: str = "", alt: str = "") -> None:
    """Write a figure as the file's ending says (png, svg, pdf), whole or not at all.

    caption   below it: settings, seeds, the command that made it
    alt       the figure in words, for who does not see it: what the axes are, what the series do,
              with numbers. Written beside the picture, into NAME.txt
    """
    if caption:
        fig.supxlabel(caption, fontsize=8, x=0.01, ha="left")
    picture = io.BytesIO()
    fig.savefig(picture, format=Path(path).suffix.lstrip("."), dpi=130)
    with whole_file(path) as file:
        file.write(picture.getvalue())
    if alt:
        with whole_file(Path(path).with_suffix(".txt")) as file:
            file.write(alt.strip().encode() + b"\n")


def unit(largest: float) -> tuple[float, str]:
    """A unit of bytes in which numbers up to `largest` are read easily, and its name."""
    for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if largest >= size:
            return size, name
    return 1, "bytes"


def stacked_bars(ax: Any, rows: list[tuple[str, dict[str, float]]]) -> None:
    """Horizontal bars, one a row, of bytes by role; the total stands at its end."""
    size, name = unit(max(sum(parts.values()) for _, parts in rows))
    for y, (_, parts) in enumerate(rows):
        left = 0.0
        for role, amount in parts.items():
            colour, hatch = ROLES[role]
            ax.barh(
                y,
                amount / size,
                left=left,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                label=role if y == 0 else None,
            )
            left += amount / size
        ax.text(left, y, f"  {left:.3g} {name}", va="center")
    ax.set_yticks(range(len(rows)), [label for label, _ in rows])
    ax.invert_yaxis()
    ax.set_xlabel(f"held in a step, {name}")
    ax.set_xlim(0, ax.get_xlim()[1] * 1.22)


def heat_map(
    ax: Any,
    values: list[list[float]],
    *,
    rows: list[str],
    columns: list[str],
    notes: list[list[str]] | None = None,
    ringed: list[tuple[int, int]] = (),  # type: ignore[assignment]
) -> Any:
    """A table of shares in [0, 1] as colours, with the number, in percent, in every cell.

    values   by row, then column; NaN is an empty cell
    notes    a small line under each number, such as its range
    ringed   (row, column) of cells that are to be found at once
    """
    image = ax.imshow([[100 * v for v in row] for row in values], "cividis", vmin=0, vmax=100)
    ax.set_aspect("auto")
    for i, row in enumerate(values):
        for j, v in enumerate(row):
            if v != v:
                continue
            ink = "white" if v < 0.55 else "black"
            low = 0.12 if notes else 0
            ax.text(j, i - low, f"{100 * v:.0f}", ha="center", va="center", color=ink)
            if notes:
                ax.text(j, i + 0.27, notes[i][j], ha="center", va="center", color=ink, fontsize=7)
    for i, j in ringed:
        ax.add_patch(_ring(i, j))
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.tick_params(length=0)
    return image


def not_measured(ax: Any, title: str) -> str:
    """A panel of which there are no rows: it says so. The same in words."""
    ax.text(0.5, 0.5, "not measured", ha="center", va="center", transform=ax.transAxes)
    ax.set(xticks=[], yticks=[])
    return f"{title}: not measured."


def _ring(i: int, j: int) -> Any:
    from matplotlib.patches import Rectangle

    box = (j - 0.47, i - 0.46)
    return Rectangle(box, 0.94, 0.92, fill=False, edgecolor=TRAINABLE, linewidth=2.5)


def spread_line(
    ax: Any,
    x: list[float],
    values: list[list[float]],
    label: str,
    arm: int = 0,
    *,
    direct: bool = True,
) -> None:
    """An arm over x: mean as a line with marker, each seed a faint dot, their range shaded.

    values   for each x the values of all seeds; an empty list leaves a gap
    arm      which marker and dash
    direct   write the label at the line's end, and not for a legend only
    """
    kept = [(a, v) for a, v in zip(x, values, strict=True) if v]
    if not kept:
        return
    xs = [a for a, _ in kept]
    marker, dash = MARKERS[arm % len(MARKERS)], DASHES[arm % len(DASHES)]
    means = [sum(v) / len(v) for _, v in kept]
    ax.fill_between(
        xs, [min(v) for _, v in kept], [max(v) for _, v in kept], color=INK, alpha=0.1, linewidth=0
    )
    ax.plot(xs, means, linestyle=dash, marker=marker, color=INK, markersize=5, label=label)
    for a, v in kept:
        ax.plot([a] * len(v), v, marker, color=INK, markersize=2, alpha=0.5)
    if direct:
        place = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
        ax.annotate(label, (xs[-1], means[-1]), **place)
