"""Draw all figures of a folder again from their rows; with --rerun, measure the rows anew first.

A run anew writes beside the old rows and takes their place when it is finished; stopped, it goes on
where it stood when the same command is given again. Timings of `bench` begin again.
"""

from __future__ import annotations

import argparse

from minilora.cli.options import add_json_option, print_json, say, whole

EXAMPLE = "minilora figures --rerun --only rank_alpha --jobs 2"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", default="figures", help="default ./figures")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="one figure; may be given again for more"
    )
    parser.add_argument("--rerun", action="store_true", help="measure anew: hours for all")
    parser.add_argument(
        "--jobs", type=whole(1), metavar="J", help="points at once; default: the cores there are"
    )
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.experiments.redraw import redraw

    done = redraw(options.folder, options.only, rerun=options.rerun, jobs=options.jobs, say=say)
    if options.json:
        print_json(done)
    else:
        for what, names in done.items():
            if names:
                print(f"{what.replace('_', ' ')}: {', '.join(names)}")
    return 1 if done["failed"] else 0
