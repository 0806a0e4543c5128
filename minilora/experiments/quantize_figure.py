"""The figure of `quantize`: where a base loses most, and which levels its weights use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from minilora import plots
from minilora.quant.levels import levels


def draw(report: dict[str, Any], path: str | Path) -> None:
    """Signal to noise by layer and kind, and the share of each level; as the path's ending says."""
    s = report["settings"]
    n_layers = len(report["by_layer"])
    twice = "constants quantized, too" if s["double_quant"] else "constants in 32 bits"
    caption = (
        f"base {s['base']}, {s['data_type']} in blocks of {s['block_size']}, {twice}: "
        f"{report['total']['bits']:.3f} bits a number"
    )
    with plots.figure(2, width=12, height=max(4.0, 1.6 + 0.22 * n_layers)) as (fig, axes):
        _noise(axes[0], report)
        _shares(axes[1], report)
        plots.save(fig, path, caption, alt=in_words(report))


def _noise(ax: Any, report: dict[str, Any]) -> None:
    kinds = [row["kind"] for row in report["by_kind"]]
    layers = [row["layer"] for row in report["by_layer"]]
    values = np.full((len(layers), len(kinds)), np.nan)
    for row in report["matrices"]:
        if row["snr"] is not None:
            values[layers.index(row["layer"]), kinds.index(row["kind"])] = row["snr"]
    ax.imshow(values, "cividis", aspect="auto")
    middle = np.nanmean([np.nanmin(values), np.nanmax(values)]) if np.isfinite(values).any() else 0
    for (i, j), v in np.ndenumerate(values):
        if np.isfinite(v):
            ink = "white" if v <= middle else "black"
            ax.text(j, i, f"{v:.1f}", ha="center", va="center", color=ink, fontsize=8)
    ax.set_xticks(range(len(kinds)), [kind.removesuffix("_proj") for kind in kinds])
    ax.set_yticks(range(len(layers)), layers, fontsize=8)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.tick_params(length=0)
    ax.set_ylabel("layer")
    ax.set_title("signal to noise, dB")


def _shares(ax: Any, report: dict[str, Any]) -> None:
    name = report["settings"]["data_type"]
    x, shares = np.sort(levels(name)), [100 * share for share in report["code_shares"]]
    if len(x) > 16:
        ax.plot(x, shares, ".", color=plots.FROZEN, markersize=3)
    else:
        ax.vlines(x, 0, shares, color=plots.FROZEN, linewidth=5)
        ax.axhline(100 / len(x), color=plots.INK, linestyle="--", linewidth=1)
        ax.text(x[0], 100 / len(x), "if all were used alike", fontsize=8, va="bottom")
    ax.set_ylim(bottom=0)
    between = "steps above the block's minimum"
    ax.set_xlabel(between if name == "int4-minmax" else "level; 1 is the block's largest number")
    ax.set_ylabel("share of the weights, %")
    ax.set_title("which levels are used")


def in_words(report: dict[str, Any]) -> str:
    """The figure for who does not see it."""
    s, found = report["settings"], [r["snr"] for r in report["matrices"] if r["snr"] is not None]
    lines = [
        f"Left: signal to noise of {len(report['matrices'])} matrices of {s['base']} in "
        f"{s['data_type']}, one row a layer, one column a kind"
        + (f", {min(found):.1f} to {max(found):.1f} dB." if found else ".")
    ]
    lines += [f"{row['kind']}: {row['snr']:.1f} dB." for row in report["by_kind"] if row["snr"]]
    shares = report["code_shares"]
    lines.append(
        f"Right: the share of weights at each of {len(shares)} levels, from {min(shares):.1%} to "
        f"{max(shares):.1%}."
    )
    return "\n".join(lines)
