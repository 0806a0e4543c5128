"""Two processes that take turns, and what comes of it."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from minilora.bases.smollm2 import cached_file
from minilora.errors import ConfigError, MiniloraError
from minilora.experiments.bench.jobs import JOBS, Job, prepare
from minilora.experiments.bench.side import Side, started
from minilora.runtime import n_threads

_WARM_UP = 2


def bench(
    names: list[str] | None = None, *, pairs: int = 15, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Time the named jobs, or all. A job that cannot be done here is skipped, with a reason.

    Ctrl-C ends it with the rows that are finished. Raises ConfigError for an unknown name, and
    MiniloraError if the two sides do not compute the same, or a process of theirs ends early.
    """
    for name in names or []:
        if name not in JOBS:
            raise ConfigError(f"no benchmark is called {name!r}; there are: {', '.join(JOBS)}")
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    interrupted = False
    try:
        for job in JOBS.values():
            if names and job.name not in names:
                continue
            reason = missing(job)
            if reason:
                skipped.append({"name": job.name, "reason": reason})
                say(f"{job.name}: skipped, {reason}")
            else:
                rows.append(_row(job, pairs))
    except KeyboardInterrupt:
        interrupted = True
    return {"rows": rows, "skipped": skipped, "interrupted": interrupted, "machine": machine()}


def machine() -> dict[str, Any]:
    """What the times were taken on."""
    return {
        "cpu": platform.machine(),
        "python": platform.python_version(),
        "threads": n_threads(),
    }


def missing(job: Job) -> str | None:
    """What a job needs that is not here, and how to get it."""
    for module in ("torch", "transformers", "peft"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: pip install 'minilora[parity]'"
    if job.base == "smollm2" and not cached_file().is_file():
        return "the base is not here: minilora fetch smollm2"
    if job.compiled and not (shutil.which("g++") or shutil.which("clang++")):
        return "torch.compile needs a C++ compiler, and there is none"
    return None


def check_first_losses(name: str, ours: float, rival: float) -> None:
    """MiniloraError unless the two are the same to 1e-4."""
    if not abs(ours - rival) <= 1e-4:
        raise MiniloraError(
            f"{name}: the first losses, {ours:.6g} and {rival:.6g}, are more than 1e-4 apart; the "
            "two sides do not compute the same, so their times are not compared"
        )


def _row(job: Job, pairs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="minilora-bench-") as scratch, ExitStack() as stack:
        prepare(job, Path(scratch))
        ours = stack.enter_context(started("ours", job, Path(scratch)))
        rival = stack.enter_context(started("rival", job, Path(scratch)))
        check_first_losses(job.name, ours.said["first_loss"], rival.said["first_loss"])
        times = _turns(job.name, ours, rival, pairs)
        ours_rss, rival_rss = ours.end(), rival.end()
    ratios = sorted(a / b for a, b in times)
    quarter = len(ratios) // 4
    return {
        "name": job.name,
        "ours_seconds": statistics.median(a for a, _ in times),
        "rival_seconds": statistics.median(b for _, b in times),
        "ratio": statistics.median(ratios),
        "ratio_low": ratios[0],
        "ratio_high": ratios[-1],
        "ratio_middle": [ratios[quarter], ratios[-1 - quarter]],
        "pairs": pairs,
        "ours_rss": ours_rss,
        "rival_rss": rival_rss,
        "rival": rival.said["version"],
        "ours": ours.said["version"],
        "target": job.target,
    }


def _turns(name: str, ours: Side, rival: Side, pairs: int) -> list[tuple[float, float]]:
    """Seconds of ours and the rival's, pair by pair; who goes first alternates."""
    for _ in range(_WARM_UP):
        ours.go(), rival.go()
    times = []
    for i in tqdm(range(pairs), desc=name, unit="pair", leave=False, dynamic_ncols=True):
        if i % 2:
            b = rival.go()
            a = ours.go()
        else:
            a = ours.go()
            b = rival.go()
        times.append((a, b))
    return times
