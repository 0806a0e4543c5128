"""What the rows of `learning_rate` say, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from minilora.experiments.lab import stats
from minilora.experiments.lab.learning_rates import RUNG, as_good, best_lr, steady
from minilora.experiments.lab.stats import column, percent
from minilora.experiments.learning_rate.rows import (
    FULL,
    PLAIN,
    Row,
    ranks,
    ratio,
    reports,
    tries,
    variants,
)

LOST, LEVEL = 0.05, 0.9
FEW_POINTS = 0.02
ENOUGH = 3  # seeds for a verdict on a difference


def answer(rows: list[Row]) -> str:
    """A line for each claim, its verdict first, and what went wrong last."""
    return "\n".join(part(rows) for part in (ten_times, any_rank, best_ones, differ, losses))


def ten_times(rows: list[Row]) -> str:
    """The best rates over full's, with how well the ratio is known."""
    claim = "\"LoRA's best learning rate is about ten times full's\""
    arms = tries(rows)
    full = arms.get(FULL, [])
    loras = {n: each for n, each in arms.items() if n.startswith("LoRA ")}
    found = {n: ratio(each, full) for n, each in loras.items()}
    known = {n: r for n, r in found.items() if r is not None}
    if not known:
        return f"{claim}: not measured."
    near = all(_about_ten(guess) for guess, *_ in known.values())
    alone = [
        _about_ten(mine / other)
        for each in loras.values()
        for seed in sorted({r["seed"] for r in full})
        if (mine := best_lr(stats.where(each, seed=seed)))
        and (other := best_lr(stats.where(full, seed=seed)))
    ]
    inside = all(r[3] for r in known.values())
    verdict = "not here"
    if near:
        verdict = "confirmed" if all(alone) and inside and len(alone) > len(known) else "suggests"
    said = "; ".join(
        f"{n} {_number(guess)} times ({_number(low)} to {_number(high)})"
        + ("" if ok else ", a best rate at the end of what was tried")
        for n, (guess, low, high, ok) in known.items()
    )
    return f"{claim}: {verdict}: full's best is {best_lr(full):g}; {said}."


def any_rank(rows: list[Row]) -> str:
    """Whether one rate does for all ranks."""
    claim = '"whatever the rank"'
    found = ranks(rows)
    verdict = steady(found)
    if verdict == "not measured":
        return f"{claim}: not measured."
    each = []
    for r, some in found.items():
        good = ", ".join(f"{lr:g}" for lr in as_good(some))
        each.append(f"r = {r} {best_lr(some):g} (not told from it: {good})")
    return f"{claim}: {verdict} (α = 2r, q_proj and v_proj): best learning rates {'; '.join(each)}."


def best_ones(rows: list[Row]) -> str:
    """Every arm at its own best rate, on seeds that were not chosen on."""
    found = reports(rows)
    if not found:
        return "At its own best learning rate: not measured."
    said = "; ".join(
        f"{n} {percent(r.get('new') for r in each)} (lr {_lrs(each)}; 90 % {_soon(each)})"
        for n, each in found.items()
    )
    return f"Test, each at its own best learning rate: {said}."


def differ(rows: list[Row]) -> str:
    """Variants against plain LoRA of the same rank, each at its own best rate."""
    claim = '"tuned alike, LoRA\'s variants differ by 1 to 2 % at most" (arXiv 2602.04998)'
    found = {n: column(each, "new") for n, each in variants(rows).items()}
    plain = found.pop(PLAIN, [])
    if not plain or not found:
        return f"{claim}: not measured."
    gaps = {n: _mean(v) - _mean(plain) for n, v in found.items()}
    kinds = {n: stats.apart(v, plain) for n, v in found.items()}
    small = all(abs(g) <= FEW_POINTS for g in gaps.values())
    real = [n for n, k in kinds.items() if k != "no difference shown" and abs(gaps[n]) > FEW_POINTS]
    if len(plain) < ENOUGH:
        verdict = "undecided, for want of seeds"
    elif real:
        verdict = "not here"
    else:
        verdict = "confirmed" if small else "suggests"
    said = "; ".join(f"{n} {100 * gaps[n]:+.1f} points, {kinds[n]}" for n in found)
    return f"{claim}: {verdict}: against plain LoRA, {percent(plain)}: {said}."


def losses(rows: list[Row]) -> str:
    """Runs that diverged or lost what a lower rate learns; reported ones that never had 90 %."""
    lost: dict[str, int] = {}
    for name, each in tries(rows).items():
        for r in each:
            lower = [o for o in each if o["lr"] < r["lr"] and (o.get("new") or 0) > 10 * LOST]
            if r.get("diverged") or ((r.get("new") or 0) < LOST and lower):
                key = f"{name} lr {r['lr']:g}"
                lost[key] = lost.get(key, 0) + 1
    short = [
        f"{n} ({sum(s.get('step_90') is None for s in each)} of {len(each)})"
        for n, each in reports(rows).items()
        if any(s.get("step_90") is None for s in each)
    ]
    text = "; ".join(f"{k} ({n}×)" for k, n in lost.items()) or "none"
    return (
        f"Collapsed or diverged: {text}. At its best learning rate and yet never at "
        f"{percent([LEVEL])} on validation: {'; '.join(short) or 'none'}."
    )


def _about_ten(times: float) -> bool:
    """Within a rung of the ladder, which is rounded."""
    return 10 / RUNG / 1.05 <= times <= 10 * RUNG * 1.05


def _number(x: float) -> str:
    return f"{x:.0f}" if x >= 10 else f"{x:.2g}"


def _lrs(rows: list[Row]) -> str:
    return ", ".join(f"{lr:g}" for lr in sorted({r["lr"] for r in rows}))


def _soon(rows: list[Row]) -> str:
    """When 90 % were first right: `after 61 steps (58 to 65)`."""
    steps = [r["step_90"] for r in rows if r.get("step_90") is not None]
    if not steps:
        return "never"
    mean, low, high = stats.spread(steps)
    rest = f", {len(rows) - len(steps)} never" if len(steps) < len(rows) else ""
    return f"after {mean:.0f} steps ({low:.0f} to {high:.0f}){rest}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
