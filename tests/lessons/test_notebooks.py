"""The notebooks: made from their sources, and running, with solutions and without."""

import re

import pytest

from minilora.lessons.building import assemble, run, start
from minilora.lessons.content import NUMBERS, lesson_content
from minilora.lessons.places import notebooks_folder

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupytext")

FOLDER = notebooks_folder()
lessons = pytest.mark.parametrize("number", NUMBERS)


def committed(number):
    path = FOLDER / f"{number}_{lesson_content(number).slug}.ipynb"
    return nbformat.read(path, as_version=4)


def made(number, **options):
    return assemble(lesson_content(number), FOLDER / "src", **options)


def said(notebook):
    """All that a notebook's cells have printed."""
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    return "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)


@lessons
def test_what_is_committed_is_what_the_source_gives(number):
    """`minilora lessons build NN` makes it again."""
    kept, new = committed(number), made(number)
    assert [(c.id, c.cell_type, c.source) for c in kept.cells] == [
        (c.id, c.cell_type, c.source) for c in new.cells
    ]


@lessons
def test_it_is_committed_with_what_one_sees(number):
    notebook = committed(number)
    nbformat.validate(notebook)
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in cells)
    outputs = [o for c in cells for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    text = said(notebook)
    assert "Warning" not in text and "/work/" not in text and "/tmp/" not in text
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert all(o.metadata.get("image/png", {}).get("alt") for o in pictures)


@lessons
def test_no_number_that_a_cell_computes_is_typed_into_prose(number):
    """Of three digits or more; those of the question itself stand in the lesson's file."""
    notebook = committed(number)
    printed = set(re.findall(r"\d[\d,]*\.?\d+", said(notebook)))
    code = "".join(c.source for c in notebook.cells if c.cell_type == "code")
    for cell in notebook.cells:
        if cell.cell_type != "markdown" or "{{" in cell.source or "lang=" in cell.source:
            continue
        for numeral in re.findall(r"\d[\d,]*\.?\d+", cell.source):
            digits = re.sub(r"\D", "", numeral).lstrip("0")
            if len(digits) >= 3 and numeral in printed:
                assert digits in re.sub(r"[_,.]", "", code), f"{numeral}: {cell.source}"


def test_a_learners_copy_has_no_outputs_and_is_not_overwritten(tmp_path):
    path = start("06", tmp_path)
    notebook = nbformat.read(path, as_version=4)
    assert all(not c.get("outputs") for c in notebook.cells)
    with pytest.raises(Exception, match="there already"):
        start("06", tmp_path)


@pytest.mark.slow
@lessons
def test_it_runs_with_the_solutions(number, tmp_path, monkeypatch):
    pytest.importorskip("nbclient")
    monkeypatch.setenv("MINILORA_HOME", str(tmp_path / "home"))
    notebook = made(number, solved=True)
    run(notebook, FOLDER, static=True)
    for e in lesson_content(number).exercises:
        assert f"{e.number}: right." in said(notebook)


@pytest.mark.slow
@lessons
def test_it_runs_as_a_learner_gets_it(number, tmp_path, monkeypatch):
    """With stubs, and as few steps of training as there can be."""
    pytest.importorskip("nbclient")
    monkeypatch.setenv("MINILORA_HOME", str(tmp_path / "home"))
    notebook = made(number)
    run(notebook, FOLDER, live_steps=2)
    for e in lesson_content(number).exercises:
        assert f"{e.number}: not written yet" in said(notebook)
