"""Lesson 07: its numbers, its figures on whatever rows there are, what its checkers tell apart."""

import time

import numpy as np
import pytest

from minilora.errors import ConfigError
from minilora.experiments import targets
from minilora.experiments.low_rank.planted import planted
from minilora.experiments.rank_alpha import rows as which
from minilora.experiments.rank_alpha.first_step import first_step_change, first_steps
from minilora.lessons import check
from minilora.lessons.checking import forget, function_of
from minilora.lessons.l07_exercises import EQUIVALENT, FIRST_STEP, SWAP, forty_steps, swapped
from minilora.lessons.l07_figure import (
    by_targets,
    claims,
    draw_knobs,
    draw_planted,
    draw_rates,
    draw_room,
    knobs,
    nearest,
    table,
)


def tuning(rank=8, alpha=16, lr=5e-3, *, arm=which.R_LR, scaling="r", seed=0, new=0.9, **more):
    return {
        "arm": arm,
        "role": "report",
        "task": "sort-descending",
        "steps": 150,
        "batch_size": 64,
        "rank": rank,
        "alpha": alpha,
        "scaling": scaling,
        "lr": lr,
        "seed": seed,
        "new": new,
        "likelihood_validation": new,
        "curve": [{"step": 0, "new": 0.0, "old": 1.0}, {"step": 150, "new": new, "old": 0.1}],
        "diverged": None,
        **more,
    }


GRID = [
    tuning(rank, lr=lr, scaling=scaling, seed=seed, new=0.5 + 0.1 * (lr == 5e-3) + 0.01 * seed)
    for scaling in ("r", "sqrt_r")
    for rank in (1, 4, 64)
    if rank > 1 or scaling == "r"
    for lr in (1.6e-3, 5e-3)
    for seed in (0, 1)
]
OTHERS = [
    tuning(8, alpha, lr, arm=which.ALPHA_LR, seed=seed, new=0.7)
    for alpha, lr in ((4, 5e-3), (16, 5e-3), (64, 5e-3), (4, 2e-2), (16, 1.25e-3))
    for seed in (0, 1)
]


def words(path):
    assert path.stat().st_size > 10_000
    return path.with_suffix(".txt").read_text(encoding="utf-8")


def test_the_first_step_is_level_where_it_is_said_to_be():
    expected = {
        "adam, α/r": [1, 0.96, 0.96, 0.96],
        "adam, α/√r": [1, 1.9, 3.9, 7.7],
        "sgd, α/r": [1, 0.23, 0.06, 0.015],
        "sgd, α/√r": [1, 0.95, 0.95, 0.95],
    }
    found = first_steps([1, 4, 16, 64])
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert np.allclose(found[name], values, rtol=0.1, atol=0), name


@pytest.mark.parametrize("opt", ["adam", "sgd"])
def test_the_exercise_asks_for_what_the_table_is_made_of(opt):
    rng = np.random.default_rng(0)
    x, g, A = rng.normal(size=(9, 6)), rng.normal(size=(9, 5)), rng.normal(size=(3, 6))
    solved = function_of(FIRST_STEP, FIRST_STEP.solution)(x, g, A, 0.7, opt)
    assert solved == pytest.approx(first_step_change(x, g, A, 0.7, opt), rel=1e-12)
    assert solved == pytest.approx(FIRST_STEP.reference(x, g, A, 0.7, opt), rel=1e-12)


@pytest.mark.slow
def test_a_planted_rank_is_reached_to_the_least_that_each_rank_allows():
    ranks = [1, 4, 7, 8, 16]
    problem = {"size": 64, "true_rank": 8, "ranks": ranks, "steps": 600, "lr": 1e-2, "seed": 0}
    found = planted(problem)
    assert np.abs(np.subtract(found["losses"], found["floors"])).max() <= 1e-6
    assert found["losses"][2] > 1e-3 and max(found["losses"][3:]) <= 1e-12


@pytest.mark.parametrize("new_alpha", [3.0, 8.0, 50.0])
def test_alpha_and_the_rate_of_b_are_one_knob_and_with_a_shared_rate_they_are_not(new_alpha):
    before, c = forty_steps(24, 0.02, 0.02), 24 / new_alpha
    size = np.linalg.norm(before)
    assert np.linalg.norm(forty_steps(new_alpha, 0.02, 0.02 * c) - before) <= 1e-10 * size
    assert np.linalg.norm(forty_steps(new_alpha, 0.02 * c, 0.02 * c) - before) > 0.01 * size


def test_two_swaps_are_none_and_a_swap_takes_both_of_a_pair():
    adapter = SWAP.cases(np.random.default_rng(0))[2][0]  # twelve layers
    once = swapped(adapter, 1, 11)
    assert once.keys() == adapter.keys()
    moved = {name.split(".layers.")[1].split(".")[0] for name in adapter
             if not np.array_equal(once[name], adapter[name])}  # fmt: skip
    assert moved == {"1", "11"}
    again = swapped(once, 11, 1)
    assert all(np.array_equal(again[name], array) for name, array in adapter.items())
    assert not any(np.shares_memory(once[name], array) for name, array in adapter.items())


@pytest.mark.parametrize("e", [FIRST_STEP, EQUIVALENT, SWAP], ids=lambda e: e.number)
def test_a_check_takes_less_than_a_second(e):
    for code in (e.solution, e.wrong[-1].code):
        began = time.perf_counter()
        check(e.number, function_of(e, code))
        assert time.perf_counter() - began < 1


