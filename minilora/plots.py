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
METHODS = {"full": ("s", "-"), "lora": ("o", "--")}
NAMES = {"full": "full", "lora": "LoRA"}

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


def save(fig: Any, path: str | Path, caption: str = "") -> None:
    """Write a figure as the file's ending says (png, svg, pdf), whole or not at all."""
    if caption:
        fig.supxlabel(caption, fontsize=8, x=0.01, ha="left")
    picture = io.BytesIO()
    fig.savefig(picture, format=Path(path).suffix.lstrip("."), dpi=130)
    with whole_file(path) as file:
        file.write(picture.getvalue())


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
