"""How far a reader is: guesses, exercises, quizzes and minutes, in a file of their own.

~/.minilora/progress.json, or in the folder that MINILORA_HOME names. Nothing of it leaves the
machine. A file that cannot be read is set aside, not lost, and one that cannot be written is no
reason to stop a lesson.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from minilora.errors import FormatError
from minilora.files.json_files import read_json, write_json

# A pause longer than this was a break, not a thought.
_LONGEST_THOUGHT = 10 * 60

_last: dict[str, float] = {}


def place() -> Path:
    """The file."""
    return Path(os.environ.get("MINILORA_HOME") or Path.home() / ".minilora") / "progress.json"


def read() -> dict[str, Any]:
    """lesson → {"predictions", "exercises", "quiz", "seconds"}; empty if there is nothing yet."""
    path = place()
    if not path.exists():
        return {}
    try:
        return read_json(path)
    except (FormatError, OSError):
        with suppress(OSError):
            path.replace(path.with_name(f"progress-damaged-{int(time.time())}.json"))
        return {}


def reset() -> None:
    """Forget everything."""
    place().unlink(missing_ok=True)


def note_prediction(lesson: str, key: str, guess: Any, result: Any = None) -> None:
    """A guess, and what came out once that is known."""
    _change(lesson, "predictions", key, {"guess": guess, "result": result})


def note_exercise(number: str, *, passed: bool) -> None:
    """An exercise was checked."""
    lesson = number.split(".")[0]
    before = read().get(lesson, {}).get("exercises", {}).get(number, {})
    state = {
        "passed": passed or before.get("passed", False),
        "checks": before.get("checks", 0) + 1,
    }
    _change(lesson, "exercises", number, state)


def note_quiz(lesson: str, right: int, asked: int) -> None:
    """A quiz was answered."""
    _change(lesson, "quiz", "best", {"right": right, "asked": asked})


def _change(lesson: str, part: str, key: str, value: Any) -> None:
    everything = read()
    mine = everything.setdefault(lesson, {})
    mine.setdefault(part, {})[key] = value
    now = time.time()
    since = now - _last.get(lesson, now)
    mine["seconds"] = mine.get("seconds", 0) + (since if since < _LONGEST_THOUGHT else 0)
    _last[lesson] = now
    with suppress(OSError):
        place().parent.mkdir(parents=True, exist_ok=True)
        write_json(place(), everything)
