"""Lesson 05: its numbers, its figures on whatever rows there are, what its checkers tell apart."""

import time

import numpy as np
import pytest

from minilora import spectra
from minilora.errors import ConfigError
from minilora.lessons import check, open_lesson
from minilora.lessons.checking import forget, function_of
from minilora.lessons.l05_exercises import ENERGY, OVERLAP, TRUNCATE
from minilora.lessons.l05_figure import FIXED, KS, by_shape, draw, draw_cut, parts, table


@pytest.fixture(scope="module")
def rows():
    return open_lesson("05").rows("low_rank")


def spectrum(rank):
    return {"rank_90": rank, "effective": rank, "energy": [k / 8 for k in range(1, 9)]}


def full_row(cuts=(), seed=0):
    each = {"change": spectrum(10), "weights": spectrum(30), "random": spectrum(66)}
    kinds = ("q_proj", "up_proj")
    return {
        "kind": "full",
        "role": "report",
        "seed": seed,
        "task": "sort-descending",
        "steps": 4,
        "batch_size": 8,
        "lr": 1e-3,
        "matrices": [{"kind": kind, "layer": 0, **each} for kind in kinds],
        "cuts": [{"arm": arm, "k": k, "new": new, "old": 0.0} for arm, k, new in cuts],
    }


def lora_row(rank, new, alpha=None):
    alpha = 2 * rank if alpha is None else alpha
    return {"kind": "lora", "role": "report", "seed": 0, "rank": rank, "alpha": alpha, "new": new}


def test_the_control_is_matched_by_shape(rows):
    assert abs(np.median(by_shape(rows, "random", True)) - 66) <= 2
    assert abs(np.median(by_shape(rows, "random", False)) - 91.5) <= 2
    rng = np.random.default_rng(0)
    for shape, few in (((128, 128), 66), ((344, 128), 91.5), ((128, 344), 91.5)):
        got = spectra.energy_rank(spectra.singular_values(rng.normal(size=shape)))
        assert abs(got - few) <= 2


def test_what_the_words_of_the_lesson_lean_on(rows):
    """Fixed sentences (a guess, a quiz, the summary) say no more than these rows do."""
    kept = parts(rows)
    assert max(kept["svd"][1]) < 0.5, "a cut to one direction loses most of the skill"
    for r in (1, 2, 4):
        assert min(kept["LoRA"][r]) > max(kept["svd"][r]), "training at r is ahead of cutting to r"
    assert max(r["beyond_rank"] for r in rows if "beyond_rank" in r) <= 1e-12


def test_by_its_form_ba_has_no_more_than_rank_r():
    rng = np.random.default_rng(0)
    s = spectra.singular_values(rng.normal(size=(128, 8)) @ rng.normal(size=(8, 128)))
    assert s[8] / s[0] <= 1e-12 < s[7] / s[0]


def test_twenty_random_pairs_of_spaces_have_what_chance_gives():
    rng = np.random.default_rng(0)
    pairs = [rng.normal(size=(2, 64, 128)) for _ in range(20)]
    for i in (1, 8, 64):
        drawn = np.mean([spectra.overlap(A, B, i, 64) for A, B in pairs])
        assert abs(drawn - spectra.chance_overlap(i, 64, 128)) <= 0.02


def test_the_figure_tells_in_words_what_it_shows(rows, tmp_path):
    draw(rows, tmp_path / "figure.png")
    words = (tmp_path / "figure.txt").read_text(encoding="utf-8")
    kept = parts(rows)
    for arm in ("ΔW cut to k directions", "largest entries", "active rows", "random subspace"):
        assert arm in words
    first = next(k for k, v in kept["svd"].items() if np.mean(v) >= 0.9)
    assert f"ΔW cut to k directions: 90 % first at k = {first} " in words
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_the_figure_is_drawn_from_whatever_rows_there_are(tmp_path):
    with pytest.raises(ConfigError, match="minilora experiment low_rank"):
        draw([], tmp_path / "none.png")
    with pytest.raises(ConfigError, match="minilora experiment low_rank"):
        draw([lora_row(1, 0.9)], tmp_path / "none.png")
    some = [full_row([("svd", 0, 0.0), ("svd", 8, 1.0), ("active rows", 8, 0.3)])]
    draw(some, tmp_path / "some.png")
    words = (tmp_path / "some.txt").read_text(encoding="utf-8")
    assert "LoRA trained at r = k: not measured" in words
    assert "active rows: 90 % at no k (30 % at 8)" in words


