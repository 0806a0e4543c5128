"""The figure of `initialisation`: gradients of A and B in the first steps, and what is learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilora import plots
from minilora.errors import ConfigError
from minilora.experiments.lab import stats
from minilora.experiments.lab.experiment import Row

# A shift below this is float32's rounding: the base's logits are some tens.
ROUNDING = 1e-3
MARKERS = {"dA": ("^", "--"), "dB": ("o", "-")}


def draw(rows: list[Row], path: str | Path, starts: tuple[str, ...], arms: tuple[str, ...]) -> None:
    """A panel for each start that was measured, and one for the accuracies of all arms.

    starts, arms   in the order in which they are drawn
    """
    reported = stats.where(rows, role="report")
    if not reported:
        raise ConfigError("initialisation: there are no reported rows to draw; run it first")
    starts = tuple(s for s in starts if any(r["arm"] == s and r.get("dA") for r in reported))
    arms = tuple(a for a in arms if any(r["arm"] == a for r in reported))
    n = len(starts) + 1
    columns = 2 if n in (2, 4) else min(3, n)
    lines = -(-n // columns)
    with plots.figure(columns, rows=lines, width=4.3 * columns, height=3.5 * lines) as (fig, axes):
        panels = list(getattr(axes, "flat", [axes]))
        limits = _limits(reported)
        for i, (ax, start) in enumerate(zip(panels, starts, strict=False)):
            _gradients(ax, start, stats.where(reported, arm=start), limits, legend=i == 0)
        _accuracy(panels[len(starts)], arms, reported)
        for ax in panels[n:]:
            ax.set_visible(False)
        plots.save(fig, path, _caption(rows, reported), _alt(starts, arms, reported))


def _limits(reported: list[Row]) -> tuple[float, float]:
    """The least and the greatest norm other than 0."""
    norms = [v for r in reported for what in MARKERS for v in r.get(what) or () if v]
    return (min(norms), max(norms)) if norms else (1e-3, 1.0)


def _gradients(
    ax: Any, start: str, rows: list[Row], limits: tuple[float, float], *, legend: bool
) -> None:
    low, high = limits
    for what, (marker, dash) in MARKERS.items():
        curves = [r[what] for r in rows if r.get(what)]
        longest = max((len(c) for c in curves), default=0)
        by_step = [
            [c[i] for c in curves if i < len(c) and c[i] is not None] for i in range(longest)
        ]
        kept = [(i, v) for i, v in enumerate(by_step) if v]
        steps, means = [i for i, _ in kept], [sum(v) / len(v) for _, v in kept]
        ax.fill_between(
            steps,
            [min(v) for _, v in kept],
            [max(v) for _, v in kept],
            color=plots.GRADIENT,
            alpha=0.15,
            linewidth=0,
        )
        ax.plot(steps, means, dash, color=plots.GRADIENT, linewidth=1)
        at_zero = [i for i, v in kept if not any(v)]
        above = [(i, m) for i, m in zip(steps, means, strict=True) if i not in at_zero]
        ax.plot(
            [i for i, _ in above],
            [m for _, m in above],
            marker,
            color=plots.GRADIENT,
            markersize=5,
            label=what,
        )
        # The larger ring is dB's, so that both are seen where both are zero.
        size = 9 if what == "dB" else 6
        ax.plot(
            at_zero,
            [0] * len(at_zero),
            marker,
            color=plots.GRADIENT,
            markerfacecolor="none",
            markersize=size,
            label=f"{what} exactly 0",
        )
    ax.set_yscale("symlog", linthresh=low)
    ax.set_ylim(-0.25 * low, 20 * high)  # with room for the legend
    ax.set(xlabel="steps taken", ylabel="norm of the gradient", xlim=(-0.7, None))
    ax.set_title(f"{start}\n{_shift(rows)}", fontsize=10)
    if legend:
        ax.legend(loc="upper right", fontsize=9, ncols=2, columnspacing=1, handletextpad=0.3)


def _shift(rows: list[Row]) -> str:
    shifts = [r["shift"] for r in rows if r.get("shift") is not None]
    if not shifts:
        return "shift of the logits not measured"
    if not any(shifts):
        return "the start shifts no logit"
    rounding = " (rounding)" if max(shifts) < ROUNDING else ""
    return f"the start shifts logits by ≤ {max(shifts):.2g}{rounding}"


def _accuracy(ax: Any, arms: tuple[str, ...], reported: list[Row]) -> None:
    for y, arm in enumerate(arms):
        of_arm = stats.where(reported, arm=arm)
        found = [100 * (r.get("new") or 0.0) for r in of_arm]
        mean, low, high = stats.spread(found)
        ax.plot([low, high], [y, y], color=plots.INK, linewidth=1.2)
        ax.plot(found, [y] * len(found), "o", color=plots.INK, markersize=4, alpha=0.35)
        ax.plot(mean, y, "D", color=plots.INK, markersize=7)
        left = high > 60
        lrs = "/".join(f"{lr:g}" for lr in sorted({r["lr"] for r in of_arm}))
        place = {"xytext": (-8 if left else 8, 0), "textcoords": "offset points", "fontsize": 9}
        side = {"ha": "right" if left else "left", "va": "center"}
        ax.annotate(f"{mean:.0f}  (lr {lrs})", (low if left else high, y), **place, **side)
    ax.set_yticks(range(len(arms)), arms, fontsize=9)
    ax.set_ylim(len(arms) - 0.4, -0.6)
    ax.set(xlabel="new skill exactly right, % (test)", xlim=(-4, 104))
    steps = " or ".join(str(n) for n in sorted({r["steps"] for r in reported}))
    ax.set_title(f"after {steps} steps", fontsize=10)


def _caption(rows: list[Row], reported: list[Row]) -> str:
    some = reported[0]
    seeds = ", ".join(map(str, sorted({r["seed"] for r in reported})))
    chosen = (
        "lr of each arm the best of its own on validation"
        if stats.where(rows, role="choose")
        else "lr as written"
    )
    return (
        f"LoRA r={some['rank']} on q and v of base skills, task {some['task']}, batch "
        f"{some['batch_size']}; {chosen} (LoRA+: A's; B's is 16 times that).\nNorm of the gradient "
        f"of all adapted matrices together, before clipping: mean and range over seeds {seeds}. "
        "Shift: the greatest on test examples.  minilora experiment initialisation"
    )


def _alt(starts: tuple[str, ...], arms: tuple[str, ...], reported: list[Row]) -> str:
    said = ["Panels by start. Across: steps taken; up: norms of the gradients of A and of B."]
    for start in starts:
        rows = stats.where(reported, arm=start)
        parts = []
        for what in MARKERS:
            ends = [
                [c[i] for r in rows if (c := r.get(what)) and c[i] is not None] for i in (0, -1)
            ]
            told = [f"{stats.spread(v)[0]:.2g}" if v else "not finite" for v in ends]
            still = max(sum(v == 0 for v in r.get(what) or ()) for r in rows)
            of = max(len(r.get(what) or ()) for r in rows)
            parts.append(f"{what} from {told[0]} to {told[1]}, exactly 0 at {still} of {of} looks")
        said.append(f"{start}: {'; '.join(parts)}; {_shift(rows)}.")
    finals = [
        f"{arm} {stats.percent(r.get('new') or 0.0 for r in stats.where(reported, arm=arm))}"
        for arm in arms
    ]
    said.append(f"Last panel, new skill, mean (range over seeds): {'; '.join(finals)}.")
    return "\n".join(said)
