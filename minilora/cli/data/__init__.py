"""Rows for fine-tuning: build them from a table, check, clean, split, and see them as tokens.

A file is JSON Lines, JSON, CSV, Parquet or plain text. `build` makes rows from the columns of a
table, `check` says what is wrong with a file, `clean` leaves that out, `split` keeps rows for
validation and test, `show` prints a row as the tokens that a base sees. Nothing is left out
silently: what `clean` drops goes to a file of its own, with the reason.
"""

from __future__ import annotations

import argparse
import importlib
from types import ModuleType

from minilora.cli.options import Parser

EXAMPLE = "minilora data check rows.jsonl"
SUBCOMMANDS = ("build", "check", "clean", "split", "show")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        dest="json_for_all",
        action="store_true",
        help="as after the subcommand: print one JSON object, and nothing else",
    )
    subcommands = parser.add_subparsers(
        dest="subcommand", metavar="SUBCOMMAND", required=True, parser_class=Parser
    )
    for name in SUBCOMMANDS:
        module = _module(name)
        text = (module.__doc__ or "").strip()
        sub = subcommands.add_parser(
            name, help=text.splitlines()[0], description=text, epilog=f"example:  {module.EXAMPLE}"
        )
        module.add_options(sub)


def run(options: argparse.Namespace) -> int:
    options.json = options.json or options.json_for_all
    return _module(options.subcommand).run(options)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"minilora.cli.data.{name}")