def test_runs_with_another_scaling_are_no_part_of_the_comparison():
    rows = [full_row(), lora_row(8, 0.5), lora_row(8, 0.9, alpha=64), {**lora_row(2, None)}]
    assert parts(rows)["LoRA"] == {8: [0.5]}
    assert parts([{**rows[0], "role": "choose"}]) == {arm: {} for arm in parts([])}


def test_the_table_has_a_line_for_each_k_and_a_dash_where_nothing_was_measured():
    head, *body = table([full_row([("svd", 8, 0.75)]), lora_row(1, 0.5)])
    assert [line[0] for line in body] == [str(k) for k in KS]
    assert head[1] == "k strongest directions" and head[-1] == "LoRA"
    by_k = {line[0]: line for line in body}
    assert by_k["8"][1] == "75 %" and by_k["1"][-1] == "50 %" and by_k["1"][1] == "–"


@pytest.mark.parametrize("ks", [1, 0, 128, FIXED])
def test_a_cut_is_drawn_for_one_k_and_for_several(ks, tmp_path):
    D = np.random.default_rng(0).normal(size=(6, 9))
    draw_cut(D, [full_row([("svd", 4, 0.5)])], ks, tmp_path / "cut.png", name="ΔW of q")
    words = (tmp_path / "cut.txt").read_text(encoding="utf-8")
    for k in [ks] if isinstance(ks, int) else ks:
        right = "50 %" if k == 4 else "not measured"
        held = spectra.energy(spectra.singular_values(D))[min(k, 6) - 1] if k else 0.0
        assert f"k = {k}: {100 * held:.0f} % of the energy, new strings right {right}" in words


def test_a_matrix_that_has_not_changed_is_drawn_as_well(tmp_path):
    draw_cut(np.zeros((4, 5)), [], 2, tmp_path / "cut.png")
    words = (tmp_path / "cut.txt").read_text(encoding="utf-8")
    assert "k = 2: 0 % of the energy, new strings right not measured" in words


@pytest.mark.parametrize("e", [TRUNCATE, ENERGY, OVERLAP], ids=lambda e: e.number)
def test_a_check_takes_less_than_a_second(e):
    for code in (e.solution, e.wrong[-1].code):
        began = time.perf_counter()
        check(e.number, function_of(e, code))
        assert time.perf_counter() - began < 1


def test_a_sign_a_transpose_a_constant_are_told():
    def judged(e, spoil):
        forget()
        right = function_of(e, e.solution)
        return check(e.number, lambda *arguments: spoil(right(*arguments))).said

    sign = judged(TRUNCATE, lambda M: -M)
    assert "wrong sign" in sign or "-1 times what is right" in sign
    assert "has shape" in judged(TRUNCATE, lambda M: M.T)
    assert "2 times what is right" in judged(TRUNCATE, lambda M: 2 * M)
    assert not check("05.3", lambda A, B, i, j: -spectra.overlap(A, B, i, j)).passed
    assert not check("05.2", lambda W, W_new, share: 1).passed


def test_directions_may_have_either_sign():
    """svd may give −u, −v for u, v; neither the cut nor φ depends on it."""

    def overlap(A1, A2, i, j):
        V1, V2 = (np.linalg.svd(A)[2][:n] for A, n in ((A1, i), (A2, j)))
        return float((((-V1) @ V2.T) ** 2).sum() / min(i, j))

    assert check("05.3", overlap).passed
