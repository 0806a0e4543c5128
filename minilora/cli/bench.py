"""Time minilora against PyTorch with PEFT, on the same cores, taking turns.

Each job is done by both from the same weights and data, each in a process of its own. A job that
cannot be done here (no PyTorch, no smollm2) is skipped, with a reason.
"""

from __future__ import annotations

import argparse

from minilora.cli.options import add_json_option, print_json, say, whole

EXAMPLE = "minilora bench --only skills-lora-step --quick"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="one job; may be given again for more"
    )
    parser.add_argument("--pairs", type=whole(1), metavar="N", help="turns of each; default 15")
    parser.add_argument("--quick", action="store_true", help="5 pairs")
    parser.add_argument("--figure", metavar="FILE", help="draw the ratios: .png, .svg or .pdf")
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.experiments.bench import bench
    from minilora.experiments.bench.figure import draw, table
    from minilora.plots import check_path

    if options.figure:
        check_path(options.figure)
    pairs = options.pairs or (5 if options.quick else 15)
    report = bench(options.only, pairs=pairs, say=say)
    if options.figure and report["rows"]:
        draw(report, options.figure)
        say(f"wrote {options.figure}")
    if options.json:
        print_json(report)
    elif report["rows"]:
        print(table(report))
    return 0
