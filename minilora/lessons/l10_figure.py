"""The figures of lesson 10: the four places of a block, and what a budget buys there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilora import plots
from minilora.config import ModelConfig
from minilora.errors import ConfigError
from minilora.experiments.relatives.arms import Row, measured
from minilora.experiments.relatives.figure import caption, learnt

# What a row of tokens passes in a block, from left to right, and half of how wide it is drawn.
_STATIONS = (
    ("tokens'\nvectors", 0.75),
    ("q, k, v", 0.6),
    ("attention", 0.75),
    ("o", 0.3),
    ("adapter", 0.6),
    ("+", 0.18),
    ("MLP", 0.5),
    ("adapter", 0.6),
    ("+", 0.18),
)
_GAP, _ABOVE = 0.35, 1.45


def draw_places(config: ModelConfig, path: str | Path) -> None:
    """One block with the places where each method puts what it trains, with its shapes."""
    C, d_kv = config.hidden_size, config.K * config.D
    above = {
        "tokens'\nvectors": ("prompt", f"P: p × {C}\nonce, below layer 1"),
        "q, k, v": ("LoRA", f"A: r × {C}\nB: out × r"),
        "attention": ("prefix", f"Kₚ, Vₚ: p × {d_kv}\nin each layer"),
    }
    adapter = f"W₁: m × {C}, b₁: m\nW₂: {C} × m, b₂: {C}"
    with plots.figure(1, width=9, height=3.1) as (fig, ax):
        right = 0.0
        for name, half in _STATIONS:
            x = right + half
            _box(ax, x, 0, half, name, plots.TRAINABLE if name == "adapter" else plots.FROZEN)
            if name == "adapter":
                ax.text(x, -0.45, adapter, ha="center", va="top", fontsize=9)
            if name in above:
                _box(ax, x, _ABOVE, 0.6, above[name][0], plots.TRAINABLE)
                ax.text(x, _ABOVE + 0.45, above[name][1], ha="center", va="bottom", fontsize=9)
                _arrow(ax, (x, _ABOVE - 0.33), (x, 0.37))
            if right:
                _arrow(ax, (right - _GAP, 0), (right, 0))
            right = x + half + _GAP
        ax.set(xlim=(-0.5, right), ylim=(-1.25, 2.6))
        ax.set_axis_off()
        plots.save(fig, path, _places_caption(config), _places_alt(above, adapter))


def _box(ax: Any, x: float, y: float, half: float, name: str, colour: str) -> None:
    corners = [x - half, x + half, x + half, x - half], [y - 0.33, y - 0.33, y + 0.33, y + 0.33]
    dash = "--" if colour == plots.TRAINABLE else "-"
    ax.fill(*corners, facecolor="white", edgecolor=colour, linewidth=1.6, linestyle=dash)
    ax.text(x, y, name, ha="center", va="center", fontsize=10.5, color=colour)


def _arrow(ax: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    look = {"arrowstyle": "-|>", "color": plots.INK, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, xytext=start, arrowprops=look)


def _places_caption(c: ModelConfig) -> str:
    return (
        f"One of {c.n_layers} blocks; norms and the streams around attention and MLP are left out. "
        "Grey: frozen. Orange, dashed: trained, by one method each."
    )


def _places_alt(above: dict[str, tuple[str, str]], adapter: str) -> str:
    said = ["A block from left to right: tokens' vectors, q, k, v, attention, o, MLP; frozen."]
    where = ("before the tokens' vectors", "beside q and v", "at attention")
    for place, (name, words) in zip(where, above.values(), strict=True):
        said.append(f"{name}, {place}: {words}.")
    said.append(f"adapter, behind attention and behind the MLP: {adapter}.")
    return "\n".join(line.replace("\n", ", ") for line in said)


def draw_budget(rows: list[Row], path: str | Path) -> None:
    """New skill by trained parameters, a method a line, full fine-tuning across.

    ConfigError if there are no reported runs.
    """
    arms = measured(rows)
    if not any(a.new for a in arms):
        raise ConfigError(
            "there are no reported runs to draw; run `minilora experiment relatives` first"
        )
    with plots.figure(1, width=9, height=5.4) as (fig, ax):
        words = learnt(ax, arms)
        plots.save(fig, path, caption(rows, arms), words)
