"""Lessons: what the notebooks need beyond the library.

A lesson is one question. Before anything is run the reader guesses; afterwards guess and result
are set side by side. Exercises are checked by a reference that works differently, and a wrong
answer is met by a hint that fits the mistake: the mistakes that people make are written down as
code, run on the same inputs, and compared. Nothing here raises: a lesson goes on whatever stands in
a cell.

    from minilora.lessons import open_lesson

    lesson = open_lesson("06")
    lesson.check("06.1", lora_forward)

One file a lesson (`l06.py`) holds its words, exercises and questions, in English and Chinese; the
notebook is generated from it and from `notebooks/src`.
"""

from minilora.lessons.checking import Verdict, check
from minilora.lessons.opened import OpenLesson, open_lesson

__all__ = ["OpenLesson", "Verdict", "check", "open_lesson"]
