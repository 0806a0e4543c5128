"""Five ways to spoil a file of examples, each by a share of its rows.

Which rows are spoiled is drawn once a seed: those of a small share are among those of a larger one,
and they are the same rows for every kind.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from minilora.data import skills
from minilora.data.cleaning import clean
from minilora.data.instructions import Example, to_examples
from minilora.errors import ConfigError

# So many rows are copied over and over by the kind "duplicates".
COPIED = 8

Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of dirt.

    name    in the rows;  label   in figures;  says   what becomes of a row
    row     (row, rng, other rows) → the row as it is then in the file
    mask    of the loss, for a spoiled row;  end   whether its end token is there
    """

    name: str
    label: str
    says: str
    row: Callable[[Row, random.Random, Sequence[Row]], Row] = lambda row, rng, others: row
    mask: str = "answers"
    end: bool = True


def wrong_answer(row: Row, rng: random.Random, others: Sequence[Row]) -> Row:
    """The letters of the right answer in another order; of a single letter, others."""
    right = row["completion"]
    letters = list(right)
    if len(set(letters)) == 1:
        letters[0] = rng.choice([c for c in skills.LETTERS if c != letters[0]])
    while "".join(letters) == right:
        rng.shuffle(letters)
    return row | {"completion": "".join(letters)}


def copy_of_another(row: Row, rng: random.Random, others: Sequence[Row]) -> Row:
    """One of the first few of the others, in place of the row."""
    return dict(rng.choice(others[:COPIED]))


def other_template(row: Row, rng: random.Random, others: Sequence[Row]) -> Row:
    """`des:gacb=` written as `gacb:des=`: the same words, the other way round."""
    code, _, text = row["prompt"].rstrip("=").partition(":")
    return row | {"prompt": f"{text}:{code}="}


KINDS = {
    kind.name: kind
    for kind in (
        Kind("wrong", "wrong answers", "the letters of the answer in a random order", wrong_answer),
        Kind("duplicates", "duplicates", f"replaced by one of {COPIED} rows", copy_of_another),
        Kind(
            "template", "another template", "asked as gacb:des= and not des:gacb=", other_template
        ),
        Kind("prompt", "unmasked prompt", "its question counts in the loss", mask="none"),
        Kind("end", "no end token", "stops without the end token", end=False),
    )
}


def spoiled(rows: Sequence[Row], kind: str, share: float, seed: int = 0) -> tuple[list[Row], int]:
    """The rows as text, a share of them spoiled, in an order of the seed; how many those are.

    The spoiled ones stand first. Of "prompt" and "end" the text is the same: see `examples`.

    Raises ConfigError for an unknown kind or a share outside of [0, 1].
    """
    if kind not in KINDS:
        raise ConfigError(f"the kind of dirt {kind!r} must be one of {', '.join(KINDS)}")
    if not 0 <= share <= 1:
        raise ConfigError(f"the share {share} must lie in [0, 1], e.g. 0.1")
    rng = random.Random(f"dirt {seed}")
    order = rng.sample(list(rows), len(rows))
    n = round(share * len(order))
    # What is copied stands at the end, where only a share of 1 reaches.
    others = order[::-1]
    made = random.Random(f"{kind} {seed}")
    return [KINDS[kind].row(row, made, others) for row in order[:n]] + order[n:], n


def examples(rows: Sequence[Row], kind: str, share: float, seed: int = 0) -> list[Example]:
    """The same as tokens and labels, ready for `Batches`."""
    texts, n = spoiled(rows, kind, share, seed)
    tokenizer, made = skills.tokenizer(), KINDS[kind]
    first = to_examples(texts[:n], tokenizer, skills.MAX_TOKENS, mask=made.mask) if n else []
    if not made.end:
        first = [replace(e, ids=e.ids[:-1], labels=e.labels[:-1]) for e in first]
    rest = to_examples(texts[n:], tokenizer, skills.MAX_TOKENS) if n < len(texts) else []
    return first + rest


def seen_by_cleaning(rows: Sequence[Row]) -> int:
    """How many of the rows `data.cleaning` drops, as it is: it reads text, and knows no answers.

    Near duplicates are kept: strings of a few letters are all alike.
    """
    return clean(rows, near=None).report.found
