"""What the rows of `relatives` say, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from minilora.experiments.lab import stats
from minilora.experiments.lab.stats import percent
from minilora.experiments.relatives.arms import BUDGETS, MIDDLE, Measured, Row, measured
from minilora.method_names import LABELS

NEAR = 0.05  # of full's accuracy: "reaches the line"
ALIKE = 1.1  # costs within this factor are called equal


def answer(rows: list[Row]) -> str:
    """A line for each part of the question, and what went wrong last."""
    arms = measured(rows)
    lines = [ranking(arms, budget) for budget in BUDGETS]
    lines += [alone(arms), reached(arms), costs(arms), starts(arms), merges(arms), room(arms)]
    return "\n".join([*filter(None, lines), failures(arms)])


def at(arms: Sequence[Measured], budget: int) -> list[Measured]:
    """The arms of a budget that were reported on, the best mean first."""
    some = [a for a in arms if a.budget == budget and a.new]
    return sorted(some, key=lambda a: -_mean(a.new))


def tied(some: Sequence[Measured]) -> list[Measured]:
    """Those that the seeds do not tell from the first, the first included."""
    return [
        a
        for i, a in enumerate(some)
        if i == 0 or stats.apart(some[0].new, a.new) == "no difference shown"
    ]


def ranking(arms: Sequence[Measured], budget: int) -> str:
    """All methods at one budget, the best first, ties called ties."""
    some = at(arms, budget)
    if not some:
        return f"About {budget:,} numbers: not measured."
    said = "; ".join(
        f"{a.name} {percent(a.new)}"
        + (f" with {a.parameters:,}" if a.parameters not in (None, budget) else "")
        for a in some
    )
    best = [a.name for a in tied(some)]
    if len(some) == 1:
        verdict = "nothing to compare it with"
    elif len(best) > 1:
        verdict = f"a tie for the first place: {', '.join(best)}"
    else:
        words = {stats.apart(some[0].new, a.new) for a in some[1:]}
        verdict = f"{best[0]} is best" if words == {"differ"} else f"suggests {best[0]}"
    return f"About {budget:,} numbers: {said}: {verdict}."


def alone(arms: Sequence[Measured]) -> str:
    """What has but one size, and full fine-tuning."""
    some = [a for a in arms if a.budget is None and a.new]
    said = "; ".join(
        f"{a.name} {percent(a.new)}" + (f" with {a.parameters:,}" if a.parameters else "")
        for a in some
    )
    return f"With one size: {said}." if said else "With one size: not measured."


def full(arms: Sequence[Measured]) -> Measured | None:
    """Full fine-tuning, if it was reported on."""
    return next((a for a in arms if a.method == "full" and a.new), None)


def first_near(arms: Sequence[Measured]) -> dict[str, Measured | None]:
    """Method → its smallest arm within 5 points of full's mean; None: none of its arms."""
    line = full(arms)
    found: dict[str, Measured | None] = {}
    some = [a for a in arms if a.method != "full" and a.new]
    for a in sorted(some, key=lambda a: a.parameters or 0):
        near = line is not None and _mean(a.new) >= _mean(line.new) - NEAR
        if found.get(a.method) is None:
            found[a.method] = a if near else None
    return found


def reached(arms: Sequence[Measured]) -> str:
    """At what budget each method comes near full fine-tuning, and whether it is told from it."""
    line, found = full(arms), first_near(arms)
    if line is None or not found:
        return "Near full fine-tuning: not measured."
    near = [
        f"{a.name} ({a.parameters:,} numbers; {stats.against(a.new, line.new)})"
        for a in found.values()
        if a is not None
    ]
    never = [LABELS[method] for method, a in found.items() if a is None]
    return (
        f"Within {100 * NEAR:.0f} points of full fine-tuning, {percent(line.new)}, the smallest of "
        f"each method (against full): {'; '.join(near) or 'none'}. "
        f"At none of its sizes: {', '.join(never) or 'none'}."
    )


