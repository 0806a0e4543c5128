"""The gallery of bugs: every symptom is what its code prints, and every test it names exists."""

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "notebooks/bug_gallery.md").read_text(encoding="utf-8")


def test_each_bug_shows_the_symptom_that_the_page_shows():
    space = {}
    for code, text in re.findall(
        r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", PAGE, flags=re.S
    ):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, space)
        assert out.getvalue() == text


def test_the_tests_that_it_names_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)
    assert len(named) >= 9
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8") or not name


def test_there_are_nine_with_a_symptom_and_what_catches_each():
    bugs = PAGE.split("\n## ")[1:]
    assert len(bugs) == 9
    assert all("Symptom:" in bug and "Caught by" in bug for bug in bugs)
