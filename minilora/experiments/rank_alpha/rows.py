"""Which rows of `rank_alpha` speak to which of its questions; points are shared where they can be.

Under one arm of points several questions are asked, so figure and answer look for rows here.
"""

from __future__ import annotations

from typing import Any

from minilora.experiments.lab import stats
from minilora.experiments.lab.learning_rates import best_lr

Row = dict[str, Any]

R_LR, ALPHA_LR, R_ALPHA = "r × lr", "α × lr", "r × α"
FEW, MEMORY, FIRST_STEP = "few examples", "memory", "first step"

ALPHA, LR = 16, 5e-3
# An answer below LOST, though a lower learning rate gets above LEARNT, is a run that collapsed.
LOST, LEARNT = 0.05, 0.5


def scaled(rows: list[Row], scaling: str) -> list[Row]:
    """r × lr at one α; r = 1 was run once for both scalings, as it is the same run."""
    return [r for r in stats.where(rows, arm=R_LR) if r["scaling"] == scaling or r["rank"] == 1]


def by_rank(rows: list[Row]) -> dict[int, list[Row]]:
    """Rows by rank, lowest first."""
    ranks = sorted({r["rank"] for r in rows})
    return {rank: stats.where(rows, rank=rank) for rank in ranks}


def rank_by_alpha(rows: list[Row]) -> list[Row]:
    """r × α at one learning rate, out of all three grids."""
    return [
        r
        for arm in (R_LR, ALPHA_LR, R_ALPHA)
        for r in stats.where(rows, arm=arm, scaling="r", lr=LR)
    ]


def memories(rows: list[Row]) -> dict[int, dict[int, list[Row]]]:
    """Reported memory rows by number of facts, then by rank."""
    rows = stats.where(rows, arm=MEMORY, role="report")
    counts = sorted({r["facts"] for r in rows})
    return {n: by_rank(stats.where(rows, facts=n)) for n in counts}


def easy(rows: list[Row]) -> dict[int, list[Row]]:
    """The easy task by rank, each at its best learning rate under α/r."""
    ranks = by_rank(scaled(rows, "r"))
    return {rank: stats.where(each, lr=best_lr(each)) for rank, each in ranks.items()}


def few(rows: list[Row]) -> dict[int, dict[int, list[Row]]]:
    """Rows with few examples by their number, then by rank."""
    rows = stats.where(rows, arm=FEW)
    counts = sorted({r["examples"] for r in rows})
    return {n: by_rank(stats.where(rows, examples=n)) for n in counts}


def gap(row: Row) -> float | None:
    """Training accuracy less test accuracy; None for a run that has not both."""
    if row.get("train") is None or row.get("new") is None:
        return None
    return float(row["train"] - row["new"])


def collapsed(rows: list[Row]) -> list[Row]:
    """Tunings that diverged, or lost what a lower learning rate learns."""
    found = []
    for r in (r for arm in (R_LR, ALPHA_LR, R_ALPHA, FEW) for r in stats.where(rows, arm=arm)):
        same = ("arm", "rank", "alpha", "scaling", "examples")
        like = stats.where(rows, **{k: r.get(k) for k in same if k in r})
        lower = [o for o in like if o["lr"] < r["lr"] and (o.get("new") or 0) >= LEARNT]
        if r.get("diverged") or ((r.get("new") or 0) < LOST and lower):
            found.append(r)
    return found


def never_learnt(rows: list[Row]) -> list[Row]:
    """Tunings that stayed below LOST with no lower learning rate that does better."""
    lost = {id(r) for r in collapsed(rows)}
    return [
        r
        for arm in (R_LR, ALPHA_LR, R_ALPHA, FEW)
        for r in stats.where(rows, arm=arm)
        if (r.get("new") or 0) < LOST and id(r) not in lost
    ]
