"""Figures of lesson 09: the levels under a normal curve, and a format on numbers of some kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from minilora import plots
from minilora.errors import ConfigError
from minilora.quant import DATA_TYPES, bits_per_parameter, quantize
from minilora.quant.levels import levels
from minilora.quant.measuring import RoundingError

NUMBERS = 2**17
PARAMETERS = 8_030_261_248  # of Llama 3 8B
# kind of numbers → how they are drawn, n of them
SPREADS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "even": lambda rng, n: rng.uniform(-1, 1, n),
    "one in 1,000 is 10 times larger": lambda rng, n: (
        rng.normal(size=n) * np.where(rng.random(n) < 1e-3, 10, 1)
    ),
}
CONTROLS = {
    "data_type": [f for f in DATA_TYPES if f != "int8-dynamic"],
    "block_size": [32, 64, 256, 1024, 4096],
    "spread": list(SPREADS),
}
FIXED = [
    {"data_type": "nf4", "block_size": 64, "spread": "normal"},
    {"data_type": "int4", "block_size": 64, "spread": "normal"},
    {"data_type": "int4", "block_size": 64, "spread": "even"},
    {"data_type": "nf4", "block_size": 4096, "spread": "one in 1,000 is 10 times larger"},
]


def draw_levels(rises: np.ndarray, path: str | Path) -> None:
    """Levels (16,) under the density of N(0, 1), which is scaled so that the ends are at ±1."""
    if len(rises) < 2 or not np.isfinite(rises).all():
        raise ConfigError("levels to draw must be two finite numbers at least")
    far = NormalDist().inv_cdf(0.9677083)  # what became 1
    x = np.linspace(-1.25, 1.25, 301)
    density = np.exp(-0.5 * (x * far) ** 2)
    with plots.figure(1, width=9, height=3.6) as (fig, ax):
        ax.fill_between(x, density, color=plots.FAINT, alpha=0.5, linewidth=0)
        ax.plot(x, density, color=plots.INK, linewidth=1)
        ax.text(0.42, 0.86, "how weights lie: N(0, 1)", transform=ax.transData)
        high = np.exp(-0.5 * (np.asarray(rises) * far) ** 2)
        ax.vlines(rises, 0, high, color=plots.FROZEN, linewidth=2)
        even = np.linspace(-1, 1, 16)
        ax.plot(even, [-0.09] * 16, "|", color=plots.INK, markersize=10)
        ax.text(1.04, -0.09, "even steps", va="center")
        ax.text(1.04, 0.04, "NF4", va="center")
        ax.set(xlabel="weight / largest of its block", yticks=[], ylim=(-0.17, 1.05))
        ax.spines["left"].set_visible(False)
        ax.set_xlim(-1.25, 1.3)
        said = ", ".join(f"{v:.3f}" for v in rises)
        alt = f"A normal density, and below it {len(rises)} levels, dense in its middle: {said}."
        plots.save(fig, path, "the density is scaled as the levels are", alt)


def draw_format(data_type: str, block_size: int, spread: str, path: str | Path) -> None:
    """How often each level is used by numbers of a kind, with error, bits, and GB for 8B."""
    if spread not in SPREADS:
        raise ConfigError(f"spread {spread!r} is none of {', '.join(SPREADS)}")
    w = SPREADS[spread](np.random.default_rng(0), NUMBERS).astype(np.float32)
    q = quantize(w, data_type, block_size)
    error = RoundingError.of(w, q)
    scaled = _scaled(w, q)
    bits = bits_per_parameter(data_type, block_size)
    facts = (
        f"mean error {error.mae / np.abs(w).mean():.1%} of the mean |w|\n"
        f"signal to noise {error.snr:.1f} dB\n{bits:.3f} bits a weight\n"
        f"8B parameters, were all held so: {PARAMETERS * bits / 8 / 1e9:.2f} GB"
    )
    with plots.figure(1, width=9, height=3.4) as (fig, ax):
        edges = np.linspace(-1, 1, 101)
        ax.hist(scaled, edges, color=plots.FAINT)
        where = np.unique(levels(data_type)) if data_type != "int4-minmax" else None
        if where is not None and len(where) <= 16:
            ax.vlines(where, 0, 0.05 * ax.get_ylim()[1], color=plots.INK, linewidth=2)
        ax.set(xlabel="weight / largest of its block", ylabel="how many of them", xlim=(-1, 1.7))
        ax.set_xticks([-1, -0.5, 0, 0.5, 1])
        ax.text(1.06, ax.get_ylim()[1] * 0.9, facts, va="top")
        ax.set_title(f"{data_type}, blocks of {block_size:,}, numbers: {spread}")
        alt = f"{data_type} in blocks of {block_size:,}, numbers: {spread}. " + facts.replace(
            "\n", "; "
        )
        plots.save(fig, path, "bars on the axis: the levels; constants in 8 bits", alt + ".")


def _scaled(w: np.ndarray, q: Any) -> np.ndarray:
    """Each number over the largest magnitude of its block."""
    size = q.block_size
    blocks = w[: len(w) // size * size].reshape(-1, size)
    return (blocks / np.abs(blocks).max(axis=1, keepdims=True)).reshape(-1)
