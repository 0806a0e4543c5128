"""An experiment that measures nothing, quickly: two learning rates to choose from, then seeds.

Each measuring leaves a line in ./measured.txt. `steps` are milliseconds. Some seeds are special:
913 cannot be measured, 914 is no number, 915 is a mistake in the program, 966 kills its process the
first time, 967 each time.
"""

import os
import signal
import time
from pathlib import Path

from threadpoolctl import threadpool_info
from tqdm import tqdm

from minilora import plots
from minilora.errors import ConfigError
from minilora.experiments.lab.experiment import Experiment
from minilora.experiments.lab.stats import best, where
from minilora.runtime import n_threads


def points(rows, plan):
    ms = plan.steps or 1
    lrs = (0.1,) if plan.quick else (0.1, 0.2)
    chosen = [{"role": "choose", "lr": lr, "ms": ms, "seed": 100} for lr in lrs]
    if len(where(rows, role="choose")) < len(chosen):
        return chosen
    lr = best(where(rows, role="choose"))
    return chosen + [{"role": "report", "lr": lr, "ms": ms, "seed": s} for s in plan.seeds]


def measure(point):
    seed = point["seed"]
    with open("measured.txt", "a") as file:
        file.write(f"{point['role']} {point['lr']} {seed}\n")
    for _ in tqdm(range(1), disable=True):  # as training has a bar
        time.sleep(point["ms"] / 1000)
    if seed == 913:
        raise ConfigError("seed 913 brings bad luck")
    if seed == 915:
        raise RuntimeError("a mistake")
    if seed == 967 or (seed == 966 and not Path("killed").exists()):
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    blas = [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]
    return {
        "new_validation": point["lr"] + seed / 1000,
        "new": float("nan") if seed == 914 else 0.5,
        "losses": [[1, 2.0], [2, 1.0]],
        "threads": max([n_threads(), *blas]),
    }


def draw(rows, path):
    if not rows:
        raise ConfigError("nothing to draw")
    with plots.figure(1, width=3, height=2) as (fig, ax):
        ax.plot([row["seed"] for row in rows], [row["new"] for row in rows], "o")
        plots.save(fig, path, "toys", f"{len(rows)} toys")


EXPERIMENT = Experiment(
    name="toy",
    question="Does it run?",
    points=points,
    measure=measure,
    draw=draw,
    answer=lambda rows: f"{len(where(rows, role='report'))} reported",
)