def test_what_is_not_among_the_known_mistakes_is_told_as_well():
    right = function_of(EQUIVALENT, EQUIVALENT.solution)
    for spoil in (lambda lr: -lr, lambda lr: 3 * lr, lambda lr: float("nan"), lambda lr: "lr"):
        forget()
        assert not check("07.2", lambda *a, spoil=spoil: spoil(right(*a))).passed
    forget()
    said = check("07.2", lambda *a: 3 * right(*a)).said
    assert "the learning rate" in said
    forget()
    assert not check("07.1", lambda *a: -FIRST_STEP.reference(*a)).passed


def test_a_swap_in_place_is_no_answer():
    def in_place(adapter, i, j):
        adapter.update(swapped(adapter, i, j))
        return adapter

    verdict = check("07.3", in_place)
    assert not verdict.passed and "written to" in verdict.said


def test_the_rates_are_drawn_with_the_best_of_a_rank_starred(tmp_path):
    draw_rates(GRID, tmp_path / "rates.png")
    said = words(tmp_path / "rates.png")
    assert said.count("0.005* 60 % (60 to 61)") == 6  # three ranks, two scalings; r = 1 serves both
    head, *body = table(GRID)
    assert head == ["scaling", "r", "lr 0.0016", "lr 0.005"]
    assert body[0] == ["α/r", "1", "50 % (50 to 51)", "60 % (60 to 61)"] and len(body) == 6


def test_a_rank_alone_and_a_run_that_failed_are_drawn_as_well(tmp_path):
    some = [tuning(4, lr=lr, new=None if lr > 5e-3 else 0.5) for lr in (5e-3, 5e-2)]
    draw_rates(some, tmp_path / "rates.png")
    assert "r = 4: 0.005* 50 %, 0.05 none" in words(tmp_path / "rates.png")


def test_room_is_drawn_with_what_there_is(tmp_path):
    few = [
        tuning(r, arm=which.FEW, examples=32, train=1.0, new=0.6, seed=s)
        for r in (1, 64)
        for s in (0, 1)
    ]
    draw_room(few, tmp_path / "room.png")
    said = words(tmp_path / "room.png")
    assert "Capacity: what a rank holds: not measured." in said
    assert "32 examples, r = 64: training 100 % (100 to 100), test 60 % (60 to 60)" in said


def test_a_loss_of_zero_is_drawn_at_the_end_of_the_axis(tmp_path):
    draw_planted([1, 2], [0.5, 0.0], [0.5, 0.0], 2, tmp_path / "p.png")
    assert "r = 2: 1e-12, least 1e-12" in words(tmp_path / "p.png")


def test_without_rows_there_is_a_word_on_how_to_get_them(tmp_path):
    path = tmp_path / "none.png"
    for draw in (
        lambda: draw_rates([], path),
        lambda: draw_room(GRID, path),
        lambda: draw_knobs([], None, None, None, path),
        lambda: draw_knobs(GRID, 2, 16, 5e-3, path),
    ):
        with pytest.raises(ConfigError, match="minilora experiment rank_alpha"):
            draw()


def test_knobs_are_what_was_measured():
    assert knobs(GRID + OTHERS) == {
        "r": [1, 4, 8, 64],
        "alpha": [4, 16, 64],
        "lr": [1.25e-3, 1.6e-3, 5e-3, 2e-2],
    }


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ((16, 5e-3), (16, 5e-3)),
        ((4, 2e-2), (4, 2e-2)),
        ((64, 1.25e-3), (16, 5e-3)),  # of the two with the same product, the nearer α
        ((4, 8e-2), (64, 5e-3)),
        ((1, 1e-9), (4, 5e-3)),
    ],
)
def test_what_was_not_measured_gives_way_to_the_nearest_product(asked, given):
    found = nearest(GRID + OTHERS, 8, *asked)
    assert {(r["alpha"], r["lr"]) for r in found} == {given} and len(found) == 2


def test_a_setting_says_what_it_is_and_whether_it_was_measured(tmp_path):
    rows = GRID + OTHERS
    draw_knobs(rows, 8, 16, 5e-3, tmp_path / "knobs.png")
    said = words(tmp_path / "knobs.png")
    assert said.startswith("r = 8, α = 16, lr 0.005: s = α/r = 2, α·lr = 0.08.")
    assert "new skill: 0 0 %, 150 70 %." in said and "not measured" not in said
    draw_knobs(rows, 8, 64, 1.25e-3, tmp_path / "other.png")
    assert "α = 64, lr 0.00125 not measured; nearest in α·lr" in words(tmp_path / "other.png")
    draw_knobs(rows, None, None, None, tmp_path / "map.png")
    assert "r = 8: 4* 70 %" in words(tmp_path / "map.png")


def test_targets_are_told_by_set_and_claim():
    rows = [
        {"role": "report", "task": task, "arm": arm.name, "seed": s, "lr": 5e-3, "diverged": None,
         "new": 0.5 + 0.01 * s + 0.4 * arm.name.startswith("all"), "trainable_parameters": 9}
        for task in targets.TASKS
        for arm in targets.arms()
        for s in range(3)
    ]  # fmt: skip
    head, *body = by_targets(rows)
    assert head == ["matrices", "trained", *targets.TASKS, "LoRA paper"]
    assert [line[0] for line in body] == [arm.name for arm in targets.arms()]
    assert body[0][2:] == ["51 % (50 to 52)", "51 % (50 to 52)", "70.4 %"] and body[-1][-1] == "–"
    found = {(task, claim): verdict for task, claim, verdict in claims(rows)}
    assert len(found) == 3 * len(targets.TASKS)
    assert found["cipher", "all matrices beat attention alone"] == "suggested"
    assert found["cipher", "q+v beats each matrix alone"] == "not here"
    assert claims([]) == [] and by_targets([])[1][2] == "none"
