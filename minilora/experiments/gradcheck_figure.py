"""How large must the nudge of a gradient check be? Too large bends, too small rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from minilora import plots
from minilora.autograd import Tensor, backward, no_grad
from minilora.ops.examples import Example

STEPS = np.logspace(-12, -1, 45)


def measure(chosen: list[Example], seed: int = 0) -> list[dict[str, Any]]:
    """For each operation, type and h: the error of the difference along one random direction."""
    rows = []
    for e in chosen:
        for dtype in (np.float64, np.float32):
            for h in STEPS:
                error = directional_error(e, float(h), dtype, seed)
                rows.append({"op": e.op, "dtype": np.dtype(dtype).name, "h": h, "error": error})
    return rows


def directional_error(e: Example, h: float, dtype: Any, seed: int = 0) -> float:
    """|a - n| / (|a| + |n|): vᵀJu from backward, and from a central difference along u."""
    rng = np.random.default_rng(seed)
    arrays = [a.astype(dtype) for a in e.arrays(seed)]
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    y = e.function(*leaves)
    v = rng.standard_normal(y.shape).astype(dtype)
    gradients = backward(y, v)
    u = [rng.standard_normal(a.shape).astype(dtype) for a in arrays]
    analytic = sum(float((gradients[leaf] * d).sum()) for leaf, d in zip(leaves, u, strict=True))

    def moved(sign: float) -> np.ndarray:
        with no_grad():
            at = [Tensor((a + sign * h * d).astype(dtype)) for a, d in zip(arrays, u, strict=True)]
            return e.function(*at).data

    numeric = float(((moved(1) - moved(-1)) * v).sum() / (2 * h))
    return abs(analytic - numeric) / max(1e-8, abs(analytic) + abs(numeric))


def draw(rows: list[dict[str, Any]], path: str | Path) -> None:
    """The error against h, a thin line an operation, thick the median."""
    with plots.figure(1, width=7, height=4.5) as (fig, ax):
        for dtype, dash in (("float64", "-"), ("float32", "--")):
            mine = [r for r in rows if r["dtype"] == dtype]
            curves: dict[str, dict[float, list[float]]] = {}
            for r in mine:
                curves.setdefault(r["op"], {}).setdefault(r["h"], []).append(r["error"])
            lines = [[max(max(es), 1e-17) for es in by_h.values()] for by_h in curves.values()]
            for line in lines:
                ax.plot(STEPS, line, dash, color=plots.FAINT, linewidth=0.6, zorder=0)
            middle = np.median(lines, axis=0)
            ax.plot(STEPS, middle, dash, color=plots.INK, linewidth=2)
            best = int(np.argmin(middle))
            ax.plot(STEPS[best], middle[best], "*", color=plots.INK, markersize=12)
            ax.annotate(
                f"{dtype}, best at h = {STEPS[best]:.0e}",
                (STEPS[best], middle[best]),
                xytext=(0, -16),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
        ax.axhline(1e-7, color=plots.GRADIENT, linewidth=1)
        ax.text(1.2e-12, 1.4e-7, "what is demanded: 1e-7", color=plots.GRADIENT, fontsize=9)
        ax.set(xscale="log", yscale="log", xlabel="h", ylabel="relative error", ylim=(1e-14, 3))
        ax.set_title("Gradient against central difference: rounding left, bending right")
        plots.save(
            fig, path, "a thin line an operation, the median thick; direction drawn by seed 0"
        )
