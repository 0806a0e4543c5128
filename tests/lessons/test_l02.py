"""Lesson 02: its numbers, its figure, and what its checkers can tell apart."""

import math
import time

import numpy as np
import pytest

from minilora import ledger, ops
from minilora.autograd import backward
from minilora.lessons import check
from minilora.lessons.checking import forget, function_of
from minilora.lessons.l02_exercises import DIFFERENCE, LINEAR, NEEDED, XENT
from minilora.lessons.l02_figure import (
    BENDS,
    DEMANDED,
    NUDGES,
    ROUNDS,
    best,
    describe,
    draw,
    measure,
    slope,
    table,
)
from minilora.nn import Linear, Module
from minilora.ops.examples import examples
from minilora.optim import AdamW


@pytest.fixture(scope="module")
def rows():
    """As in the lesson."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 8)).astype("float32")
    W = rng.normal(size=(5, 8)).astype("float32")
    labels = rng.integers(0, 5, 16)
    return measure(lambda W: ops.cross_entropy(ops.linear(x.astype(W.dtype), W), labels=labels), W)


def test_the_v_of_float64_and_what_float32_never_reaches(rows):
    assert len(NUDGES) == 60 and len(rows) == 120
    low = best(rows, "float64")
    assert 1e-6 <= low["h"] <= 1e-4 and low["error"] <= 1e-8
    assert abs(slope(rows, "float64", ROUNDS) + 1) <= 0.2
    assert abs(slope(rows, "float64", BENDS) - 2) <= 0.1
    assert best(rows, "float32")["error"] > 1e-4


def test_all_operations_are_checked_in_less_than_ten_seconds():
    began = time.perf_counter()
    assert max(e.check().max_error for e in examples()) <= 1e-7
    assert time.perf_counter() - began < 10


def test_a_frozen_matrix_keeps_no_x_and_makes_no_dw_but_passes_the_gradient_on():
    rng = np.random.default_rng(0)

    class Two(Module):
        def __init__(self):
            self.below, self.above = Linear(3, 4), Linear(4, 5)
            for p in self.parameters():
                p.data[:] = rng.normal(size=p.shape)

        def forward(self, x):
            return self.above(ops.silu(self.below(x)))

    net, x = Two(), rng.normal(size=(2, 6, 3)).astype(np.float32)
    labels = rng.integers(0, 5, (2, 6))
    seen = {}
    for frozen in (False, True):
        net.above.weight.requires_grad = not frozen
        with ledger(net, AdamW(net.parameters(), lr=1e-3)) as books:
            grads = backward(ops.cross_entropy(net(x), labels=labels))
        kept = {(e.owner, e.name) for e in books.entries if e.kind == "activations"}
        seen[frozen] = kept, grads
    (kept, grads), (kept_frozen, grads_frozen) = seen[False], seen[True]
    assert kept - kept_frozen == {("above", "x")} and kept_frozen < kept
    assert net.above.weight in grads and net.above.weight not in grads_frozen
    assert np.array_equal(grads[net.below.weight], grads_frozen[net.below.weight])


def test_the_figure_is_drawn_with_its_words(rows, tmp_path):
    draw(rows, tmp_path / "v.png")
    said = (tmp_path / "v.txt").read_text(encoding="utf-8").strip()
    assert said == describe(rows)
    low = best(rows, "float64")
    assert f"{low['h']:.1e}, error {low['error']:.1e}; reaches" in said
    assert len(table(rows)) == 61 and table(rows)[0] == ["h", "float64", "float32"]
    assert "float32: least" in said and "never reaches" in said


@pytest.mark.parametrize("error", [0.0, 1.0, DEMANDED])
def test_the_figure_bears_points_without_a_v(error, tmp_path):
    flat = [{"dtype": d, "h": h, "error": error} for d in ("float64", "float32") for h in (1e-5, 1)]
    assert math.isnan(slope(flat, "float64", ROUNDS))
    draw(flat, tmp_path / "v.png")
    assert (tmp_path / "v.png").stat().st_size > 1000


def mistaken(exercise, code):
    forget()
    return check(exercise.number, function_of(exercise, code))


def test_the_same_mistake_written_otherwise_gets_the_same_hint():
    one_sided = """
def central_difference(f, x, h):
    moves = h * np.eye(x.size).reshape(-1, *x.shape)
    return np.array([(f(x + m) - f(x)) / h for m in moves]).reshape(x.shape)
"""
    coarse = """
def central_difference(f, x, h):
    moves = np.float32(h) * np.eye(x.size, dtype=np.float32).reshape(-1, *x.shape)
    x = np.float32(x)
    return np.array([(f(x + m) - f(x - m)) / (2 * h) for m in moves]).reshape(x.shape)
"""
    assert mistaken(DIFFERENCE, one_sided).wrong == 0
    assert mistaken(DIFFERENCE, coarse).wrong == 3
    assert "0.5 times" in mistaken(DIFFERENCE, DIFFERENCE.another.replace("(2 * h)", "4 / h")).said


@pytest.mark.parametrize("e", [LINEAR, XENT])
def test_a_sign_or_a_constant_that_is_planted_is_told(e):
    def spoilt(factor):
        right = function_of(e, e.solution)

        def f(*inputs):
            got = right(*inputs)
            return tuple(factor * g for g in got) if isinstance(got, tuple) else factor * got

        forget()
        return check(e.number, f)

    assert "wrong sign" in spoilt(-1).said and "3 times what is right" in spoilt(3).said


def test_names_that_are_none_are_no_answer():
    code = "def needed(x_wants, W_wants):\n    return {'input'}, {'forward'}"
    assert not mistaken(NEEDED, code).passed
    swapped = "def needed(x_wants, W_wants):\n    return ['x'] * x_wants + ['W'] * W_wants, ['y']"
    assert not mistaken(NEEDED, swapped).passed


def test_large_logits_of_a_right_answer_are_not_asked_for_but_do_no_harm():
    f = function_of(XENT, XENT.solution)
    dz = f(np.array([[1e4, 0.0, -1e4]]), np.array([1]))
    assert np.array_equal(dz, [[1.0, -1.0, 0.0]])
