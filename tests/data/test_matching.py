"""When two texts count as the same: what is taken away, and what must not be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilora.data.matching import digest, normalized, words, words_and_signs


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("What's the capital of France?", "what's  the capital\nof france"),
        ("Yes.", "yes"),
        ("“Quoted” (really)", "quoted really"),
        ("ＡＢＣ", "abc"),
        ("straße", "STRASSE"),
        ("你好。", "你好"),
        ("e\u0301", "é"),
    ],
)
def test_the_same_but_for_case_spaces_and_punctuation(text, same):
    assert normalized(text) == normalized(same)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("C", "C#"),
        ("3.5", "35"),
        ("3.5", "3,5"),
        ("5-3", "5+3"),
        ("10:30", "1030"),
        (".5", "5"),
        ("a != b", "a = b"),
        ("ab", "a b"),
        ("!", "?"),
        ("des:gacb=", "des:gabc="),
    ],
)
def test_what_a_mark_decides_stays_apart(text, other):
    assert normalized(text) != normalized(other)


@given(st.text(max_size=30))
def test_normalizing_twice_changes_nothing_and_nothing_is_lost_altogether(text):
    once = normalized(text)
    assert normalized(once) == once
    assert bool(once) == bool(text.split())


def test_words_of_scripts_with_and_without_spaces():
    assert words("don't 2 stop, us3") == ["don", "t", "2", "stop", "us3"]
    assert words("学习LoRA吧") == ["学", "习", "LoRA", "吧"]


@pytest.mark.parametrize(
    "texts",
    [
        ("in C", "in C#", "in C++"),
        ("12 7", "12 + 7", "12 - 7", "12 * 7", "12 / 7", "12 × 7", "12 − 7", "12 ÷ 7"),
        ("5 times", "-5 times", "$5 times", "5% times", ".5 times"),
        ("a b", "a = b", "a != b", "a == b", "a < b", "a > b", "a <= b", "a & b", "a | b"),
        ("35", "3.5", "3,5", "3:5", "3 5"),
        ("fine", "fine 👍", "fine 👎"),
    ],
)
def test_signs_tell_texts_apart(texts):
    assert len({tuple(words_and_signs(text)) for text in texts}) == len(texts)
    assert len({normalized(text) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    "text",
    [
        'Go, "now" (please)!',
        "Go — now… please?",
        "“Go”; ‘now’: please。",
        "Go\u200b now\xad please",
    ],
)
def test_marks_of_sentences_and_what_is_not_seen_are_no_signs(text):
    assert [word.lower() for word in words_and_signs(text)] == ["go", "now", "please"]


def test_a_digest_keeps_texts_apart_and_takes_any_text():
    made = {
        digest(),
        digest(""),
        digest("", ""),
        digest("ab", "c"),
        digest("a", "bc"),
        digest("abc"),
    }
    assert len(made) == 6
    assert all(len(each) == 16 for each in made)
    assert len(digest("\ud800")) == 16
