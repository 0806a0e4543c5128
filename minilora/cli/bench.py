"""Time minilora against PyTorch with PEFT, on the same cores, taking turns.

Each job is done by both from the same weights and data, each in a process of its own. A job that
cannot be done here (no PyTorch, no smollm2) is skipped, with a reason. With --scaling instead: how
the time and the memory of a step grow with each of its sizes, against what was foretold.
"""

from __future__ import annotations

import argparse
from typing import Any

from minilora.cli.options import add_json_option, print_json, say, whole
from minilora.errors import ConfigError

EXAMPLE = "minilora bench --only skills-lora-step --quick"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="one job, or with --scaling one size; may be given again for more",
    )
    parser.add_argument("--pairs", type=whole(1), metavar="N", help="turns of each; default 15")
    parser.add_argument("--quick", action="store_true", help="5 pairs; fewer and smaller sizes")
    parser.add_argument("--figure", metavar="FILE", help="draw what came out: .png, .svg or .pdf")
    add_json_option(parser)
    group = parser.add_argument_group("how the cost grows")
    group.add_argument(
        "--scaling",
        action="store_true",
        help="measure steps against batch, length, rank, layers, width, vocabulary and threads",
    )
    group.add_argument("--method", choices=("lora", "full"), help="lora (default) or full")
    group.add_argument(
        "--rival", action="store_true", help="time PyTorch at each point, too (some 10 s a point)"
    )


def run(options: argparse.Namespace) -> int:
    from minilora.plots import check_path

    if options.figure:
        check_path(options.figure)
    if options.scaling:
        if options.pairs:
            raise ConfigError("--pairs is of the jobs; with --scaling there are none")
        return _scaling(options)
    if options.rival or options.method:
        raise ConfigError("--rival and --method are for --scaling; a job has both by itself")
    from minilora.experiments.bench import bench
    from minilora.experiments.bench.figure import draw, table

    pairs = options.pairs or (5 if options.quick else 15)
    report = bench(options.only, pairs=pairs, say=say)
    return _hand_over(options, report, draw, table)


def _scaling(options: argparse.Namespace) -> int:
    from minilora.experiments.bench.scaling import scaling
    from minilora.experiments.bench.scaling_figure import draw, table

    report = scaling(
        options.only,
        method=options.method or "lora",
        rival=options.rival,
        quick=options.quick,
        say=say,
    )
    return _hand_over(options, report, draw, table)


def _hand_over(options: argparse.Namespace, report: dict[str, Any], draw: Any, table: Any) -> int:
    """Print, draw, and say if it was stopped early."""
    if options.figure and report["rows"]:
        draw(report, options.figure)
        say(f"wrote {options.figure}")
    if options.json:
        print_json(report)
    elif report["rows"]:
        print(table(report))
    if report["interrupted"]:
        say("stopped early; what was finished is all there")
    return 130 if report["interrupted"] else 0