def costs(arms: Sequence[Measured]) -> str:
    """A step of each method at one budget against LoRA's: are equal parameters equal cost?"""
    claim = '"equal parameters, equal cost"'
    some = [a for a in arms if a.budget == MIDDLE and a.books and not a.refused]
    lora = next((a.books for a in some if a.method == "lora"), None)
    if lora is None or len(some) < 2:
        return f"{claim}: not measured."
    said, most = [], 1.0
    for a in some:
        b = a.books or {}
        flops = b["flops"]["total"] / lora["flops"]["total"]
        held = b["bytes"]["peak"] / lora["bytes"]["peak"]
        time = b["times_full"] / lora["times_full"]
        most = max(most, flops, 1 / flops)
        said.append(f"{a.name} {flops:.2f}, {held:.2f}, {time:.2f}")
    verdict = "confirmed" if most <= ALIKE else "not here"
    return (
        f"{claim}: {verdict}: at about {MIDDLE:,} numbers, as multiples of LoRA's, "
        f"multiplications and additions, bytes at the peak, time of a step: {'; '.join(said)}."
    )


def starts(arms: Sequence[Measured]) -> str:
    """Which methods give the base's logits, bit for bit, before the first step."""
    gaps = _worst(arms, "start_gap")
    exact = [label for label, gap in gaps.items() if gap == 0]
    off = [f"{label} (a logit is off by up to {gap:.2g})" for label, gap in gaps.items() if gap]
    if not gaps:
        return "Start: not measured."
    return (
        f"Exactly the base before the first step: {', '.join(exact) or 'none'}. "
        f"Not: {', '.join(off) or 'none'}."
    )


def merges(arms: Sequence[Measured]) -> str:
    """Which methods become plain weights, and by how much a logit is then off."""
    some = [a for a in arms if a.method != "full" and a.books and not a.refused]
    if not some:
        return "Merging: not measured."
    gaps = {LABELS[m]: g for m, g in _largest(some, "merge_gap").items() if g is not None}
    refuse = sorted({LABELS[a.method] for a in some if (a.books or {}).get("unmergeable")})
    said = ", ".join(
        f"{label} (a logit is off by up to {gap:.1g})" if gap else f"{label} (every bit the same)"
        for label, gap in gaps.items()
    )
    return f"Can be merged: {said or 'none'}. Cannot: {', '.join(refuse) or 'none'}."


def room(arms: Sequence[Measured]) -> str:
    """Which arms leave less room for a text, and which found none."""
    some = [a for a in arms if a.books and a.books.get("text_places")]
    if not some:
        return "Context: not measured."
    most = max(a.books["text_places"] for a in some if a.books)
    less = [
        f"{a.name} {a.books['text_places']}"
        for a in some
        if a.books and a.books["text_places"] < most
    ]
    none = [f"{a.name} ({a.refused})" for a in arms if a.refused]
    return (
        f"Longest text, of {most} tokens without: {'; '.join(less) or 'as long with all'}. "
        f"No room at all: {'; '.join(none) or 'none'}."
    )


def failures(arms: Sequence[Measured]) -> str:
    """Runs that diverged; arms whose best rate is the last that was tried."""
    lost = [
        f"{a.name} lr {r['lr']:g}" for a in arms for r in a.tries + a.reports if r.get("diverged")
    ]
    edge = [
        f"{a.name} (lr {rates[0]:g})"
        for a in arms
        if (rates := stats.rates_at_edge(a.tries + a.reports))
    ]
    return (
        f"Diverged: {'; '.join(lost) or 'none'}. "
        f"Best rate at the end of what was tried: {'; '.join(edge) or 'none'}."
    )


def _largest(arms: Sequence[Measured], what: str) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for a in arms:
        value = (a.books or {}).get(what)
        if value is not None:
            found[a.method] = max(value, found.get(a.method) or 0.0)
    return found


def _worst(arms: Sequence[Measured], what: str) -> dict[str, float]:
    return {
        LABELS[m]: v
        for m, v in _largest([a for a in arms if a.method != "full"], what).items()
        if v is not None
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
