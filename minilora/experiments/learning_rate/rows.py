"""The arms of `learning_rate`, and what of their rows figure and answer both want."""

from __future__ import annotations

from typing import Any

from minilora.experiments.lab import stats
from minilora.experiments.lab.learning_rates import RUNG, as_good, best_lr, peak

Row = dict[str, Any]

FULL = "full"


def q_v(rank: int) -> str:
    """The arm of that rank on q_proj and v_proj."""
    return f"LoRA r = {rank}"


PLAIN = q_v(8)


def tries(rows: list[Row]) -> dict[str, list[Row]]:
    """Arm → rows that its learning rate is chosen by."""
    return _by_arm(stats.where(rows, role="choose"))


def reports(rows: list[Row]) -> dict[str, list[Row]]:
    """Arm → rows on seeds that were not chosen on, at the arm's best rate."""
    return _by_arm(stats.where(rows, role="report"))


def ranks(rows: list[Row]) -> dict[int, list[Row]]:
    """Rank → tries of LoRA on q_proj and v_proj, lowest rank first."""
    found = {r: stats.where(rows, role="choose", arm=q_v(r)) for r in _ranks(rows)}
    return {r: each for r, each in found.items() if each}


def variants(rows: list[Row]) -> dict[str, list[Row]]:
    """Reported rows of plain LoRA at r = 8 and of its variants, plain first."""
    found = reports(rows)
    names = [n for n in found if n == PLAIN or (n != FULL and not n.startswith("LoRA r")
                                                and "all-linear" not in n)]  # fmt: skip
    return {n: found[n] for n in sorted(names, key=lambda n: n != PLAIN)}


def ratio(rows: list[Row], full: list[Row]) -> tuple[float, float, float, bool] | None:
    """An arm's best learning rate over full's: best guess, least, most, and whether it is inside.

    guess    the ratio of the tops of the parabolas; of the best rates where one has no top
    least, most   over all rates that cannot be told from the best; either is known to half a rung
             of the ladder, so the ratio to a whole one
    inside   neither best lies at the end of what was tried

    None: one of them was not measured.
    """
    mine, other = best_lr(rows), best_lr(full)
    if mine is None or other is None:
        return None
    tops = peak(rows), peak(full)
    inside = None not in tops
    guess = (tops[0] or mine) / (tops[1] or other) if inside else mine / other
    a, b = as_good(rows), as_good(full)
    return guess, min(a) / max(b) / RUNG, max(a) / min(b) * RUNG, inside


def _ranks(rows: list[Row]) -> list[int]:
    return sorted({r["rank"] for r in rows if r.get("rank") is not None})


def _by_arm(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for r in rows:
        found.setdefault(r["arm"], []).append(r)
    return found
