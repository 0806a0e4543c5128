"""Every lesson: both languages, small cells, misconceptions caught, sources that fit."""

import re
from itertools import pairwise

import pytest

from minilora.lessons.building import assemble
from minilora.lessons.content import NUMBERS, Both, lesson_content
from minilora.lessons.places import notebooks_folder

SOURCES = notebooks_folder() / "src"
lessons = pytest.mark.parametrize("number", NUMBERS)
HAN = re.compile(r"[\u4e00-\u9fff]")


def texts(thing, path=""):
    """Every pair of texts inside of a lesson."""
    if isinstance(thing, Both):
        yield path, thing
    elif isinstance(thing, tuple | list):
        for i, each in enumerate(thing):
            yield from texts(each, f"{path}[{i}]")
    elif hasattr(thing, "__dataclass_fields__"):
        for name in thing.__dataclass_fields__:
            yield from texts(getattr(thing, name), f"{path}.{name}")


@lessons
def test_every_text_is_there_in_both_languages(number):
    for where, both in texts(lesson_content(number)):
        assert both.en.strip() and both.zh.strip(), where
        assert not HAN.search(both.en), where
        if re.search(r"[a-z]{4}", both.en):
            assert HAN.search(both.zh), where


@lessons
def test_both_languages_say_the_same_numbers(number):
    def numerals(text):
        return sorted(re.findall(r"\d[\d,.]*\d|\d", text))

    for where, both in texts(lesson_content(number)):
        if "why" not in where:
            assert numerals(both.en) == numerals(both.zh), where


@lessons
def test_its_cells_are_small(number):
    notebook = assemble(lesson_content(number), SOURCES)
    assert len(notebook.cells) <= 50
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids) and all(i.startswith(f"{number}-") for i in ids)
    for cell in notebook.cells:
        lines = cell.source.splitlines()
        if cell.cell_type == "code":
            code = [line for line in lines if line.strip()]
            assert len(code) <= 12, cell.source
            assert max(map(len, lines), default=0) <= 100, cell.source
        elif "<details>" not in cell.source and "## Quiz" not in cell.source:
            english = re.sub(r'<div lang="zh">.*?</div>', "", cell.source, flags=re.S)
            assert len(english.split()) <= 150, cell.source


@lessons
def test_its_headings_are_in_order(number):
    notebook = assemble(lesson_content(number), SOURCES)
    levels = [
        len(match[1])
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for match in re.finditer(r"^(#+) ", cell.source, flags=re.M)
    ]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@lessons
def test_all_that_its_file_holds_stands_in_the_notebook(number):
    content = lesson_content(number)
    source = (SOURCES / f"{number}_{content.slug}.py").read_text(encoding="utf-8")
    for macro in ("opening", "closing", *(["quiz"] if content.quiz else [])):
        assert f"{{{{{macro}}}}}" in source
    for p in content.predictions:
        assert f"{{{{prediction {p.key}}}}}" in source
        assert f'came_out("{p.key}"' in source
    for e in content.exercises:
        assert f"{{{{exercise {e.number}}}}}" in source


@lessons
def test_a_question_has_one_right_answer_and_a_reason_for_each(number):
    for q in lesson_content(number).quiz:
        assert sum(o.right for o in q.options) == 1
        assert 2 <= len(q.options) <= 5


README = (SOURCES.parent / "README.md").read_text(encoding="utf-8")


def caught_by(number):
    """Every misconception that a lesson says it catches."""
    content = lesson_content(number)
    parts = [content, *content.predictions, *content.exercises, *content.quiz]
    return {m for part in parts for m in part.catches}


def test_every_misconception_is_caught_where_the_teachers_page_says():
    for name, lessons_named in re.findall(r"^\| (M\d+) \| [^|]+ \| ([\d, ]+) \|$", README, re.M):
        for number in lessons_named.split(", "):
            if number in NUMBERS:
                assert name in caught_by(number), f"{name} in lesson {number}"


def test_the_teachers_page_lists_every_lesson():
    for number in NUMBERS:
        assert f"({number}_{lesson_content(number).slug}.ipynb)" in README


def test_the_glossary_has_both_languages_and_every_term_once():
    glossary = (SOURCES.parent / "glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", glossary, re.M)[1:]
    terms = [english for english, _, _ in rows]
    assert len(terms) >= 50 and len(set(terms)) == len(terms)
    assert terms == sorted(terms, key=str.lower)
    assert all(HAN.search(chinese) or english == chinese for english, chinese, _ in rows)


def test_terms_are_translated_as_the_glossary_has_them():
    """Where a text speaks of one of these, the Chinese beside it uses the glossary's word."""
    words = {
        "bypass": "旁路",
        "adapter": "适配器",
        "gradient": "梯度",
        "learning rate": "学习率",
        "full fine-tuning": "全量微调",
        "activations": "激活值",
        "weight decay": "权重衰减",
        "frozen": "冻结",
    }
    missing = [
        f"{number}{where}: {english}"
        for number in NUMBERS
        for where, both in texts(lesson_content(number), "")
        for english, chinese in words.items()
        if re.search(rf"(?<![\"`]){english}s?\b(?![\"`])", both.en, re.I) and chinese not in both.zh
    ]
    assert not missing, missing
