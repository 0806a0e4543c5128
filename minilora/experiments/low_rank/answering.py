"""The answer of `low_rank`, in words that the rows choose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from minilora.experiments.lab.stats import Row, apart, column, percent, spread, where
from minilora.experiments.low_rank.rows import (
    SCALED,
    cut,
    intruder_arms,
    matrices,
    old_of_whole,
    scaled_by_two,
    shown_arms,
    table,
)

# What LoRA is compared with by arXiv 2405.09673: typical adapters, there of rank 16 and up.
TYPICAL_RANK = 16
LEVEL = 0.9


def answer(rows: list[Row]) -> str:
    """What came out, one paragraph a claim."""
    report = where(rows, role="report")
    parts = (_spectra, _cut, _rivals, _trained, _planted, _subspaces, _intruders, _scaled)
    said = [part(report) for part in parts]
    return "\n".join([*said, _literature(report), *_caveats(rows)])


def _compared(a: Sequence[float], b: Sequence[float]) -> str:
    """As `apart`, but that one seed alone shows no difference at all."""
    return apart(a, b) if min(len(a), len(b)) > 1 else "one seed shows no difference"


def _above(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether a is shown to be above b."""
    return _compared(a, b) in ("differ", "suggests a difference") and min(a) > max(b)


def _spectra(rows: list[Row]) -> str:
    every = matrices(rows)
    if not every:
        return "The spectrum of ΔW: not measured."
    change, weights, noise = (
        [m[what]["rank_90"] for m in every] for what in ("change", "weights", "random")
    )
    low = sum(c <= n / 2 for c, n in zip(change, noise, strict=True))
    below = sum(c < w for c, w in zip(change, weights, strict=True))
    verdict = "confirmed" if low == len(every) else "not here" if low < len(every) / 2 else "mostly"
    return (
        f"Of low rank: {verdict}. 90 % of the energy of ΔW (full fine-tuning) is in "
        f"{_range(change)} directions; of W's in {_range(weights)}; of random matrices of the same "
        f"shapes in {_range(noise)}. At most half of the random one's: {low} of {len(every)} "
        f"matrices; fewer than W's: {below}. The effective rank, which does not square, is "
        f"{_range([m['change']['effective'] for m in every])} against "
        f"{_range([m['random']['effective'] for m in every])} of random ones: the rest of the "
        "spectrum is small, not empty."
    )


def _cut(rows: list[Row]) -> str:
    whole = cut(rows, "whole", None)
    if not whole:
        return "ΔW cut to rank k: not measured."
    told = [f"{percent(cut(rows, 'svd', k))} at k = {k}" for k in (4, 8, 16) if cut(rows, "svd", k)]
    full = column(where(rows, kind="full"), "new")
    return (
        f"Cut to its strongest k directions in every matrix, ΔW has {', '.join(told) or 'no k'} of "
        f"the new strings right; whole, {percent(whole)}; with the changed embeddings and norms, "
        f"too, {percent(full)}."
    )


def _rivals(rows: list[Row]) -> str:
    k, best = 8, cut(rows, "svd", 8)
    if not best:
        return "Other parts of ΔW of the same size: not measured."
    told, words = [], []
    for arm in ("largest entries", "active rows", "random subspace", "random entries"):
        values = cut(rows, arm, k)
        if values:
            told.append(f"{arm} {percent(values)} ({_compared(best, values)})")
            words.append(_above(best, values))
    verdict = (
        "the strongest directions are the best part of that size"
        if words and all(words)
        else "the strongest directions are not shown to be the best part of that size"
    )
    return (
        f"With as many numbers as {k} directions take, {', '.join(told) or 'nothing'}, against "
        f"{percent(best)}: {verdict}."
    )


def _trained(rows: list[Row]) -> str:
    """LoRA trained at r against ΔW cut to r."""
    told = []
    for rank in sorted({r["rank"] for r in scaled_by_two(rows)}):
        arm = column(where(scaled_by_two(rows), rank=rank), "new")
        others = cut(rows, "svd", rank)
        if arm and others:
            told.append(f"{percent(arm)} against {percent(others)} at {rank}{_which(arm, others)}")
    if not told:
        return "LoRA trained at r against ΔW cut to r: not measured."
    beyond = column(where(rows, kind="lora"), "beyond_rank")
    return (
        f"LoRA trained at rank r against ΔW cut to r: {'; '.join(told)}. σ_(r+1)/σ₁ of what LoRA "
        f"learnt is at most {max(beyond, default=math.nan):.1g}: its rank is at most r.{_own(rows)}"
    )


