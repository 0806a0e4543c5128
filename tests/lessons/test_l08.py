"""Lesson 08: its figures, and the numbers that must come out of the committed rows."""

import pytest

from minilora.errors import ConfigError
from minilora.experiments import verdict
from minilora.experiments.forgetting.arms import arms
from minilora.files.json_files import read_json_lines
from minilora.lessons.l08_figure import draw_held, draw_plane
from minilora.lessons.places import rows_folder

ROWS = [row for _, row in read_json_lines(rows_folder() / "compare.jsonl")]


def test_the_rows_have_what_the_lesson_tells():
    every = {(a.method, a.replay): a for a in arms(ROWS)}
    assert len(every) == 4 and all(len(a.rows) == 5 for a in every.values())
    assert all(a.left for a in every.values()), "all arms reach 90 % of the new skill"
    off = [r for r in ROWS if r["role"] == "report" and r["method"] == "lora"]
    assert len(off) == 10 and all(r["off_is_base"] for r in off)


def test_activations_are_spared_on_q_and_v_only():
    held = {name: row["bytes"]["activations"] for name, row in verdict.books(ROWS).items()}
    assert 0.65 < held["LoRA q,v r=8"] / held["full"] < 0.75
    assert 1 < held["LoRA all seven r=8"] / held["full"] < 1.05


def test_the_figures_say_in_words_what_they_show(tmp_path):
    draw_plane(ROWS, tmp_path / "plane.png")
    words = (tmp_path / "plane.txt").read_text()
    assert words.count("sort-descending") == 4 and "adapter off, old skills 100 %" in words
    draw_held(verdict.books(ROWS), tmp_path / "held.png")
    words = (tmp_path / "held.txt").read_text()
    assert words.count("\n") == 4 and "LoRA all seven r=8" in words
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in ("plane", "held"))


def test_full_alone_has_no_ring(tmp_path):
    draw_plane([r for r in ROWS if r["method"] == "full"], tmp_path / "plane.png")
    assert "adapter off" not in (tmp_path / "plane.txt").read_text()


def test_without_rows_there_is_a_word_on_how_to_get_them(tmp_path):
    for draw, nothing in ((draw_plane, []), (draw_held, {})):
        with pytest.raises(ConfigError, match="minilora experiment compare"):
            draw(nothing, tmp_path / "f.png")
