"""What `check` and `clean` share: what counts as wrong, and how it is told."""

from __future__ import annotations

import argparse
from typing import Any

from minilora.cli.options import add_json_option, number, several, whole
from minilora.errors import ConfigError

FORMATS = ("jsonl", "json", "csv", "parquet", "text")
REASONS = ("empty", "control", "long", "repeated", "leaked", "duplicate", "conflict", "near")


def add_file(parser: argparse.ArgumentParser) -> None:
    """The file that is read, and how."""
    parser.add_argument("file", metavar="FILE", help=".jsonl .json .csv .tsv .parquet .txt")
    parser.add_argument("--format", choices=FORMATS, help="default: by the file's name")
    add_json_option(parser)


def add_near(parser: Any, what: str) -> None:
    """From when on texts are nearly the same, and what that is counted in."""
    parser.add_argument(
        "--near",
        type=nearness,
        default=0.8,
        metavar="J",
        help=f"{what} from this nearness on, the share of common runs of words, 0.5 to 1; off: "
        "do not look; default 0.8",
    )
    parser.add_argument(
        "--shingle",
        type=shingle,
        default=("words", None),
        metavar="KIND[:N]",
        help="count nearness in runs of N words or characters; default words:3",
    )


def add_rules(parser: argparse.ArgumentParser) -> None:
    """What counts as wrong."""
    parser.add_argument(
        "--test", metavar="FILE", help="questions of this file must not be trained on"
    )
    parser.add_argument(
        "--base", metavar="B", help="also rows that this base cannot take: skills, smollm2, folder"
    )
    group = parser.add_argument_group("what counts as wrong")
    add_near(group, "near duplicates")
    group.add_argument(
        "--match",
        choices=("normalized", "exact"),
        default="normalized",
        help="the same: without regard to case, spaces and punctuation (default), or to the letter",
    )
    group.add_argument("--max-characters", type=whole(1), metavar="N", help="longer is too long")
    group.add_argument("--max-words", type=whole(1), metavar="N", help="longer is too long")
    group.add_argument(
        "--max-tokens",
        type=whole(1),
        metavar="N",
        help="longer is too long; default with --base: its context",
    )
    group.add_argument(
        "--keep",
        type=several(reason),
        default=(),
        metavar="REASONS",
        help=f"drop nothing for these: {', '.join(REASONS)}",
    )


def rules_of(options: argparse.Namespace) -> dict[str, Any]:
    """What `check_file` and `clean_file` are told by these options."""
    from minilora.data.cleaning import Rules

    kind, size = options.shingle
    told: dict[str, Any] = {
        "rules": Rules(
            keep=options.keep,
            match=options.match,
            near=options.near,
            shingle=kind,
            size=size,
            max_characters=options.max_characters,
            max_words=options.max_words,
        ),
        "test": options.test,
        "format": options.format,
        "progress": True,
    }
    if options.base:
        from minilora.bases import load_base

        base = load_base(options.base)
        if base.tokenizer is None:
            raise ConfigError(f"base {options.base!r} has no tokenizer.json, so no tokens")
        told["tokenizer"] = base.tokenizer
        told["max_length"] = options.max_tokens or base.config.max_positions
    elif options.max_tokens:
        raise ConfigError("--max-tokens needs --base: what a token is, only a base knows")
    return told


def nearness(text: str) -> float | None:
    """A share from 0.5 to 1, or off."""
    return None if text == "off" else number(0.5, 1, from_low=True, to_high=True)(text)


def shingle(text: str) -> tuple[str, int | None]:
    """`words`, `characters`, `words:2`, …"""
    kind, colon, size = text.partition(":")
    if kind not in ("words", "characters"):
        raise argparse.ArgumentTypeError(f"{text!r} must be words or characters, or e.g. words:2")
    return kind, whole(1)(size) if colon else None


def reason(text: str) -> str:
    """One of the reasons for which a row may be dropped."""
    if text not in REASONS:
        raise argparse.ArgumentTypeError(f"{text!r} must be one of {', '.join(REASONS)}")
    return text
