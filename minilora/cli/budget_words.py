"""What `minilora budget` says: its tables, its verdict, its JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from minilora.accounting.budget import Budget
from minilora.accounting.check import Check
from minilora.accounting.fit import GIB, Verdict
from minilora.accounting.predict import Flops
from minilora.method_names import LORAS
from minilora.plots import unit


def text(model: str, bill: Budget, flops: Flops | None, judged: Verdict | None) -> str:
    """Everything about one plan, for a person."""
    lines = [_heading(model, bill), _table(bill)]
    if flops is not None:
        lines += [
            f"\nFLOPs of minilora's step: forward {_flops(flops.forward)}, backward "
            f"{_flops(flops.backward_through + flops.backward_weights)} (through "
            f"{_flops(flops.backward_through)}, weights {_flops(flops.backward_weights)}), "
            f"update {_flops(flops.update)}"
        ]
    return "\n".join([*lines, *_notes(bill), *(_verdict(judged) if judged else ())])


def _heading(model: str, bill: Budget) -> str:
    """Which plan it is, in two lines."""
    plan, (trained, total) = bill.plan, (bill.trainable_parameters, bill.total_parameters)
    how = plan.method.name
    if plan.method.name in LORAS:
        targets = plan.method.lora.target_modules
        on = targets if isinstance(targets, str) else ",".join(targets)
        how += f" r={plan.method.lora.r} on {on}"
    extra = ", checkpointing" if plan.checkpointing else ""
    return (
        f"{model}, {how}: {trained:,} of {total:,} parameters trained ({100 * trained / total:.4g}"
        f" %)\nbatch {plan.batch_size} of {plan.length} tokens, {plan.accounting} accounting in "
        f"{plan.dtype}, {plan.optimizer}{extra}\n"
    )


def _table(bill: Budget) -> str:
    """The bytes by kind, on each card."""
    held, about = bill.bytes, bill.estimate
    rows = [
        (
            "weights",
            held.weights,
            f"frozen {_human(bill.frozen_bytes)}, trained {_human(bill.trained_bytes)}",
        ),
        ("gradients", held.gradients, "trained"),
        ("optimizer", held.optimizer, "trained"),
    ]
    if bill.plan.accounting == "exact":
        rows += [("activations", held.activations, ""), ("buffers", held.buffers, "")]
    rows.append(("total", held.total, "on each card" if bill.plan.gpus > 1 else ""))
    if bill.plan.accounting == "exact":
        rows.append(("peak", bill.needed, "at one moment, with workspace inside of operations"))
    if about is not None:
        whose = f"an estimate: layers {_human(about.layers)}, logits {_human(about.logits)}"
        rows += [("≈ activations", about.total, whose), ("≈ with them", bill.needed, "")]
    lines = [f"{'kind':<14}{'bytes':>20}{'GB':>10}   whose"]
    lines += [f"{kind:<14}{n:>20,}{n / 1e9:>10.3f}   {whose}".rstrip() for kind, n, whose in rows]
    return "\n".join(lines)


def _notes(bill: Budget) -> list[str]:
    """What the numbers rest on, and what is somewhere else."""
    plan, about, notes = bill.plan, bill.estimate, []
    if about is not None:
        notes += [f"\nestimate: {about.formula}", f"  from {about.source}"]
        notes += [f"  left out: {about.left_out}"]
    elif plan.accounting == "tutorial":
        notes.append("\nno activations are counted; --activations adds an estimate")
    if plan.offload:
        notes.append(
            f"offloaded: {_human(bill.host)} in the processor's memory, a card; over the bus "
            f"{_human(bill.moved_bus)} a step"
        )
    elif bill.host:
        where = "a file" if plan.accounting == "exact" else "the processor's memory"
        notes.append(f"paged: m and v, {_human(bill.host)}, are in {where}")
    if plan.gpus > 1:
        notes.append(f"over the network {_human(bill.moved_network)} a step, from each card")
    return notes


def _verdict(v: Verdict) -> list[str]:
    """Does it fit, what is in the way, what would make it fit."""
    says, rest = ("fits", "to spare") if v.fits else ("does NOT fit", "too many")
    lines = [
        f"\n{says} on {v.card / GIB:g} GiB ({v.card / 1e9:.2f} GB): needs {v.needed / 1e9:.2f} GB, "
        f"{abs(v.card - v.needed) / 1e9:.2f} GB {rest}"
    ]
    if not v.fits:
        parts = ", ".join(f"{kind} {_human(n)}" for kind, n in list(v.in_the_way.items())[:3])
        lines.append(f"in the way: {parts}")
    found = [f"{k.replace('_', ' ')} {n or 'none'}" for k, n in v.largest.items() if n is not None]
    if found:
        lines.append(f"the most that fits, one at a time: {', '.join(found)}")
    for change in v.changes:
        lines.append(f"would fit with {change.words}: {change.needed / 1e9:.2f} GB")
    if not v.fits and not v.changes:
        lines.append("no three changes that this accounting knows would make it fit")
    return lines


def as_json(
    model: str, bill: Budget, flops: Flops | None, judged: Verdict | None = None
) -> dict[str, Any]:
    """The same for a program."""
    plan = bill.plan
    said: dict[str, Any] = {
        "model": model,
        "method": plan.method.name,
        "accounting": plan.accounting,
        "batch_size": plan.batch_size,
        "length": plan.length,
        "dtype": plan.dtype,
        "optimizer": plan.optimizer,
        "checkpointing": plan.checkpointing,
        "gpus": plan.gpus,
        "shard": plan.shard,
        "offload": plan.offload,
        "trainable_parameters": bill.trainable_parameters,
        "total_parameters": bill.total_parameters,
        "bytes": bill.bytes.as_dict(),
        "weights": {"frozen": bill.frozen_bytes, "trained": bill.trained_bytes},
        "estimate": {"activations": bill.estimate.total, **asdict(bill.estimate)}
        if bill.estimate
        else None,
        "needed": bill.needed,
        "host": bill.host,
        "moved": {"bus": bill.moved_bus, "network": bill.moved_network},
        "flops": None,
        "fit": None,
    }
    if flops is not None:
        backward = flops.backward_through + flops.backward_weights
        said["flops"] = {**asdict(flops), "backward": backward}
    if judged is not None:
        changes = [{"change": c.words, "needed": c.needed} for c in judged.changes]
        said["fit"] = {
            "card": judged.card,
            "fits": judged.fits,
            "in_the_way": judged.in_the_way,
            "largest": judged.largest,
            "changes": changes,
        }
    return said


def compared(model: str, bills: list[Budget], flops: list[Flops | None], card: int | None) -> str:
    """A line a method: its bytes, and below its multiplications; the first is full tuning."""
    plan = bills[0].plan
    columns = ("weights", "gradients", "optimizer", "activations", "needed")
    head = f"{'method':<9}{'trained':>15}" + "".join(f"{column:>13}" for column in columns)
    lines = [
        f"{model}, batch {plan.batch_size} of {plan.length} tokens, {plan.accounting} accounting; "
        f"GB on each card{', activations are an estimate' if bills[0].estimate else ''}\n",
        head + ("   fits" if card else ""),
    ]
    for bill in bills:
        held, about = bill.bytes, bill.estimate
        activations = held.activations + (about.total if about else 0)
        amounts = (held.weights, held.gradients, held.optimizer, activations, bill.needed)
        line = f"{bill.plan.method.name:<9}{bill.trainable_parameters:>15,}"
        line += "".join(f"{n / 1e9:>13.3f}" for n in amounts)
        lines.append(line + ("" if card is None else "   yes" if bill.needed <= card else "   no"))
    return "\n".join([*lines, *_compared_flops(bills, flops)])


def _compared_flops(bills: list[Budget], flops: list[Flops | None]) -> list[str]:
    """What freezing spares of a step: the weights' gradients (dW), not the way through (dx)."""
    full = flops[0]
    if full is None:
        return []
    columns = ("forward", "through (dx)", "weights (dW)", "update", "total", "of full")
    lines = [
        "\nFLOPs of minilora's step: a frozen matrix spares its dW; dx must still go through it\n",
        f"{'method':<9}" + "".join(f"{column:>14}" for column in columns),
    ]
    for bill, f in zip(bills, flops, strict=True):
        parts = ["-"] * len(columns)
        if f is not None:
            amounts = (f.forward, f.backward_through, f.backward_weights, f.update, f.total)
            parts = [*map(_flops, amounts), f"{100 * f.total / full.total:.1f} %"]
        lines.append(f"{bill.plan.method.name:<9}" + "".join(f"{part:>14}" for part in parts))
    return lines


def check_table(found: Check) -> str:
    """Measured beside predicted."""
    lines = [f"{'kind':<14}{'predicted':>20}{'measured':>20}"]
    for kind, n in found.predicted.items():
        same = "" if n == found.measured[kind] else "   DIFFERENT"
        lines.append(f"{kind:<14}{n:>20,}{found.measured[kind]:>20,}{same}")
    lines.append(f"{'peak':<14}{found.predicted_peak:>20,}{found.measured_peak:>20,}   about")
    return "\n".join(lines)


def check_json(found: Check) -> dict[str, Any]:
    """The same for a program."""
    peaks = {"predicted": found.predicted_peak, "measured": found.measured_peak}
    return {
        "predicted": found.predicted,
        "measured": found.measured,
        "peak": peaks,
        "equal": found.equal,
    }


def _flops(n: int) -> str:
    scales = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (0, ""))
    size, name = next(scale for scale in scales if n >= scale[0])
    return f"{n / (size or 1):.4g} {name}".rstrip()


def _human(n: float) -> str:
    size, name = unit(n)
    return f"{n / size:.2f} {name}" if size > 1 else f"{n:.0f} {name}"
