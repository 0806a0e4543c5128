"""Whether adapters of different ranks, and of different data, find the same directions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from minilora.experiments.lab.tuning import Setup, model_for, tune
from minilora.spectra import chance_overlap, overlaps

# Adapters of one seed share the order of the data, but not the random start of A.
_OTHER_START = 1000


def subspaces(point: dict[str, Any]) -> dict[str, Any]:
    """φ between a thin and a wide adapter of one seed, and adapters of two seeds.

    In `tables` for each pair, and for A's input directions and those of ΔW = s B A: φ by i (row)
    and j (column), the mean over the q and v matrices of all layers, and one matrix by itself.
    """
    thin = Setup.of(point)
    wide = replace(
        thin,
        rank=point["wide_rank"],
        alpha=thin.alpha * point["wide_rank"] / thin.rank,
        lr=point["wide_lr"],
    )
    adapters = {
        "thin": _adapter(thin, thin.seed),
        "wide": _adapter(wide, thin.seed + _OTHER_START),
        "other": _adapter(replace(wide, seed=point["other"]), point["other"] + _OTHER_START),
    }
    rng = np.random.default_rng([thin.seed, 2])
    adapters["random"] = {
        path: {k: rng.normal(size=M.shape) for k, M in of.items()}
        for path, of in adapters["wide"].items()
    }
    pairs = {
        "same data": ("thin", "wide"),
        "other data": ("thin", "other"),
        "both wide": ("wide", "other"),
        "random": ("thin", "random"),
    }
    tables = []
    for pair, (a, b) in pairs.items():
        for of in ("A", "change"):
            each = {
                path: overlaps(adapters[a][path][of], adapters[b][path][of], point["i"], point["j"])
                for path in adapters[a]
            }
            alone = next(phi for path, phi in each.items() if point["alone"] in path)
            mean = np.mean(list(each.values()), axis=0)
            for place, phi in (("mean", mean), (point["alone"], alone)):
                values = [[short(v) for v in row] for row in phi]
                tables.append({"pair": pair, "of": of, "matrices": place, "values": values})
    d = next(iter(adapters["thin"].values()))["A"].shape[1]
    chance = [[short(chance_overlap(i, j, d)) for j in point["j"]] for i in point["i"]]
    return {"tables": tables, "chance": chance, "diverged": None}


def _adapter(setup: Setup, start: int) -> dict[str, dict[str, np.ndarray]]:
    """path → A and ΔW of each q and v matrix, tuned from the random start of that number."""
    model = model_for(replace(setup, seed=start))
    tune(setup, model=model, test=False)
    return {
        path: {"A": layer.lora_A["default"].weight.data, "change": layer.delta("default")}
        for path, layer in model.layers().items()
        if path.endswith(("q_proj", "v_proj"))
    }


def short(value: Any) -> float:
    """Four significant digits, which are all that a row keeps of a share or a rank."""
    return float(f"{value:.4g}")
