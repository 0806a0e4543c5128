"""The figures of `low_rank`: ΔW taken apart, and beside it the claims that hang on it."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import median
from typing import Any

from minilora import plots
from minilora.errors import ConfigError
from minilora.experiments.lab.stats import Row, percent, spread, where
from minilora.experiments.low_rank import details
from minilora.experiments.low_rank.rows import cut, matrices, scaled_by_two, table

# part of ΔW → label, which marker and dash of `plots`
_PARTS = {
    "svd": ("strongest k directions", 0),
    "largest entries": ("largest entries", 1),
    "active rows": ("rows of active neurons", 3),
    "random subspace": ("k random directions", 6),
    "random entries": ("random entries", 5),
}
_SPECTRA = {"change": ("ΔW", 0), "weights": ("W", 1), "random": ("random", 2)}
_KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_KEPT = (1, 2, 4, 8, 16, 32, 64, 128)


def draw(rows: list[Row], path: str | Path) -> None:
    """Two figures: `path`, and the details beside it, NAME_details. ConfigError without rows."""
    report = where(rows, role="report")
    if not report:
        raise ConfigError("there are no rows to draw; run `minilora experiment low_rank` first")
    with plots.figure(2, rows=2, width=12.5, height=9.8) as (fig, axes):
        panels = (_accuracy, _energy, _ranks, _shared)
        for ax, panel in zip(axes.flat, panels, strict=True):
            panel(ax, report)
        plots.save(fig, path, details.caption(report), _alt(report))
    beside = Path(path)
    details.draw_details(rows, beside.with_name(f"{beside.stem}_details{beside.suffix}"))


def _accuracy(ax: Any, rows: list[Row]) -> None:
    """New skill over the number of directions, or what costs as much."""
    ks = sorted({c["k"] for r in rows for c in r.get("cuts") or [] if c["k"] is not None})
    ranks = sorted({r["rank"] for r in scaled_by_two(rows)})
    ax.set_title("New skill right with a part of ΔW, or with LoRA")
    if not ks and not ranks:
        return details.empty(ax)
    for arm, (label, look) in _PARTS.items():
        values = [[100 * v for v in cut(rows, arm, k)] for k in ks]
        plots.spread_line(ax, [_place(k) for k in ks], values, label, look, direct=False)
    trained = [
        [100 * r["new"] for r in where(scaled_by_two(rows), rank=k) if r.get("new") is not None]
        for k in ranks
    ]
    plots.spread_line(
        ax, [_place(k) for k in ranks], trained, "LoRA trained at r = k", 4, direct=False
    )
    ax.axvline(_place(64), color=plots.FAINT, linewidth=0.8, zorder=0)
    note = "N/2: two thin factors\ncost all of 128×128"
    ax.text(_place(64) + 0.08, 45, note, rotation=90, va="center", fontsize=9)
    shown = sorted({0, *_KEPT} & {*ks, *ranks}) or [0]
    ax.set_xticks([_place(k) for k in shown], [str(k) for k in shown])
    ax.set_xlim(-1.4, 7.4)
    ax.set(
        xlabel="k, directions kept in each matrix", ylabel="new strings right, %", ylim=(-4, 104)
    )
    details.legend_below(ax, 3)


def _place(k: int) -> float:
    """log₂ k, and 0 one place apart from 1."""
    return math.log2(k) if k else -1.0


def _energy(ax: Any, rows: list[Row]) -> None:
    """Energy held by the strongest k directions, over all matrices and seeds."""
    every = matrices(rows)
    ax.set_title("Energy in the strongest k directions")
    if not every:
        return details.empty(ax)
    x = [_place(k) for k in _KEPT]
    for what, (label, look) in _SPECTRA.items():
        curves = [[100 * e for e in m[what]["energy"]] for m in every]
        columns = list(zip(*curves, strict=True))
        low, high = [min(c) for c in columns], [max(c) for c in columns]
        ax.fill_between(x, low, high, color=plots.INK, alpha=0.1, linewidth=0)
        rank = median(m[what]["rank_90"] for m in every)
        ax.plot(
            x,
            [median(c) for c in columns],
            linestyle=plots.DASHES[look],
            marker=plots.MARKERS[look],
            markersize=5,
            color=plots.INK,
            label=f"{label}: 90 % in {rank:.0f}",
        )
        ax.axvline(_place(max(1, round(rank))), ymax=0.05, color=plots.INK, linewidth=1.5)
    ax.axhline(90, color=plots.FAINT, linewidth=0.8, zorder=0)
    ax.text(-0.3, 91, "90 %", fontsize=9, va="bottom")
    ax.set_xticks(x, [str(k) for k in _KEPT])
    ax.set(xlabel="k, directions", ylabel="share of Σσ², %", ylim=(0, 104), xlim=(-0.4, 7.4))
    details.legend_below(ax, 3)


def _ranks(ax: Any, rows: list[Row]) -> None:
    """How many directions hold 90 %, by kind of matrix and layer; a mark is a mean over seeds."""
    every = matrices(rows)
    ax.set_title("Directions that hold 90 % of the energy, by matrix")
    if not every:
        return details.empty(ax)
    layers = sorted({m["layer"] for m in every})
    for y, kind in enumerate(_KINDS):
        of = where(every, kind=kind)
        for n, layer in enumerate(layers):
            marker = plots.MARKERS[n % len(plots.MARKERS)]
            place = y + 0.16 * (n - (len(layers) - 1) / 2)
            for what, face in (("change", plots.INK), ("weights", "white")):
                ranks = [m[what]["rank_90"] for m in where(of, layer=layer)]
                if ranks:
                    ax.plot(
                        sum(ranks) / len(ranks),
                        place,
                        marker,
                        color=plots.INK,
                        markerfacecolor=face,
                        markersize=6,
                        label=f"{_SPECTRA[what][0]}, layer {layer}" if y == 0 else None,
                    )
        noise = [m["random"]["rank_90"] for m in of]
        if noise:
            label = "random" if y == 0 else None
            ax.vlines(median(noise), y - 0.35, y + 0.35, plots.INK, linewidth=2, label=label)
    ax.set_yticks(range(len(_KINDS)), [k.removesuffix("_proj") for k in _KINDS])
    ax.invert_yaxis()
    ax.set(xlabel="directions that hold 90 % of Σσ² (of 128)", xlim=(0, 100))
    details.legend_below(ax, 5)


def _shared(ax: Any, rows: list[Row]) -> None:
    details.shared(ax, rows, "other data")


def _alt(rows: list[Row]) -> str:
    """The figure in words."""
    told = ["Four panels. First: share of new strings right over the number of directions k."]
    for arm, (label, _) in _PARTS.items():
        at = [f"{percent(cut(rows, arm, k))} at {k}" for k in _KEPT if cut(rows, arm, k)]
        if at:
            told.append(f"{label}: {', '.join(at)}.")
    for rank in sorted({r["rank"] for r in scaled_by_two(rows)}):
        trained = percent(r.get("new") for r in where(scaled_by_two(rows), rank=rank))
        told.append(f"LoRA trained at r = {rank}: {trained}.")
    every = matrices(rows)
    if every:
        told.append("Second and third: directions that hold 90 % of the energy.")
    for what, (label, _) in _SPECTRA.items() if every else ():
        mean, low, high = spread(m[what]["rank_90"] for m in every)
        told.append(f"{label}: {low:.0f} to {high:.0f}, mean {mean:.0f}.")
    told.append("Fourth: φ of an adapter of low and one of high rank, on other data.")
    for r in where(rows, kind="subspaces"):
        values = table(r, "other data")
        if values:
            told.append(
                f"Seeds {r['seed']} and {r['other']}: {values[0][0]:.2f} for the first directions, "
                f"chance {r['chance'][0][0]:.2f}."
            )
    return " ".join(told)
