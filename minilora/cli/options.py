"""What commands share: how options are read, and how mistakes are told.

A mistake is one line on standard error and exit status 2: what was given, what is allowed, what to
do. argparse's own messages take several lines and so are shortened here.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from minilora.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """An argument parser that complains in one line, and shows examples as they are written."""

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs["allow_abbrev"] = False
        super().__init__(*args, **kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # A command complains of its own unknown options; argparse would leave it to the program.
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def whole(low: int) -> Callable[[str], int]:
    """A whole number from `low`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from {low}")
        return value

    return read


def number(
    low: float, high: float = math.inf, *, from_low: bool = False, to_high: bool = False
) -> Callable[[str], float]:
    """A number above `low` (or from it on) and below `high` (or up to it)."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        inside = low < value < high or (from_low and value == low) or (to_high and value == high)
        if not inside:
            upper = "" if high == math.inf else f" and {'at most' if to_high else 'below'} {high:g}"
            what = "a finite number" if value == math.inf else "a number"
            raise argparse.ArgumentTypeError(
                f"{text!r} must be {what} {'from' if from_low else 'above'} {low:g}{upper}"
            )
        return value

    return read


def targets(text: str) -> str | tuple[str, ...]:
    """`q_proj,v_proj` or `all-linear`."""
    if text == "all-linear":
        return text
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be names with commas between them, such as q_proj,v_proj, or all-linear"
        )
    return names


def add_lora_options(parser: argparse.ArgumentParser) -> Any:
    """The knobs of LoRA, the same in every command that has them, as a group; None if not given."""
    group = parser.add_argument_group("LoRA")
    group.add_argument("--rank", type=whole(1), metavar="R", help="default 8")
    group.add_argument(
        "--alpha",
        type=number(0),
        metavar="α",
        help="the bypass is scaled by α/rank; default twice the rank",
    )
    group.add_argument(
        "--target-modules",
        type=targets,
        metavar="NAMES",
        help="q_proj,v_proj (default), others, or all-linear",
    )
    return group


def lora_options(options: argparse.Namespace) -> dict[str, Any]:
    """rank, alpha and target_modules, with what was not given filled in."""
    rank = options.rank or 8
    return {
        "rank": rank,
        "alpha": options.alpha or 2 * rank,
        "target_modules": options.target_modules or ("q_proj", "v_proj"),
    }


def lora_config(options: argparse.Namespace) -> Any:
    """The LoraConfig of a command with --method, or None for full fine-tuning.

    ConfigError if a knob of LoRA was given that the method has not.
    """
    from minilora.peft import LoraConfig

    if options.method != "lora":
        for name in ("rank", "alpha", "target_modules", "dropout"):
            if getattr(options, name, None) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} is for --method lora; leave it out")
        return None
    chosen = lora_options(options)
    dropout = getattr(options, "dropout", None) or 0.0
    return LoraConfig(chosen["rank"], chosen["alpha"], chosen["target_modules"], dropout)


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object on standard output, and nothing else there",
    )


def print_json(value: Any) -> None:
    """One object, and only it, on standard output. There is no NaN in it: JSON has none."""
    print(json.dumps(value, indent=2, allow_nan=False))


def as_base(folder: str) -> str:
    """A folder as one types it after --base or --adapter: quoted, and never the name of a base."""
    from minilora.bases import BASES

    return shlex.quote(f"./{folder}" if folder in BASES else folder)


def say(line: str) -> None:
    """A line for the person at the screen, on standard error: standard output is for results."""
    print(line, file=sys.stderr, flush=True)
