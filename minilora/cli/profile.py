"""Where the time of a training step goes: by operation, forward and backward, against the peak.

Steps are taken by one thread; medians are shown, with the share of the step that is matrix
products, and their rate against the fastest product that this machine was seen to make.
"""

from __future__ import annotations

import argparse

from minilora.cli.options import add_json_option, print_json, say, whole

EXAMPLE = "minilora profile --method full --batch-size 8 --figure profile.png"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", default="skills", help="skills (default), smollm2, or a folder")
    parser.add_argument("--method", choices=("lora", "full"), default="lora", help="default lora")
    parser.add_argument(
        "--batch-size", type=whole(1), metavar="N", help="default: 32, of other bases than skills 4"
    )
    parser.add_argument(
        "--length", type=whole(2), default=64, metavar="N", help="tokens in a row; default 64"
    )
    parser.add_argument(
        "--steps", type=whole(1), metavar="N", help="default: 15, of other bases than skills 5"
    )
    parser.add_argument("--figure", metavar="FILE", help="draw the bars: .png, .svg or .pdf")
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.experiments.profile_figure import draw, table
    from minilora.experiments.profile_step import profile_step
    from minilora.plots import check_path

    if options.figure:
        check_path(options.figure)
    large = options.base != "skills"
    report = profile_step(
        options.base,
        options.method,
        batch_size=options.batch_size or (4 if large else 32),
        length=options.length,
        steps=options.steps or (5 if large else 15),
    )
    if options.figure:
        draw(report, options.figure)
        say(f"wrote {options.figure}")
    if options.json:
        print_json(report)
    else:
        print(table(report))
    return 0
