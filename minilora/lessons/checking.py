"""check(number, function): right, or a hint that fits the mistake.

The first call that goes wrong asks a question, the second points to the place, the third shows the
solution. Nobody is compared with anything but a reference: float64, computed in another way, on
random inputs.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minilora.lessons import language, progress
from minilora.lessons.comparing import same, snapshot
from minilora.lessons.content import Both, Exercise, all_exercises
from minilora.lessons.doctor import diagnose

_failed: Counter[str] = Counter()


@dataclass(frozen=True)
class Verdict:
    """What `check` found. Shown as its words.

    passed   whether the answer is right
    said     the words
    written  False: nothing has been written yet
    wrong    which of the known mistakes it is, from 0; None: none of them
    """

    passed: bool
    said: str
    written: bool = True
    wrong: int | None = None

    def __repr__(self) -> str:
        return self.said


class _Raised:
    """An exception in the place of a result."""

    def __init__(self, error: BaseException):
        self.error = error


def check(number: str, answer: Any) -> Verdict:
    """Whether `answer` solves the exercise of that number ("06.2"). Never raises."""
    exercises = all_exercises()
    if number not in exercises:
        text = Both(
            f"there is no exercise {number!r}; there are {', '.join(exercises)}",
            f"没有练习 {number!r}；现有：{', '.join(exercises)}",
        )
        return Verdict(False, language.pick(text))
    exercise = exercises[number]
    if not callable(answer):
        text = Both(
            f"{number} takes the function itself: check({number!r}, {exercise.name})",
            f"{number} 要的是函数本身：check({number!r}, {exercise.name})",
        )
        return Verdict(False, language.pick(text))
    verdict = _judge(exercise, answer)
    if verdict.written:
        _failed[number] = 0 if verdict.passed else _failed[number] + 1
        progress.note_exercise(number, passed=verdict.passed)
    return verdict


def forget() -> None:
    """Hints begin anew, with a question."""
    _failed.clear()


def function_of(exercise: Exercise, code: str) -> Callable[..., Any]:
    """The function that a piece of code defines."""
    space: dict[str, Any] = {"np": np}
    exec(code, space)
    return space[exercise.name]


def _judge(exercise: Exercise, answer: Callable[..., Any]) -> Verdict:
    rng = np.random.default_rng(zlib.crc32(exercise.number.encode()))
    cases = exercise.cases(rng)
    results, right, touched = [], [], False
    for case in cases:
        given = snapshot(case)
        right.append(exercise.reference(*snapshot(case)))
        results.append(_result(exercise, answer, given))
        if isinstance(results[-1], type(...)):
            text = Both(
                f"{exercise.number}: not written yet. The three dots are yours",
                f"{exercise.number}：还没有写。省略号处由你来填",
            )
            return Verdict(False, language.pick(text), written=False)
        touched |= exercise.keeps and not same(list(given), list(case), 0)
    agree = [_agrees(exercise, a, b) for a, b in zip(results, right, strict=True)]
    if all(agree) and not touched:
        text = Both(f"{exercise.number}: right.", f"{exercise.number}：正确。")
        return Verdict(True, language.pick(text))
    found = _known(exercise, cases, results)
    if found is not None:
        hint = exercise.wrong[found].hint
    elif all(agree):
        hint = Both(
            "the result is right, but the inputs were written to", "结果对了，但输入被改写了"
        )
    else:
        i = agree.index(False)
        hint = _general(results[i], right[i])
    return Verdict(False, _by_level(exercise, hint), wrong=found)


def _result(exercise: Exercise, f: Callable[..., Any], case: tuple[Any, ...]) -> Any:
    try:
        with np.errstate(all="ignore"):
            return exercise.observe(f, case)
    except NotImplementedError:
        return ...
    except Exception as error:
        return _Raised(error)


def _agrees(exercise: Exercise, got: Any, right: Any) -> bool:
    return not isinstance(got, _Raised) and same(got, right, exercise.tolerance)


def _known(exercise: Exercise, cases: list[tuple[Any, ...]], results: list[Any]) -> int | None:
    """Which of the known mistakes gives, or raises, the very same."""
    for i, wrong in enumerate(exercise.wrong):
        f = function_of(exercise, wrong.code)
        theirs = [_result(exercise, f, snapshot(case)) for case in cases]
        if all(_alike(exercise, a, b) for a, b in zip(results, theirs, strict=True)):
            return i
    return None


def _alike(exercise: Exercise, a: Any, b: Any) -> bool:
    if isinstance(a, _Raised) or isinstance(b, _Raised):
        return isinstance(a, _Raised) and isinstance(b, _Raised) and type(a.error) is type(b.error)
    return same(a, b, exercise.tolerance)


def _general(got: Any, right: Any) -> Both:
    if isinstance(got, _Raised):
        what = f"{type(got.error).__name__}: {got.error}"
        return Both(f"your function raised {what}", f"你的函数抛出了 {what}")
    return diagnose(got, right)


def _by_level(exercise: Exercise, hint: Both) -> str:
    """A question first, then where to look, then the solution."""
    level = _failed[exercise.number] + 1
    said = f"{exercise.number}: {language.pick(Both('not yet.', '还不对。'))} {language.pick(hint)}"
    if level >= 2:
        said += f"\n{language.pick(exercise.pointer)}"
    if level >= 3:
        title = language.pick(Both("One way to write it:", "一种写法："))
        said += f"\n{title}\n{exercise.solution.strip()}"
    return said
