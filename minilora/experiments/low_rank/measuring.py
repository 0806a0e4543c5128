"""What `low_rank` measures: one function for each kind of point.

ΔW is looked at in the blocks' matrices (q, k, v, o, gate, up, down of each layer), which are those
that LoRA on all linears adapts. Embeddings and norms, which full fine-tuning changes too, are put
back to the base's, but where it is said that they are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minilora.bases import load_base
from minilora.evaluation import exact_match
from minilora.experiments.lab.tuning import Setup, model_for, task_of, tune
from minilora.experiments.low_rank.parts import (
    active_rows,
    budget,
    largest_entries,
    matrices,
    random_entries,
    random_subspace,
    row_activity,
)
from minilora.experiments.low_rank.planted import planted
from minilora.experiments.low_rank.subspaces import short, subspaces
from minilora.experiments.tasks import Task
from minilora.peft import PeftModel
from minilora.spectra import (
    effective_rank,
    energy,
    energy_rank,
    likeness,
    random_like,
    rescale,
    singular_values,
    truncate,
)

Arrays = dict[str, np.ndarray]
Change = dict[str, np.ndarray]  # path → ΔW (out, in)

KEPT = (1, 2, 4, 8, 16, 32, 64, 128)
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
TOP = 10
LEVEL = 0.9


def measure(point: dict[str, Any]) -> dict[str, Any]:
    """What the point's `kind` says: full, lora, planted or subspaces."""
    if point["role"] == "choose":
        return tune(Setup.of(point), test=False)[0]
    return _KINDS[point["kind"]](point)


def _tuned(setup: Setup, point: dict[str, Any]) -> tuple[dict[str, Any], Any, Arrays, Change]:
    """Tune as the point says: result, model, the base's matrices, and the change that was made.

    With it goes what the intruders were when validation first reached `LEVEL`.
    """
    before = {n: p.data.copy() for n, p in load_base("skills").named_parameters()}
    model, task = model_for(setup), task_of(setup.task, setup.seed)
    early: dict[str, Any] = {}

    def look(step: int, _loss: float) -> None:
        if not early and step % point["every"] == 0:
            reached = exact_match(model, task.validation)
            if reached >= LEVEL:
                counts = _counts(_likeness(before, _change(model, before)))
                early.update(step=step, new_validation=reached, counts=counts)

    result, model = tune(setup, model=model, after_step=look)
    result["intruders_at_level"] = early or None
    return result, model, before, _change(model, before)


def _change(model: Any, before: Arrays) -> Change:
    """path → ΔW (out, in) of each matrix of the blocks, in float64."""
    if isinstance(model, PeftModel):
        return {path: layer.delta("default") for path, layer in model.layers().items()}
    now = {path: linear.weight.data for path, linear in matrices(model).items()}
    return {path: W.astype(np.float64) - before[f"{path}.weight"] for path, W in now.items()}


