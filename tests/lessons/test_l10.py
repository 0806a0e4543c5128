"""Lesson 10: its figures, and what the committed rows must say."""

import pytest

from minilora.bases import load_base
from minilora.errors import ConfigError
from minilora.experiments.lab.stats import apart, where
from minilora.experiments.relatives import answering
from minilora.experiments.relatives.arms import BUDGETS, measured
from minilora.files.json_files import read_json_lines
from minilora.lessons.l10_figure import draw_budget, draw_places
from minilora.lessons.places import rows_folder

PATH = rows_folder() / "relatives.jsonl"
ROWS = [row for _, row in read_json_lines(PATH)] if PATH.exists() else []
committed = pytest.mark.skipif(not ROWS, reason="no committed rows of `relatives`")


@committed
def test_every_arm_that_has_room_was_reported_on_the_same_seeds():
    arms = {a.name: a for a in measured(ROWS)}
    assert len(arms) == 20 and arms.pop("prompt p = 512").refused
    seeds = [sorted(r["seed"] for r in a.reports) for a in arms.values()]
    assert len(seeds[0]) >= 3 and all(each == seeds[0] for each in seeds)
    assert all(len({r["lr"] for r in a.reports}) == 1 for a in arms.values())


@committed
def test_who_starts_at_the_base_and_who_merges():
    books = {r["arm"]: r for r in where(ROWS, role="books") if not r.get("refused")}
    exact = {r["method"] for r in books.values() if r["start_gap"] == 0}
    merged = {r["method"] for r in books.values() if r["merge_gap"] is not None}
    assert exact == {"full", "lora", "dora", "adapter", "ia3", "bitfit"}
    assert merged == {"lora", "dora", "ia3", "bitfit"}
    assert all(r["merge_gap"] < 1e-3 for r in books.values() if r["merge_gap"] is not None)
    assert books["prompt p = 128"]["text_places"] == 128
    assert books["prefix p = 16"]["text_places"] == 240


@committed
def test_equal_parameters_are_not_equal_cost():
    work = {r["arm"]: r["flops"]["total"] for r in where(ROWS, role="books") if "flops" in r}
    assert 7 < work["prompt p = 128"] / work["LoRA r = 8"] < 11
    assert 0.9 < work["adapter m = 8"] / work["LoRA r = 8"] < 1.1


@committed
def test_what_is_called_a_tie_is_one():
    for budget in BUDGETS:
        some = answering.at(measured(ROWS), budget)
        first = answering.tied(some)
        for arm in some[1:]:
            assert (arm in first) == (apart(some[0].new, arm.new) == "no difference shown")


def test_the_places_are_named_with_their_shapes(tmp_path):
    draw_places(load_base("skills").config, tmp_path / "places.png")
    words = (tmp_path / "places.txt").read_text()
    assert "prefix, at attention: Kₚ, Vₚ: p × 128" in words
    assert "adapter, behind attention and behind the MLP: W₁: m × 128, b₁: m" in words
    assert (tmp_path / "places.png").stat().st_size > 10_000


def test_one_arm_can_be_drawn_alone(tmp_path):
    row = {
        "arm": "LoRA r = 1",
        "method": "lora",
        "budget": 2048,
        "role": "report",
        "task": "sort-descending",
        "steps": 150,
        "batch_size": 64,
        "seed": 0,
        "lr": 5e-3,
        "new": 0.25,
        "trainable_parameters": 2048,
    }
    draw_budget([row], tmp_path / "budget.png")
    assert "LoRA: 2,048 25 %" in (tmp_path / "budget.txt").read_text()


def test_without_reported_runs_there_is_a_word_on_how_to_get_them(tmp_path):
    with pytest.raises(ConfigError, match="minilora experiment relatives"):
        draw_budget([], tmp_path / "budget.png")
