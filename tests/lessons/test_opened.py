"""A lesson under way: guesses, results, quizzes, figures; nothing stops it."""

import pytest

from minilora.errors import ConfigError
from minilora.lessons import open_lesson, progress


@pytest.fixture
def lesson():
    return open_lesson("06")


def test_no_guess_stops_nothing(lesson, capsys):
    lesson.predict("zero")
    lesson.came_out("zero", "dA")
    said = capsys.readouterr().out
    assert "no guess yet" in said and "you said: nothing; it came out: dA" in said
    assert lesson.content.prediction("zero").tempting.en in said
    assert progress.read() == {}


def test_guess_and_result_stand_side_by_side(lesson, capsys):
    lesson.predict("saved", 99)
    lesson.came_out("saved", 32.94)
    assert "you said: 99 %; it came out: 32.9 %" in capsys.readouterr().out
    assert progress.read()["06"]["predictions"]["saved"] == {"guess": 99, "result": "32.9"}


@pytest.mark.parametrize(
    ("key", "guess", "says"),
    [("saved", 101, "from 0 to 100"), ("saved", "most", "from 0 to 100"), ("zero", "dC", "one of")],
)
def test_what_is_no_guess_is_told(lesson, capsys, key, guess, says):
    lesson.predict(key, guess)
    assert says in capsys.readouterr().out
    assert progress.read() == {}


def test_a_guess_that_is_not_asked_for_is_an_error_of_the_lesson(lesson):
    with pytest.raises(ConfigError, match="asks for zero, saved"):
        lesson.predict("other", 1)


def test_a_quiz_tells_why(lesson, capsys):
    right = "".join(q.letter for q in lesson.content.quiz)
    lesson.quiz(right)
    assert capsys.readouterr().out.count(": right.") == len(right)
    assert progress.read()["06"]["quiz"]["best"] == {"right": 3, "asked": 3}
    lesson.quiz("a")
    said = capsys.readouterr().out
    assert lesson.content.quiz[0].options[0].why.en in said and "'-' is none of abc" in said
    lesson.quiz()
    assert "3 letters" in capsys.readouterr().out


def test_in_chinese(lesson, capsys):
    lesson.language("zh")
    lesson.predict("saved", 50)
    lesson.came_out("saved", 33.0)
    assert "你猜：50 %；结果：33 %" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="en, zh"):
        lesson.language("de")


def test_few_steps_where_one_only_looks_whether_it_runs(lesson, monkeypatch):
    assert lesson.live(150) == 150
    monkeypatch.setenv("MINILORA_LIVE_STEPS", "3")
    assert lesson.live(150) == 3


def test_fewer_steps_in_a_browser(lesson, monkeypatch, capsys):
    monkeypatch.setattr("minilora.lessons.opened.in_browser", lambda: True)
    assert lesson.live(150) == 10
    assert "10 steps in the place of 150" in capsys.readouterr().out


def test_missing_rows_are_named_with_the_command_that_makes_them(lesson):
    with pytest.raises(ConfigError, match="minilora experiment nothing"):
        lesson.rows("nothing")


def test_a_figure_comes_with_words_and_numbers(lesson, monkeypatch):
    shown = []
    monkeypatch.setattr("minilora.lessons.showing._display_image", lambda *a: shown.append(a))
    monkeypatch.setattr("minilora.lessons.showing._display_html", lambda *a: shown.append(a))

    def draw(rows, path):
        path.write_bytes(b"png")
        path.with_suffix(".txt").write_text("a line rises")

    lesson.figure(draw, [1], table=[["x", "y"], [1, 2.5]])
    (picture, alt), (folds, _) = shown
    assert (picture, alt) == (b"png", "a line rises")
    assert "a line rises" in folds and "<td>2.5</td>" in folds and "<th>x</th>" in folds


def test_without_widgets_a_few_settings_are_shown(lesson):
    seen = []
    lesson.explore(lambda rank: seen.append(rank), [{"rank": 1}, {"rank": 8}], rank=(1, 64))
    assert seen == [1, 8]
