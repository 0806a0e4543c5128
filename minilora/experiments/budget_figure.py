"""The figure of `budget`: what each plan holds, by role, against the card."""

from __future__ import annotations

from pathlib import Path

from minilora import plots
from minilora.accounting.budget import Budget
from minilora.accounting.fit import GIB


def draw(bills: list[Budget], path: str | Path, *, model: str, gpu: float | None = None) -> None:
    """A bar a budget, and a line where the card of `gpu` GiB ends; written as the path says."""
    rows = [(bill.plan.method.name, roles(bill)) for bill in bills]
    plan = bills[0].plan
    caption = (
        f"{model}, batch {plan.batch_size} of {plan.length} tokens, {plan.accounting} accounting"
    )
    if any(bill.estimate for bill in bills):
        caption += "; activations estimated (arXiv 2205.05198, adapted)"
    with plots.figure(1, width=9, height=2.2 + 0.5 * len(rows)) as (fig, ax):
        plots.stacked_bars(ax, rows)
        if gpu is not None:
            for total in ax.texts:  # legible where the line passes behind
                total.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0})
            size, _ = plots.unit(max(sum(parts.values()) for _, parts in rows))
            end = gpu * GIB / size
            ax.axvline(end, color=plots.INK, linestyle="--", linewidth=1.2)
            ax.set_xlim(0, max(ax.get_xlim()[1], 1.1 * end))
            ax.annotate(
                f" card of {gpu:g} GiB", (end, 0), (end, -0.55), va="bottom", annotation_clip=False
            )
            ax.set_ylim(len(rows) - 0.4, -0.95)
        ax.set_title("Memory of a training step, by kind")
        fig.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=5, fontsize=9)
        plots.save(fig, path, caption)


def roles(bill: Budget) -> dict[str, float]:
    """Bytes on one card by the roles that all figures share; buffers stand with activations."""
    about = bill.estimate.total if bill.estimate else 0
    return {
        "frozen weights": bill.frozen_bytes,
        "trained weights": bill.trained_bytes,
        "gradients": bill.bytes.gradients,
        "optimizer": bill.bytes.optimizer,
        "activations": bill.bytes.activations + bill.bytes.buffers + about,
    }
