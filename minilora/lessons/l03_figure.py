"""The figures of lesson 03: what the base can and cannot do; one block with its shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minilora import plots
from minilora.config import ModelConfig
from minilora.data.instructions import Example
from minilora.data.skills import LETTERS
from minilora.errors import ConfigError

# 95 % of a normal distribution lie within so many deviations.
_Z = 1.959964
MODELS = {"base": "base", "untrained": "untrained"}


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of which `right` of `n` were seen (Wilson, 1927)."""
    if n < 1 or not 0 <= right <= n:
        raise ConfigError(f"{right} right of {n}: n must be at least 1, right from 0 to n")
    p = right / n
    middle = p + _Z**2 / (2 * n)
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    low, high = (middle - half) / (1 + _Z**2 / n), (middle + half) / (1 + _Z**2 / n)
    return (0.0 if right == 0 else low), (1.0 if right == n else high)


def chance(examples: Sequence[Example]) -> float:
    """How often one is right who knows an answer's length and draws its letters at random."""
    if not examples:
        raise ConfigError("there are no examples to guess the answers of")
    return sum(float(len(LETTERS)) ** -(e.n_targets - 1) for e in examples) / len(examples)


def draw_skills(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """A line a skill: exactly right of the base and of an untrained model, in percent.

    rows   {"skill", "new", "n", "base", "untrained", "chance"}: the two in the middle count right
           answers of n; old skills first
    """
    if not rows:
        raise ConfigError("there is no skill to draw")
    rows = sorted(rows, key=lambda r: r["new"])
    with plots.figure(1, width=9, height=1.4 + 0.36 * len(rows)) as (fig, ax):
        for y, row in enumerate(rows):
            for model, up in (("untrained", 0.16), ("base", -0.16)):
                _dot(ax, row, model, y + up)
            ax.plot(100 * row["chance"], y, "|", color=plots.INK, markersize=13, markeredgewidth=1)
        n_old = sum(not r["new"] for r in rows)
        if 0 < n_old < len(rows):
            ax.axhline(n_old - 0.5, color=plots.INK, linewidth=1)
            side = {"ha": "center", "color": plots.INK, "fontsize": 10}
            ax.text(50, n_old - 0.62, "seen in pretraining", va="bottom", **side)
            ax.text(50, n_old - 0.4, "never seen", va="top", **side)
        ax.set_yticks(range(len(rows)), [r["skill"] for r in rows], fontsize=11)
        ax.set_ylim(len(rows) - 0.4, -0.75)
        ax.set(xlabel="unseen strings answered exactly right, %", xlim=(-3, 106))
        _name(ax, rows)
        plots.save(fig, path, _caption(rows), _alt(rows))


def _dot(ax: Any, row: dict[str, Any], model: str, y: float) -> None:
    share = 100 * row[model] / row["n"]
    low, high = wilson(row[model], row["n"])
    ax.plot([100 * low, 100 * high], [y, y], color=plots.INK, linewidth=1.3)
    fill = plots.INK if model == "base" else "white"
    ax.plot(share, y, "o", color=plots.INK, markerfacecolor=fill, markersize=5.5)
    if model == "base":
        near = {"xytext": (9, 0), "textcoords": "offset points", "va": "center", "fontsize": 10}
        ax.annotate(f"{share:.0f}", (100 * high, y), **near)


def _name(ax: Any, rows: Sequence[dict[str, Any]]) -> None:
    """The three marks, named beside the first skill."""
    first = rows[0]
    base, other = (100 * first[m] / first["n"] for m in ("base", "untrained"))
    place = {"textcoords": "offset points", "va": "center", "fontsize": 10}
    side = (-10, "right") if base > 50 else (34, "left")
    ax.annotate("base", (base, -0.16), xytext=(side[0], 2), ha=side[1], **place)
    side = (10, "left") if other < 50 else (-10, "right")
    named = "untrained;  | a guesser's chance"
    ax.annotate(named, (other, 0.16), xytext=(side[0], -2), ha=side[1], **place)


def _caption(rows: Sequence[dict[str, Any]]) -> str:
    ns = " or ".join(str(n) for n in sorted({r["n"] for r in rows}))
    return (
        f"{ns} test strings a skill; whiskers: Wilson's 95 % interval. The guesser knows the "
        f"answer's length\nand draws each letter from {len(LETTERS)}. One checkpoint of the base "
        "skills; the untrained model is the same Llama with random weights."
    )


def _alt(rows: Sequence[dict[str, Any]]) -> str:
    said = [
        "A line a skill; across: share of unseen strings answered exactly right, in percent. "
        "Filled dots: the base; rings: an untrained model of the same sizes; ticks: chance."
    ]
    for row in rows:
        told = []
        for model, name in MODELS.items():
            low, high = wilson(row[model], row["n"])
            told.append(
                f"{name} {100 * row[model] / row['n']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
            )
        kind = "never seen" if row["new"] else "seen in pretraining"
        said.append(f"{row['skill']} ({kind}): {', '.join(told)}, chance {100 * row['chance']:.2f}")
    return "\n".join(said)


Station = tuple[str, str, str]


def draw_block(config: ModelConfig, path: str | Path) -> None:
    """One block as two detours from a stream, with the shapes of what flows and of each matrix."""
    with plots.figure(2, width=9, height=6.4) as (fig, axes):
        halves = {
            "attention: tokens exchange": _attention(config),
            "MLP: each by itself": _mlp(config),
        }
        for ax, (title, stations) in zip(axes, halves.items(), strict=True):
            _half(ax, title, stations, config.hidden_size)
        plots.save(fig, path, _block_caption(config), _block_alt(config, halves))


def _attention(c: ModelConfig) -> list[Station]:
    """What is passed on the way: its name, the shapes of its weights, of what comes out."""
    q, kv, C = c.n_heads * c.D, c.K * c.D, c.hidden_size
    return [
        ("RMSNorm", f"g {C}", f"T × {C}"),
        ("q_proj, k_proj, v_proj", f"{q} × {C}, twice {kv} × {C}", f"q: T × {q};  k, v: T × {kv}"),
        (
            "split into heads, turn q and k",
            "",
            f"q: {c.n_heads} × T × {c.D};  k, v: {c.K} × T × {c.D}",
        ),
        ("softmax(q kᵀ/√D + causal mask) v", "", f"{c.n_heads} × T × {c.D}"),
        ("join heads, o_proj", f"{C} × {q}", f"T × {C}"),
    ]


def _mlp(c: ModelConfig) -> list[Station]:
    C, F = c.hidden_size, c.intermediate_size
    return [
        ("RMSNorm", f"g {C}", f"T × {C}"),
        ("gate_proj, up_proj", f"twice {F} × {C}", f"gate, up: T × {F}"),
        ("gate · σ(gate) · up", "", f"T × {F}"),
        ("down_proj", f"{C} × {F}", f"T × {C}"),
    ]


# Where the stream runs, where the detour does, and how far one station is from the next.
_STREAM, _DETOUR, _PITCH = 0.0, 3.4, 1.15


def _half(ax: Any, title: str, stations: Sequence[Station], C: int) -> None:
    """The stream at the left; the detour leaves it at the top and is added at the bottom."""
    ax.set(xlim=(-0.4, 6.6), ylim=(6.3, -1.3))
    ax.set_axis_off()
    ax.set_title(title, fontsize=12)
    end = len(stations) * _PITCH
    ax.text(_STREAM + 0.15, -1.05, f"stream x: T × {C}", **_flow())
    _arrow(ax, (_STREAM, -1.2), (_STREAM, end + 0.5))
    ax.plot([_STREAM, _DETOUR], [-0.72, -0.72], color=plots.INK, linewidth=1)
    before = -0.72
    for i, station in enumerate(stations):
        _arrow(ax, (_DETOUR, before), (_DETOUR, i * _PITCH - 0.35))
        _box(ax, i * _PITCH, station)
        before = i * _PITCH + 0.35
    ax.plot([_DETOUR, _DETOUR], [before, end], color=plots.INK, linewidth=1)
    _arrow(ax, (_DETOUR, end), (_STREAM + 0.16, end))
    ring = {"boxstyle": "circle,pad=0.12", "facecolor": "white", "edgecolor": plots.INK}
    ax.text(_STREAM, end, "+", ha="center", va="center", fontsize=12, bbox=ring)


def _box(ax: Any, y: float, station: Station) -> None:
    """A station, with its weights in it and what comes out below it."""
    name, weights, out = station
    left, right, top, bottom = _DETOUR - 2.7, _DETOUR + 2.7, y - 0.35, y + 0.35
    corners = [left, right, right, left], [top, top, bottom, bottom]
    ax.fill(*corners, facecolor="white", edgecolor=plots.INK, zorder=2)
    middle: Any = {"ha": "center", "va": "center"}
    ax.text(_DETOUR, y - 0.15 if weights else y, name, fontsize=11, **middle)
    if weights:
        ax.text(_DETOUR, y + 0.17, weights, color=plots.TRAINABLE, fontsize=10.5, **middle)
    ax.text(_DETOUR + 0.15, y + 0.56, out, **_flow())


def _arrow(ax: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    look = {"arrowstyle": "-|>", "color": plots.INK, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, xytext=start, arrowprops=look)


def _flow() -> dict[str, Any]:
    return {"color": plots.ACTIVATIONS, "fontsize": 10.5, "va": "center"}


def _block_caption(c: ModelConfig) -> str:
    return (
        f"One of {c.n_layers} blocks, a row of T tokens. Orange: shapes of weights, out × in. "
        "Purple: shapes of activations.\nEvery block has matrices of its own."
    )


def _block_alt(c: ModelConfig, halves: dict[str, list[Station]]) -> str:
    said = [
        f"A block of {c.n_layers}: a stream of T × {c.hidden_size} runs on, and two detours are "
        "added to it one after the other."
    ]
    for title, stations in halves.items():
        told = [
            f"{name}{f' (weights {weights})' if weights else ''} gives {out}"
            for name, weights, out in stations
        ]
        said.append(f"{title}: {', then '.join(told)}; added to the stream.")
    return "\n".join(said)
