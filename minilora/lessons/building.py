"""From a lesson's source to its notebook.

    notebooks/src/06_lora_by_hand.py  +  lessons/l06.py  →  notebooks/06_lora_by_hand.ipynb

The source is a jupytext script ("percent" format) of derivations and code. A Markdown cell of one
line in double braces stands for what the lesson's own file holds:

    {{opening}}  {{prediction percent}}  {{exercise 06.1}}  {{quiz}}  {{closing}}

So a stub, its folded solution and its checker cannot drift apart. The notebook is executed from top
to bottom and kept with what a reader sees on opening it; a learner's copy has no outputs.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minilora.errors import ConfigError, MiniloraError, require
from minilora.files.atomic import whole_file
from minilora.lessons.content import Exercise, Lesson, Prediction, lesson_content
from minilora.lessons.places import notebooks_folder

_MACRO = re.compile(r"^\{\{\s*(\w+)\s*([\w.]*)\s*\}\}$")
# A cell that takes longer than this hangs.
_TIMEOUT = 240


def build(number: str, *, execute: bool = True, folder: Path | None = None) -> Path:
    """Make the notebook of a lesson anew from its source; its path.

    execute   run it, and keep the outputs
    """
    content = lesson_content(number)
    folder = folder or notebooks_folder()
    notebook = assemble(content, folder / "src")
    if execute:
        with tempfile.TemporaryDirectory() as nobody:  # whose progress is in no output
            run(notebook, folder, static=True, home=nobody)
    path = folder / f"{number}_{content.slug}.ipynb"
    write(notebook, path)
    return path


def start(number: str, folder: str | Path = ".") -> Path:
    """A learner's copy, without outputs. MiniloraError if the file is there already."""
    content = lesson_content(number)
    path = Path(folder) / f"{number}_{content.slug}.ipynb"
    if path.exists():
        raise MiniloraError(
            f"{path} is there already; open it, rename it, or choose another folder with --out"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write(assemble(content, notebooks_folder() / "src"), path)
    return path


def assemble(content: Lesson, sources: Path, *, solved: bool = False) -> Any:
    """A lesson's notebook, not yet run. `solved`: solutions stand in the place of stubs."""
    jupytext, nbformat = _libraries()
    source = sources / f"{content.number}_{content.slug}.py"
    if not source.exists():
        raise ConfigError(f"the source {source} of lesson {content.number} is missing")
    plain = jupytext.read(source, fmt="py:percent")
    cells = []
    for cell in plain.cells:
        macro = _MACRO.match(cell.source.strip()) if cell.cell_type == "markdown" else None
        if macro is None:
            cells.append((cell.cell_type, cell.source))
        else:
            cells += _expanded(content, macro[1], macro[2], solved)
    notebook = nbformat.v4.new_notebook()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    make = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    for i, (kind, text) in enumerate(cells, 1):
        cell = make[kind](text)
        cell.id = f"{content.number}-{i:02d}"
        notebook.cells.append(cell)
    return notebook


def run(
    notebook: Any,
    folder: Path,
    *,
    static: bool = False,
    live_steps: int | None = None,
    home: str | None = None,
) -> None:
    """Execute a notebook in place, in a fresh kernel. Raises what a cell raised.

    static       no widgets, as for who reads only
    live_steps   train at most so many steps
    home         where progress is kept; None: as usual
    """
    client = require("nbclient", extra="notebooks", purpose="running a notebook")
    changed = {
        "MINILORA_STATIC": "1" if static else "",
        "MINILORA_LIVE_STEPS": str(live_steps or ""),
    }
    if home is not None:
        changed["MINILORA_HOME"] = home
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        place = {"metadata": {"path": str(folder)}}
        options = {"timeout": _TIMEOUT, "kernel_name": "python3", "resources": place}
        client.NotebookClient(notebook, **options).execute()
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran is no part of a lesson


def write(notebook: Any, path: Path) -> None:
    """Write a notebook, wholly or not at all."""
    _, nbformat = _libraries()
    with whole_file(path) as file:
        file.write(nbformat.writes(notebook).encode() + b"\n")


def _expanded(content: Lesson, name: str, argument: str, solved: bool) -> Iterator[tuple[str, str]]:
    if name == "opening":
        yield from _opening(content)
    elif name == "prediction":
        yield from _prediction(content.prediction(argument))
    elif name == "exercise":
        chosen = [e for e in content.exercises if e.number == argument]
        if not chosen:
            raise ConfigError(f"lesson {content.number} has no exercise {argument!r}")
        yield from _exercise(chosen[0], solved)
    elif name == "quiz":
        yield from _quiz(content)
    elif name == "closing":
        yield "markdown", _closing(content)
    else:
        raise ConfigError(f"lesson {content.number}: {{{{{name}}}}} stands for nothing")


def _opening(content: Lesson) -> Iterator[tuple[str, str]]:
    labels = (
        ("Question", "问题", content.question),
        ("What is usually taught, and is tested here", "通常的说法（本课检验）", content.claim),
        ("You bring", "你需要", content.knows),
        ("You can then", "学完之后", content.can),
    )
    english = "\n\n".join(f"**{en}.** {text.en}" for en, _, text in labels)
    chinese = "\n\n".join(f"**{zh}：** {text.zh}" for _, zh, text in labels)
    yield (
        "markdown",
        f"# {content.number} · {content.title.en}\n\n{english}\n\n"
        f"{content.minutes} minutes with the ★ exercises; all cells together run in about "
        f"{content.seconds} seconds.\n\n"
        + _chinese(f"**{content.number} · {content.title.zh}**\n\n{chinese}"),
    )
    yield (
        "code",
        "from minilora.lessons import open_lesson\n\n"
        f'lesson = open_lesson("{content.number}")  # lesson.language("zh")：用中文提示\nlesson',
    )


def _prediction(asked: Prediction) -> Iterator[tuple[str, str]]:
    yield (
        "markdown",
        f"**Your guess.** {asked.question.en}\n\n"
        + _chinese(f"**先猜一猜。** {asked.question.zh}"),
    )
    span = " or ".join(f'"{o}"' for o in asked.options) or (
        f"a number from {asked.low:g} to {asked.high:g}{asked.unit and ','}{asked.unit}"
    )
    yield (
        "code",
        f'guess = None  # {span}\nlesson.predict("{asked.key}", guess)',
    )


def _exercise(e: Exercise, solved: bool) -> Iterator[tuple[str, str]]:
    star = " ★" if e.core else ""
    head = f"### Exercise {e.number}{star} · {e.title.en}"
    level = f"difficulty {e.difficulty} of 3, {e.minutes} minutes"
    yield (
        "markdown",
        f"{head}\n\n{e.task.en}\n\n*{level}*\n\n" + _chinese(f"**{e.title.zh}** {e.task.zh}"),
    )
    body = (e.solution if solved else e.stub).strip()
    yield "code", f'{body}\n\n\nlesson.check("{e.number}", {e.name})'
    yield (
        "markdown",
        f"<details><summary>Solution of {e.number} · 参考答案</summary>\n\n"
        f"```python\n{e.solution.strip()}\n```\n\n</details>",
    )


def _quiz(content: Lesson) -> Iterator[tuple[str, str]]:
    lines, answers = ["## Quiz"], []
    for i, q in enumerate(content.quiz, 1):
        lines.append(f"**{i}.** {q.text.en}\n\n" + _options(q.options, "en"))
        answers.append(f"**{i}** {q.letter}: {q.options['abcdefgh'.index(q.letter)].why.en}")
    chinese = [
        f"**{i}.** {q.text.zh}\n\n" + _options(q.options, "zh")
        for i, q in enumerate(content.quiz, 1)
    ]
    yield "markdown", "\n\n".join(lines) + "\n\n" + _chinese("\n\n".join(chinese))
    yield "code", f'lesson.quiz("")  # your {len(content.quiz)} letters, in order'
    yield (
        "markdown",
        "<details><summary>Answers · 答案</summary>\n\n" + "\n\n".join(answers) + "\n\n</details>",
    )


def _options(options: Any, which: str) -> str:
    return "\n".join(
        f"- {letter}) {getattr(option.text, which)}"
        for letter, option in zip("abcdefgh", options, strict=False)
    )


def _closing(content: Lesson) -> str:
    labels = (
        ("In short", "小结", content.summary),
        ("Not shown here", "本课没有展示", content.not_shown),
        ("Next", "下一课", content.next),
    )
    english = "\n\n".join(f"**{en}.** {text.en}" for en, _, text in labels)
    chinese = "\n\n".join(f"**{zh}：** {text.zh}" for _, zh, text in labels)
    return f"## What remains\n\n{english}\n\n{_chinese(chinese)}"


def _chinese(text: str) -> str:
    return f'<div lang="zh">\n\n{text}\n\n</div>'


def _libraries() -> tuple[Any, Any]:
    return tuple(  # type: ignore[return-value]
        require(name, extra="notebooks", purpose="a notebook") for name in ("jupytext", "nbformat")
    )
