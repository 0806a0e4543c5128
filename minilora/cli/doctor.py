"""Look an adapter, a run or a base over for what goes wrong without an error, and say the way out.

DIR is an adapter of minilora or PEFT, a whole model, or what `finetune` wrote, with its log. With
--base it is also held against that base; with --base alone the base is looked at. Exit status 0:
nothing found; 1: findings, a line each. `minilora.doctor(model, optimizer, batch)` sees more,
before and while training.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from minilora.cli.options import add_json_option, print_json, say
from minilora.errors import ConfigError

EXAMPLE = "minilora doctor my-adapter --base skills"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", nargs="?", help="an adapter, or a run of finetune")
    parser.add_argument("--base", help="skills, smollm2, or a folder; default: look without one")
    parser.add_argument(
        "--merge-dtype",
        choices=("float32", "float16", "bfloat16"),
        help="what it would be merged into; default: what the base is held in",
    )
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.bases import load_base
    from minilora.diagnosing import doctor, examine_folder

    if not options.folder and not options.base:
        raise ConfigError("what is to be looked at? Give an adapter's or a run's folder, or --base")
    base = load_base(options.base) if options.base else None
    if options.folder:
        found = examine_folder(options.folder, base, merge_dtype=options.merge_dtype)
    else:
        found = doctor(base)
    if options.json:
        print_json({"findings": [asdict(each) for each in found]})
    else:
        print(found)
    if options.folder and base is None:
        say("looked without the base; --base NAME finds more")
    return 1 if found else 0
