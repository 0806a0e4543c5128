"""What `four_bits` measures, by the role of a point."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from minilora.accounting import ledger
from minilora.bases import load_base
from minilora.data import skills
from minilora.data.batches import Batches
from minilora.evaluation import exact_match, mean_nll
from minilora.experiments.lab.tuning import Setup, model_for, optimizer_for, task_of, tune
from minilora.experiments.lab.turns import by_turns
from minilora.files.narrow import rounded
from minilora.quant import bits_per_parameter, quantize
from minilora.quant.linear import PackedMatrix, layer_matrices, unpacked
from minilora.quant.measuring import RoundingError
from minilora.quant.merging import Requantized, requantized
from minilora.training import train_step

SIDE, RANK = 512, 8  # of the matrix and the ΔW of a known size
SEED = 0  # of the numbers from N(0, 1)


def measure(point: dict[str, Any]) -> dict[str, Any]:
    """What came out, as JSON can say it; the keys depend on the role."""
    roles = {
        "error": errors,
        "base": base,
        "step": step,
        "merge": merge,
        "tune": tuned,
        "small": tuned,
    }
    return roles[point["role"]](point)


def errors(point: dict[str, Any]) -> dict[str, Any]:
    """`errors`: for each block size, with and without double quantization, `rounding_error`."""
    if point["source"] == "normal":
        arrays = [normal(point["numbers"])]
    else:
        arrays = [p.data for p in layer_matrices(load_base(point["source"])).values()]
    return {
        "errors": [
            rounding_error(arrays, point["data_type"], block_size, double)
            for block_size in point["block_sizes"]
            for double in (False, True)
        ]
    }


def normal(numbers: int) -> np.ndarray:
    """So many numbers from N(0, 1): (numbers,) float32."""
    return np.random.default_rng(SEED).standard_normal(numbers, dtype=np.float32)


def rounding_error(
    arrays: list[np.ndarray], data_type: str, block_size: int, double_quant: bool
) -> dict[str, Any]:
    """bits by the formula; mae in the unit of the numbers; relative, it over the mean |w|; snr in
    dB, None if nothing is lost."""
    total = RoundingError()
    for w in arrays:
        total += RoundingError.of(w, quantize(w, data_type, block_size, double_quant))
    size = sum(float(np.abs(w).sum(dtype=np.float64)) for w in arrays) / total.size
    return {
        "block_size": block_size,
        "double_quant": double_quant,
        "bits": bits_per_parameter(data_type, block_size, double_quant),
        "mae": total.mae,
        "relative": total.mae / size,
        "snr": total.snr if np.isfinite(total.snr) else None,
    }


def base(point: dict[str, Any]) -> dict[str, Any]:
    """Its skills before anything is tuned: `old` and `old_by_skill`, shares that are right of
    `strings` for each skill, and `nll`, nats a token of the right answers."""
    model = _base(point["data_type"], point["block_size"])
    tests = {s.name: skills.examples(s, "test", point["strings"]) for s in skills.OLD}
    right = {name: exact_match(model, test) for name, test in tests.items()}
    return {
        "old": sum(right.values()) / len(right),
        "old_by_skill": right,
        "nll": mean_nll(model, [e for test in tests.values() for e in test]),
        "bytes_matrices": sum(p.data.nbytes for p in layer_matrices(model).values()),
        "bytes_model": sum(p.data.nbytes for p in model.parameters()),
    }


def _base(data_type: str | None, block_size: int | None = None) -> Any:
    if data_type is None:
        return load_base("skills")
    return load_base("skills", quantize=data_type, block_size=block_size or 64)


def step(point: dict[str, Any]) -> dict[str, Any]:
    """One step of LoRA and of QLoRA: bytes by kind and at the peak, from the ledger; seconds, and
    `times_lora`, the median ratio of the two by turns, so that what else the machine does falls on
    both."""
    setups = {"lora": Setup(), "qlora": Setup(method="qlora", quantize=point["data_type"])}
    batches = Batches(task_of(Setup().task, 0).train, Setup().batch_size, seed=0)
    steps, held = [], {}
    for name, setup in setups.items():
        model = model_for(setup)
        optimizer = optimizer_for(model, setup)
        with ledger(model, optimizer) as kept:
            train_step(model, optimizer, *batches[0], threads=1)
        held[name] = {**kept.totals, "peak": kept.peak}
        steps.append(_step(model, optimizer, batches))
    taken = by_turns(steps, point["turns"])
    lora, qlora = zip(*taken, strict=True)
    return {
        "bytes": held,
        "lora_seconds": statistics.median(lora),
        "qlora_seconds": statistics.median(qlora),
        "times_lora": statistics.median(b / a for a, b in taken),
    }


def _step(model: Any, optimizer: Any, batches: Batches) -> Callable[[int], float]:
    return lambda turn: train_step(model, optimizer, *batches[turn], threads=1)


def merge(point: dict[str, Any]) -> dict[str, Any]:
    """`merges`: a ΔW for each size, merged into a matrix in few bits (`merged_at`)."""
    return {"merges": merged_at(point["data_type"], point["sizes"], point["seed"])}


def merged_at(data_type: str, sizes: list[float], seed: int = 0) -> list[dict[str, float]]:
    """A ΔW of rank 8 beside a Gaussian W in few bits: for each size ‖ΔW‖/‖W‖ what arrives.

    relative, moved, survives, astray   as `quant.merging.Requantized` has them
    """
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((SIDE, SIDE), dtype=np.float32)
    stored = quantize(W, data_type)
    delta = rng.normal(size=(SIDE, RANK)) @ rng.normal(size=(RANK, SIDE))
    delta *= np.linalg.norm(unpacked(PackedMatrix(stored))) / np.linalg.norm(delta)
    return [{"size": size, **_arrives(requantized(stored, size * delta))} for size in sizes]


def _arrives(report: Requantized) -> dict[str, float]:
    return {k: getattr(report, k) for k in ("relative", "moved", "survives", "astray")}


def tuned(point: dict[str, Any]) -> dict[str, Any]:
    """A tuning as `tune` has it; and, unless it diverged, its adapter merged (`merged_ways`).

    A small one has learnt too little for old and new to be asked of the test. With `strings` in
    the point only so many are asked, and nothing old.
    """
    setup, whole = Setup.of(point), point["role"] == "tune"
    strings = point.get("strings") if whole else 0
    result, model = tune(setup, test=whole and strings is None)
    if result["diverged"] is not None:
        return result | {"merged": None, "arrives": None}
    ways, arrives = merged_ways(setup, model, strings)
    return {"new": ways["apart"]["new"], **result, "merged": ways, "arrives": arrives}


def merged_ways(
    setup: Setup, model: Any, strings: int | None = None
) -> tuple[dict[str, dict[str, Any]], list[Any]]:
    """The adapter of a tuned model put into the base's weights, in each of the ways.

    First way → new, share of its test that is right, and nll, nats a token of its validation: the
    base without it, apart, float32, bfloat16, and the format of the base if it has one. Then, for
    each adapted matrix in few bits, what of ΔW arrives.

    strings   of the test that are asked; 0: none, and new is None
    """
    task = task_of(setup.task, setup.seed)
    change = {path: layer.delta("default") for path, layer in model.layers().items()}
    ways = {"base": _base(setup.quantize), "apart": model}
    for dtype in ("float32", "bfloat16"):
        ways[dtype] = _in_floats(setup, change, dtype)
    reports: list[Requantized] = []
    if setup.quantize:
        ways[setup.quantize], reports = _in_bits(setup, change)
    test = task.test[:strings]
    told = {
        way: {"new": exact_match(m, test) if test else None, "nll": mean_nll(m, task.validation)}
        for way, m in ways.items()
    }
    return told, [_arrives(r) for r in reports]


def _in_floats(setup: Setup, change: dict[str, np.ndarray], dtype: str) -> Any:
    """Ŵ + ΔW, rounded to so many bits, in the matrices that are adapted."""
    plain = _base(setup.quantize)
    for path, delta in change.items():
        weight = plain.get_submodule(path).weight
        weight.data = rounded((unpacked(weight.data) + delta).astype(np.float32), dtype)
    return plain


def _in_bits(setup: Setup, change: dict[str, np.ndarray]) -> tuple[Any, list[Requantized]]:
    """Q(Ŵ + ΔW) in the matrices that are adapted."""
    plain, reports = _base(setup.quantize), []
    for path, delta in change.items():
        weight = plain.get_submodule(path).weight
        reports.append(requantized(weight.data, delta))
        weight.data = PackedMatrix(reports[-1].merged)
    return plain, reports
