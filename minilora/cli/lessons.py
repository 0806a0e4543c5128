"""The lessons: list them and how far you are, get a copy to work on, or build the notebooks.

`minilora lessons` lists; `start 06` copies lesson 06 without outputs; `build` makes the notebooks
of a checkout anew from their sources; `progress` prints what is done as Markdown, `reset` forgets
it.
"""

from __future__ import annotations

import argparse

from minilora.cli.options import add_json_option, print_json, say
from minilora.errors import ConfigError

EXAMPLE = "minilora lessons start 06"
_ACTIONS = ("list", "start", "build", "progress", "reset")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", default="list", help=", ".join(_ACTIONS))
    parser.add_argument("number", nargs="*", help="of the lessons, such as 06; build: default all")
    parser.add_argument("--out", default=".", metavar="FOLDER", help="where a copy goes; default .")
    parser.add_argument(
        "--no-run", action="store_true", help="build: without running, so without outputs"
    )
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.lessons import overview, progress

    if options.action not in _ACTIONS:
        raise ConfigError(f"{options.action!r} must be one of {', '.join(_ACTIONS)}")
    if options.action == "start":
        return _start(options)
    if options.action == "build":
        return _build(options)
    if options.number:
        raise ConfigError(f"{options.action} takes no number; leave out {options.number[0]!r}")
    if options.action == "reset":
        progress.reset()
        say(f"forgot everything in {progress.place()}")
    elif options.json:
        print_json(overview.lessons())
    else:
        print(overview.table(markdown=options.action == "progress"))
        say(overview.next_step())
    return 0


def _start(options: argparse.Namespace) -> int:
    from minilora.lessons.building import start

    if not options.number:
        raise ConfigError("start which lesson? e.g. minilora lessons start 01")
    for number in options.number:
        path = start(number, options.out)
        print(f"{path}: open it with  jupyter lab {path}")
    return 0


def _build(options: argparse.Namespace) -> int:
    from tqdm.auto import tqdm

    from minilora.lessons.building import build
    from minilora.lessons.content import NUMBERS

    for number in tqdm(options.number or NUMBERS, desc="building", unit="lesson", leave=False):
        print(build(number, execute=not options.no_run))
    return 0
