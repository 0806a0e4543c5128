"""How the cost grows, as a table and as small pictures: seconds above, bytes below, a size each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilora import plots


def table(report: dict[str, Any]) -> str:
    """The rows as a person reads them, and below each size its exponents."""
    lines = [
        f"{'size':<12}{'':>8}{'step':>11}{'rival':>11}{'GFLOP':>9}{'GFLOP/s':>9}"
        f"{'peak MB':>10}{'rival':>10}{'foretold':>10}"
    ]
    for exponents in report["exponents"]:
        name = exponents["axis"]
        rows = [r for r in report["rows"] if r["axis"] == name]
        for r in rows:
            lines.append(
                f"{name:<12}{r['value']:>8}{_ms(r['seconds']):>11}{_ms(r['rival_seconds']):>11}"
                f"{r['predicted_flops'] / 1e9:>9.2f}"
                f"{r['predicted_flops'] / r['seconds'] / 1e9:>9.1f}"
                f"{r['peak_bytes'] / 1e6:>10.1f}{_mb(r['rival_bytes']):>10}"
                f"{r['predicted_bytes'] / 1e6:>10.1f}"
            )
        if not rows:
            continue
        e = {key: _power(value) for key, value in exponents.items() if key != "axis"}
        lines.append(
            f"{'':<12}{'grows as':>8}{e['seconds']:>11}{e['rival_seconds']:>11}"
            f"{e['predicted_flops']:>9}{'':>9}{e['peak_bytes']:>10}{e['rival_bytes']:>10}"
            f"{e['predicted_bytes']:>10}"
        )
    threads = report["machine"]["threads"]
    note = f"times with {threads} threads where they are not the size, bytes always with one"
    return "\n".join([*lines, note])


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.1f} ms"


def _mb(nbytes: int | None) -> str:
    return "" if nbytes is None else f"{nbytes / 1e6:.1f}"


def _power(exponent: float | None) -> str:
    return "" if exponent is None else f"^{exponent:z.2f}"


def draw(report: dict[str, Any], path: str | Path) -> None:
    """Two rows of panels on logarithmic axes: measured as marks, foretold as lines."""
    fitted = [e for e in report["exponents"] if e["seconds"] is not None]
    if not fitted:
        return
    with plots.figure(len(fitted), rows=2, width=1.5 + 2.2 * len(fitted), height=6) as (fig, axs):
        axs = axs.reshape(2, -1)
        for column, e in enumerate(fitted):
            rows = [r for r in report["rows"] if r["axis"] == e["axis"]]
            _seconds(axs[0, column], rows, e)
            _bytes(axs[1, column], rows, e)
        axs[0, 0].set_ylabel("a step, milliseconds")
        axs[1, 0].set_ylabel("most held at once, MB")
        for ax in axs[:, 0]:
            ax.legend(loc="upper left", fontsize=7.5, handlelength=1.6, borderaxespad=0)
        base = rows[0]["sizes"]
        fixed = ", ".join(f"{name} {n}" for name, n in base.items() if name != e["axis"])
        caption = (
            f"{plots.NAMES[report['method']]} steps; in the last column {fixed}.\n"
            "^k: the size doubled costs 2ᵏ times as much; the median slope of the logarithms."
        )
        plots.save(fig, path, caption)


def _seconds(ax: Any, rows: list[dict[str, Any]], e: dict[str, Any]) -> None:
    x = [r["value"] for r in rows]
    least = [1000 * r["least_seconds"] for r in rows]
    ax.plot(x, [1000 * r["seconds"] for r in rows], "o-", color=plots.INK, ms=4, label="minilora")
    _beside(ax, [(r["value"], 1000 * r["rival_seconds"]) for r in rows if r["rival_seconds"]])
    ax.plot(x, least, ":", color=plots.INK, linewidth=1.2, label="FLOPs foretold,\nat peak rate")
    ax.set_title(_title(e, "seconds", "least_seconds"))
    _logarithmic(ax, x, e["axis"])


def _bytes(ax: Any, rows: list[dict[str, Any]], e: dict[str, Any]) -> None:
    x = [r["value"] for r in rows]
    ax.plot(x, [r["peak_bytes"] / 1e6 for r in rows], "o", color=plots.INK, ms=5, label="measured")
    _beside(ax, [(r["value"], r["rival_bytes"] / 1e6) for r in rows if r["rival_bytes"]])
    ax.plot(x, [r["predicted_bytes"] / 1e6 for r in rows], ":", color=plots.INK, label="foretold")
    ax.set_title(_title(e, "peak_bytes", "predicted_bytes"))
    _logarithmic(ax, x, e["axis"])


def _beside(ax: Any, points: list[tuple[int, float]]) -> None:
    if points:
        ax.plot(
            *zip(*points, strict=True), "s--", color=plots.INK, mfc="white", ms=4, label="rival"
        )


def _title(e: dict[str, Any], measured: str, foretold: str) -> str:
    return f"{e['axis']} {_power(e[measured])}\n(foretold {_power(e[foretold])})"


def _logarithmic(ax: Any, x: list[int], name: str) -> None:
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(low / 1.3, max(high, 10 * low) * 3)  # room for the legend; never a tiny decade
    ax.set_xticks(x, [str(n) for n in x], fontsize=7)
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(name)
