"""The best learning rate of an arm, and how well it is known.

Accuracy is a poor guide where several rates reach 100 %. So a rate is chosen by the likelihood of
the right answers on the validation split: the probability of a right token, geometric mean, in
[0, 1]. It goes on rising where accuracy cannot, and a run that diverged has 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from minilora.evaluation import mean_nll
from minilora.experiments.lab import stats
from minilora.experiments.lab.tuning import Setup, task_of, tune

Row = dict[str, Any]

SCORE = "likelihood_validation"
# The rates that are tried, √10 apart, rounded.
RUNG = 10**0.5
LADDER = (1.6e-5, 5e-5, 1.6e-4, 5e-4, 1.6e-3, 5e-3, 1.6e-2, 5e-2, 1.6e-1, 5e-1)


def tuned(setup: Setup, *, test: bool = True) -> tuple[Row, Any]:
    """`tune`, with two measures more: `likelihood_validation`, and `step_90`.

    test      as of `tune`
    step_90   the step at which 90 % of the validation answers are first right; None: never
    """
    result, model = tune(setup, test=test)
    result[SCORE] = 0.0
    if result["diverged"] is None:
        nll = mean_nll(model, task_of(setup.task, setup.seed).validation)
        result[SCORE] = math.exp(-nll) if math.isfinite(nll) else 0.0
    result["step_90"] = stats.step_at(result["curve"])
    return result, model


def best_lr(rows: list[Row]) -> float | None:
    """The rate with the highest mean likelihood; None: no rows."""
    best: float | None = stats.best(rows, "lr", SCORE)
    return best


def as_good(rows: list[Row]) -> list[float]:
    """The rates whose mean lies within the spread of the best one's seeds, or above, in order.

    With a single seed that is the best alone, which says nothing of how well it is known.
    """
    values, best = stats.grouped(rows, "lr", SCORE), best_lr(rows)
    if best is None:
        return []
    return [lr for lr, v in sorted(values.items()) if sum(v) / len(v) >= min(values[best])]


def peak(rows: list[Row]) -> float | None:
    """Where the parabola through the best rate and its two neighbours has its top.

    Over log lr, of mean likelihoods. None if the best is the lowest or highest that was tried.
    """
    means = {lr: sum(v) / len(v) for lr, v in stats.grouped(rows, "lr", SCORE).items()}
    lrs, best = sorted(means), best_lr(rows)
    if best is None or best in (lrs[0], lrs[-1]):
        return None
    i = lrs.index(best)
    x0, x1, x2 = (math.log10(lr) for lr in lrs[i - 1 : i + 2])
    left, right = (means[best] - means[lrs[j]] for j in (i - 1, i + 1))
    # The top leans away from the neighbour that is further below it.
    lean = left * (x2 - x1) ** 2 - right * (x1 - x0) ** 2
    bend = left * (x2 - x1) + right * (x1 - x0)
    return float(10 ** (x1 + 0.5 * lean / bend)) if bend > 0 else best


def steady(arms: Mapping[Any, list[Row]]) -> str:
    """Whether one learning rate is the best in all arms: "confirmed", "suggests" or "not here".

    confirmed   the same is the best in every arm, for each seed by itself (two at least)
    suggests    the best ones are at most one rung apart, or one is as good as the best everywhere
    not here    neither
    """
    arms = {arm: rows for arm, rows in arms.items() if rows}
    tried = sorted({r["lr"] for rows in arms.values() for r in rows})
    if len(arms) < 2 or len(tried) < 2:
        return "not measured"
    bests = [best_lr(rows) for rows in arms.values()]
    seeds = {r["seed"] for rows in arms.values() for r in rows}
    alone = {best_lr(stats.where(rows, seed=s)) for rows in arms.values() for s in seeds}
    if len(alone - {None}) == 1 and len(seeds) > 1:
        return "confirmed"
    everywhere = set.intersection(*(set(as_good(rows)) for rows in arms.values()))
    rungs = [tried.index(lr) for lr in bests if lr is not None]
    return "suggests" if everywhere or max(rungs) - min(rungs) <= 1 else "not here"