def _own(rows: list[Row]) -> str:
    """How many of its r directions LoRA makes use of."""
    told = []
    for rank in sorted({r["rank"] for r in scaled_by_two(rows)}):
        used = [k for r in where(scaled_by_two(rows), rank=rank) for k in r.get("rank_90") or []]
        if used:
            told.append(f"{_range(used)} of {rank}")
    return f" 90 % of the energy of what it learnt is in {', '.join(told)}." if told else ""


def _which(arm: Sequence[float], others: Sequence[float]) -> str:
    ahead = ": training is ahead" if _above(arm, others) else ""
    behind = ": cutting is ahead" if _above(others, arm) else ""
    return f" ({_compared(arm, others)}{ahead}{behind})"


def _planted(rows: list[Row]) -> str:
    measured = where(rows, kind="planted")
    if not measured:
        return "A planted rank: not measured."
    found, gaps = [], []
    for r in measured:
        gaps += [abs(x - f) for x, f in zip(r["losses"], r["floors"], strict=True)]
        solved = [k for k, x in zip(r["ranks"], r["losses"], strict=True) if x < 1e-6]
        found.append(min(solved, default=None))
    true, full = measured[0]["true_rank"], [str(r["full_rank_found"]) for r in measured]
    verdict = "found" if all(f == true for f in found) else "not found"
    return (
        f"A planted ΔW of rank {true}: {verdict} by LoRA; the loss is first gone at r = "
        f"{', '.join(str(f or 'none') for f in found)} (one number a seed). At no r it is more "
        f"than {max(gaps):.1g} of the loss at the start away from the least that r allows. Full "
        f"training of the same matrix finds rank {', '.join(full)}."
    )


def _subspaces(rows: list[Row]) -> str:
    measured = [r for r in where(rows, kind="subspaces") if table(r, "same data")]
    if not measured:
        return "Shared directions of adapters: not measured."
    told = []
    middle = [(-1, measured[0]["j"].index(8))] if 8 in measured[0]["j"] else []
    for a, b in ((0, 0), *middle, (-1, -1)):
        values = {
            pair: [t[a][b] for r in measured if (t := table(r, pair)) is not None]
            for pair in ("same data", "other data", "random")
        }
        i, j = measured[0]["i"][a], measured[0]["j"][b]
        told.append(
            f"φ({i}, {j}) = {_range2(values['same data'])} on the same data and "
            f"{_range2(values['other data'])} on other data, where random directions have "
            f"{_range2(values['random'])} (chance {measured[0]['chance'][a][b]:.2g})"
        )
    r = measured[0]
    first = [t[0][0] for r in measured if (t := table(r, "same data")) is not None]
    verdict = "confirmed" if min(first) > 0.5 else "in part" if min(first) > 0.1 else "not here"
    return (
        f"Directions of ΔW (inputs of q and v) that adapters of rank {r['rank']} and "
        f"{r['wide_rank']} share: {'; '.join(told)}. That the first direction is shared, above 0.5 "
        f"(arXiv 2106.09685, GPT-3): {verdict}."
    )


def _intruders(rows: list[Row]) -> str:
    arms = shown_arms(rows)
    if not arms:
        return "Intruder dimensions: not measured."
    shares = {name: [r["intruders"][0][1] for r in of] for name, of in arms.items()}
    threshold = next(iter(arms.values()))[0]["intruders"][0][0]
    told = [
        f"{name} {percent(values)}, {percent(_early(arms[name]))} when 90 % were first reached"
        for name, values in shares.items()
    ]
    text = f"Intruders (cosine below {threshold:g}) among the top directions of W + ΔW: "
    return text + "; ".join(told) + "." + _trends(arms, shares)


def _early(rows: list[Row]) -> list[float]:
    return [r["intruders_at_level"]["counts"][0][1] for r in rows if r.get("intruders_at_level")]