class _Scores:
    """Accuracy of the base with other weights, on a part of the test strings.

    strings   how many of the new skill; a tenth as many of each old one

    Called with weights by name, the rest being the base's, it gives [new, old].
    """

    def __init__(self, task: Task, before: Arrays, strings: int):
        self.model, self.before = load_base("skills"), before
        self.new = task.test[:strings]
        self.old = [e for each in task.old.values() for e in each[: strings // 10]]

    def __call__(self, weights: Arrays) -> list[float]:
        self.model.load_state_dict({**self.before, **weights})
        return [exact_match(self.model, self.new), exact_match(self.model, self.old)]

    def with_change(self, change: Change, rest: Arrays | None = None) -> list[float]:
        """With W + ΔW in the blocks' matrices, and `rest` for what is no such matrix."""
        added = {f"{path}.weight": self.before[f"{path}.weight"] + D for path, D in change.items()}
        return self({**(rest or {}), **added})


def full(point: dict[str, Any]) -> dict[str, Any]:
    """Full fine-tuning: the spectra of ΔW, and the accuracy with parts of it."""
    setup = Setup.of(point)
    result, model, before, change = _tuned(setup, point)
    if result["diverged"]:
        return result
    task = task_of(setup.task, setup.seed)
    scores = _Scores(task, before, point["strings"])
    after = {n: p.data.copy() for n, p in model.named_parameters()}
    rng = np.random.default_rng([setup.seed, 1])
    activity = row_activity(load_base("skills"), task.train[: point["strings"]])
    return {
        **result,
        "matrices": [
            _spectra(path, before[f"{path}.weight"], D, rng) for path, D in change.items()
        ],
        "cuts": _cuts(change, activity, after, scores, point["ks"], rng),
        **_intruder_report(before, change, scores, point["factors"]),
    }


def _spectra(path: str, W: np.ndarray, D: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """How even the singular values of ΔW, of W, and of a random matrix like ΔW are."""
    _, _, layer, *_, kind = path.split(".")
    return {
        "layer": int(layer),
        "kind": kind,
        "relative_norm": short(np.linalg.norm(D) / np.linalg.norm(W)),
        "change": _spectrum(D),
        "weights": _spectrum(W),
        "random": _spectrum(random_like(D, rng)),
    }


def _spectrum(M: np.ndarray) -> dict[str, Any]:
    s = singular_values(M)
    held = energy(s)
    return {
        "rank_90": energy_rank(s),
        "effective": short(effective_rank(s)),
        "energy": [short(held[min(k, len(held)) - 1]) for k in KEPT],
    }


def _cuts(
    change: Change,
    activity: Arrays,
    after: Arrays,
    scores: _Scores,
    ks: list[int],
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """New and old accuracy with a part of ΔW, each of k (out + in) numbers a matrix."""
    rows: list[dict[str, Any]] = []

    def add(arm: str, k: int | None, accuracy: list[float]) -> None:
        rows.append({"arm": arm, "k": k, "new": accuracy[0], "old": accuracy[1]})

    for k in ks:
        best = {path: truncate(D, k) for path, D in change.items()}
        add("svd", k, scores.with_change(best))
        add("svd, embeddings and norms kept", k, scores.with_change(best, after))
    parts: dict[str, Callable[[str, np.ndarray, int], np.ndarray]] = {
        "largest entries": lambda path, D, k: largest_entries(D, budget(D, k)),
        "active rows": lambda path, D, k: active_rows(D, budget(D, k), activity[path]),
        "random subspace": lambda path, D, k: random_subspace(D, k, rng),
        "random entries": lambda path, D, k: random_entries(D, budget(D, k), rng),
    }
    for arm, part in parts.items():
        for k in ks:
            if 0 < k < 128:  # from there on each of them is all of ΔW
                add(arm, k, scores.with_change({p: part(p, D, k) for p, D in change.items()}))
    add("whole", None, scores.with_change(change))
    return rows


def _likeness(before: Arrays, change: Change) -> Arrays:
    """path → how much the `TOP` strongest directions of W + ΔW resemble one of W's (TOP,)."""
    base = {path: before[f"{path}.weight"].astype(np.float64) for path in change}
    return {path: likeness(base[path], base[path] + D, TOP) for path, D in change.items()}


def _counts(like: Arrays) -> list[list[float]]:
    """[threshold, share of intruders among the strongest directions of all matrices]."""
    every = np.concatenate(list(like.values()))
    return [[t, float((every < t).mean())] for t in THRESHOLDS]


def _intruder_report(
    before: Arrays, change: Change, scores: _Scores, factors: list[float]
) -> dict[str, Any]:
    """Intruders at the end of training, and accuracy with them scaled down.

    `scaled` has [factor, new, old] with the singular values of all intruders (cosine below
    `THRESHOLDS[0]`) times the factor; `scaled_whole` the same with all of ΔW times it instead,
    which is what scaling intruders must beat.
    """
    like = _likeness(before, change)
    found = {path: np.flatnonzero(cosines < THRESHOLDS[0]) for path, cosines in like.items()}
    tuned = {path: before[f"{path}.weight"] + D for path, D in change.items()}

    def damped(factor: float) -> Arrays:
        return {
            f"{path}.weight": rescale(M, found[path], factor) if len(found[path]) else M
            for path, M in tuned.items()
        }

    return {
        "intruders": _counts(like),
        "scaled": [[f, *scores(damped(f))] for f in factors],
        "scaled_whole": [
            [f, *scores.with_change({path: f * D for path, D in change.items()})] for f in factors
        ],
    }


def lora(point: dict[str, Any]) -> dict[str, Any]:
    """LoRA on all linears: accuracy, the rank that ΔW = s B A really has, intruders."""
    setup = Setup.of(point)
    result, _, before, change = _tuned(setup, point)
    if result["diverged"]:
        return result
    spectra = [singular_values(D) for D in change.values()]
    scores = _Scores(task_of(setup.task, setup.seed), before, point["strings"])
    return {
        **result,
        # σ_{r+1}/σ₁, the largest of all matrices: 0 up to rounding.
        "beyond_rank": max(float(s[setup.rank] / s[0]) if s[0] else 0.0 for s in spectra),
        "rank_90": [energy_rank(s) for s in spectra],
        **_intruder_report(before, change, scores, point["factors"]),
    }


_KINDS = {"full": full, "lora": lora, "planted": planted, "subspaces": subspaces}
