"""What the rows of `dirty_data` say, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minilora.experiments.dirty_data.dirt import KINDS
from minilora.experiments.lab import stats
from minilora.experiments.lab.stats import percent

Row = dict[str, Any]

CLEAN = "clean"
HERE = 0.1  # the share at which kinds are put in order
ALL = 1.0
COSMETIC = 0.05  # what is lost at the most by dirt that is called cosmetic
COSMETICS = ("template", "end", "duplicates")


def answer(rows: list[Row]) -> str:
    """A line for each part of the question, and what went wrong last."""
    lines = [clean_runs(rows), order(rows, HERE), order(rows, ALL), falling(rows)]
    return "\n".join([*lines, endings(rows), cosmetics(rows), cleaning(rows), failures(rows)])


def new(rows: Sequence[Row], kind: str, share: float, what: str = "new") -> list[float]:
    """A number a seed; the same clean runs are every kind's share 0."""
    chosen = {"kind": CLEAN} if share == 0 else {"kind": kind, "share": share}
    return stats.column(stats.where(rows, role="report", **chosen), what)


def shares(rows: Sequence[Row], kind: str) -> list[float]:
    """The shares of a kind that were measured, 0 among them if there are clean runs."""
    some = [r for r in rows if r["kind"] in (kind, CLEAN) and new(rows, kind, r["share"])]
    return sorted({r["share"] for r in some})


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def by_harm(rows: Sequence[Row], share: float) -> list[tuple[str, list[float]]]:
    """Kinds that were measured at a share, the most harmful first, each with its numbers."""
    found = [(kind, new(rows, kind, share)) for kind in KINDS]
    return sorted(((k, v) for k, v in found if v), key=lambda each: mean(each[1]))


def clean_runs(rows: Sequence[Row]) -> str:
    """Without dirt: the line that all others are held against."""
    values = new(rows, CLEAN, 0)
    return f"Clean: {percent(values)} of the test." if values else "Clean: not measured."


def order(rows: Sequence[Row], share: float) -> str:
    """All kinds at one share, the most harmful first, each against the clean runs."""
    found, clean = by_harm(rows, share), new(rows, CLEAN, 0)
    if not found:
        return f"{share:.0%} dirty: not measured."
    said = "; ".join(
        f"{KINDS[kind].label} {percent(values)} ({stats.against(values, clean)})"
        for kind, values in found
    )
    return f"{share:.0%} dirty, the most harmful first, each against clean: {said}."


def first_fall(rows: Sequence[Row], kind: str) -> float | None:
    """The smallest share at which all seeds lie below all clean ones; None: at none of them."""
    clean = new(rows, CLEAN, 0)
    for share in shares(rows, kind):
        values = new(rows, kind, share)
        if clean and share and max(values) < min(clean):
            return share
    return None


def falling(rows: Sequence[Row]) -> str:
    """From which share on each kind is told from clean."""
    if not new(rows, CLEAN, 0):
        return "The first share that harms: not measured."
    measured = [kind for kind in KINDS if any(shares(rows, kind))]
    falls = {kind: first_fall(rows, kind) for kind in measured}
    some = sorted((k for k in falls if falls[k] is not None), key=lambda k: falls[k] or 0)
    never = [KINDS[kind].label for kind in measured if falls[kind] is None]
    said = "; ".join(f"{KINDS[kind].label} {falls[kind]:.0%}" for kind in some)
    return (
        f"The first share at which every seed is below every clean one: {said or 'none'}. "
        f"At none of the shares: {', '.join(never) or 'none'}."
    )


def endings(rows: Sequence[Row]) -> str:
    """Where no row has an end: how much of the answers is right apart from it."""
    whole, letters = new(rows, "end", ALL), new(rows, "end", ALL, "letters")
    if not whole:
        return "No end token in any row: not measured."
    return (
        f"No end token in any row: {percent(letters)} have every letter right, {percent(whole)} "
        "also end there."
    )


def cosmetics(rows: Sequence[Row]) -> str:
    """The claim that these are cosmetics, and how much each of them costs at its worst share."""
    claim = '"Template, end token and duplicates are cosmetics"'
    clean = new(rows, CLEAN, 0)
    worst = {}
    for kind in COSMETICS:
        means = {s: mean(new(rows, kind, s)) for s in shares(rows, kind) if s}
        if clean and means:
            share = min(means, key=lambda s: means[s])
            worst[kind] = (mean(clean) - means[share], share)
    if not worst:
        return f"{claim}: not measured."
    harmless = [kind for kind, (lost, _) in worst.items() if lost <= COSMETIC]
    verdict = "confirmed" if len(harmless) == len(COSMETICS) else "not here"
    said = "; ".join(
        f"{KINDS[kind].label} {100 * lost:.0f} points at {share:.0%}"
        for kind, (lost, share) in worst.items()
    )
    return f"{claim}: {verdict}. Lost at the worst share: {said}."


def cleaning(rows: Sequence[Row]) -> str:
    """Which dirt `data.cleaning` sees in the file, at one share."""
    said = []
    for kind in KINDS:
        some = stats.where(rows, role="report", kind=kind, share=HERE)
        if some:
            dirty, seen = (mean(stats.column(some, what)) for what in ("dirty", "seen"))
            said.append(f"{KINDS[kind].label} {seen:.0f} of {dirty:.0f}")
    if not said:
        return "What `minilora data clean` drops: not measured."
    return f"Of the rows spoiled at {HERE:.0%}, `minilora data clean` drops: {'; '.join(said)}."


def failures(rows: Sequence[Row]) -> str:
    """Runs that diverged, and so count as having learnt nothing."""
    lost = [f"{r['kind']} {r['share']:.0%} seed {r['seed']}" for r in rows if r.get("diverged")]
    return f"Diverged: {'; '.join(lost) or 'none'}."
