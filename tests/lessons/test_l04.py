"""Lesson 04: its figure, and the numbers that must come out of the committed rows."""

import pytest

from minilora.errors import ConfigError
from minilora.experiments.forgetting.arms import EASY, HARD
from minilora.experiments.lab.stats import spread
from minilora.files.json_files import read_json_lines
from minilora.lessons.l04_figure import draw_planes, full_arms
from minilora.lessons.places import rows_folder

ROWS = rows_folder() / "forgetting.jsonl"


def row(replay=0.0, seed=0, task=EASY, new=0.95, old=0.3, **more):
    """A run that goes straight from the base to (new, old)."""
    ends = {"step": 120, "new": new, "old": old}
    return {
        "role": "report",
        "base": "skills",
        "task": task,
        "method": "full",
        "lr": 1e-3,
        "steps": 120,
        "batch_size": 64,
        "replay": replay,
        "seed": seed,
        "lr_by": "chosen",
        "curve": [{"step": 0, "new": 0.0, "old": 1.0}, ends],
        "old_validation": old,
        "diverged": None,
        **more,
    }


def test_the_figure_tells_each_share_of_old_data_in_words(tmp_path):
    rows = [row(rho, seed, old=0.2 + rho) for rho in (0.0, 0.05) for seed in (0, 1)]
    draw_planes([*rows, row(task=HARD, old=0.02)], tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 10_000
    words = (tmp_path / "f.txt").read_text()
    assert "swap-ends with ρ 0 %, 5 % and cipher with ρ 0 %" in words
    # On the straight line from (0, 100) to (95, 20) at 90.
    assert "swap-ends, full, ρ 0 %, lr 1e-3: 24 % (24 to 24)" in words


def test_runs_at_rates_that_were_not_chosen_are_no_arms_of_the_lesson():
    rows = [row(), row(lr=3.2e-3, lr_by="other")]
    (arm,) = full_arms(rows, EASY)
    assert arm.lr == 1e-3 and full_arms(rows, HARD) == []


def test_a_run_that_never_learns_is_drawn_and_said(tmp_path):
    draw_planes([row(new=0.5)], tmp_path / "f.png")
    assert "never reaches 90 %" in (tmp_path / "f.txt").read_text()


def test_without_runs_there_is_a_word_on_how_to_get_them(tmp_path):
    with pytest.raises(ConfigError, match="minilora experiment forgetting"):
        draw_planes([], tmp_path / "f.png")


@pytest.mark.skipif(not ROWS.exists(), reason="the rows of `forgetting` are not measured yet")
def test_the_more_old_data_the_more_is_kept_on_the_easy_skill():
    rows = [each for _, each in read_json_lines(ROWS)]
    kept = {a.replay: spread(a.left)[0] for a in full_arms(rows, EASY)}
    assert list(kept) == [0.0, 0.01, 0.05, 0.1]
    assert list(kept.values()) == sorted(kept.values())
    assert kept[0.0] <= 0.40 and kept[0.1] >= kept[0.0] + 0.30
    assert all(len(a.rows) == 5 for a in full_arms(rows, EASY))
