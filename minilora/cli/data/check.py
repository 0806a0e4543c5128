"""Say what is wrong with a file of rows, by reason, each with its line; nothing is written.

    broken      cannot be read as a row: damaged, not UTF-8, no form that is known
    empty       nothing is answered
    control     has characters that no person typed
    long        longer than --max-characters, --max-words, --max-tokens or the base's context
    repeated    an answer of 8 words or more that stands in its question
    leaked      the question is in the file given as --test, or nearly
    duplicate   the same question and answer as in a line before
    conflict    the same question as in a line before with another answer
    near        nearly the same question and answer as in a line before

Each row has the first that fits. Exit status 0: nothing found; 1: something found.
"""

from __future__ import annotations

import argparse

from minilora.cli.data.rules import add_file, add_rules, rules_of
from minilora.cli.options import print_json, say

EXAMPLE = "minilora data check rows.jsonl --test test.jsonl --base skills"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    add_rules(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.data.checking import check_file

    report = check_file(options.file, **rules_of(options))
    if options.json:
        print_json(report.as_json())
    else:
        print("\n".join(report.lines(examples=3)))
        if report.found:
            say(f"minilora data clean {options.file} writes the good ones and the others apart")
    return 1 if report.found else 0
