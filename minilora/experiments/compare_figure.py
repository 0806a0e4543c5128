"""The figure of `compare`: what each method holds, how it learns, what it forgets."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from minilora import plots


def draw(report: dict[str, Any], path: str | Path) -> None:
    """Four panels from a report of `compare`, written as the path's ending says."""
    s = report["settings"]
    caption = (
        f"base {s['base']}, task {s['task']}, LoRA r={s['rank']} α={s['alpha']:g} on "
        f"{targets_text(s['target_modules'])}; {s['steps']} steps of {s['batch_size']}, "
        + ", ".join(f"{plots.NAMES[m['method']]} lr {m['lr']:g}" for m in report["methods"])
        + f", replay {s['replay']:.0%}, seed {s['seed']}"
    )
    caption = textwrap.fill(caption, 170)
    with plots.figure(2, rows=2, width=11, height=7.6) as (fig, axes):
        _bytes(axes[0, 0], report["methods"])
        _course(axes[0, 1], report["methods"])
        _learning(axes[1, 0], report["methods"])
        _forgetting(axes[1, 1], report["methods"])
        plots.save(fig, path, caption)


def _adapted(methods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The methods that put something beside the base."""
    return [m for m in methods if m["method"] != "full"]


def targets_text(targets: Any) -> str:
    """Target modules as one writes them on the command line."""
    return targets if isinstance(targets, str) else ",".join(targets)


def _bytes(ax: Any, methods: list[dict[str, Any]]) -> None:
    rows = []
    for m in methods:
        b = m["bytes"]
        share = m["trainable_parameters"] / m["total_parameters"]
        rows.append(
            (
                plots.NAMES[m["method"]],
                {
                    "frozen weights": b["weights"] * (1 - share),
                    "trained weights": b["weights"] * share,
                    "gradients": b["gradients"],
                    "optimizer": b["optimizer"],
                    "activations": b["activations"],
                },
            )
        )
    plots.stacked_bars(ax, rows)
    ax.set_ylim(len(rows) - 0.4, -0.45 - 0.45 * len(rows))  # the legend stands above the bars
    ax.legend(loc="upper left", ncols=3, fontsize=9, handlelength=1.4, columnspacing=1)
    ax.set_title("Memory of a training step, by kind")


def _course(ax: Any, methods: list[dict[str, Any]]) -> None:
    courses = [(plots.NAMES[m["method"]], plots.METHODS[m["method"]][1], m) for m in methods]
    # One of them is enough: what checkpointing leaves is much the same for all adapters.
    for m in _adapted(methods)[:1]:
        courses.append((f"{plots.NAMES[m['method']]}, checkpointing", ":", m["checkpointing"]))
    size, unit = plots.unit(max(y for _, _, m in courses for _, y in m["timeline"]))
    for name, dash, m in courses:
        x, y = zip(*m["timeline"], strict=True)
        share, held = [100 * v for v in x], [v / size for v in y]
        ax.plot(share, held, linestyle=dash, color=plots.INK, label=name)
    ax.set(xlabel="operations of the step done, %", ylabel=f"held, {unit}", xlim=(0, 100))
    ax.set_ylim(0, ax.get_ylim()[1] * 1.25)
    ax.set_title("The same over the step: forward rises, backward falls")
    ax.legend(loc="upper right", ncols=3, fontsize=9 if len(courses) < 4 else 8, columnspacing=1)


def _learning(ax: Any, methods: list[dict[str, Any]]) -> None:
    for m in methods:
        marker, dash = plots.METHODS[m["method"]]
        steps = [point["step"] for point in m["curve"]]
        ax.plot(
            steps,
            [100 * point["new"] for point in m["curve"]],
            linestyle=dash,
            marker=marker,
            color=plots.INK,
            markersize=5,
            label=plots.NAMES[m["method"]],
        )
    ax.axhline(90, color=plots.FAINT, linewidth=0.8, zorder=0)
    ax.set(xlabel="step", ylabel="new task, exactly right, %", ylim=(-4, 104))
    ax.set_title("Learning (validation)")
    ax.legend(loc="lower right", ncols=1 if len(methods) < 4 else 2)


def _forgetting(ax: Any, methods: list[dict[str, Any]]) -> None:
    text = methods[0]["old_before"] is None
    key, scale = ("general_nll", 1.0) if text else ("old", 100.0)
    for m in methods:
        marker, dash = plots.METHODS[m["method"]]
        new = [100 * point["new"] for point in m["curve"]]
        old = [scale * point[key] for point in m["curve"]]
        name = plots.NAMES[m["method"]]
        label = name if m["method"] == "full" or len(methods) > 3 else f"{name}, adapter on"
        ax.plot(new, old, linestyle=dash, color=plots.INK, linewidth=1, alpha=0.6)
        ax.plot(new[-1], old[-1], marker, color=plots.INK, markersize=9, label=label)
        ax.plot(new[:-1], old[:-1], marker, color=plots.INK, markersize=3, alpha=0.6)
    for m in _adapted(methods)[:1]:  # off, all of them are the base
        if m[f"{key}_adapter_off"] is None:
            continue
        marker, _ = plots.METHODS[m["method"]]
        ax.plot(
            100 * m["new_adapter_off"],
            scale * m[f"{key}_adapter_off"],
            marker,
            markerfacecolor="white",
            color=plots.INK,
            markersize=9,
            label="adapter off = base",
        )
    if text:
        ax.set(ylabel="loss on general text, nats a token (up is worse)")
    else:
        ax.set(ylabel="old skills, exactly right, %", ylim=(-4, 104))
    ax.set(xlabel="new task, exactly right, %", xlim=(-4, 104))
    ax.set_title("Learned against forgotten (validation)")
    ax.legend(loc="best", fontsize=9, ncols=1 if len(methods) < 4 else 2)
