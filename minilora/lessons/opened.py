"""An open lesson: what a notebook talks to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from minilora.errors import ConfigError
from minilora.experiments.lab.rows import read_rows
from minilora.lessons import language, progress, showing
from minilora.lessons.checking import Verdict, check
from minilora.lessons.content import Both, Lesson, lesson_content
from minilora.lessons.places import rows_folder

# In a browser NumPy's matrix products are 15 to 35 times slower.
_SLOWER_IN_A_BROWSER = 15
_FEWEST_STEPS = 10


def open_lesson(number: str) -> OpenLesson:
    """The lesson of that number, for its notebook. ConfigError if there is none."""
    return OpenLesson(lesson_content(number))


class OpenLesson:
    """A lesson under way: guesses and results, checks, figures, rows."""

    def __init__(self, content: Lesson):
        self.content = content
        self.number = content.number
        self._guesses: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"lesson {self.number}: {language.pick(self.content.title)}"

    def language(self, which: str) -> None:
        """Hints and questions in English ("en") or Chinese ("zh")."""
        language.language(which)

    def predict(self, key: str, guess: Any = None) -> None:
        """Note a guess. None, for none yet, stops nothing; what is no guess is said."""
        asked = self.content.prediction(key)
        wrong = _not_a_guess(asked, guess)
        if wrong is not None:
            print(language.pick(wrong))
            guess = None
        elif guess is None:
            said = Both(
                "no guess yet: put one in the place of None, then run this again",
                "还没有猜：把 None 换成你的猜测，再运行一次",
            )
            print(language.pick(said))
        else:
            print(
                language.pick(Both(f"you say: {guess}{asked.unit}", f"你猜：{guess}{asked.unit}"))
            )
        self._guesses[key] = guess
        if guess is not None:
            progress.note_prediction(self.number, key, guess)

    def came_out(self, key: str, result: Any) -> None:
        """Set guess and result side by side, and say why the usual wrong guess tempts."""
        asked = self.content.prediction(key)
        guess = self._guesses.get(key)
        shown = f"{result:.3g}" if isinstance(result, float) else str(result)
        yours = "nothing" if guess is None else f"{guess}{asked.unit}"
        deins = "（没有猜）" if guess is None else f"{guess}{asked.unit}"
        text = Both(
            f"you said: {yours}; it came out: {shown}{asked.unit}.\n{asked.tempting.en}",
            f"你猜：{deins}；结果：{shown}{asked.unit}。\n{asked.tempting.zh}",
        )
        print(language.pick(text))
        if guess is not None:
            progress.note_prediction(self.number, key, guess, shown)

    def check(self, number: str, answer: Any) -> Verdict:
        """Whether `answer`, a function, solves the exercise of that number."""
        return check(number, answer)

    def quiz(self, answers: str = "") -> None:
        """Look at the answers to the quiz: a letter each, in order, such as "bca"."""
        questions = self.content.quiz
        letters = "".join(answers.lower().split())
        if not letters:
            said = Both(
                f'write your {len(questions)} letters between the quotes, such as "'
                + ("abc" * 3)[: len(questions)]
                + '"',
                f"把 {len(questions)} 个字母写在引号里",
            )
            print(language.pick(said))
            return
        right = 0
        for i, question in enumerate(questions):
            letter = letters[i] if i < len(letters) else "-"
            k = "abcdefgh".find(letter)
            if not 0 <= k < len(question.options):
                choices = "abcdefgh"[: len(question.options)]
                text = Both(f"{letter!r} is none of {choices}", f"{letter!r} 不在 {choices} 之中")
                print(f"{i + 1}. {language.pick(text)}")
                continue
            chosen = question.options[k]
            right += chosen.right
            mark = language.pick(Both("right", "对") if chosen.right else Both("no", "不对"))
            print(f"{i + 1}. {letter}: {mark}. {language.pick(chosen.why)}")
        progress.note_quiz(self.number, right, len(questions))

    def live(self, steps: int) -> int:
        """How many steps to train here: fewer in a browser, where products are far slower."""
        if not in_browser():
            return max(1, min(steps, showing.live_steps() or steps))
        fewer = max(_FEWEST_STEPS, steps // _SLOWER_IN_A_BROWSER)
        print(f"in a browser: {fewer} steps in the place of {steps}; the end will look different")
        return fewer

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The committed rows of an experiment. ConfigError if there are none."""
        path = rows_folder() / f"{name}.jsonl"
        if not path.exists():
            raise ConfigError(
                f"there are no rows of {name!r} in {path.parent}; make them with "
                f"`minilora experiment {name}`"
            )
        return read_rows(path)

    def figure(
        self,
        draw: Callable[..., Any],
        *arguments: Any,
        alt: str = "",
        table: Sequence[Sequence[Any]] = (),
        **options: Any,
    ) -> None:
        """Show what `draw(*arguments, path, **options)` draws, with its words and its numbers.

        alt     the figure in words; taken from the text beside the picture if there is one
        table   its rows, the first one of them headings
        """
        showing.show_figure(draw, arguments, options, alt, table)

    def explore(
        self, show: Callable[..., Any], settings: Sequence[dict[str, Any]], **controls: Any
    ) -> None:
        """`show(**setting)` under sliders, where widgets work; else for a few fixed settings."""
        showing.explore(show, settings, controls)


def in_browser() -> bool:
    """Whether Python runs inside of a browser (Pyodide)."""
    return sys.platform == "emscripten"


def _not_a_guess(asked: Any, guess: Any) -> Both | None:
    if guess is None:
        return None
    if asked.options:
        if guess in asked.options:
            return None
        names = ", ".join(map(repr, asked.options))
        return Both(f"{guess!r} must be one of {names}", f"{guess!r} 应为其中之一：{names}")
    number = isinstance(guess, int | float) and not isinstance(guess, bool)
    if number and asked.low <= guess <= asked.high:
        return None
    return Both(
        f"{guess!r} must be a number from {asked.low:g} to {asked.high:g}",
        f"{guess!r} 应为 {asked.low:g} 到 {asked.high:g} 之间的数",
    )
