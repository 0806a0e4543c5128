"""Answer a question by measuring: rank and alpha, learning rates, what is forgotten, and others.

Without a name: the experiments, each with its question. With one: measures what its results file
has not yet, draws its figure and prints the answer. A run that was stopped goes on where it stood
when the same command is given again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from minilora.cli.options import (
    add_json_option,
    add_run_options,
    print_json,
    run_options,
    say,
    seeds,
    typed,
    whole,
)
from minilora.errors import ConfigError

EXAMPLE = "minilora experiment rank_alpha --seeds 0-4 --jobs 2"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="which; without: what there is")
    parser.add_argument(
        "--seeds", type=seeds, help="that are reported on, such as 0-4 or 0,3; default 0-2"
    )
    parser.add_argument(
        "--steps", type=whole(1), metavar="N", help="of each training; default: the experiment's"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="the smallest grid, to see that it runs; into files of their own, quick-NAME",
    )
    parser.add_argument("--out", default="figures", metavar="FOLDER", help="default ./figures")
    parser.add_argument(
        "--format", choices=("png", "svg", "pdf"), default="png", help="or svg, pdf"
    )
    add_run_options(parser)
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.experiments.lab.experiment import Plan, experiment
    from minilora.experiments.lab.running import FailedPointsError, run
    from minilora.experiments.lab.stats import CHOOSING_SEEDS
    from minilora.experiments.redraw import figure_beside

    if options.name is None:
        return _list(options)
    which = experiment(options.name)
    chosen = tuple(which.seeds) if options.seeds is None else options.seeds
    if set(chosen) & set(CHOOSING_SEEDS):
        raise ConfigError(
            f"seeds {', '.join(map(str, CHOOSING_SEEDS))} choose the learning rates, and so are "
            "not reported on; give others to --seeds"
        )
    plan = Plan(chosen, options.steps, options.quick)
    name = f"{'quick-' if options.quick else ''}{options.name}"
    path = Path(options.out) / f"{name}.jsonl"
    given = {key: getattr(options, key) for key in ("seeds", "steps", "quick")}
    command = typed(f"experiment {options.name}", given)
    failed = None
    try:
        rows = run(which, plan, path, command=command, **run_options(options))
    except FailedPointsError as error:
        failed, rows = str(error), error.rows
    figure = None
    if rows:
        figure = figure_beside(path, options.format)
        which.draw(rows, figure)
        _tell(options, which, rows, figure)
        say(f"wrote {path}, {figure}")
    if failed:
        say(f"minilora: {failed}")
    return 1 if failed else 0


def _list(options: argparse.Namespace) -> int:
    from minilora.experiments.lab.experiment import EXPERIMENTS, experiment

    questions = {name: experiment(name).question for name in EXPERIMENTS}
    if options.json:
        print_json(questions)
    else:
        width = max(map(len, questions))
        for name, question in questions.items():
            print(f"{name.ljust(width)}  {question}")
    return 0


def _tell(options: argparse.Namespace, which: Any, rows: list[Any], figure: Path) -> None:
    answer = which.answer(rows)
    if options.json:
        said = {"experiment": which.name, "question": which.question, "rows": len(rows)}
        print_json({**said, "answer": answer, "figure": str(figure)})
    else:
        print(answer)
