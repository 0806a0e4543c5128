"""How the cost of a step grows: seconds and bytes against each size by itself.

Around one small model, of random weights, a size at a time is doubled and doubled again while all
others stay. Measured are the median step and, by `tracemalloc`, the most bytes held; beside them
stands what the accounting foretold: FLOPs and bytes of the same step, from its config alone, and
the least seconds that so many FLOPs can take on this machine. The slope of the logarithms is the
exponent: at 1, twice the size costs twice. It is the median over all pairs of points (Theil and
Sen), which a point that was disturbed does not turn.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from minilora.accounting import ledger, predict
from minilora.config import ModelConfig
from minilora.errors import ConfigError
from minilora.experiments.bench.jobs import Job, write_start
from minilora.experiments.bench.pairs import check_first_losses, machine, missing
from minilora.experiments.bench.side import started
from minilora.experiments.profile_step import peak_rate
from minilora.model import Transformer
from minilora.optim import AdamW
from minilora.peft import LoraConfig, get_peft_model
from minilora.runtime import keep_memory, n_threads, threads_set_to
from minilora.training import loss_and_gradients, train_step

_HEAD = 32  # channels of a head, whatever the width
_ENOUGH = 0.4  # seconds of steps that make a median
_RIVAL_STEPS = 5
MEASURES = (
    "seconds",
    "peak_bytes",
    "predicted_flops",
    "predicted_bytes",
    "least_seconds",
    "rival_seconds",
    "rival_bytes",
)


@dataclass(frozen=True)
class Point:
    """All the sizes of one step."""

    batch: int = 8
    length: int = 64
    rank: int = 8
    layers: int = 4
    width: int = 128
    vocabulary: int = 1024
    threads: int = 1

    @property
    def config(self) -> ModelConfig:
        heads = self.width // _HEAD
        return ModelConfig(
            self.vocabulary, self.width, 2 * self.width, self.layers, heads,
            n_kv_heads=max(1, heads // 2), max_positions=max(2048, self.length),
        )  # fmt: skip

    @property
    def lora(self) -> LoraConfig:
        return LoraConfig(r=self.rank, lora_alpha=16, target_modules=("q_proj", "v_proj"))


def axes(*, quick: bool = False) -> dict[str, list[Point]]:
    """The sizes that are varied, and the steps in which each is. Quick: every other, smaller."""
    base = Point(threads=n_threads())
    long = replace(base, batch=2, layers=2)
    threads = sorted({min(2**i, base.threads) for i in range(8)})
    every = 2 if quick else 1
    sizes: dict[str, tuple[Point, list[int]]] = {
        "batch": (base, [1, 2, 4, 8, 16, 32, 64][::every]),
        "length": (long, [32, 64, 128, 256, 512, 1024, 2048][: 5 if quick else None : every]),
        "rank": (base, [1, 2, 4, 8, 16, 32, 64][::every]),
        "layers": (base, [1, 2, 4, 8, 16][::every]),
        "width": (base, [64, 128, 256, 512][: 3 if quick else None]),
        "vocabulary": (base, [256, 1024, 4096, 16384][: 3 if quick else None]),
        "threads": (replace(base, batch=32), threads),
    }
    return {
        name: [replace(around, **{name: n}) for n in values]
        for name, (around, values) in sizes.items()
    }


def scaling(
    names: list[str] | None = None,
    *,
    method: str = "lora",
    rival: bool = False,
    quick: bool = False,
    points: dict[str, list[Point]] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure along the named sizes, or all of them.

    method   lora or full
    rival    time PyTorch with PEFT on the same steps, too, in a process for each
    points   other steps than `axes()` has

    Ctrl-C ends it with the rows that are finished. Raises ConfigError for an unknown name.
    """
    all_points = axes(quick=quick) if points is None else points
    for name in names or []:
        if name not in all_points:
            raise ConfigError(f"no size is called {name!r}; there are: {', '.join(all_points)}")
    chosen = {n: p for n, p in all_points.items() if not names or n in names}
    reason = missing(_job(method)) if rival else None
    if reason:
        say(f"the rival is left out: {reason}")
    keep_memory()
    with threads_set_to(1):
        peak = peak_rate()
    rows: list[dict[str, Any]] = []
    todo = [(name, point) for name, points in chosen.items() for point in points]
    bar = tqdm(todo, desc="scaling", unit="point", leave=False, dynamic_ncols=True)
    try:
        for name, point in bar:
            bar.set_postfix_str(f"{name} {getattr(point, name)}")
            rows.append(_row(name, point, method, peak, rival and not reason))
    except KeyboardInterrupt:
        bar.close()
    return {
        "method": method,
        "rows": rows,
        "exponents": [_exponents(name, rows) for name in chosen],
        "peak_rate": peak,
        "interrupted": len(rows) < len(todo),
        "machine": machine(),
    }


