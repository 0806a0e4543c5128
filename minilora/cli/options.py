"""What commands share: how options are read, and how mistakes are told.

A mistake is one line on standard error and exit status 2: what was given, what is allowed, what to
do. argparse's own messages take several lines and so are shortened here.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from minilora.errors import ConfigError
from minilora.method_names import KNOBS, LORAS, METHODS

T = TypeVar("T")


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


def several(read: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """Values with commas between them, each as `read` takes it; the same one twice counts once."""

    def read_all(text: str) -> tuple[T, ...]:
        parts = [part.strip() for part in text.split(",")]
        if not all(parts):
            raise argparse.ArgumentTypeError(
                f"{text!r} must be values with commas between them, and none of them empty"
            )
        return tuple(dict.fromkeys(read(part) for part in parts))

    return read_all


# More would be a slip of the finger: 0-49999 for 0-4.
MOST_SEEDS = 1000


def seeds(text: str) -> tuple[int, ...]:
    """`0-4`, `1`, `0,3`, `0-2,7`: single ones and ranges, ends included; each counts once."""
    found: dict[int, None] = {}
    for part in text.split(","):
        matched = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", part)
        first, last = (int(matched[1]), int(matched[2] or matched[1])) if matched else (1, 0)
        if not first <= last < first + MOST_SEEDS:
            raise argparse.ArgumentTypeError(
                f"{text!r} must be seeds such as 0-4 or 0,3 or 0-2,7: whole numbers from 0, ranges "
                f"upwards, at most {MOST_SEEDS}"
            )
        found.update(dict.fromkeys(range(first, last + 1)))
    return tuple(found)


def plus_targets(text: str) -> str | tuple[str, ...]:
    """`q_proj+v_proj` or `all-linear`: one value where commas stand between values."""
    names = tuple(text.split("+"))
    if not all(names):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be names joined by +, such as q_proj+v_proj, or all-linear"
        )
    return text if names == ("all-linear",) else names


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """How many points are measured at once, where, and who else is told."""
    group = parser.add_argument_group("running")
    group.add_argument(
        "--jobs", type=whole(1), metavar="J", help="points at once; default: the cores there are"
    )
    group.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="measure on the workers of a Dask scheduler, such as tcp://127.0.0.1:8786; local: "
        "start one here",
    )
    group.add_argument(
        "--track",
        metavar="PLACE",
        help="also write TensorBoard event files into this folder, or, if it begins with mlflow:, "
        "file: or http:, MLflow runs",
    )


def run_options(options: argparse.Namespace) -> dict[str, Any]:
    """What `running.run` is told by these options."""
    return {"jobs": options.jobs, "dask": options.dask, "track": options.track, "say": say}


def typed(command: str, given: dict[str, Any]) -> str:
    """A command as one types it again, from what was given; what is None or False is left out."""

    def text(value: Any, between: str = ",") -> str:
        if isinstance(value, tuple):
            return between.join(text(each, "+") for each in value)
        return f"{value:g}" if isinstance(value, float) else str(value)

    words = ["minilora", *command.split()]
    for name, value in given.items():
        if value is None or value is False:
            continue
        words.append(f"--{name.replace('_', '-')}")
        words += [] if value is True else [text(value)]
    return shlex.join(words)


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


# Options that only some methods have, and which.
OF_METHODS = {**dict.fromkeys(("rank", "alpha", "target_modules", "dropout"), LORAS), **KNOBS}


def add_method_options(parser: argparse.ArgumentParser) -> Any:
    """The knobs of all methods. Returns the group of LoRA's."""
    group = add_lora_options(parser)
    parser.add_argument(
        "--tokens", type=whole(1), metavar="P", help="of prompt and prefix; default 20"
    )
    parser.add_argument("--bottleneck", type=whole(1), metavar="M", help="of adapter; default 64")
    return group


def check_method_options(options: argparse.Namespace, methods: Sequence[str]) -> None:
    """ConfigError if a knob was given that none of these methods has."""
    for name, those in OF_METHODS.items():
        if getattr(options, name, None) is not None and not set(those) & set(methods):
            raise ConfigError(
                f"--{name.replace('_', '-')} is for --method {' or '.join(those)}, not for "
                f"{', '.join(methods)}; leave it out"
            )


def method_options(options: argparse.Namespace) -> dict[str, Any]:
    """rank, alpha, target_modules, tokens and bottleneck, with what was not given filled in."""
    return {
        **lora_options(options),
        "tokens": getattr(options, "tokens", None) or 20,
        "bottleneck": getattr(options, "bottleneck", None) or 64,
    }


def method(name: str, options: argparse.Namespace, *, strict: bool = True) -> Any:
    """A Method with the knobs that were given. ConfigError for one that it has not, if `strict`."""
    from minilora.methods import Method
    from minilora.peft import LoraConfig

    if strict:
        check_method_options(options, (name,))
    o = method_options(options)
    dropout = getattr(options, "dropout", None) or 0.0
    lora = LoraConfig(o["rank"], o["alpha"], o["target_modules"], dropout)
    return Method(name, lora, o["tokens"], o["bottleneck"])


def rates(text: str) -> dict[str, float]:
    """`prompt=0.1,ia3=0.05`: learning rates by method."""
    found = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name.strip() not in METHODS or not value:
            raise argparse.ArgumentTypeError(
                f"{text!r} must be rates by method, such as prompt=0.1,ia3=0.05; methods are "
                f"{', '.join(METHODS)}"
            )
        found[name.strip()] = number(0)(value)
    return found


def add_sampling_options(parser: argparse.ArgumentParser, tokens: int, *, low: int = 1) -> None:
    """How a text is continued: how far (by default `tokens`, at least `low`), and how surely."""
    parser.add_argument(
        "--max-new-tokens", type=whole(low), default=tokens, metavar="N", help=f"default {tokens}"
    )
    parser.add_argument(
        "--temperature",
        type=number(0, from_low=True),
        default=0.0,
        help="0, the default: always the likeliest token",
    )
    parser.add_argument("--top-k", type=whole(1), help="draw from the k likeliest only")
    parser.add_argument(
        "--top-p",
        type=number(0, 1, to_high=True),
        metavar="P",
        help="draw from the likeliest that together have probability P",
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="of the draws")


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object on standard output, and nothing else there",
    )


def add_format_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format", choices=("png", "svg", "pdf"), default="png", help="of the figure; default png"
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
