import json
import random

import pytest

from minilora.experiments.lab.experiment import Plan
from minilora.experiments.lab.learning_rates import SCORE
from minilora.experiments.lab.stats import where
from minilora.experiments.relatives import (
    EXPERIMENT,
    RUNGS,
    answering,
    figure,
    measure,
    points,
)
from minilora.experiments.relatives.arms import ARMS, BUDGETS, MIDDLES

REPORTED = [arm for arm in ARMS if arm.name != "prompt p = 512"]


def drive(measuring, plan):
    """All rows, round by round, each as a file gives it; no point is asked for twice."""
    rows, seen = [], []
    while new := [p for p in points(rows, plan) if p not in seen]:
        assert all(new.count(p) == 1 for p in new)
        seen += new
        rows += [json.loads(json.dumps({**p, **measuring(p)})) for p in new]
    return rows


SCORES = {"full": 0.99, "lora": 0.8, "dora": 0.85, "prompt": 0.3, "prefix": 0.5, "adapter": 0.9}


def made_up(scores=SCORES, spread=0.02, tops=MIDDLES):
    """What points might give: accuracy rises with the budget; the best rate is the middle one."""

    def measuring(point):
        method = point["method"]
        if point["role"] == "books":
            return made_up_books(point)
        noise = spread * random.Random(repr(sorted(point.items()))).random()
        rung = BUDGETS.index(point["budget"]) if point["budget"] else 2
        new = min(1.0, scores.get(method, 0.2) + 0.05 * (rung - 2)) - noise
        likelihood = 1 - abs(RUNGS.index(point["lr"]) - RUNGS.index(tops[method])) / 20
        return {
            "new": new,
            "new_validation": new,
            SCORE: likelihood,
            "trainable_parameters": point["budget"] or 1_000,
            "diverged": None,
        }

    return measuring


def made_up_books(point):
    if point["arm"] == "prompt p = 512":
        return {"refused": "no place for a text"}
    virtual = point["method"] in ("prompt", "prefix")
    merges = not virtual and point["method"] not in ("full", "adapter")
    work = 600 if point["method"] == "prompt" else 65
    return {
        "trainable_parameters": point["budget"] or 1_000,
        "total_parameters": 800_000,
        "start_gap": 20.0 if virtual else 0.0,
        "merge_gap": 3e-5 if merges else None,
        "unmergeable": None if merges or point["method"] == "full" else "it stands before the text",
        "text_places": 256 - point.get("tokens", 0),
        "times_full": 1.0 if point["method"] == "full" else work / 100,
        "flops": {"total": 100 if point["method"] == "full" else work},
        "bytes": {"peak": 1_000 if point["method"] == "full" else 10 * work},
    }


@pytest.fixture(scope="module")
def rows():
    return drive(made_up(), Plan(seeds=EXPERIMENT.seeds))


@pytest.fixture(scope="module")
def quick():
    return drive(measure, Plan(quick=True))


def test_it_runs_from_end_to_end(quick, tmp_path):
    reported = where(quick, role="report")
    assert [r["arm"] for r in reported] == ["full", "LoRA r = 1", "prompt p = 16"]
    assert all(r["steps"] == 4 and 0 <= r["new"] <= 1 for r in reported)
    figure.draw(quick, tmp_path / "quick.png")
    said = answering.answer(quick)
    assert "Exactly the base before the first step: LoRA. Not: prompt (" in said
    assert "Can be merged: LoRA (" in said and "Cannot: prompt." in said
    assert "Longest text, of 256 tokens without: prompt p = 16 240." in said
    assert "No room at all: prompt p = 512 (num_virtual_tokens = 512 leaves no place" in said
