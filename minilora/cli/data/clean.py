"""Write the good rows of a file, and those left out to a file of their own, with the reason.

What counts as wrong is what `minilora data check` tells (see its --help). Rows keep their order
and, unless their form has to be changed for training, their words; of several that are alike the
first stays. Cleaning twice changes nothing. Rows left out stand whole beside their reason; of a
line that is no JSON its beginning is kept, as text.
"""

from __future__ import annotations

import argparse

from minilora.cli.data.rules import add_file, add_rules, rules_of
from minilora.cli.options import print_json, say

EXAMPLE = "minilora data clean rows.jsonl --test test.jsonl --near 0.9"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    parser.add_argument(
        "--out", metavar="FILE.jsonl", help="good rows; default: beside FILE, .clean.jsonl"
    )
    parser.add_argument(
        "--dropped", metavar="FILE.jsonl", help="the others; default: beside FILE, .dropped.jsonl"
    )
    parser.add_argument("--dry-run", action="store_true", help="write nothing, only say")
    add_rules(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.data.checking import check_file, clean_file
    from minilora.data.writing import beside

    out = options.out or beside(options.file, "clean")
    dropped = options.dropped or beside(options.file, "dropped")
    told = rules_of(options)
    if options.dry_run:
        report = check_file(options.file, **told)
    else:
        report = clean_file(options.file, out, dropped, **told)
    if options.json:
        files = {} if options.dry_run else {"out": out, "dropped_file": dropped}
        print_json({**report.as_json(), **files})
    else:
        print("\n".join(report.lines()))
    if options.dry_run:
        say("nothing was written")
    else:
        say(f"wrote {out} ({report.kept:,}) and {dropped} ({report.found:,})")
    return 0