def _trends(arms: dict[str, list[Row]], shares: dict[str, list[float]]) -> str:
    plain = [name for name, of in arms.items() if name != "full" and _usual(of)]
    loud = [name for name, of in arms.items() if name != "full" and not _usual(of)]
    pairs = [(plain[0], plain[-1])] if len(plain) > 1 else []
    pairs += [(name, "full") for name in (plain[0], plain[-1])] if plain and "full" in arms else []
    pairs += [
        (name, other) for name in loud for other in plain if other.split()[1] == name.split()[1]
    ]
    told = [
        f"{a} against {b}: {_compared(shares[a], shares[b])}"
        + (f", more in {a}" if _above(shares[a], shares[b]) else "")
        + (f", more in {b}" if _above(shares[b], shares[a]) else "")
        for a, b in dict.fromkeys(pairs)
    ]
    if plain and "full" in arms:
        more = [_above(shares[name], shares["full"]) for name in plain]
        verdict = "here, too" if all(more) else "in part" if any(more) else "not shown here"
        told.append(f"more in LoRA than in full fine-tuning, as in arXiv 2410.21228: {verdict}")
    return f" {'; '.join(told)}." if told else ""


def _usual(rows: list[Row]) -> bool:
    return bool(rows[0]["alpha"] == 2 * rows[0]["rank"])


def _scaled(rows: list[Row]) -> str:
    told = []
    for name, of in intruder_arms(rows).items():
        have = [r for r in of if {0.5, 1.0} <= {f for f, *_ in r.get("scaled") or []}]
        if name not in SCALED or not have:
            continue
        (new, old), (new_1, old_1) = (_columns(have, "scaled", f) for f in (0.5, 1.0))
        helped = "some of the old comes back" if _above(old, old_1) else "no gain is shown"
        text = (
            f"{name}: old {percent(old_1)} → {percent(old)}, new {percent(new_1)} → "
            f"{percent(new)}; {helped} ({_compared(old, old_1)})"
        )
        whole = [old_of_whole(r, n) for r, n in zip(have, new, strict=True)]
        if None not in whole:
            text += (
                "; scaling all of ΔW down to the same new accuracy leaves of the old "
                f"{percent(whole)} ({_compared(old, whole)})"  # type: ignore[arg-type]
            )
        told.append(text)
    if not told:
        return "Scaling intruders down: not measured."
    return f"Singular values of the intruders halved, {'. '.join(told)}."


def _columns(rows: list[Row], field: str, factor: float) -> tuple[list[float], list[float]]:
    found = [(n, o) for r in rows for f, n, o in r[field] if f == factor]
    return [n for n, _ in found], [o for _, o in found]


def _literature(rows: list[Row]) -> str:
    claim = (
        "arXiv 2405.09673 finds the ΔW of large models' full fine-tuning 10 to 100 times higher in "
        "rank than usual adapters"
    )
    every = matrices(rows)
    if not every:
        return f"{claim}: nothing measured to set beside it."
    ratio = median(m["change"]["rank_90"] for m in every) / TYPICAL_RANK
    same = "so it is here" if ratio >= 10 else "not here"
    return (
        f"{claim}; {same}: the median is {ratio:.1f} times {TYPICAL_RANK}, a usual adapter's rank. "
        "This is one small base and one narrow task, and says nothing about large ones."
    )


def _caveats(rows: list[Row]) -> list[str]:
    """Runs that failed or fell short, and learning rates that might lie outside of the grid."""
    told = []
    for r in where(rows, role="report"):
        name = _name(r)
        if r.get("diverged"):
            told.append(f"Diverged: {name}, lr {r['lr']:g}, seed {r['seed']}.")
        elif r["kind"] in ("full", "lora") and (r.get("new") or 0) < LEVEL:
            told.append(f"Below {LEVEL:.0%}: {name}, seed {r['seed']}, {percent([r.get('new')])}.")
    edges = {
        f"{_name(r)} ({r['lr']:g})"
        for r in where(rows, role="report")
        if r["kind"] in ("full", "lora") and _at_edge(rows, r)
    }
    if edges:
        told.append(f"Chosen at the edge of the rates tried: {', '.join(sorted(edges))}.")
    return told


def _name(row: Row) -> str:
    if "rank" not in row:
        return str(row["kind"])
    return f"{row['kind']} r={row['rank']} α={row['alpha']:g}"


def _at_edge(rows: list[Row], row: Row) -> bool:
    arm = {k: row.get(k) for k in ("kind", "rank", "alpha") if k in row}
    tried = {r["lr"] for r in where(rows, role="choose", **arm)}
    return len(tried) > 1 and row["lr"] in (min(tried), max(tried))


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f} (median {median(values):.0f})"


def _range2(values: Sequence[float]) -> str:
    mean, low, high = spread(values)
    return f"{mean:.2f}" if len(values) < 2 else f"{mean:.2f} ({low:.2f} to {high:.2f})"
