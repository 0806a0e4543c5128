"""The general doctor, for mistakes that nobody has written down."""

import numpy as np
import pytest

from minilora.lessons import check, progress
from minilora.lessons.checking import forget
from minilora.lessons.comparing import same
from minilora.lessons.content import all_exercises
from minilora.lessons.doctor import diagnose


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda h: -h, "wrong sign"),
        (lambda h: 3 * h, "3 times what is right"),
        (lambda h: h[..., :-1], "has shape"),
        (lambda h: np.where(h == h.max(), 7.0, h), "at index"),
        (lambda h: h * np.nan, "not finite"),
        (lambda h: None, "is there a `return`"),
        (lambda h: "h", "is str"),
    ],
)
def test_what_is_wrong_is_told(spoil, says):
    right = all_exercises()["06.1"].reference
    verdict = check("06.1", lambda *a: spoil(right(*a)))
    assert not verdict.passed and verdict.wrong is None
    assert says in verdict.said


def test_a_transposed_square_is_recognized():
    m = np.arange(9.0).reshape(3, 3)
    assert "transpose" in diagnose(m.T, m).en
    assert "transposed?" in diagnose(np.zeros((2, 3)), np.zeros((3, 2))).en


def test_of_several_results_the_wrong_one_is_named():
    assert "result 2" in diagnose((1.0, np.ones(3)), (1.0, np.zeros(3))).en
    assert "3 results" in diagnose((1.0,), (1.0, 2.0, None)).en
    assert "'b'" in diagnose({"a": 1, "b": 2}, {"a": 1, "b": 3}).en
    assert "keys" in diagnose({"a": 1}, {"a": 1, "b": 3}).en
    assert "dict" in diagnose(3, {"a": 1}).en


def test_inputs_must_stay_as_they_are():
    right = all_exercises()["06.1"].reference

    def careless(x, W, A, B, alpha):
        h = right(x, W, A, B, alpha)
        x *= 2
        return h

    assert "inputs were written to" in check("06.1", careless).said


def test_an_exercise_that_there_is_not_is_told_and_raises_nothing():
    assert "there is no exercise '99.1'" in check("99.1", abs).said
    assert "takes the function itself" in check("06.1", 3).said


def test_what_was_solved_is_remembered():
    e = all_exercises()["06.3"]
    check("06.3", lambda shapes, r: 0)
    assert progress.read()["06"]["exercises"]["06.3"] == {"passed": False, "checks": 1}
    forget()
    check("06.3", e.reference)
    assert progress.read()["06"]["exercises"]["06.3"] == {"passed": True, "checks": 2}
    check("06.3", lambda shapes, r: 0)
    assert progress.read()["06"]["exercises"]["06.3"]["passed"] is True


def test_a_damaged_file_of_progress_is_set_aside_not_lost():
    progress.place().parent.mkdir(parents=True)
    progress.place().write_text("{ torn")
    assert progress.read() == {}
    (kept,) = progress.place().parent.glob("progress-damaged-*.json")
    assert kept.read_text() == "{ torn"


def test_numbers_are_compared_to_a_share_of_the_largest():
    assert same(np.array([1e6, 1.0]), np.array([1e6, 1.001]), 1e-8)
    assert not same(np.array([1e6, 1.0]), np.array([1e6, 1.1]), 1e-8)
    assert same(2, np.float64(2.0), 0) and not same(None, 0.0, 1) and not same((1, 2), (1,), 1)
    assert same({"a": [1, None]}, {"a": (1, None)}, 0) and not same("a", "b", 1)
