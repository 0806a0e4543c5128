"""The checkers are checked: right answers pass, each known mistake gets its own hint."""

import pytest

from minilora.lessons import check
from minilora.lessons.checking import forget, function_of
from minilora.lessons.content import all_exercises
from minilora.lessons.language import language

EXERCISES = all_exercises()
exercises = pytest.mark.parametrize("e", EXERCISES.values(), ids=list(EXERCISES))
MISTAKES = [(e, i) for e in EXERCISES.values() for i in range(len(e.wrong))]


@exercises
def test_a_stub_is_not_written_yet_and_counts_as_no_attempt(e):
    for _ in range(4):
        verdict = check(e.number, function_of(e, e.stub))
        assert not verdict.passed and not verdict.written
        assert "not written yet" in verdict.said


@exercises
def test_the_solution_and_one_written_otherwise_are_right(e):
    for code in (e.solution, e.another):
        assert check(e.number, function_of(e, code)).said == f"{e.number}: right."
    assert e.solution.strip() != e.another.strip()


@pytest.mark.parametrize(("e", "i"), MISTAKES, ids=[f"{e.number}-{i}" for e, i in MISTAKES])
def test_a_known_mistake_gets_its_own_hint(e, i):
    verdict = check(e.number, function_of(e, e.wrong[i].code))
    assert not verdict.passed
    assert verdict.wrong == i
    assert e.wrong[i].hint.en in verdict.said
    assert e.pointer.en not in verdict.said


@exercises
def test_first_a_question_then_where_to_look_then_the_solution(e):
    wrong = function_of(e, e.wrong[0].code)
    first, second, third = (check(e.number, wrong).said for _ in range(3))
    hint, solution = e.wrong[0].hint.en, e.solution.strip()
    assert hint in first and e.pointer.en not in first and solution not in first
    assert hint in second and e.pointer.en in second and solution not in second
    assert solution in third
    assert check(e.number, function_of(e, e.solution)).passed
    assert solution not in check(e.number, wrong).said  # and from the beginning again


@exercises
def test_hints_are_there_in_chinese(e):
    language("zh")
    for i, wrong in enumerate(e.wrong):
        forget()
        assert wrong.hint.zh in check(e.number, function_of(e, wrong.code)).said, i


@exercises
def test_what_stands_in_a_cell_stops_nothing(e):
    def fails(*arguments):
        raise RuntimeError("out of tea")

    for answer in (fails, lambda *a: None, lambda *a: "text", lambda: 1, 3, None, object()):
        forget()
        assert not check(e.number, answer).passed


@exercises
def test_it_is_small_enough_for_a_reader(e):
    lines = e.solution.strip().splitlines()
    assert len(lines) <= 13 and max(map(len, lines)) <= 100, "the def, and at most 12 lines"
    assert 1 <= e.difficulty <= 3 and e.wrong
    assert "return ..." in e.stub
    assert e.stub.strip().splitlines()[0] == e.solution.strip().splitlines()[0]
    names = e.number.split(".")
    assert len(names) == 2 and len(names[0]) == 2 and names[1].isdecimal()
