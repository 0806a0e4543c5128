"""What the README says of experiments follows from the committed rows."""

from pathlib import Path

import pytest

from minilora.experiments.lab.experiment import EXPERIMENTS, experiment
from minilora.experiments.lab.rows import read_rows
from minilora.experiments.redraw import answers, figure_beside

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIGURES = ROOT / "figures"


def rows_of(name):
    return read_rows(FIGURES / f"{name}.jsonl", experiment(name))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_rows_a_figure_and_its_words(name):
    path = FIGURES / f"{name}.jsonl"
    assert rows_of(name)
    figure = figure_beside(path)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert len(figure.with_suffix(".txt").read_text(encoding="utf-8")) > 200


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_claim_rests_on_fewer_than_three_seeds(name):
    """(SmolLM2's four runs are of one seed; they are told beside the claims, not among them.)"""
    reported = [
        r for r in rows_of(name) if r.get("role") == "report" and r.get("base") != "smollm2"
    ]
    assert len({r["seed"] for r in reported}) >= 3
    assert not {r["seed"] for r in reported} & {100, 101}


def test_the_page_of_answers_is_what_the_rows_say():
    """`minilora figures` writes it anew."""
    assert (FIGURES / "ANSWERS.md").read_text(encoding="utf-8") == answers(FIGURES)
