"""The second figure of `low_rank`: the planted rank, shared directions, intruders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilora import plots
from minilora.experiments.lab.stats import Row, percent, where
from minilora.experiments.low_rank.rows import SCALED, intruder_arms, shown_arms, table

_LEAST = 1e-16  # what is below is rounding


def draw_details(rows: list[Row], path: str | Path) -> None:
    """Four panels, from the rows that are there."""
    report = where(rows, role="report")
    with plots.figure(2, rows=2, width=12.5, height=9.4) as (fig, axes):
        _planted(axes[0, 0], report)
        shared(axes[0, 1], report, "same data")
        _intruders(axes[1, 0], report)
        _scaled(axes[1, 1], report)
        plots.save(fig, path, caption(report), _alt(report))


def empty(ax: Any) -> None:
    """What a panel shows of which nothing was measured."""
    ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center")
    ax.set_axis_off()


def legend_below(ax: Any, columns: int) -> None:
    """A legend under the axis, where it covers nothing."""
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13)}
        ax.legend(handles, labels, ncols=columns, fontsize=9, columnspacing=1.2, **place)


def caption(rows: list[Row]) -> str:
    """Settings, rates, seeds, command."""
    tuned = [r for r in rows if r["kind"] in ("full", "lora")]
    parts = ["base skills"]
    if tuned:
        r = tuned[0]
        parts.append(f"task {r['task']}, {r['steps']} steps of {r['batch_size']}")
    full = sorted({r["lr"] for r in where(rows, kind="full")})
    if full:
        parts.append(f"full lr {', '.join(f'{lr:g}' for lr in full)}")
    rates: dict[str, None] = {}
    for r in sorted(where(rows, kind="lora"), key=lambda r: (r["rank"], r["alpha"])):
        rates[f"r={r['rank']} α={r['alpha']:g} lr {r['lr']:g}"] = None
    if rates:
        parts.append("LoRA on all linears")
    seeds = ", ".join(map(str, sorted({r["seed"] for r in rows})))
    lines = ["; ".join([*parts, f"seeds {seeds}; minilora experiment low_rank"])]
    if rates:
        lines.append("LoRA: " + ", ".join(rates))
    return "\n".join(lines)


def shared(ax: Any, rows: list[Row], pair: str) -> None:
    """φ of ΔW of two adapters by i and j, mean over pairs of seeds, chance under each number."""
    measured = [r for r in where(rows, kind="subspaces") if table(r, pair)]
    if not measured:
        ax.set_title(f"Directions that two adapters share, {pair}")
        return empty(ax)
    first = measured[0]
    measured = where(measured, i=first["i"], j=first["j"])
    ax.set_title(f"Shared by adapters r={first['rank']} and r={first['wide_rank']}, {pair}: φ, %")
    tables = [t for r in measured if (t := table(r, pair)) is not None]
    values = [
        [sum(t[a][b] for t in tables) / len(tables) for b in range(len(first["j"]))]
        for a in range(len(first["i"]))
    ]
    plots.heat_map(
        ax,
        values,
        rows=[str(i) for i in first["i"]],
        columns=[str(j) for j in first["j"]],
        notes=[[f"chance {100 * c:.0f}" for c in row] for row in first["chance"]],
    )
    ax.set(
        xlabel=f"j, first directions of ΔW of r={first['wide_rank']} (inputs of q and v)",
        ylabel=f"i, first directions of r={first['rank']}",
    )


def _planted(ax: Any, rows: list[Row]) -> None:
    measured = where(rows, kind="planted")
    ax.set_title("A planted rank: loss over r")
    if not measured:
        return empty(ax)
    ranks = sorted({k for r in measured for k in r["ranks"]})

    def of(field: str) -> list[list[float]]:
        each = [dict(zip(r["ranks"], r[field], strict=True)) for r in measured]
        return [[max(_LEAST, e[k]) for e in each if e.get(k) is not None] for k in ranks]

    plots.spread_line(ax, ranks, of("losses"), "LoRA at r, end of training", 0, direct=False)
    floors = [(k, sum(v) / len(v)) for k, v in zip(ranks, of("floors"), strict=True) if v]
    label = "least that rank r allows"
    # Larger and open, as the loss, where it gets there, lies exactly upon it.
    ax.plot(*zip(*floors, strict=True), "s", ms=11, mfc="none", color=plots.INK, label=label)
    true = measured[0]["true_rank"]
    ax.axvline(true, color=plots.FAINT, linewidth=0.8, zorder=0)
    ax.text(true + 0.15, 0.5, f"planted: {true}", fontsize=9, va="top")
    ax.set_yscale("log")
    ax.set(xlabel="r", ylabel="loss, share of that at the start", ylim=(_LEAST / 5, 3))
    ax.set_xticks(ranks, [str(k) for k in ranks])
    legend_below(ax, 2)


def _intruders(ax: Any, rows: list[Row]) -> None:
    ax.set_title("Intruders among the 10 strongest directions of W + ΔW")
    arms = shown_arms(rows)
    if not arms:
        return empty(ax)
    for n, (name, of) in enumerate(arms.items()):
        thresholds = [t for t, _ in of[0]["intruders"]]
        values = [[100 * r["intruders"][i][1] for r in of] for i in range(len(thresholds))]
        plots.spread_line(ax, thresholds, values, name, n, direct=False)
    ax.set(xlabel="cosine below which a direction is an intruder", ylabel="intruders, %")
    ax.set_ylim(0, 104)
    legend_below(ax, 3)


def _scaled(ax: Any, rows: list[Row]) -> None:
    """Old against new accuracy as intruders, or all of ΔW, are scaled down."""
    ax.set_title("Scaled down: the intruders (filled), or all of ΔW (open)")
    arms = {n: of for n, of in intruder_arms(rows).items() if n in SCALED}
    if not arms:
        return empty(ax)
    for n, (name, of) in enumerate(arms.items()):
        for field, dash, face in (("scaled", "-", plots.INK), ("scaled_whole", ":", "white")):
            factors = sorted({f for r in of for f, *_ in r[field]})
            each = [[(x, y) for r in of for f, x, y in r[field] if f == k] for k in factors]
            new = [100 * sum(x for x, _ in at) / len(at) for at in each]
            old = [100 * sum(y for _, y in at) / len(at) for at in each]
            ax.plot(
                new,
                old,
                dash,
                marker=plots.MARKERS[n],
                markerfacecolor=face,
                color=plots.INK,
                markersize=6,
                label=f"{name}, {'intruders' if field == 'scaled' else 'all of ΔW'}",
            )
            # The factors on one line, and where each of the others ends: more would overlap.
            named = factors[1:-1] if (n, field) == (0, "scaled_whole") else []
            named = factors[:1] if field == "scaled" else named
            for f, x, y in zip(factors, new, old, strict=True):
                if f in named:
                    place = {"xytext": (7, 6), "textcoords": "offset points", "fontsize": 9}
                    ax.annotate(f"×{f:g}", (x, y), **place)
    ax.set(xlabel="new strings right, %", ylabel="old strings right, %")
    ax.set(xlim=(-4, 108), ylim=(-4, 108))
    legend_below(ax, 2)


def _alt(rows: list[Row]) -> str:
    """The figure in words."""
    told = ["Four panels. First: loss over r for a planted rank, logarithmic."]
    for r in where(rows, kind="planted"):
        at = ", ".join(f"{x:.1g} at {k}" for k, x in zip(r["ranks"], r["losses"], strict=True))
        told.append(f"Seed {r['seed']}, planted {r['true_rank']}: {at}.")
    told.append("Second: φ of an adapter of low and one of high rank, on the same data.")
    for r in where(rows, kind="subspaces"):
        if values := table(r, "same data"):
            told.append(f"Seed {r['seed']}: {values[0][0]:.2f} for the first directions.")
    told.append("Third: share of intruders by cosine. Fourth: old over new, intruders scaled down.")
    for name, of in intruder_arms(rows).items():
        shares = percent(r["intruders"][0][1] for r in of)
        told.append(f"{name}: {shares} below {of[0]['intruders'][0][0]:g}.")
        ends = [r["scaled"][0] for r in of if r.get("scaled")]
        if ends and name in SCALED:
            told.append(
                f"With intruders times {ends[0][0]:g}: new {percent(e[1] for e in ends)}, "
                f"old {percent(e[2] for e in ends)}."
            )
    return " ".join(told)
