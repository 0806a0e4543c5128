"""`four_bits`: numbers that must come out, a quick run, and rows of all kinds."""

import json

import numpy as np
import pytest

from minilora.errors import ConfigError
from minilora.experiments.four_bits import EXPERIMENT, answering, figure, measure, points, reading
from minilora.experiments.four_bits.measuring import merged_at, normal, rounding_error
from minilora.experiments.lab.experiment import Plan
from minilora.experiments.lab.stats import where


def as_row(point):
    return json.loads(json.dumps({**point, **measure(point)}))


@pytest.fixture(scope="module")
def quick():
    return [as_row(p) for p in points([], Plan(quick=True))]


def test_it_runs_from_end_to_end(quick, tmp_path):
    figure.draw(quick, tmp_path / "quick.png")
    assert "not measured" not in (tmp_path / "quick.txt").read_text(encoding="utf-8")
    said = answering.answer(quick)
    assert "LoRA 1 %" in said or "LoRA 0 %" in said
    assert '"merging back into four bits keeps the adapter", ΔW of up to 3% of W: not here' in said
    assert said.endswith("Diverged: none.")
