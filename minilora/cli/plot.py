"""Draw an experiment's or a sweep's figure again from its results file; nothing is measured.

The rows say which experiment they are of.
"""

from __future__ import annotations

import argparse

from minilora.cli.options import add_json_option, print_json, say

EXAMPLE = "minilora plot figures/rank_alpha.jsonl --format svg"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.jsonl", help="that `experiment` or `sweep` wrote")
    parser.add_argument("--format", choices=("png", "svg", "pdf"), help="png (default), svg or pdf")
    parser.add_argument("--out", metavar="PATH", help="default: beside the rows")
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.experiments.redraw import plot

    which, rows, figure = plot(options.file, options.out, options.format)
    say(f"wrote {figure}")
    answer = which.answer(rows)
    if options.json:
        said = {"experiment": which.name, "rows": len(rows), "answer": answer}
        print_json({**said, "figure": str(figure)})
    else:
        print(answer)
    return 0
