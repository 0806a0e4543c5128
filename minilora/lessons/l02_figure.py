"""How good a difference quotient is, by the nudge h: a V. Too large bends, too small rounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minilora import plots
from minilora.autograd import Tensor, backward

NUDGES = np.logspace(-12, -1, 60)
DEMANDED = 1e-7
# Where one error rules alone: rounding below, bending above.
ROUNDS, BENDS = (1e-12, 1e-7), (1e-3, 1e-1)
_LOOKS = {"float64": ("o", "-"), "float32": ("s", "--")}

Loss = Callable[[Any], Tensor]
Row = dict[str, Any]


def largest_error(loss: Loss, W: np.ndarray, h: float) -> float:
    """The worst of |a - n| / (|a| + |n|) over the elements of W.

    n   central difference of `loss`, computed in the type of W
    a   what backward gives in float64 at the same W
    """
    exact = Tensor(W.astype(np.float64), requires_grad=True)
    a = backward(loss(exact))[exact]
    n = np.empty_like(a)
    for index in np.ndindex(W.shape):
        above, below = W.copy(), W.copy()
        above[index] += W.dtype.type(h)
        below[index] -= W.dtype.type(h)
        n[index] = (loss(above).item() - loss(below).item()) / (2 * h)
    return float((np.abs(a - n) / np.maximum(1e-8, np.abs(a) + np.abs(n))).max())


def measure(loss: Loss, W: np.ndarray) -> list[Row]:
    """For float64 and float32 and each of the 60 nudges: the largest relative error."""
    return [
        {"dtype": dtype, "h": float(h), "error": largest_error(loss, W.astype(dtype), float(h))}
        for dtype in _LOOKS
        for h in NUDGES
    ]


def best(rows: list[Row], dtype: str) -> Row:
    """The row of the smallest error."""
    return min((r for r in rows if r["dtype"] == dtype), key=lambda r: r["error"])


def slope(rows: list[Row], dtype: str, span: tuple[float, float]) -> float:
    """By how many powers of ten the error grows where h grows by one, between two nudges.

    NaN where fewer than two points with an error above 0 lie.
    """
    mine = [r for r in rows if r["dtype"] == dtype and span[0] <= r["h"] <= span[1]]
    x, y = np.array([(r["h"], r["error"]) for r in mine if r["error"] > 0]).reshape(-1, 2).T
    return float(np.polyfit(np.log10(x), np.log10(y), 1)[0]) if len(x) > 1 else float("nan")


def table(rows: list[Row]) -> list[list[Any]]:
    """The rows as one reads them: for each nudge the error of both types."""
    errors: dict[float, list[float]] = {}
    for r in rows:
        errors.setdefault(r["h"], []).append(r["error"])
    return [["h", *_LOOKS], *([h, *both] for h, both in errors.items())]


def describe(rows: list[Row]) -> str:
    """The figure in words."""
    said = [
        "Largest relative error of a central difference against the nudge h, both logarithmic, "
        f"h from {min(r['h'] for r in rows):.0e} to {max(r['h'] for r in rows):.0e}."
    ]
    for dtype in _LOOKS:
        low = best(rows, dtype)
        reaches = "reaches" if low["error"] <= DEMANDED else "never reaches"
        said.append(
            f"{dtype}: least at h = {low['h']:.1e}, error {low['error']:.1e}; "
            f"{reaches} the line of {DEMANDED:.0e}."
        )
    left, right = slope(rows, "float64", ROUNDS), slope(rows, "float64", BENDS)
    said.append(
        f"float64 is a V: slope {left:.2f} at the left, where rounding rules, {right:.2f} at the "
        "right, where the curve bends. float32 is cut off at an error of 1, where the difference "
        "is nothing but rounding."
    )
    return " ".join(said)


def draw(rows: list[Row], path: str | Path) -> None:
    """Error against h for both types, minima starred, with the two slopes of theory as guides."""
    with plots.figure(1, width=8, height=5) as (fig, ax):
        ax.axhline(DEMANDED, color=plots.INK, linewidth=0.8, linestyle=":")
        ax.text(1e-12, DEMANDED * 1.3, "what a check demands: 1e-7", fontsize=10)
        _guides(ax, rows)
        for dtype, (marker, dash) in _LOOKS.items():
            mine = [r for r in rows if r["dtype"] == dtype]
            x, y = [r["h"] for r in mine], [max(r["error"], 1e-17) for r in mine]
            style: Any = {"linestyle": dash, "marker": marker, "markersize": 4}
            ax.plot(x, y, color=plots.INK, linewidth=1.2, **style)
            low = best(rows, dtype)
            ax.plot(low["h"], low["error"], "*", color=plots.INK, markersize=16)
            up = dtype == "float32"  # there the arms leave room above
            ax.annotate(
                f"{dtype}: best {low['error']:.0e}\nat h = {low['h']:.0e}",
                (low["h"], low["error"]),
                xytext=(0, 40 if up else -12),
                textcoords="offset points",
                ha="center",
                va="bottom" if up else "top",
            )
        ax.set(xscale="log", yscale="log", xlim=(6e-13, 0.3), ylim=(2e-11, 6))
        ax.set(xlabel="nudge h", ylabel="largest relative error of 40 differences")
        ax.set_title("The smallest nudge is not the best: rounding at the left, bending right")
        caption = "softmax cross entropy over x Wᵀ, x 16×8, W 5×8; central differences; seed 0"
        plots.save(fig, path, caption, alt=describe(rows))


def _guides(ax: Any, rows: list[Row]) -> None:
    """Rounding as 1/h and truncation as h², each a little to the right of the points."""
    for text, power, shift, span, at in (
        ("rounding ∝ 1/h", -1, 6, ROUNDS, 1e-9),
        ("truncation ∝ h²", 2, 0.25, BENDS, 4e-3),
    ):
        mine = [r for r in rows if r["dtype"] == "float64" and span[0] <= r["h"] <= span[1]]
        if not mine:
            continue
        x = np.array([*span, at])
        y = shift * np.median([r["error"] / r["h"] ** power for r in mine]) * x**power
        ax.plot(x[:2], y[:2], color=plots.INK, linewidth=0.8, linestyle="-.", zorder=0)
        ax.annotate(text, (at, y[2]), xytext=(8, 0), textcoords="offset points", va="center")
