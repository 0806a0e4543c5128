"""The figures of lesson 05: ΔW cut to k directions beside its rivals, and what a cut looks like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from minilora import plots
from minilora.errors import ConfigError
from minilora.experiments.lab.stats import Row, percent, where
from minilora.experiments.low_rank.rows import cut, matrices, scaled_by_two
from minilora.spectra import energy, singular_values, truncate

KS = (0, 1, 2, 4, 8, 16, 32, 64, 128)
# Where nothing can be moved, these stand side by side.
FIXED = (1, 4, 16, 64)
SQUARE = ("q_proj", "k_proj", "v_proj", "o_proj")  # 128×128; the other three are 344×128 or so
# part of ΔW → its label, the marker and dash of `plots`, at which % the label stands, and its side
_PARTS = {
    "svd": ("ΔW cut to its k\nstrongest directions", 0, 50, "left"),
    "largest entries": ("largest\nentries", 1, 45, "left"),
    "active rows": ("rows of\nactive neurons", 2, 50, "right"),
    "random subspace": ("k random\ndirections", 6, 101, "right"),
}
_LORA = ("LoRA, trained at r = k", 4)
_SPECTRA = {"change": ("ΔW", 0), "weights": ("W", 1), "random": ("random", 2)}
_LEVEL = 90
_EMPTY = "no rows of full fine-tuning to draw; run `minilora experiment low_rank` first"


def parts(rows: list[Row]) -> dict[str, dict[int, list[float]]]:
    """What is kept of ΔW, or trained in its place → k → share of new strings right, by seed.

    All of a column cost k (out + in) numbers a matrix. Runs of LoRA are those with scaling 2.
    """
    report = where(rows, role="report")
    found = {arm: {k: v for k in KS if (v := cut(report, arm, k))} for arm in _PARTS}
    lora = scaled_by_two(report)
    trained = {
        k: [r["new"] for r in where(lora, rank=k) if r.get("new") is not None]
        for k in sorted({r["rank"] for r in lora})
    }
    return {**found, "LoRA": {k: v for k, v in trained.items() if v}}


def by_shape(rows: list[Row], what: str, square: bool) -> list[int]:
    """Directions for 90 % of the energy of `what` (change, weights, random), all seeds.

    square   of the 128×128 matrices of attention; False: of the 344×128 ones of the MLP
    """
    every = matrices(where(rows, role="report"))
    return [m[what]["rank_90"] for m in every if (m["kind"] in SQUARE) == square]


def table(rows: list[Row]) -> list[list[str]]:
    """Heads, then a line for each k: what each part of that size keeps of the new skill."""
    measured = parts(rows)
    heads = ["k", *(arm.replace("svd", "k strongest directions") for arm in measured)]
    body = [[str(k), *(percent(of.get(k, [])) for of in measured.values())] for k in KS]
    return [heads, *([cell.replace("none", "–") for cell in line] for line in body)]


def draw(rows: list[Row], path: str | Path) -> None:
    """Left the energy of k directions, right the skill that is left. ConfigError without rows."""
    report = where(rows, role="report")
    if not matrices(report):
        raise ConfigError(_EMPTY)
    with plots.figure(2, width=11, height=4.9) as (fig, axes):
        _energy(axes[0], report)
        _skill(axes[1], report)
        plots.save(fig, path, _caption(report), _alt(report))


def _energy(ax: Any, rows: list[Row]) -> None:
    every = [m for m in matrices(rows) if m["kind"] in SQUARE]
    x = [_place(k) for k in KS[1:]]
    ax.set_title("Energy in the k strongest directions, 128×128")
    for (what, (label, look)), (level, side) in zip(
        _SPECTRA.items(), ((60, "left"), (60, "right"), (35, "right")), strict=True
    ):
        columns = list(zip(*([100 * e for e in m[what]["energy"]] for m in every), strict=True))
        middle = [median(c) for c in columns]
        ax.fill_between(
            x, [min(c) for c in columns], [max(c) for c in columns], color=plots.INK, alpha=0.12
        )
        ax.plot(x, middle, plots.MARKERS[look], ls=plots.DASHES[look], color=plots.INK, ms=5)
        _label(ax, label, x, middle, level, side)
    ax.axhline(_LEVEL, color=plots.FAINT, linewidth=0.8, zorder=0)
    ax.text(0, _LEVEL + 1, f"{_LEVEL} %", fontsize=10)
    ax.set_xticks(x, [str(k) for k in KS[1:]])
    ax.set(xlabel="k, directions", ylabel="share of Σσ², %", ylim=(0, 104), xlim=(-0.4, 7.4))


def _skill(ax: Any, rows: list[Row]) -> None:
    measured = parts(rows)
    ax.set_title("New strings right with a part of ΔW, or with LoRA")
    for arm, (label, look, level, side) in _PARTS.items():
        x, means = _line(ax, measured[arm], look)
        _label(ax, label, x, means, level, side, plain=True)
    label, look = _LORA
    x, means = _line(ax, measured["LoRA"], look)
    if x:
        place = {"xytext": (0, 9), "textcoords": "offset points", "fontsize": 10}
        ax.annotate(label, (x[0], max(means[:2])), **place)
    half = _place(64)
    ax.axvline(half, color=plots.FAINT, linewidth=0.8, zorder=0)
    ax.text(half + 0.1, 109, "N/2: costs all\nof 128×128", fontsize=10, va="center")
    ax.set_xticks([_place(k) for k in KS], [str(k) for k in KS])
    ax.set(xlabel="k, for k (out + in) numbers in each matrix", ylabel="new strings right, %")
    ax.set(ylim=(-4, 116), xlim=(-1.4, 8.1), yticks=range(0, 101, 20))


def _line(ax: Any, of: dict[int, list[float]], look: int) -> tuple[list[float], list[float]]:
    x = [_place(k) for k in of]
    values = [[100 * v for v in each] for each in of.values()]
    plots.spread_line(ax, x, values, "", look, direct=False)
    return x, [sum(v) / len(v) for v in values]


def _label(
    ax: Any,
    label: str,
    x: list[float],
    y: list[float],
    level: float,
    side: str,
    *,
    plain: bool = False,
) -> None:
    """Beside the line where it first crosses the level, or at its end if it never does.

    plain   on white ground, where a rule might pass
    """
    if not x:
        return
    at = (x[-1], y[-1])
    for (x1, y1), (x2, y2) in pairwise(zip(x, y, strict=True)):
        if y1 < level <= y2:
            at = (x1 + (x2 - x1) * (level - y1) / (y2 - y1), level)
            break
    left = side == "left"
    place = {"xytext": (-7 if left else 9, 0), "textcoords": "offset points", "fontsize": 10}
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 1} if plain else None
    ax.annotate(label, at, ha="right" if left else "left", va="center", bbox=ground, **place)


def _place(k: int) -> float:
    """log₂ k, and 0 one place apart from 1."""
    return math.log2(k) if k else -1.0


def _caption(rows: list[Row]) -> str:
    r = where(rows, kind="full")[0]
    seeds = ", ".join(str(s["seed"]) for s in where(rows, kind="full"))
    return (
        f"base skills; task {r['task']}; {r['steps']} steps of {r['batch_size']}; full lr "
        f"{r['lr']:g}; LoRA on all seven matrices, α = 2r, own lr; seeds {seeds} (shaded: their "
        "range; left: of all matrices); minilora experiment low_rank"
    )


def _alt(rows: list[Row]) -> str:
    told = ["Left: share of the energy over the number k of directions, 128×128 matrices."]
    for what, (label, _) in _SPECTRA.items():
        ranks = by_shape(rows, what, True)
        told.append(
            f"{label} holds {_LEVEL} % in {min(ranks)} to {max(ranks)}, median {median(ranks):.0f}."
        )
    told.append("Right: new strings right over k, for parts of ΔW of k (out + in) numbers.")
    for arm, of in parts(rows).items():
        name = {"svd": "ΔW cut to k directions", "LoRA": "LoRA trained at r = k"}.get(arm, arm)
        high = [k for k, v in of.items() if 100 * sum(v) / len(v) >= _LEVEL]
        reached = f"{_LEVEL} % first at k = {high[0]}" if high else f"{_LEVEL} % at no k"
        at = ", ".join(f"{percent(v)} at {k}" for k, v in of.items())
        told.append(f"{name}: {reached} ({at})." if at else f"{name}: not measured.")
    return " ".join(told)


def draw_cut(
    D: np.ndarray, rows: list[Row], ks: int | Sequence[int], path: str | Path, name: str = "ΔW"
) -> None:
    """A change D (out, in) cut to k directions, as a picture, for each k of `ks`.

    Above it the share of D's energy that is kept, and how many new strings are right when *every*
    matrix is cut to k (mean over the seeds of the rows, where they have that k). One k alone has
    beside it what is left out, and the whole.
    """
    held = [0.0, *energy(singular_values(D))]
    pictures, told = [], []
    for k in [ks] if isinstance(ks, int) else ks:
        shares = cut(where(rows, role="report"), "svd", k)
        kept, right = percent([held[min(k, len(held) - 1)]]), percent([_mean(shares)])
        right = right.replace("none", "not measured")
        pictures.append((f"k = {k}\nenergy {kept}\nnew strings {right}", truncate(D, k)))
        told.append(f"k = {k}: {kept} of the energy, new strings right {right}")
    if isinstance(ks, int):
        pictures += [("left out", D - pictures[0][1]), ("all of it", D)]
    limit = 2.5 * float(np.sqrt((D**2).mean())) or 1.0
    with plots.figure(len(pictures), width=11, height=13 / len(pictures)) as (fig, axes):
        for ax, (title, M) in zip(np.ravel(axes), pictures, strict=True):
            image = ax.imshow(M, "cividis", vmin=-limit, vmax=limit, interpolation="nearest")
            ax.set_title(title)
            ax.set(xlabel="input", xticks=[0, D.shape[1] - 1], yticks=[0, D.shape[0] - 1])
        np.ravel(axes)[0].set_ylabel("output")
        fig.colorbar(image, ax=np.ravel(axes).tolist(), shrink=0.6, label="entry")
        caption = f"{name}; new strings: all matrices cut to k, minilora experiment low_rank"
        alt = f"{name} cut to its k strongest directions, entries as colours. {'; '.join(told)}."
        plots.save(fig, path, caption, alt)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
