"""`minilora plot`: a figure from rows alone."""

import importlib
import json
from pathlib import Path

import pytest

from minilora.experiments.lab.experiment import EXPERIMENTS

LAB = Path(__file__).parents[1] / "experiments" / "lab"


@pytest.fixture(autouse=True)
def rows(monkeypatch, run, here):
    """rows.jsonl of a toy experiment."""
    monkeypatch.syspath_prepend(LAB)
    monkeypatch.setitem(EXPERIMENTS, "toy", "toy")
    importlib.import_module("toy")
    run("experiment", "toy", "--jobs=1", "--out=made")
    (here / "made/toy.jsonl").rename(here / "rows.jsonl")
    return here / "rows.jsonl"


@pytest.mark.parametrize(
    ("options", "figure"),
    [
        ((), "rows.png"),
        (("--format", "svg"), "rows.svg"),
        (("--out", "there/f.pdf"), "there/f.pdf"),
        (("--out", "f.svg", "--format", "svg"), "f.svg"),
    ],
)
def test_the_rows_say_what_they_are(run, here, options, figure):
    outcome = run("plot", "rows.jsonl", *options)
    assert (outcome.status, outcome.out) == (0, "3 reported\n")
    assert outcome.said == [f"wrote {figure}"]
    assert (here / figure).stat().st_size > 1000


def test_json(run):
    assert run("plot", "rows.jsonl", "--json").json() == {
        "experiment": "toy",
        "rows": 5,
        "answer": "3 reported",
        "figure": "rows.png",
    }


def test_an_unfinished_line_is_told_and_left_out(run, rows):
    rows.write_bytes(rows.read_bytes()[:-5])
    outcome = run("plot", "rows.jsonl", "--json")
    assert outcome.json()["rows"] == 4
    assert "the last line is unfinished" in outcome.said[0]


def test_mistakes(mistake, here, rows):
    (here / "empty.jsonl").touch()
    (here / "picture.png").write_bytes(rows.read_bytes())
    (here / "prose.jsonl").write_text("no rows\n")
    row = json.loads(rows.read_text().splitlines()[0])
    for name, changed in (
        ("game", {"experiment": "game"}),
        ("version", {"experiment_version": 9}),
        ("format", {"format": 9}),
    ):
        (here / f"{name}.jsonl").write_text(json.dumps({**row, **changed}) + "\n")
    for argv, said in (
        (("nowhere.jsonl",), "nowhere.jsonl: cannot be read"),
        ((".",), "cannot be read"),
        (("empty.jsonl",), "empty.jsonl has no rows yet"),
        (("prose.jsonl",), "prose.jsonl, line 1, column 1: malformed JSON"),
        (("game.jsonl",), "game.jsonl, line 1: there is no experiment 'game'"),
        (("version.jsonl",), "version.jsonl, line 1: experiment_version is 9 there and 1 here"),
        (("format.jsonl",), "format.jsonl, line 1: format is 9 there and 1 here"),
        (("rows.jsonl", "--out", "x.gif"), "must end in .png"),
        (("rows.jsonl", "--out", "x.png", "--format", "svg"), "must end in .svg"),
        (("picture.png",), "would replace its rows"),
        ((), "FILE.jsonl"),
    ):
        assert said in mistake("plot", *argv)
