"""One side of a pair: a process that sets a job up, and then does it each time it is told to.

Started as `python -m minilora.experiments.bench.worker SIDE JOB FOLDER`, the job as JSON. It
answers in lines of JSON: first {"first_loss", "version", …} when it is ready, then {"seconds"} for
each line "go", and at the end of its input {"rss"}, the most memory it ever had, in bytes.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

from minilora.runtime import resident_peak


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
    rss = resident_peak()
    print(json.dumps({"rss": rss}), file=answers, flush=True)


if __name__ == "__main__":
    main()
