"""A process of one side of a benchmark, as seen from the one that tells it what to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from minilora.errors import MiniloraError
from minilora.experiments.bench.jobs import Job


class Side:
    """A worker that is ready to do its job; what it said of itself stands in `said`.

    Raises MiniloraError, with the last line the worker wrote, whenever it is found to have ended.
    """

    def __init__(self, who: str, process: subprocess.Popen[str], errors: IO[str]):
        self._who, self._process, self._errors = who, process, errors
        self.said = self._answer()

    def go(self) -> float:
        """Do the job once; the seconds it took."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        return self._answer()["seconds"]

    def end(self) -> int:
        """Send it home; the most bytes it ever held."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._answer()["rss"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # a library in C may print past sys.stdout
                return json.loads(line)
        raise self._ended()

    def _ended(self) -> MiniloraError:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines() or ["it said nothing"]
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        return MiniloraError(f"{self._who} ended early, {how}: {lines[-1]}")


@contextmanager
def started(side: str, job: Job, folder: Path) -> Iterator[Side]:
    """A worker that starts from what was prepared in the folder. It does not outlive the `with`."""
    # Into a file: a pipe that nobody reads would fill, and the worker would wait for ever.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            command(side, job, folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=errors, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        try:
            yield Side(f"{job.name}: the process of {side}", process, errors)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with suppress(BrokenPipeError):  # of what it was to read, and nobody will
                    pipe.close()


def command(side: str, job: Job, folder: Path) -> list[str]:
    """What a worker is started with."""
    described = json.dumps(asdict(job))
    return [sys.executable, "-m", "minilora.experiments.bench.worker", side, described, str(folder)]
