"""Figures of lesson 08: learned against forgotten, and what a step holds, each by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilora import plots
from minilora.errors import ConfigError
from minilora.experiments.forgetting.arms import LEVEL, arms, share
from minilora.experiments.forgetting.figure import caption, in_words, plane
from minilora.experiments.lab.stats import spread, where

Row = dict[str, Any]

_COMMAND = "minilora experiment compare"


def draw_plane(rows: list[Row], path: str | Path) -> None:
    """New skill (x) against old skills (y): full and LoRA, without and with old data; and off.

    ConfigError if there are no reported runs.
    """
    every = arms(rows)
    if not every:
        raise ConfigError(f"there are no reported runs to draw; run `{_COMMAND}` first")
    off = [r for r in where(rows, role="report") if r.get("old_off") is not None]
    said = [
        "New skill (x, % exactly right) against the mean of the old skills (y, %). Each path "
        "begins at the base, top left, and goes right while the new skill is learnt; a rule "
        f"stands at {share(LEVEL)} of it. Old skills there, mean and range over seeds:",
        in_words(every),
    ]
    with plots.figure(1, width=9, height=5.6) as (fig, ax):
        plane(ax, every, "Learned against forgotten (■ full, ● LoRA with the adapter on)")
        if off:
            x, y = (100 * spread(r[k] for r in off)[0] for k in ("new_off", "old_off"))
            ax.plot(x, y, "o", color=plots.INK, markerfacecolor="white", markersize=10, zorder=5)
            ax.annotate("LoRA, adapter off", (x, y), xytext=(10, 5), textcoords="offset points")
            ax.set_ylim(-4, 110)
            said.append(
                f"Ring at the top left: LoRA with the adapter off, old skills {y:.0f} %, new skill "
                f"{x:.0f} %."
            )
        plots.save(fig, path, caption(rows, _COMMAND, width=120), "\n".join(said))


def draw_held(books: dict[str, Row], path: str | Path) -> None:
    """Bytes that a step of each method holds, by kind. `books` as `verdict.books` gives them.

    ConfigError if there are none.
    """
    if not books:
        raise ConfigError(f"there are no steps with open books; run `{_COMMAND}` first")
    bars, said = [], ["Horizontal bars, a method each: bytes held in one training step, by kind."]
    for name, row in books.items():
        held, trained = row["bytes"], row["trainable_parameters"] / row["total_parameters"]
        parts = {
            "frozen weights": held["weights"] * (1 - trained),
            "trained weights": held["weights"] * trained,
            **{kind: held[kind] for kind in ("gradients", "optimizer", "activations")},
        }
        bars.append((name, parts))
        size, unit = plots.unit(sum(parts.values()))
        amounts = ", ".join(f"{kind} {n / size:.2f}" for kind, n in parts.items())
        said.append(f"{name}: {sum(parts.values()) / size:.1f} {unit}, of it {amounts}.")
    with plots.figure(1, width=9, height=3.2) as (fig, ax):
        plots.stacked_bars(ax, bars)
        ax.set_ylim(len(bars) - 0.4, -1.3)
        ax.legend(loc="upper left", ncols=5, fontsize=10, handlelength=1.4, columnspacing=1)
        plots.save(fig, path, alt="\n".join(said))
