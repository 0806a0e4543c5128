"""One side of a pair: a process that sets a job up, and then does it each time it is told to.

Started as `python -m minilora.experiments.bench.worker SIDE JOB FOLDER`, the job as JSON. It
answers in lines of JSON: first {"first_loss", "version", …} when it is ready, then {"seconds"} for
each line "go", and at the end of its input {"rss"}, the most memory it ever had, in bytes.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from pathlib import Path


def main() -> None:
    side, described, folder = sys.argv[1:]
    from minilora.experiments.bench.jobs import Job

    job = Job(**json.loads(described))
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    module = importlib.import_module(f"minilora.experiments.bench.{side}")
    work, said = module.set_up(job, Path(folder))
    print(json.dumps(said), file=answers, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        for _ in range(job.repeat):
            work()
        seconds = (time.perf_counter() - began) / job.repeat
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)
    rss = most_memory()
    print(json.dumps({"rss": rss}), file=answers, flush=True)


def most_memory() -> int:
    """The most bytes that were resident at once in this process."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not `ru_maxrss`: a process inherits that from the one that started it.
        line = next(each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


if __name__ == "__main__":
    main()
