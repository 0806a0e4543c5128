"""Show a row as the tokens that a base sees, and which of them it is to learn.

Given tokens are grey, targets orange and underlined; where there are no colours, in ⟦ ⟧. Tokens are
divided by │, a new line is ↵. Templates: own (each row in its own form, as finetune does), plain,
alpaca, chat (the base's own), base (chat if it has one). A row that is longer than the context is
shown with a mark where it ends; finetune refuses it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

from minilora.cli.data.rules import add_file
from minilora.cli.options import print_json, whole
from minilora.errors import ConfigError, DataError, FormatError

EXAMPLE = "minilora data show rows.jsonl --base smollm2 --row 3"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    parser.add_argument("--base", default="skills", help="skills (default), smollm2, or a folder")
    parser.add_argument("--row", type=whole(1), default=1, metavar="N", help="from 1; default 1")
    parser.add_argument("--template", default="own", metavar="NAME", help="default own")
    parser.add_argument(
        "--mask",
        default="answers",
        metavar="NAME",
        help="what counts: answers (default), last (the last answer alone), none (nothing is "
        "masked, everything counts)",
    )
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="auto, the default: at a terminal, unless NO_COLOR is set",
    )


def run(options: argparse.Namespace) -> int:
    from minilora.bases import load_base
    from minilora.data import showing
    from minilora.data.instructions import example_of
    from minilora.data.templates import template

    base = load_base(options.base)
    tokenizer, context = base.tokenizer, base.config.max_positions
    if tokenizer is None:
        raise ConfigError(f"base {options.base!r} has no tokenizer.json, so no tokens")
    written = template(options.template, tokenizer)
    where, row = _row(options.file, options.format, options.row)
    try:
        example = example_of(row, tokenizer, written, options.mask)
    except (DataError, FormatError) as error:
        raise DataError(f"{where}: {error}") from error
    said = {"where": str(where), "mask": options.mask, **showing.summary(example, context)}
    if options.json:
        print_json({**said, "tokens": [vars(t) for t in showing.tokens(example, tokenizer)]})
        return 0
    print(showing.text(example, tokenizer, colour=_colour(options.color), context=context))
    print(
        f"\n{where}: template {example.template}, {said['n_tokens']} tokens, "
        f"{said['n_targets']} of them targets; {_fits(said)}"
    )
    return 0


def _fits(said: dict[str, Any]) -> str:
    if not said["too_long_by"]:
        return f"fits the context of {said['context']:,}"
    return (
        f"{said['too_long_by']:,} too many for the context of {said['context']:,}: nothing is cut, "
        "finetune refuses this row; shorten it or leave it out"
    )


def _row(path: str, format: str | None, number: int) -> tuple[Any, Any]:
    """The number-th row of a file. DataError if there are fewer, or it cannot be read."""
    from minilora.data.reading import found_rows

    rows: Iterator[Any] = found_rows(path, format)
    n = 0
    for n, (where, row) in enumerate(islice(rows, number), 1):
        if n == number:
            if isinstance(row, DataError):
                raise row
            return where, row
    raise DataError(f"{path} has {n} row{'' if n == 1 else 's'}, there is no --row {number}")


def _colour(wanted: str) -> bool:
    if wanted != "auto":
        return wanted == "always"
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain
