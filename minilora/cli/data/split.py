"""Split a file into rows for training, validation and test, with no question on two sides.

The side is decided by a hash of the question and the seed, so the same question is always on the
same side, however often and in whichever order; questions that are nearly the same stay together.
The file is read twice.
"""

from __future__ import annotations

import argparse
from typing import Any

from minilora.cli.data.rules import add_file, add_near
from minilora.cli.options import number, print_json, say, whole

EXAMPLE = "minilora data split rows.clean.jsonl --validation 0.1 --test 0.1"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    share = number(0, 1, from_low=True)
    parser.add_argument(
        "--validation", type=share, default=0.1, metavar="SHARE", help="default 0.1"
    )
    parser.add_argument("--test", type=share, default=0.1, metavar="SHARE", help="default 0.1")
    parser.add_argument("--seed", type=whole(0), default=0, metavar="N", help="default 0")
    parser.add_argument(
        "--out",
        metavar="NAME",
        help="beginning of NAME.train.jsonl, NAME.validation.jsonl, NAME.test.jsonl; default: FILE "
        "without its ending",
    )
    parser.add_argument(
        "--together",
        metavar="KEY",
        help="rows with the same value under this key stay together, e.g. record, as data build "
        "--each writes it",
    )
    add_near(parser, "questions stay together")


def run(options: argparse.Namespace) -> int:
    from minilora.data.splitting import SIDES, Shares, split_file
    from minilora.data.writing import beside

    kind, size = options.shingle
    shares = Shares(
        options.validation,
        options.test,
        options.seed,
        options.near,
        kind,
        size,
        options.together,
    )
    wanted = {"train": 1.0, "validation": options.validation, "test": options.test}
    out: dict[Any, str] = {
        side: f"{options.out}.{side}.jsonl" if options.out else beside(options.file, side)
        for side in SIDES
        if wanted[side]
    }
    report = split_file(options.file, out, shares, format=options.format, progress=True)
    if options.json:
        print_json({**report.as_json(), "out": out})
    else:
        print("\n".join(report.lines()))
    say(f"wrote {', '.join(out.values())}")
    return 0
