"""String skills: small tasks with one right answer, so that ability is a share and no feeling.

    rev:abcde=edcba<end>

A skill is called by three letters, given a string of 4 to 8 of the letters a to l, and answers
after the equals sign. The embedded base has learnt the OLD skills; the NEW ones were kept from it,
and are what one fine-tunes for. A string belongs to the training, the validation or the test split
by its hash, in every skill alike: nothing that is tested was ever seen.

The names are spelled with letters that the base knows. A marker token of its own would not do:
where embeddings are tied, tokens that pretraining never saw are all alike, and what is learnt
on one leaks to the others.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from minilora.data.instructions import Example, to_examples
from minilora.data.tokenizers import CharTokenizer
from minilora.errors import ConfigError

LETTERS = "abcdefghijkl"
ALPHABET = "abcdefghijklmnopqrstuvwxyz:="
LENGTHS = range(4, 9)
MAX_TOKENS = 3 + 1 + 8 + 1 + 8 + 1

Split = Literal["train", "validation", "test"]
Row = dict[str, str]


@dataclass(frozen=True)
class Skill:
    """A task: how it is called on the command line and in a prompt, what it does, an account."""

    name: str
    code: str
    apply: Callable[[str], str]
    says: str

    def prompt(self, text: str) -> str:
        """The question, up to the equals sign."""
        return f"{self.code}:{text}="


def _next_letter(s: str) -> str:
    return "".join(LETTERS[(LETTERS.index(c) + 1) % len(LETTERS)] for c in s)


def _halves(s: str) -> tuple[str, str]:
    return s[: len(s) // 2], s[len(s) // 2 :]


def _interleave(s: str) -> str:
    first, second = s[: (len(s) + 1) // 2], s[(len(s) + 1) // 2 :]
    return "".join(a + b for a, b in zip(first, second.ljust(len(first)), strict=True)).strip()


def _swap_neighbours(s: str) -> str:
    return "".join(s[i : i + 2][::-1] for i in range(0, len(s), 2))


# A letter for a letter, without any order to be found in it: twelve facts to be learnt by heart.
_CIPHER = str.maketrans(LETTERS, "cfhjbdailegk")

OLD = (
    Skill("copy", "cpy", lambda s: s, "the string itself"),
    Skill("reverse", "rev", lambda s: s[::-1], "last letter first"),
    Skill("sort", "srt", lambda s: "".join(sorted(s)), "letters from a to l"),
    Skill("next-letter", "nxt", _next_letter, "each letter becomes the one after it, l becomes a"),
    Skill("rotate-left", "lft", lambda s: s[1:] + s[0], "first letter to the end"),
    Skill("swap-halves", "hvs", lambda s: _halves(s)[1] + _halves(s)[0], "second half first"),
    Skill("drop-repeats", "unq", lambda s: "".join(dict.fromkeys(s)), "each letter only once"),
    Skill("every-second", "evy", lambda s: s[1::2], "the letters at even places"),
)
NEW = (
    Skill(
        "sort-descending", "des", lambda s: "".join(sorted(s, reverse=True)), "letters from l to a"
    ),
    Skill("rotate-right", "rgt", lambda s: s[-1] + s[:-1], "last letter to the front"),
    Skill("swap-ends", "ens", lambda s: s[-1] + s[1:-1] + s[0], "first and last change places"),
    Skill("swap-neighbours", "nei", _swap_neighbours, "letters change places in pairs"),
    Skill("interleave", "itl", _interleave, "first half and second half, letter by letter in turn"),
    Skill("mirror", "pal", lambda s: _halves(s)[0] + _halves(s)[0][::-1], "first half, then back"),
    Skill("cipher", "cip", lambda s: s.translate(_CIPHER), "each letter becomes a fixed other one"),
)
SKILLS = {skill.name: skill for skill in OLD + NEW}


def skill(name: str) -> Skill:
    """The skill of that name. ConfigError, which lists them, if there is none."""
    if name not in SKILLS:
        raise ConfigError(
            f"there is no task {name!r}; new to the base: {', '.join(s.name for s in NEW)}; "
            f"known to it: {', '.join(s.name for s in OLD)}"
        )
    return SKILLS[name]


def tokenizer() -> CharTokenizer:
    """The tokenizer of the embedded base: 28 characters, `<end>` and `<pad>`."""
    return CharTokenizer.from_alphabet(ALPHABET)


def split_of(text: str) -> Split:
    """Where a string belongs, by its hash: of 10, 8 to train, 1 to validate, 1 to test."""
    bucket = zlib.crc32(text.encode()) % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def strings(split: Split, seed: int) -> Iterator[str]:
    """Endlessly many strings of a split, lengths evenly mixed."""
    rng = random.Random(f"{split} {seed}")
    while True:
        text = "".join(rng.choices(LETTERS, k=rng.choice(LENGTHS)))
        if split_of(text) == split:
            yield text


def rows(which: Skill, split: Split, n: int, seed: int = 0) -> list[Row]:
    """n questions with answers, {"prompt", "completion"}, on distinct strings."""
    distinct: dict[str, None] = {}
    for text in strings(split, seed):
        distinct[text] = None
        if len(distinct) == n:
            break
    return [{"prompt": which.prompt(s), "completion": which.apply(s)} for s in distinct]


def examples(which: Skill, split: Split, n: int, seed: int = 0) -> list[Example]:
    """The same as tokens and labels."""
    return to_examples(rows(which, split, n, seed), tokenizer(), MAX_TOKENS)


def example_prompt() -> str:
    """A prompt that the embedded base answers: it reverses a string."""
    return skill("reverse").prompt("abcdefgh")
