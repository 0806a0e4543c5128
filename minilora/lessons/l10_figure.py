"""The figures of lesson 10: the four places of a block, and what a budget buys there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilora import plots
from minilora.config import ModelConfig
from minilora.errors import ConfigError
from minilora.experiments.relatives.arms import Row, measured
from minilora.experiments.relatives.figure import caption, learnt

# What a row of tokens passes in a block, from left to right: its name, where, and how wide.
_STATIONS = (
    ("tokens'\nvectors", 0.0, 0.85),
    ("q, k, v", 1.75, 0.6),
    ("attention", 3.45, 0.75),
    ("o", 4.75, 0.3),
    ("MLP", 7.35, 0.55),
)
_ADAPTERS = (5.75, 8.55)
_SUMS = (6.55, 9.35)
_ABOVE = 1.45


def draw_places(config: ModelConfig, path: str | Path) -> None:
    """One block with the places where each method puts what it trains, with its shapes."""
    C, d_kv = config.hidden_size, config.K * config.D
    above = {
        0.0: ("prompt", f"P: p × {C}\nonce, below layer 1"),
        1.75: ("LoRA", f"A: r × {C}, B: out × r\nbeside a matrix"),
        3.45: ("prefix", f"Kₚ, Vₚ: p × {d_kv} each\nin every layer"),
    }
    adapter = f"W₁: m × {C}, b₁: m\nW₂: {C} × m, b₂: {C}"
    with plots.figure(1, width=9, height=3.3) as (fig, ax):
        ax.set(xlim=(-1.0, 9.9), ylim=(-1.35, 2.6))
        ax.set_axis_off()
        for name, x, half in _STATIONS:
            _box(ax, x, 0, half, name, plots.FROZEN)
        for x in _ADAPTERS:
            _box(ax, x, 0, 0.55, "adapter", plots.TRAINABLE)
            ax.text(x, -0.62, adapter, ha="center", va="top", fontsize=9, color=plots.INK)
        for x in _SUMS:
            _box(ax, x, 0, 0.18, "+", plots.INK)
        spans = [(x, half) for _, x, half in _STATIONS]
        spans += [(x, 0.55) for x in _ADAPTERS] + [(x, 0.18) for x in _SUMS]
        spans.sort()
        for (x, half), (after, half_after) in zip(spans, spans[1:], strict=False):
            _arrow(ax, (x + half, 0), (after - half_after, 0))
        for x, (name, words) in above.items():
            _box(ax, x, _ABOVE, 0.6, name, plots.TRAINABLE)
            ax.text(x, _ABOVE + 0.45, words, ha="center", va="bottom", fontsize=9, color=plots.INK)
            _arrow(ax, (x, _ABOVE - 0.33), (x, 0.37))
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


def _places_alt(above: dict[float, tuple[str, str]], adapter: str) -> str:
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
