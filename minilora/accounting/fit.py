"""Does it fit on a card, what is in the way, and what would make it fit?

Changes are tried in the order of what they cost the one who tunes: first those that change nothing
of what is learnt (time is all they take), then those that change it a little, then another method,
shorter texts, and last the price of more cards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

from minilora.accounting.budget import MOST_EXACT_LENGTH, MOST_TOKENS, Budget, Plan, budget
from minilora.accounting.counts import Method, arrays
from minilora.errors import ConfigError
from minilora.method_names import LORAS

GIB = 2**30

# A way of changing a plan: how it is typed → the fields that change; or several such ways.
_Offer = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Change:
    """Something to do otherwise, as it is typed, and the bytes a card would then have to have."""

    words: str
    plan: Plan
    needed: int


@dataclass(frozen=True)
class Verdict:
    """Whether a plan fits on a card.

    card, needed   bytes
    in_the_way     kind → bytes, the largest first
    largest        batch_size, length, rank: the most that fit, all else as planned; 0 where not
                   even the least does, None where it is not counted
    changes        at most three, each enough by itself; none for what fits
    """

    card: int
    needed: int
    in_the_way: dict[str, int]
    largest: dict[str, int | None]
    changes: tuple[Change, ...]

    @property
    def fits(self) -> bool:
        return self.needed <= self.card


def verdict(bill: Budget, gpu: float) -> Verdict:
    """The verdict on a plan for cards of `gpu` GiB (2³⁰ bytes; a 24 GiB card has 25.77·10⁹)."""
    card = int(gpu * GIB)
    changes = () if bill.needed <= card else tuple(cheapest_changes(bill.plan, card))
    return Verdict(card, bill.needed, _kinds(bill), _largest(bill.plan, card), changes)


def _kinds(bill: Budget) -> dict[str, int]:
    held = bill.bytes
    kinds = {
        "frozen weights": bill.frozen_bytes,
        "trained weights": bill.trained_bytes,
        "gradients": held.gradients,
        "optimizer": held.optimizer,
        "activations": held.activations + (bill.estimate.total if bill.estimate else 0),
    }
    # Not all kinds are at their most at once, so of an exact step a part may be left, or none.
    kinds["workspace"] = max(0, bill.needed - sum(kinds.values()))
    return dict(sorted(((k, n) for k, n in kinds.items() if n), key=lambda kind: -kind[1]))


def _largest(plan: Plan, card: int) -> dict[str, int | None]:
    """By growing one thing alone, all else as planned."""

    def search(start: int, low: int, high: int, change: Callable[[int], dict[str, Any]]) -> int:
        def need(n: int) -> int:
            return budget(replace(plan, **change(n))).needed

        return largest_within(need, card, start, low, high)

    found: dict[str, int | None] = {"batch_size": None, "length": None, "rank": None}
    if _counts_activations(plan):
        most = MOST_TOKENS // plan.tokens
        found["batch_size"] = search(plan.batch_size, 1, most, lambda n: {"batch_size": n})
        limit = MOST_EXACT_LENGTH if plan.accounting == "exact" else MOST_TOKENS
        most = min(plan.config.max_positions, MOST_TOKENS // plan.batch_size, limit)
        found["length"] = search(plan.tokens, 2, most, lambda n: {"length": n})
    if plan.method.name in LORAS:
        most = largest_within(lambda r: not _has_rank(plan, r), 0, 1, 1, plan.config.hidden_size)
        found["rank"] = search(1, 1, most, lambda r: {"method": _with_rank(plan.method, r)})
    return found


def _counts_activations(plan: Plan) -> bool:
    return bool(plan.activations) or plan.accounting == "exact"


def _with_rank(method: Method, rank: int) -> Method:
    return replace(method, lora=replace(method.lora, r=rank))


def _has_rank(plan: Plan, rank: int) -> bool:
    try:
        return bool(arrays(plan.config, _with_rank(plan.method, rank)))
    except ConfigError:
        return False


def largest_within(need: Callable[[int], int], most: int, start: int, low: int, high: int) -> int:
    """The largest n from low to high with need(n) <= most, for a need that never falls; 0 for none.

    Doubling from `start` brackets it; then, as in Brent's method, the last three points say where
    it should be, and only its two neighbours have to be tried. An exact need takes a second.
    """
    if need(low) > most:
        return 0
    good = start if start > low and need(start) <= most else low
    bad = start if start > good else min(2 * good, high + 1)
    while bad <= high and need(bad) <= most:
        good, bad = bad, min(2 * bad, high + 1)
    points = [good] if bad > high else [good, bad]
    while bad - good > 1:
        n = _where(points[-3:], [need(p) for p in points[-3:]], most)
        n = n if n is not None and good < n < bad else (good + bad) // 2
        for tried in (n, n + 1 if need(n) <= most else n - 1):
            if good < tried < bad:
                points.append(tried)
                good, bad = (tried, bad) if need(tried) <= most else (good, tried)
    return good


def _where(points: list[int], needs: list[int], most: int) -> int | None:
    """n at which a curve through (need, n) reaches `most`; None where there is none."""
    if len(points) < 2 or len(set(needs)) < len(needs):
        return None
    sum_ = 0.0
    for i, (n, here) in enumerate(zip(points, needs, strict=True)):
        others = [x for j, x in enumerate(needs) if j != i]
        sum_ += n * math.prod((most - x) / (here - x) for x in others)
    return int(sum_)


def cheapest_changes(plan: Plan, card: int, most: int = 3) -> list[Change]:
    """The first changes that make it fit, one alone before two together before three."""
    possible = _possible(plan)
    found: list[tuple[set[int], Change]] = []
    for size in (1, 2, 3):
        for chosen in combinations(range(len(possible)), size):
            if len(found) == most or any(parts <= set(chosen) for parts, _ in found):
                continue
            change = _enough(plan, card, [possible[i] for i in chosen])
            if change is not None:
                found.append((set(chosen), change))
    return [change for _, change in found]


def _enough(plan: Plan, card: int, offers: list[_Offer]) -> Change | None:
    """Those changes together, by the first of each one's ways that makes it fit; None if none."""
    for ways in product(*(offer.items() for offer in offers)):
        fields = {name: value for _, way in ways for name, value in way.items()}
        if len(fields) < sum(len(way) for _, way in ways):
            continue  # one thing, changed in two ways
        try:
            bill = budget(replace(plan, **fields))
        except ConfigError:
            continue  # this accounting does not know it
        if bill.needed <= card:
            return Change(" ".join(words for words, _ in ways), bill.plan, bill.needed)
    return None


def _possible(plan: Plan) -> list[_Offer]:
    """What could be done otherwise, the cheapest first."""
    half, method, counted = plan.tokens // 2, plan.method, _counts_activations(plan)
    offers: list[tuple[bool, _Offer]] = [
        (plan.attention_weights, {"no --attention-weights": {"attention_weights": False}}),
        (counted and not plan.checkpointing, {"--checkpointing": {"checkpointing": True}}),
        (counted and plan.batch_size > 1, {"--batch-size 1": {"batch_size": 1}}),
        (not plan.offload, {"--offload optimizer": {"offload": "optimizer"}}),
        (plan.optimizer == "adamw", {"--optimizer adamw-8bit": {"optimizer": "adamw-8bit"}}),
        (method.name == "full", {"--method lora": {"method": replace(method, name="lora")}}),
        (
            method.name in ("full", "lora"),
            {"--method qlora": {"method": replace(method, name="qlora")}},
        ),
        (counted and half >= 2, {f"--length {half}": {"length": half}}),
        (
            plan.gpus == 1,
            {f"--gpus {n} --shard zero3": {"gpus": n, "shard": "zero3"} for n in (2, 4, 8, 16)},
        ),
    ]
    return [offer for wanted, offer in offers if wanted]
