"""What the rows of `rank_alpha` say: a verdict on each usual claim, with its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from minilora.experiments.lab import stats
from minilora.experiments.lab.learning_rates import as_good, best_lr, steady
from minilora.experiments.lab.stats import column, percent
from minilora.experiments.rank_alpha.rows import (
    ALPHA,
    ALPHA_LR,
    FIRST_STEP,
    LOST,
    LR,
    Row,
    by_rank,
    collapsed,
    easy,
    few,
    gap,
    memories,
    never_learnt,
    rank_by_alpha,
    scaled,
)

ALIKE = 0.05  # means of accuracy no further apart than this are taken for the same
UNDECIDED = "undecided, for want of seeds"
ENOUGH = 3  # values against as many, at the least, for a verdict on a difference


def answer(rows: list[Row]) -> str:
    """A line for each claim, its verdict first, and what went wrong last."""
    parts = (capacity, overfitting, alpha_needed, same_lr, one_knob, best_alpha, first_step, losses)
    return "\n".join(part(rows) for part in parts)


def capacity(rows: list[Row]) -> str:
    """More rank holds more, where there is more to be held."""
    claim = '"r is capacity"'
    found = {n: ranks for n, ranks in memories(rows).items() if len(ranks) > 1}
    if not found:
        return f"{claim}: not measured."
    sizes = {n: _columns(ranks, "share") for n, ranks in found.items()}
    low, high = sizes[max(sizes)]
    verdict = _higher(high, low)
    said = []
    for n, ranks in found.items():
        first, last = ranks[min(ranks)], ranks[max(ranks)]
        enough = [r for r, each in ranks.items() if _mean(column(each, "share")) >= 0.95]
        said.append(
            f"of {n} facts ({first[0]['information_bits']:,.0f} bits) r = {min(ranks)} stores "
            f"{_bits(first)}, r = {max(ranks)} {_bits(last)}"
            + (f", and r = {min(enough)} is enough for 95 %" if enough else ", none 95 %")
        )
    every = [row for by in found.values() for each in by.values() for row in each]
    density = max(column(every, "bits_per_parameter"), default=0)
    steps = " or ".join(str(s) for s in sorted({row["steps"] for row in every}))
    text = (
        f"{claim}: {verdict}: {'; '.join(said)}. At most {density:.2f} bits a parameter, after "
        f"{steps} steps: a limit of training as much as of room."
    )
    ranks = easy(rows)
    if ranks:
        each = ", ".join(f"r = {r} {percent(column(v, 'new'))}" for r, v in ranks.items())
        text += f" The easy task, each rank at its best learning rate: {each}."
    return text


def overfitting(rows: list[Row]) -> str:
    """A high rank overfits if its gap is wider and what it can do is no more."""
    claim = '"a high r overfits"'
    sizes = {n: ranks for n, ranks in few(rows).items() if len(ranks) > 1}
    if not sizes:
        return f"{claim}: not measured."
    verdicts, said = [], []
    for n, ranks in sizes.items():
        low, high = ([_gap(r) for r in rs if gap(r) is not None] for rs in _halves(ranks))
        test_low, test_high = _columns(ranks, "new")
        wider = _higher(high, low)
        better = _mean(test_high) > _mean(test_low)
        verdicts.append("not here" if better and wider != UNDECIDED else wider)
        first, last = min(ranks), max(ranks)
        said.append(
            f"with {n} examples the gap between training and test is "
            f"{_points(ranks[first])} at r = {first} and "
            f"{_points(ranks[last])} at r = {last}, with "
            f"{percent(column(ranks[first], 'new'))} and {percent(column(ranks[last], 'new'))} "
            "right on the test"
        )
    order = ("confirmed", "suggests", "not here", UNDECIDED)
    return f"{claim}: {min(verdicts, key=order.index)}: {'; '.join(said)}."


def alpha_needed(rows: list[Row]) -> str:
    """Whether another α does as well as r or 2r, each at its own learning rate."""
    claim = '"α = r or 2r is needed"'
    arms = _alphas(rows)
    usual = {a: v for a, v in arms.items() if a in (v[0]["rank"], 2 * v[0]["rank"])}
    others = {a: v for a, v in arms.items() if a not in usual}
    if not usual or not others:
        return f"{claim}: not measured."
    best = {a: stats.where(v, lr=best_lr(v)) for a, v in arms.items()}
    values = {a: column(v, "new") for a, v in best.items()}
    mine = max((values[a] for a in usual), key=_mean)
    theirs = max((values[a] for a in others), key=_mean)
    said = ", ".join(f"α = {a:g} {percent(values[a])} (lr {best[a][0]['lr']:g})" for a in arms)
    rank = next(iter(arms.values()))[0]["rank"]
    verdict = _higher(mine, theirs)
    text = f"{claim}: {verdict}: at r = {rank}, each α at its own best learning rate: {said}."
    fixed = _by_alpha(rows)
    if fixed:
        means = [_mean(column(v, "new")) for by in fixed.values() for v in by.values()]
        text += (
            f" At one learning rate, {LR:g}, α decides: over all r and α from "
            f"{percent([min(means)])} to {percent([max(means)])}."
        )
    return text


def same_lr(rows: list[Row]) -> str:
    """Where the best learning rate lies for each rank, under both scalings."""
    claim = '"α/r makes the learning rate independent of r"'
    arms = {s: by_rank(scaled(rows, s)) for s in ("r", "sqrt_r")}
    if len(arms["r"]) < 2:
        return f"{claim}: not measured."
    said = []
    for scaling, name in (("r", "α/r"), ("sqrt_r", "α/√r")):
        if len(arms[scaling]) > 1:
            each = ", ".join(_lr_text(r, v) for r, v in arms[scaling].items())
            said.append(f"{name}: {each}")
    text = f"{claim}: {steady(arms['r'])} (α = {ALPHA}). Best learning rates under {said[0]}."
    if len(said) > 1:
        text += f" The same claim of α/√r: {steady(arms['sqrt_r'])}; under {said[1]}."
    return text


def one_knob(rows: list[Row]) -> str:
    """Runs of equal α·lr against runs of equal lr."""
    claim = '"under Adam α and the learning rate are one knob, α·lr"'
    rows = stats.where(rows, arm=ALPHA_LR)
    product = _groups(rows, lambda r: round(r["alpha"] * r["lr"], 9))
    alone = _groups(rows, lambda r: r["lr"])
    if not product or not alone:
        return f"{claim}: not measured."
    gaps = {p: _range(v) for p, v in product.items()}
    worst = max(gaps, key=lambda p: gaps[p])
    same, other = _mean(list(gaps.values())), _mean([_range(v) for v in alone.values()])
    fewest = min(len(v) for each in product.values() for v in each)
    if gaps[worst] <= ALIKE and same < other / 4 and fewest >= ENOUGH:
        verdict = "confirmed"
    else:
        verdict = "suggests" if same < other / 2 else "not here"
    pairs = [stats.apart(a, b) for v in product.values() for i, a in enumerate(v) for b in v[:i]]
    apart = sum(p != "no difference shown" for p in pairs)
    return (
        f"{claim}: {verdict}: between α's at equal α·lr the mean accuracy differs by "
        f"{100 * same:.0f} points ({100 * gaps[worst]:.0f} at the most, at α·lr = {worst:g}), at "
        f"equal lr by {100 * other:.0f}; at equal α·lr {apart} of {len(pairs)} pairs of α lie "
        "apart with all their seeds."
    )


def best_alpha(rows: list[Row]) -> str:
    """Which α a rank wants at one learning rate: power of r by least squares."""
    claim = f'"at one learning rate the best α grows as √r" ({LR:g}, α/r)'
    fixed = _by_alpha(rows)
    if len(fixed) < 2:
        return f"{claim}: not measured."
    best = {
        r: stats.best([row for v in by.values() for row in v], "alpha", "likelihood_validation")
        for r, by in fixed.items()
    }
    x, y = [math.log(r) for r in best], [math.log(a) for a in best.values()]
    mx, my = _mean(x), _mean(y)
    power = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum(
        (a - mx) ** 2 for a in x
    )
    tried = [row["alpha"] for by in fixed.values() for v in by.values() for row in v]
    at_end = sum(a in (min(tried), max(tried)) for a in best.values())
    # One rung of α, ×4, is too coarse to confirm a power.
    verdict = "suggests" if abs(power - 0.5) <= 0.2 else "not here"
    each = ", ".join(f"r = {r}: {a:g}" for r, a in best.items())
    return (
        f"{claim}: {verdict}: best α {each}, a power of {power:.2f} (√r would be 0.5, a fixed α/r "
        f"1); {at_end} of {len(best)} lie at an end of the α that were tried."
    )


def first_step(rows: list[Row]) -> str:
    """The useful change of the first step, relative to the lowest rank."""
    found = stats.where(rows, arm=FIRST_STEP)
    if not found:
        return "First step: not measured."
    row = found[-1]
    level = [n for n, v in row["first_step"].items() if all(0.8 <= c <= 1.25 for c in v)]
    said = "; ".join(
        f"{n}: {', '.join(f'{v:.2g}' for v in values)}" for n, values in row["first_step"].items()
    )
    return (
        f"First step from B = 0, useful change at r = {', '.join(map(str, row['ranks']))} "
        f"relative to the first: {said}. Level over ranks: {' and '.join(level) or 'none'}."
    )


def losses(rows: list[Row]) -> str:
    """Runs that collapsed, and runs that never learnt."""
    lost = [r for n in memories(rows).values() for e in n.values() for r in e if r.get("diverged")]
    return (
        f"Collapsed or diverged, though a lower learning rate learns it: "
        f"{_list([*collapsed(rows), *lost])}. Below {percent([LOST])} at the end, and lower rates "
        f"no better: {_list(never_learnt(rows))}."
    )


def _higher(a: Sequence[float], b: Sequence[float]) -> str:
    """The verdict on the claim that a is higher than b."""
    if min(len(a), len(b)) < ENOUGH:
        return UNDECIDED
    if _mean(a) <= _mean(b):
        return "not here"
    return {"differ": "confirmed", "suggests a difference": "suggests"}.get(
        stats.apart(a, b), "not here"
    )


def _columns(ranks: dict[int, list[Row]], what: str) -> tuple[list[float], list[float]]:
    """A column of the lower and of the higher ranks, the one in the middle left out.

    Ranks are taken together so that few seeds can show a difference.
    """
    low, high = _halves(ranks)
    return column(low, what), column(high, what)


def _halves(ranks: dict[int, list[Row]]) -> tuple[list[Row], list[Row]]:
    names = sorted(ranks)
    half = len(names) // 2
    return (
        [row for r in names[:half] for row in ranks[r]],
        [row for r in names[-half:] for row in ranks[r]],
    )


def _alphas(rows: list[Row]) -> dict[float, list[Row]]:
    rows = stats.where(rows, arm=ALPHA_LR)
    return {a: stats.where(rows, alpha=a) for a in sorted({r["alpha"] for r in rows})}


def _by_alpha(rows: list[Row]) -> dict[int, dict[float, list[Row]]]:
    """r → α → rows at one learning rate; ranks with one α say nothing of it."""
    found = {}
    for r, each in by_rank(rank_by_alpha(rows)).items():
        alphas = sorted({row["alpha"] for row in each})
        if len(alphas) > 1:
            found[r] = {a: stats.where(each, alpha=a) for a in alphas}
    return found


def _groups(rows: list[Row], key: Callable[[Row], float]) -> dict[float, list[list[float]]]:
    """key → for each α that has it the accuracies; only keys that several α have."""
    found: dict[float, dict[float, list[float]]] = {}
    for r in rows:
        found.setdefault(key(r), {}).setdefault(r["alpha"], []).append(r.get("new") or 0.0)
    return {k: list(v.values()) for k, v in sorted(found.items()) if len(v) > 1}


def _range(values: Sequence[Sequence[float]]) -> float:
    means = [_mean(v) for v in values]
    return max(means) - min(means)


def _gap(row: Row) -> float:
    return gap(row) or 0.0


def _points(rows: list[Row]) -> str:
    """Gaps in percentage points."""
    mean, low, high = (100 * v for v in stats.spread(map(gap, rows)))
    if math.isnan(mean):
        return "unknown"
    return f"{mean:.1f} points" + (f" ({low:.1f} to {high:.1f})" if len(rows) > 1 else "")


def _bits(rows: list[Row]) -> str:
    mean, low, high = stats.spread(column(rows, "stored_bits"))
    if math.isnan(mean):
        return "none"
    return f"{mean:,.0f} bits" + (f" ({low:,.0f} to {high:,.0f})" if len(rows) > 1 else "")


def _lr_text(rank: int, rows: list[Row]) -> str:
    best, good = best_lr(rows), as_good(rows)
    others = "" if len(good) < 2 else f" (as good: {', '.join(f'{lr:g}' for lr in good)})"
    return f"r = {rank} {best:g}{others}"


def _list(rows: list[Row]) -> str:
    """Runs in short, seeds of one setting counted."""
    counts: dict[str, int] = {}
    for r in rows:
        what = f"{r['facts']} facts" if "facts" in r else ""
        what = f"{r['examples']} examples" if r["arm"] == "few examples" else what
        scaling = "α/√r" if r["scaling"] == "sqrt_r" else "α/r"
        name = f"r = {r['rank']} α = {r['alpha']:g} {scaling} lr {r['lr']:g} {what}".strip()
        counts[name] = counts.get(name, 0) + 1
    return "; ".join(f"{name} ({n}×)" for name, n in counts.items()) or "none"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
