"""Tune the embedded base with every combination of settings, and see which learn best.

Each axis takes values with commas between them; one that is not given has a single value. Names
of one choice of target modules are joined by +, as in q_proj+v_proj,all-linear. Full fine-tuning
has none of LoRA's axes, and so not a point for each of their values. A sweep that was stopped
goes on where it stood when the same command is given again, and another grid of the same steps and
batch size may be added to its folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from minilora.cli.options import (
    add_json_option,
    add_run_options,
    number,
    plus_targets,
    print_json,
    run_options,
    say,
    seeds,
    several,
    typed,
    whole,
)

EXAMPLE = "minilora sweep --ranks 1,2,4 --alphas 4,8,16 --seeds 0-2 --out sweep"

GRID = ("methods", "tasks", "ranks", "alphas", "lrs", "target_modules", "scalings", "seeds",
        "steps", "batch_size")  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the grid")
    names, above_0 = several(str), several(number(0))
    group.add_argument("--methods", type=names, help="full, lora; default lora")
    group.add_argument("--tasks", type=names, help="default sort-descending")
    group.add_argument("--ranks", type=several(whole(1)), help="default 8")
    group.add_argument("--alphas", type=above_0, help="default twice the rank")
    group.add_argument("--lrs", type=above_0, help="default 5e-3 for lora, 1e-3 for full")
    group.add_argument("--target-modules", type=several(plus_targets), help="default q_proj+v_proj")
    group.add_argument("--scalings", type=names, help="r (default): α/r; sqrt_r: α/√r")
    group.add_argument("--seeds", type=seeds, help="such as 0-4; default 0")
    group.add_argument("--steps", type=whole(1), metavar="N", help="of each; default 150")
    group.add_argument("--batch-size", type=whole(1), metavar="N", help="default 64")
    parser.add_argument("--out", default="sweep", metavar="DIR", help="default ./sweep")
    parser.add_argument(
        "--format", choices=("png", "svg", "pdf"), default="png", help="or svg, pdf"
    )
    add_run_options(parser)
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.experiments.lab.running import FailedPointsError
    from minilora.experiments.sweep import Grid, answer, sweep, table
    from minilora.experiments.sweep_figure import draw

    given: dict[str, Any] = {name: getattr(options, name) for name in GRID}
    grid = Grid(**{name: value for name, value in given.items() if value is not None})
    command = typed("sweep", given)
    failed = None
    try:
        rows = sweep(grid, options.out, command=command, **run_options(options))
    except FailedPointsError as error:
        failed, rows = str(error), error.rows
    if rows:
        file = Path(options.out) / "sweep.jsonl"
        figure = file.with_suffix(f".{options.format}")
        draw(rows, figure)
        if options.json:
            said = {"experiment": "sweep", "rows": len(rows), "answer": answer(rows)}
            print_json({**said, "figure": str(figure)})
        else:
            print(f"{table(rows)}\n\n{answer(rows)}")
        say(f"wrote {file}, {figure}")
    if failed:
        say(f"minilora: {failed}")
    return 1 if failed else 0
