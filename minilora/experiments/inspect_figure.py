"""The figure of `inspect`: how loud each ΔW is, and how many directions it uses, layer by layer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minilora import plots
from minilora.inspecting import Inspection, Matrix

ELSEWHERE = "-"  # the row of what lies in no layer


def draw(inspection: Inspection, path: str | Path) -> None:
    """Two maps, layers by matrices: ‖ΔW‖ and the effective rank; written as the path says."""
    rows, columns, at = grid(inspection.matrices)
    most = max((m.rank for m in inspection.matrices), default=1)
    loudest = max((m.norm_delta for m in inspection.matrices if not m.not_finite), default=0.0)
    panels: tuple[tuple[str, Callable[[Matrix], float], float], ...] = (
        ("size of the change, ‖ΔW‖", lambda m: m.norm_delta, loudest or 1.0),
        (f"directions used, of {most}", lambda m: m.effective_rank, most),
    )
    width = max(6.5, 1.6 + 1.5 * len(columns))
    with plots.figure(2, width=width, height=1.9 + 0.3 * len(rows)) as (fig, axes):
        for ax, (title, value, top) in zip(axes, panels, strict=True):
            values = [[value(at[r, c]) if (r, c) in at else None for c in columns] for r in rows]
            _map(ax, values, top, rows, columns)
            ax.set_title(title)
        axes[0].set_ylabel("layer")
        config = inspection.config
        base = config.base_model_name_or_path or "unknown"
        caption = (
            f"{inspection.folder}: rank {config.r}, α {config.lora_alpha:g}, base {base}; "
            "Frobenius norm, effective rank"
        )
        plots.save(fig, path, caption, alt=in_words(inspection))


def grid(
    matrices: tuple[Matrix, ...],
) -> tuple[list[str], list[str], dict[tuple[str, str], Matrix]]:
    """Layers, kinds of matrices, and what stands where, in the order of the model."""
    at = {}
    for m in matrices:
        layer = re.search(r"\.(\d+)\.", m.path)
        at[layer[1] if layer else ELSEWHERE, m.path.rsplit(".", 1)[-1]] = m
    return list(dict.fromkeys(r for r, _ in at)), list(dict.fromkeys(c for _, c in at)), at


def in_words(inspection: Inspection) -> str:
    """The figure for who does not see it."""
    lines = [f"Two heat maps of {inspection.folder}, one row a layer, one column a kind of matrix."]
    for kind in dict.fromkeys(m.path.rsplit(".", 1)[-1] for m in inspection.matrices):
        found = [m for m in inspection.matrices if m.path.rsplit(".", 1)[-1] == kind]
        whole = [m for m in found if not m.not_finite]
        line = f"{kind}:"
        if whole:
            norms, ranks = [m.norm_delta for m in whole], [m.effective_rank for m in whole]
            line += (
                f" ‖ΔW‖ {min(norms):.3g} to {max(norms):.3g}, effective rank {min(ranks):.3g} to "
                f"{max(ranks):.3g} of {max(m.rank for m in found)}."
            )
        if len(whole) < len(found):
            line += f" NaN in {len(found) - len(whole)}."
        lines.append(line)
    return "\n".join(lines)


def _map(
    ax: Any, values: list[list[float | None]], top: float, rows: list[str], columns: list[str]
) -> None:
    """Numbers as colours, from 0 to `top`, and written out; None is an empty cell."""
    shown = [[math.nan if v is None else v for v in row] for row in values]
    ax.imshow(shown, "cividis", vmin=0, vmax=top)
    ax.set_aspect("auto")
    for i, row in enumerate(values):
        for j, v in enumerate(row):
            if v is None:
                continue
            dark = math.isfinite(v) and v < 0.55 * top
            text = "NaN" if not math.isfinite(v) else f"{v:#.3g}" if v < 100 else f"{v:.0f}"
            place = {"ha": "center", "va": "center", "fontsize": 8}
            ax.text(j, i, text, color="white" if dark else "black", **place)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.tick_params(length=0)
