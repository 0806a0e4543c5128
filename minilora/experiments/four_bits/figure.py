"""The figure of `four_bits`: errors against bits, tunings on each format, what a merge keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilora import plots
from minilora.errors import ConfigError
from minilora.experiments.four_bits import reading
from minilora.experiments.lab import stats
from minilora.experiments.lab.stats import Row, percent
from minilora.quant import DATA_TYPES

_NONE = "there are no rows to draw; measure some with `minilora experiment four_bits`"
SOURCES = {"normal": "numbers from N(0, 1)", "skills": "the matrices of the base"}
FOUR = [f for f, bits in DATA_TYPES.items() if bits == 4]
_TICKS = (4.01, 4.03, 4.13, 4.5, 5.0, 6.0)


def draw(rows: list[Row], path: str | Path) -> None:
    """Four panels, of which one without rows says so. ConfigError if there are no rows at all."""
    if not rows:
        raise ConfigError(_NONE)
    with plots.figure(2, rows=2, width=12, height=9) as (fig, axes):
        words = [_errors(ax, rows, source) for ax, source in zip(axes[0], SOURCES, strict=True)]
        words += [_tunings(axes[1][0], rows), _merges(axes[1][1], rows)]
        plots.save(fig, path, _caption(rows), "\n".join(words))


def draw_errors(rows: list[Row], path: str | Path) -> None:
    """The upper two panels alone. ConfigError if there are no rows of errors."""
    if not stats.where(rows, role="error"):
        raise ConfigError(_NONE)
    caption = "a marker a block size, 32 (right) to 4,096 (left); open: constants in 8 bits, too"
    with plots.figure(2, width=12, height=4.8) as (fig, axes):
        words = [_errors(ax, rows, source) for ax, source in zip(axes, SOURCES, strict=True)]
        plots.save(fig, path, caption, "\n".join(words))


def draw_merges(rows: list[Row], path: str | Path) -> None:
    """The last panel alone. ConfigError if there are no rows of merges."""
    if not reading.merged_formats(rows) and not reading.gains(rows):
        raise ConfigError(_NONE)
    with plots.figure(1, width=9, height=4.8) as (fig, ax):
        words = _merges(ax, rows)
        plots.save(fig, path, "a line: mean over seeds, range shaded", words)


def _errors(ax: Any, rows: list[Row], source: str) -> str:
    """Mean absolute error over bits, four-bit formats, a line each; doubled constants open."""
    title = f"Rounding {SOURCES[source]}"
    ax.set_title(title)
    found = {f: e for f, e in reading.errors(rows, source).items() if f in FOUR}
    if not found:
        return plots.not_measured(ax, title)
    words = [f"{title}: mean absolute error, as a share of the mean magnitude, by bits a number."]
    names = []
    for name, each in found.items():
        look = FOUR.index(name)
        plain, twice = (stats.where(each, double_quant=d) for d in (False, True))
        _line(ax, plain, look, plots.INK)
        _line(ax, twice, look, "white")
        coarsest = max(twice or plain, key=lambda e: e["block_size"])
        names.append((name, coarsest["bits"] - 4, 100 * coarsest["relative"]))
        said = "; ".join(
            f"{e['bits']:.3f} bits {100 * e['relative']:.2f} %"
            for e in each
            if e["block_size"] in (64, 4096)
        )
        words.append(f"  {name}: {said}")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks([t - 4 for t in _TICKS], [f"{t:g}" for t in _TICKS])
    ax.minorticks_off()
    ax.set_xlim(right=3)
    _percent_ticks(ax)
    ax.set_xlabel("bits a number, constants included")
    ax.set_ylabel("mean error, % of the mean magnitude")
    _beside(ax, names)
    return "\n".join(words)


def _line(ax: Any, each: list[Row], look: int, face: str) -> None:
    """Errors over bits beyond the code, a marker a block size."""
    dash = plots.DASHES[look]
    ax.plot(
        [e["bits"] - 4 for e in each],
        [100 * e["relative"] for e in each],
        linestyle=dash,
        marker=plots.MARKERS[look],
        color=plots.INK,
        markerfacecolor=face,
        linewidth=1,
        markersize=6,
    )


def _percent_ticks(ax: Any) -> None:
    """A log axis labelled in whole per cents, where its range is less than a decade."""
    low, high = ax.get_ylim()
    ticks = [t for t in (5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 70, 100) if low <= t <= high]
    ax.set_yticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()


def _beside(ax: Any, names: list[tuple[str, float, float]]) -> None:
    """A name left of where each line begins, those that are near one another apart."""
    to_points = 72 / ax.figure.dpi
    ax.set_xlim(left=min(x for _, x, _ in names) / 4)
    above = float("inf")
    for name, x, y in sorted(names, key=lambda n: -n[2]):
        up = ax.transData.transform((x, y))[1] * to_points
        place = min(up, above - 13)
        above = place
        ax.annotate(
            name,
            (x, y),
            xytext=(-9, place - up),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=10,
        )


def _tunings(ax: Any, rows: list[Row]) -> str:
    """New skill by arm: apart, and merged back into the bits of its base."""
    title = "New skill after tuning beside a base in few bits"
    ax.set_title(title)
    arms = reading.tunings(rows)
    if not arms:
        return plots.not_measured(ax, title)
    words = [f"{title}: share of the test that is right; kept apart, then merged back."]
    for i, (arm, each) in enumerate(arms.items()):
        apart, again = stats.column(each, "new"), reading.back(each)
        for values, off, face in ((apart, -0.12, plots.INK), (again, 0.12, "white")):
            ax.plot(
                [i + off] * len(values),
                [100 * v for v in values],
                "o",
                color=plots.INK,
                markerfacecolor=face,
            )
        words.append(f"  {arm}: {percent(apart)}; {percent(again)}")
    ax.set_xticks(range(len(arms)), [a.replace("QLoRA ", "QLoRA\n") for a in arms])
    low, high = ax.get_ylim()
    middle, half = (low + high) / 2, max(10, (high - low) / 2)
    ax.set(xlim=(-0.6, len(arms) - 0.4), ylim=(middle - half, middle + half))
    ax.set_ylabel("new skill right on the test, %")
    ax.set_xlabel("● kept apart   ○ merged back into the format   a dot a seed")
    return "\n".join(words)


def _merges(ax: Any, rows: list[Row]) -> str:
    """What is left of ΔW over its size: lines Gaussian matrices, stars trained adapters."""
    title = "What is left of ΔW, merged back into few bits"
    ax.set_title(title)
    formats, gains = reading.merged_formats(rows), reading.gains(rows)
    if not formats and not gains:
        return plots.not_measured(ax, title)
    words = [f"{title}, in %, by the size of ΔW beside W."]
    for look, name in enumerate(formats):
        found = reading.merges(rows, name)
        values = [[100 * e["survives"] for e in each] for each in found.values()]
        plots.spread_line(ax, list(found), values, name, look, direct=False)
        said = ", ".join(
            f"{size:.0%} {sum(v) / len(v):.0f}" for size, v in zip(found, values, strict=True)
        )
        words.append(f"  {name}, share of ΔW in a Gaussian matrix: {said}")
    if gains:
        every = [one for each in gains.values() for one in each]
        sizes, kept = zip(*every, strict=True)
        label = "adapters trained on nf4:\nshare of their gain"
        ax.plot(sizes, [100 * k for k in kept], "*", color=plots.INK, markersize=11, label=label)
        said = ", ".join(f"{size:.0%} {100 * k:.0f}" for size, k in every)
        words.append(f"  adapters trained on nf4, share of their gain in likelihood: {said}")
    ax.axhline(100, color=plots.FAINT, linewidth=0.8, zorder=0)
    ax.set_xscale("log")
    ticks = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
    ax.set_xticks(ticks, [f"{100 * t:g}" for t in ticks])
    ax.minorticks_off()
    ax.set_xlabel("size of ΔW, % of the size of W")
    ax.set_ylabel("left, %")
    ax.legend(loc="lower right")
    return "\n".join(words)


def _caption(rows: list[Row]) -> str:
    tuned = stats.where(rows, role="tune")
    seen = {k: sorted({r[k] for r in tuned}) for k in ("task", "steps", "batch_size", "lr", "seed")}
    said = {k: ", ".join(f"{v:g}" if k == "lr" else str(v) for v in vs) for k, vs in seen.items()}
    how = (
        f"tunings: {said['task']}, {said['steps']} steps of {said['batch_size']}, LoRA r = 8 on "
        f"q_proj, v_proj, lr {said['lr']}, seeds {said['seed']}\n"
        if tuned
        else ""
    )
    return (
        "above: a marker a block size, 32 (right) to 4,096 (left); open: constants in 8 bits, too\n"
        f"{how}minilora experiment four_bits"
    )
