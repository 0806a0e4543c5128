"""One side of a pair: a process that sets a job up, and then does it each time it is told to.

Started as `python -m minilora.experiments.bench.worker SIDE JOB FOLDER`. It answers in lines of
JSON: first {"first_loss", "version", …} when it is ready, then {"seconds"} for each line "go", and
at the end of its input {"rss"}, the most memory it ever had.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from pathlib import Path


def main() -> None:
    side, name, folder = sys.argv[1:]
    from minilora.experiments.bench.jobs import JOBS

    job = JOBS[name]
    module = importlib.import_module(f"minilora.experiments.bench.{side}")
    work, said = module.set_up(job, Path(folder))
    print(json.dumps(said), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        for _ in range(job.repeat):
            work()
        print(json.dumps({"seconds": (time.perf_counter() - began) / job.repeat}), flush=True)
    # Kilobytes on Linux.
    print(json.dumps({"rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
