"""Figures and widgets in a notebook; words and numbers beside each, for who does not see it.

Environment:  MINILORA_STATIC=1        no widgets, as where a notebook is only read
              MINILORA_LIVE_STEPS=n    at most so many steps of training, to see that a lesson runs
"""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def live_steps() -> int | None:
    """How many steps are trained at most; None: as many as the lesson asks for."""
    text = os.environ.get("MINILORA_LIVE_STEPS", "")
    return int(text) if text.isdecimal() and int(text) else None


def show_figure(
    draw: Callable[..., Any],
    arguments: Sequence[Any],
    options: dict[str, Any],
    alt: str = "",
    table: Sequence[Sequence[Any]] = (),
) -> None:
    """Draw into a file and show that, with its text alternative and its rows folded below."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figure.png"
        draw(*arguments, path, **options)
        words = path.with_suffix(".txt")
        said = alt or (words.read_text(encoding="utf-8").strip() if words.exists() else "")
        _display_image(path.read_bytes(), said)
    folds = []
    if said:
        folds.append(
            f"<details><summary>The figure in words</summary><p>{html.escape(said)}</p></details>"
        )
    if table:
        folds.append(f"<details><summary>Its numbers</summary>{_as_table(table)}</details>")
    if folds:
        _display_html("".join(folds), said)


def explore(
    show: Callable[..., Any], settings: Sequence[dict[str, Any]], controls: dict[str, Any]
) -> None:
    """Sliders where widgets work; else one after the other what `show` makes of each setting."""
    if _widgets_work():
        from ipywidgets import interact

        interact(show, **controls)
        return
    for setting in settings:
        show(**setting)


def _widgets_work() -> bool:
    if os.environ.get("MINILORA_STATIC"):
        return False
    try:
        import ipywidgets  # noqa: F401
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def _display_image(data: bytes, alt: str) -> None:
    try:
        from IPython.display import Image, display
    except ImportError:
        print(alt)
        return
    display(Image(data, format="png", alt=alt, width=900))


def _display_html(text: str, plain: str) -> None:
    try:
        from IPython.display import HTML, display
    except ImportError:
        print(plain)
        return
    display(HTML(text))


def _as_table(rows: Sequence[Sequence[Any]]) -> str:
    head, *body = [[html.escape(_cell(c)) for c in row] for row in rows]
    lines = ["<tr>" + "".join(f"<th>{c}</th>" for c in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in body]
    return "<table>" + "".join(lines) + "</table>"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
