"""The rows of `four_bits`, as its figure and its answer read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minilora.experiments.lab import stats

Row = dict[str, Any]

# What a merge's `survives`, or a tuning's gain, must be to count as kept.
KEPT = 0.9


def errors(rows: Sequence[Row], source: str) -> dict[str, list[Row]]:
    """Format → its errors on a source, smallest block first, without double quantization first."""
    found = {}
    for r in stats.where(rows, role="error", source=source):
        found[r["data_type"]] = sorted(
            r["errors"], key=lambda e: (e["block_size"], e["double_quant"])
        )
    return found


def error_at(rows: Sequence[Row], source: str, data_type: str, **wanted: Any) -> Row | None:
    """The error of a format at a block size, and so on; None: not measured."""
    some = stats.where(errors(rows, source).get(data_type, []), **wanted)
    return some[0] if some else None


def tunings(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Arm → its tunings at LoRA's rate, a row a seed, in the order in which they were measured."""
    found: dict[str, list[Row]] = {}
    for r in stats.where(rows, role="tune"):
        found.setdefault(r["arm"], []).append(r)
    return found


def right(rows: Sequence[Row], way: str) -> list[float]:
    """Share of the new skill that is right after a way to merge, by seed."""
    return stats.finite((r.get("merged") or {}).get(way, {}).get("new") for r in rows)


def back(rows: Sequence[Row]) -> list[float]:
    """The same after the adapter was merged back into the format of its base."""
    return stats.finite((r.get("merged") or {}).get(r.get("quantize"), {}).get("new") for r in rows)


def gains(rows: Sequence[Row]) -> dict[float, list[tuple[float, float]]]:
    """Learning rate → (size, kept) of each adapter trained beside nf4 and merged back into it.

    size   ‖ΔW‖ / ‖Ŵ‖, mean over its matrices
    kept   of what it gained in likelihood of the right answers, nats a token: the share left
    """
    found: dict[float, list[tuple[float, float]]] = {}
    for r in stats.where(rows, quantize="nf4"):
        ways, arrives = r.get("merged"), r.get("arrives")
        if not ways or not arrives:
            continue
        gain = ways["base"]["nll"] - ways["apart"]["nll"]
        if gain > 0:
            left = ways["base"]["nll"] - ways["nf4"]["nll"]
            size = sum(a["relative"] for a in arrives) / len(arrives)
            found.setdefault(r["lr"], []).append((size, left / gain))
    return dict(sorted(found.items()))


def merges(rows: Sequence[Row], data_type: str) -> dict[float, list[Row]]:
    """Size of ΔW beside W → what arrives of it in a Gaussian matrix, a seed each."""
    found: dict[float, list[Row]] = {}
    for r in stats.where(rows, role="merge", data_type=data_type):
        for each in r["merges"]:
            found.setdefault(each["size"], []).append(each)
    return dict(sorted(found.items()))


def merged_formats(rows: Sequence[Row]) -> list[str]:
    """Formats into which ΔW of a known size was merged, in the order of the rows."""
    return list(dict.fromkeys(r["data_type"] for r in stats.where(rows, role="merge")))
