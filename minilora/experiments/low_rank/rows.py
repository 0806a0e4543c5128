"""What the answer and the figures of `low_rank` ask of its rows."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from minilora.experiments.lab.stats import Row, where

# Arms of which it is told and drawn what scaling their intruders down does.
SCALED = ("LoRA r=1 α=2", "LoRA r=8 α=16", "full")


def scaled_by_two(rows: list[Row]) -> list[Row]:
    """LoRA's rows but those of the louder arm."""
    return [r for r in where(rows, kind="lora") if r["alpha"] == 2 * r["rank"]]


def cut(rows: list[Row], arm: str, k: int | None, what: str = "new") -> list[float]:
    """Accuracy of each seed with this part of ΔW."""
    return [
        c[what]
        for r in where(rows, kind="full")
        for c in r.get("cuts") or []
        if c["arm"] == arm and c["k"] == k and c[what] is not None
    ]


def matrices(rows: list[Row]) -> list[dict[str, Any]]:
    """The spectra of all matrices of all seeds."""
    return [m for r in where(rows, kind="full") for m in r.get("matrices") or []]


def table(row: Row, pair: str, of: str = "change", place: str = "mean") -> list[list[float]] | None:
    """φ by i and j of a pair of adapters."""
    found = where(row.get("tables") or [], pair=pair, of=of, matrices=place)
    return found[0]["values"] if found else None


def intruder_arms(rows: list[Row]) -> dict[str, list[Row]]:
    """name → rows of one arm, full fine-tuning last."""
    arms: dict[str, list[Row]] = {}
    tuned = where(rows, kind="lora")
    for r in sorted(tuned, key=lambda r: (r["rank"], r["alpha"])) + where(rows, kind="full"):
        if r.get("intruders"):
            name = "full" if r["kind"] == "full" else f"LoRA r={r['rank']} α={r['alpha']:g}"
            arms.setdefault(name, []).append(r)
    return arms


def shown_arms(rows: list[Row]) -> dict[str, list[Row]]:
    """Those of them that are told and drawn: the least, the usual, the highest rank, and full."""
    arms = intruder_arms(rows)
    return {n: of for n, of in arms.items() if n == "full" or of[0]["rank"] in (1, 8, 64)}


def old_of_whole(row: Row, new: float) -> float | None:
    """The old accuracy where all of ΔW, scaled down, has this new accuracy; None: outside."""
    line = sorted((n, o) for _, n, o in row.get("scaled_whole") or [])
    for (n1, o1), (n2, o2) in pairwise(line):
        if n1 <= new <= n2:
            return o1 if n2 == n1 else o1 + (o2 - o1) * (new - n1) / (n2 - n1)
    return None
