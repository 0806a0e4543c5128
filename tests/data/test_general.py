"""The general text: two halves that share nothing, cut into windows that do not overlap."""

import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilora.data.general import general_text, general_windows
from minilora.data.tokenizers import CharTokenizer
from minilora.errors import ConfigError, DataError

CHARACTERS = CharTokenizer.from_alphabet("".join(sorted(set(general_text()))))


@dataclass
class WithStart:
    """Characters behind a start token, as the texts of many bases begin."""

    start_ids: tuple[int, ...] = (7, 8)

    def encode(self, text, *, start=False):
        return [*self.start_ids, *CHARACTERS.encode(text)] if start else CHARACTERS.encode(text)


def sentences(text):
    return {s.strip() for s in re.split(r"[.?!\n]+", text) if len(s.strip()) > 12}


def test_the_text_is_long_enough_and_plain():
    text = general_text()
    assert 12_000 < len(text) < 20_000
    assert text.isascii() and text == text.strip()


def test_the_halves_make_up_the_whole_and_share_no_sentence():
    replay, test = sentences(general_text("replay")), sentences(general_text("test"))
    assert replay | test == sentences(general_text())
    assert not replay & test


def test_the_halves_are_of_the_same_length_and_kinds():
    replay, test = general_text("replay"), general_text("test")
    assert abs(len(replay) - len(test)) < 0.05 * len(replay)
    for sign in ("How to", "Dear", "Why ", "Question:", "Problem:"):
        assert sign in replay and sign in test
    assert replay.count("\n\n\n") == test.count("\n\n\n")


@given(st.integers(2, 2000), st.sampled_from(["all", "replay", "test"]))
def test_windows_are_the_text_without_its_tail(length, part):
    windows = general_windows(CHARACTERS, length, part)
    whole = CHARACTERS.encode(general_text(part))
    assert all(len(window) == length for window in windows)
    joined = [token for window in windows for token in window]
    assert joined == whole[: len(joined)]
    assert 0 <= len(whole) - len(joined) < length


@given(st.integers(4, 500))
def test_every_window_begins_as_the_texts_of_the_base_do(length):
    windows = general_windows(WithStart(), length, "test")
    assert all(window[:2] == [7, 8] and len(window) == length for window in windows)
    joined = [token for window in windows for token in window[2:]]
    assert joined == CHARACTERS.encode(general_text("test"))[: len(joined)]


@pytest.mark.parametrize("length", [1, 0, -5, 2.0, True, "256"])
def test_a_window_that_leaves_nothing_to_predict_is_refused(length):
    with pytest.raises(ConfigError, match=f"2 tokens or more, not {length!r}"):
        general_windows(CHARACTERS, length)


def test_a_window_longer_than_the_text_is_refused():
    with pytest.raises(DataError, match=r"\(replay\) has \d+ tokens, so no window of 99999"):
        general_windows(CHARACTERS, 99_999, "replay")


def test_a_base_that_lacks_the_characters_says_which():
    with pytest.raises(DataError, match="'T'"):
        general_windows(CharTokenizer.from_alphabet("abc"), 16)


def test_an_unknown_part_is_refused():
    with pytest.raises(ConfigError, match="all, replay, test, not 'half'"):
        general_text("half")
