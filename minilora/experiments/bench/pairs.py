"""Two processes that take turns, and what comes of it."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from minilora.bases.smollm2 import cached_file
from minilora.errors import ConfigError, MiniloraError
from minilora.experiments.bench.jobs import JOBS, Job, prepare
from minilora.runtime import n_threads

_WARM_UP = 2


class Side:
    """A worker process of one side."""

    def __init__(self, process: subprocess.Popen[str]):
        self.process = process
        self.said = self._answer()

    def go(self) -> float:
        """Do the job once; the seconds it took."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def end(self) -> int:
        """Send it home; the most bytes it ever held."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self._answer()["rss"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # libraries may print, too
                return json.loads(line)
        assert self.process.stderr is not None
        trouble = self.process.stderr.read().strip().splitlines()
        raise MiniloraError(
            f"a benchmark process ended early: {(trouble or ['no reason given'])[-1]}"
        )


@contextmanager
def _side(side: str, job: Job, folder: Path) -> Iterator[Side]:
    command = [sys.executable, "-m", "minilora.experiments.bench.worker", side, job.name]
    process = subprocess.Popen(
        [*command, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    try:
        yield Side(process)
    finally:
        process.kill()
        process.wait()


def bench(
    names: list[str] | None = None, *, pairs: int = 15, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Time the named jobs, or all. A job that cannot be done here is skipped, with a reason.

    Raises ConfigError for an unknown name.
    """
    for name in names or []:
        if name not in JOBS:
            raise ConfigError(f"no benchmark is called {name!r}; there are: {', '.join(JOBS)}")
    rows, skipped = [], []
    for job in JOBS.values():
        if names and job.name not in names:
            continue
        reason = _missing(job)
        if reason:
            skipped.append({"name": job.name, "reason": reason})
            say(f"{job.name}: skipped, {reason}")
            continue
        rows.append(_row(job, pairs))
    machine = {
        "cpu": platform.machine(),
        "python": platform.python_version(),
        "threads": n_threads(),
    }
    return {"rows": rows, "skipped": skipped, "machine": machine}


def _missing(job: Job) -> str | None:
    """What a job needs that is not here."""
    for module in ("torch", "transformers", "peft"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: pip install 'minilora[parity]'"
    if job.base == "smollm2" and not cached_file().is_file():
        return "the base is not here: minilora fetch smollm2"
    if job.compiled and not (shutil.which("g++") or shutil.which("clang++")):
        return "torch.compile needs a C++ compiler, and there is none"
    return None


def _row(job: Job, pairs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="minilora-bench-") as scratch, ExitStack() as stack:
        prepare(job, Path(scratch))
        ours = stack.enter_context(_side("ours", job, Path(scratch)))
        rival = stack.enter_context(_side("rival", job, Path(scratch)))
        apart = abs(ours.said["first_loss"] - rival.said["first_loss"])
        if not apart <= 1e-4:
            raise MiniloraError(
                f"{job.name}: the first losses differ by {apart:.2e}; the two sides "
                "do not compute the same, so their times are not compared"
            )
        for _ in range(_WARM_UP):
            ours.go(), rival.go()
        bar = tqdm(range(pairs), desc=job.name, unit="pair", leave=False, dynamic_ncols=True)
        times = [(ours.go(), rival.go()) for _ in bar]
        ours_rss, rival_rss = ours.end(), rival.end()
    ratios = sorted(a / b for a, b in times)
    return {
        "name": job.name,
        "ours_seconds": statistics.median(a for a, _ in times),
        "rival_seconds": statistics.median(b for _, b in times),
        "ratio": statistics.median(ratios),
        "ratio_low": ratios[len(ratios) // 4],
        "ratio_high": ratios[-1 - len(ratios) // 4],
        "pairs": pairs,
        "ours_rss": ours_rss,
        "rival_rss": rival_rss,
        "rival": rival.said["version"],
        "ours": ours.said["version"],
        "target": job.target,
    }