def _row(name: str, point: Point, method: str, peak: float, rival: bool) -> dict[str, Any]:
    """One step: what was measured, and what was foretold."""
    lora = point.lora if method == "lora" else None
    with threads_set_to(point.threads):
        seconds, held, first, start = _measure(point, lora)
        beside = _rival(point, method, start, first) if rival else {}
    foretold = predict(point.config, lora=lora, batch_size=point.batch, length=point.length)
    return {
        "axis": name,
        "value": getattr(point, name),
        "seconds": seconds,
        "peak_bytes": held,
        "predicted_flops": foretold.flops.total,
        "predicted_bytes": foretold.ledger.peak,
        "least_seconds": foretold.flops.total / peak / point.threads,
        "rival_seconds": beside.get("seconds"),
        "rival_bytes": beside.get("peak_bytes"),
        "sizes": asdict(point),
    }


def _ids(point: Point) -> np.ndarray:
    return np.random.default_rng(0).integers(0, point.vocabulary, (point.batch, point.length))


def _measure(point: Point, lora: LoraConfig | None) -> tuple[float, int, float, Transformer]:
    """Median seconds, most bytes, first loss, and a base like the one that was started from."""
    model: Any = Transformer(point.config)
    if lora is not None:
        model = get_peft_model(model, lora, seed=1)
    optimizer = AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    ids = _ids(point)
    first, _ = loss_and_gradients(model, ids, ids)
    train_step(model, optimizer, ids, ids)
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < _ENOUGH and len(seconds) < 25):
        began = time.perf_counter()
        train_step(model, optimizer, ids, ids)
        seconds.append(time.perf_counter() - began)
    with ledger(model, optimizer) as kept:
        train_step(model, optimizer, ids, ids, threads=1)
    return statistics.median(seconds), kept.peak, first, Transformer(point.config)


def _job(method: str) -> Job:
    return Job("scaling", "step", "a folder", method, (0, 0), None, weighed=True)


def _rival(point: Point, method: str, start: Transformer, first: float) -> dict[str, Any]:
    """The rival's median step from the same weights, and the most bytes of its arrays in one."""
    job = _job(method)
    with tempfile.TemporaryDirectory(prefix="minilora-scaling-") as scratch, ExitStack() as stack:
        write_start(start, point.lora, job, Path(scratch))
        np.save(Path(scratch) / "ids.npy", _ids(point))
        side = stack.enter_context(started("rival", job, Path(scratch)))
        check_first_losses(f"scaling, {point}", first, side.said["first_loss"])
        side.go()
        seconds = statistics.median(side.go() for _ in range(_RIVAL_STEPS))
        return {"seconds": seconds, "peak_bytes": side.said["peak_bytes"]}


def _exponents(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The slope of each measure's logarithm against the size's; None where there is none."""
    mine = [row for row in rows if row["axis"] == name]
    found: dict[str, Any] = {"axis": name}
    for measure in MEASURES:
        pairs = [(row["value"], row[measure]) for row in mine if row[measure]]
        found[measure] = slope(pairs)
    return found


def slope(pairs: list[tuple[float, float]]) -> float | None:
    """The exponent k of y ~ xᵏ, or None of fewer than two different x."""
    slopes = [
        math.log(y2 / y1) / math.log(x2 / x1)
        for (x1, y1), (x2, y2) in combinations(pairs, 2)
        if x1 != x2
    ]
    return statistics.median(slopes) if slopes else None
