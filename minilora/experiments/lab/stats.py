"""What one may say of rows over several seeds: best settings, spreads, matched comparisons.

Settings are chosen on the validation split, with seeds that are not reported on. Two arms "differ"
only if every seed of one lies beyond every seed of the other. With five against five that happens
by chance in 2 of 252 cases, with three against three in 1 of 10: then it is only suggested.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

Row = dict[str, Any]

CHOOSING_SEEDS = (100, 101)


def where(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """Those rows that have these values. A list in a row equals a tuple asked for."""

    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value

    return [r for r in rows if all(k in r and r[k] == plain(v) for k, v in wanted.items())]


def best(rows: Iterable[Row], by: str = "lr", score: str = "new_validation") -> Any:
    """The value of `by` with the highest mean `score`; of equal ones the lowest. None: no rows.

    Rows without a finite score count as 0.
    """
    groups = grouped(rows, by, score)
    if not groups:
        return None
    return max(sorted(groups), key=lambda v: sum(groups[v]) / len(groups[v]))


def grouped(rows: Iterable[Row], by: str, score: str) -> dict[Any, list[float]]:
    """The scores of the rows by their value of `by`; one that is none or not finite is 0."""
    groups: dict[Any, list[float]] = {}
    for r in rows:
        value: Any = r.get(score)
        groups.setdefault(r[by], []).append(value if _finite(value) else 0.0)
    return groups


def column(rows: Iterable[Row], what: str) -> list[float]:
    """One number of each row, without those in which it was not measured."""
    return finite(r.get(what) for r in rows)


def finite(values: Iterable[float | None]) -> list[float]:
    """Those values that are numbers."""
    return [v for v in values if v is not None and _finite(v)]


def spread(values: Iterable[float | None]) -> tuple[float, float, float]:
    """Mean, least and greatest of the finite values; NaN three times if there is none."""
    kept = finite(values)
    if not kept:
        return math.nan, math.nan, math.nan
    return sum(kept) / len(kept), min(kept), max(kept)


def apart(a: Sequence[float], b: Sequence[float]) -> str:
    """Whether two arms differ: "differ", "suggests a difference", or "no difference shown".

    Fewer than three seeds against three suggest nothing, wherever they lie.
    """
    if not a or not b or (min(a) <= max(b) and min(b) <= max(a)):
        return "no difference shown"
    chance = 2 / math.comb(len(a) + len(b), len(a))
    if chance > 0.1:
        return "no difference shown"
    return "differ" if chance <= 0.01 else "suggests a difference"


def against(a: Sequence[float], b: Sequence[float]) -> str:
    """Whether a is better than b, as far as the seeds tell.

    "better", "worse", the same with "suggests" before it, or "no difference shown".
    """
    verdict = apart(a, b)
    if verdict == "no difference shown":
        return verdict
    word = "better" if min(a) > max(b) else "worse"
    return word if verdict == "differ" else f"suggests {word}"


def rates_at_edge(rows: Sequence[Row], **arm: Any) -> list[float]:
    """The reported rates of an arm, if one is the lowest or highest tried; else none.

    A better one may lie beyond.
    """
    tried = {r["lr"] for r in where(rows, role="choose", **arm)}
    used = {r["lr"] for r in where(rows, role="report", **arm)}
    return sorted(used) if len(tried) > 1 and used & {min(tried), max(tried)} else []


def old_at(curve: Sequence[Row], level: float = 0.9) -> float | None:
    """What is left of the old skills where the new one first reaches `level`; None: never.

    Between two looks, a straight line.
    """
    return _at(curve, "old", level)


def step_at(curve: Sequence[Row], level: float = 0.9) -> float | None:
    """The step at which the new skill first reaches `level`; None: never."""
    return _at(curve, "step", level)


def _at(curve: Sequence[Row], what: str, level: float) -> float | None:
    if curve and curve[0]["new"] >= level:
        return float(curve[0][what])
    for before, after in pairwise(curve):
        if before["new"] < level <= after["new"]:
            share = (level - before["new"]) / (after["new"] - before["new"])
            return before[what] + share * (after[what] - before[what])
    return None


def percent(values: Iterable[float | None]) -> str:
    """`87 % (84 to 91)` of shares in [0, 1]; one value alone without its range."""
    kept = finite(values)
    if not kept:
        return "none"
    mean, low, high = spread(kept)
    text = f"{100 * mean:.0f} %"
    return text if len(kept) == 1 else f"{text} ({100 * low:.0f} to {100 * high:.0f})"


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)
