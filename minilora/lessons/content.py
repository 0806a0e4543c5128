"""What a lesson is made of: words in two languages, guesses, exercises, questions."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minilora.errors import ConfigError

# A lesson is a file lNN.py in this folder.
NUMBERS = tuple(sorted(p.stem[1:] for p in Path(__file__).parent.glob("l[0-9][0-9].py")))


class Both(NamedTuple):
    """The same in English and in Chinese."""

    en: str
    zh: str


@dataclass(frozen=True)
class Prediction:
    """A guess before the run.

    key        its name in the notebook
    question   what is asked
    low, high  what a guess may be; or `options`, of which it is one
    tempting   why the usual wrong guess tempts, told after the run
    catches    misconceptions that it brings out ("M20")
    """

    key: str
    question: Both
    tempting: Both
    low: float = 0.0
    high: float = 100.0
    unit: str = ""
    options: tuple[str, ...] = ()
    catches: tuple[str, ...] = ()


class Wrong(NamedTuple):
    """A mistake that people make: the whole function as they write it, and what to ask them."""

    code: str
    hint: Both


def call(f: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """What a reader's function gives."""
    return f(*arguments)


@dataclass(frozen=True)
class Exercise:
    """A function for the reader to write, in at most 12 lines.

    number      "06.2"
    name        of the function
    task        what it is to do, with shapes
    pointer     what to look at, told at the second call
    stub        as it stands in the notebook; returns `...`
    solution    the whole function
    another     a right answer written otherwise; only the tests need it
    wrong       mistakes, each with its hint
    cases       generator → inputs to try: not square, one square, one with batch and time axes
    reference   what is right, computed otherwise and in float64
    observe     (function, inputs) → what is compared; by default what the function returns
    tolerance   how far a number may be off, as a share of the largest
    keeps       inputs must be as before
    """

    number: str
    name: str
    title: Both
    task: Both
    pointer: Both
    stub: str
    solution: str
    another: str
    wrong: Sequence[Wrong]
    cases: Callable[[np.random.Generator], list[tuple[Any, ...]]]
    reference: Callable[..., Any]
    difficulty: int = 1
    minutes: int = 8
    core: bool = False
    observe: Callable[[Callable[..., Any], tuple[Any, ...]], Any] = call
    tolerance: float = 1e-8
    keeps: bool = True
    catches: tuple[str, ...] = ()


class Option(NamedTuple):
    """An answer to choose, and what to say to who chose it."""

    text: Both
    why: Both
    right: bool = False


@dataclass(frozen=True)
class Question:
    """A question with answers to choose from, exactly one of them right."""

    text: Both
    options: Sequence[Option]
    catches: tuple[str, ...] = ()

    @property
    def letter(self) -> str:
        """Of the right answer."""
        return "abcdefgh"[[o.right for o in self.options].index(True)]


@dataclass(frozen=True)
class Lesson:
    """All words of a lesson that stand outside of derivations and code.

    number, slug  "06", "lora_by_hand": the notebook is 06_lora_by_hand
    question      the one that it answers
    claim         what is usually taught, and is put to the test here
    knows, can    what the reader brings, and can do afterwards
    not_shown     what was left out;  next   the question that is open now
    seconds       of a run from top to bottom on two cores
    """

    number: str
    slug: str
    title: Both
    question: Both
    claim: Both
    knows: Both
    can: Both
    summary: Both
    not_shown: Both
    next: Both
    predictions: Sequence[Prediction] = ()
    exercises: Sequence[Exercise] = ()
    quiz: Sequence[Question] = ()
    minutes: int = 45
    seconds: int = 60
    catches: tuple[str, ...] = ()

    def prediction(self, key: str) -> Prediction:
        for p in self.predictions:
            if p.key == key:
                return p
        raise ConfigError(
            f"lesson {self.number} asks for no guess {key!r}; it asks for "
            f"{', '.join(p.key for p in self.predictions)}"
        )


def lesson_content(number: str) -> Lesson:
    """The lesson of that number. ConfigError, which lists them, if there is none."""
    if number not in NUMBERS:
        raise ConfigError(f"there is no lesson {number!r}; there are {', '.join(NUMBERS)}")
    return importlib.import_module(f"minilora.lessons.l{number}").LESSON


def all_exercises() -> dict[str, Exercise]:
    """Every exercise by its number."""
    return {e.number: e for n in NUMBERS for e in lesson_content(n).exercises}
