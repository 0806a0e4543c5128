"""Cleaning: each reason on rows that have it, sums that add up, twice is once, order kept."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.data.cleaning import REASONS, REPEATED_WORDS, clean
from minilora.errors import ConfigError, DataError

LONG = "the quick brown fox jumps over the lazy dog and runs away into the dark woods before night"


@pytest.fixture(autouse=True, scope="module")
def _datasketch():
    pytest.importorskip("datasketch")


def qa(question, answer="yes"):
    return {"prompt": question, "completion": answer}


def reasons(rows, test=(), **rules):
    """(index, reason, index of the row it collides with) of each dropped row."""
    return [
        (d.where.number, d.reason, d.collides.number if d.collides else None)
        for d in clean(rows, test, **rules).dropped
    ]


@pytest.mark.parametrize(
    ("row", "reason", "why"),
    [
        ({"question": "a"}, "broken", "no form that is known"),
        (qa("a", ""), "empty", "there is no answer"),
        (qa("a", " \n"), "empty", "the answer is blank"),
        ({"messages": [{"role": "user", "content": "a"}]}, "empty", "there is no answer"),
        (qa("a\x00b"), "control", r"U\+0000 at character 2 of the question"),
        (qa("a", "b\ufffd"), "control", r"U\+FFFD at character 2 of the answer.*wrong encoding"),
        (qa("a", "\ud83d"), "control", r"U\+D83D at character 1 of the answer"),
        (qa(f"Say: {LONG}.", LONG.upper()), "repeated", "all 18 words of the answer"),
    ],
)
def test_a_row_that_is_wrong_by_itself(row, reason, why):
    good = [qa("first"), qa("second")]
    cleaned = clean([good[0], row, good[1]])
    assert cleaned.kept == good
    (dropped,) = cleaned.dropped
    assert (dropped.reason, str(dropped.where)) == (reason, "rows[1]")
    assert re.search(why, dropped.why)
    assert dropped.row == row
    if reason != "broken":
        assert len(clean([*good, row], keep=(reason,)).kept) == 3


def test_tabs_and_line_ends_are_typed_by_people():
    assert reasons([qa("a\tb\r\nc", "d\n")]) == []


def test_a_short_answer_may_stand_in_its_question():
    words = LONG.split()
    assert reasons([qa(f"x {' '.join(words[: REPEATED_WORDS - 1])} y", " ".join(words[:7]))]) == []
    assert reasons([qa("cpy:abcd=", "abcd"), qa("Is it yes or no?", "no")]) == []


def test_the_first_of_the_same_stays():
    rows = [qa("What is it?"), qa("what  is it", "Yes."), qa("What is it?"), qa("What's it?")]
    assert reasons(rows) == [(1, "duplicate", 0), (2, "duplicate", 0)]
    assert reasons(rows, match="exact", near=None) == [(1, "conflict", 0), (2, "duplicate", 0)][1:]
    assert reasons(rows, keep=("duplicate",)) == []


def test_another_answer_to_the_same_question_is_a_conflict():
    rows = [qa("Is it?", "yes"), qa("is it", "no"), qa("Is it?", "no"), qa("Is it?", "YES")]
    assert reasons(rows) == [(1, "conflict", 0), (2, "conflict", 0), (3, "duplicate", 0)]
    assert reasons(rows, keep=("conflict",)) == [(2, "duplicate", 1), (3, "duplicate", 0)]


def test_another_system_message_makes_another_question():
    def chat(system, answer):
        said = (("system", system), ("user", "Who are you?"), ("assistant", answer))
        return {"messages": [{"role": role, "content": text} for role, text in said]}

    rows = [chat("You are Ann.", "Ann"), chat("You are Bob.", "Bob"), chat("You are Ann.", "Bob")]
    assert reasons(rows) == [(2, "conflict", 0)]


def test_texts_that_ask_nothing_are_in_no_conflict():
    assert reasons([{"text": "one"}, {"text": "two"}, {"text": "One."}]) == [(2, "duplicate", 0)]


def test_a_word_more_is_nearly_the_same():
    rows = [{"text": LONG}, {"text": f"{LONG} falls"}, qa(f"Go on: {LONG}", "fine")]
    assert reasons(rows) == [(1, "near", 0)]
    for rules in ({"near": 1.0}, {"near": None}, {"keep": ("near",)}):
        assert reasons(rows, **rules) == []
    assert reasons(rows, shingle="characters", size=3) == [(1, "near", 0)]


def test_near_questions_with_other_answers_are_not_near():
    rows = [qa(f"{LONG} at {i}?", f"{i} o'clock") for i in range(5)]
    assert reasons(rows) == []


def test_another_sign_makes_another_question():
    rows = [
        qa("Is 12 + 7 greater than 10? Say yes or no."),
        qa("Is 12 * 7 greater than 10? Say yes or no."),
        qa("Name one thing people write in C these days.", "firmware"),
        qa("Name one thing people write in C# these days.", "firmware"),
        qa("-5 times 3", "-15"),
        qa("5 times 3", "15"),
    ]
    test = [qa("Is 12 - 7 greater than 10? Say yes or no.")]
    assert reasons(rows, test) == []
    assert reasons([*rows, qa("so, is 12 + 7 greater than 10... say yes or no")]) == [
        (6, "near", 0)
    ]


@pytest.mark.parametrize("answer", ["yes", "no"])
def test_a_question_of_the_test_is_leaked_whatever_is_answered(answer):
    test = [qa("other"), qa("What is it?", "yes"), {"text": LONG}]
    rows = [qa("what is it", answer), qa("What was it?"), {"text": LONG + " falls"}]
    assert reasons(rows, test) == [(0, "leaked", 1), (2, "leaked", 2)]
    assert reasons(rows, test, near=None) == [(0, "leaked", 1)]
    assert reasons(rows, test, keep=("leaked",)) == []
    assert reasons([qa("what is it", answer)], test, match="exact", near=None) == []
    (dropped, _) = clean(rows, test).dropped
    assert str(dropped.collides) == "test[1]"


def test_a_broken_test_row_is_an_error_since_its_question_could_be_trained_on():
    with pytest.raises(DataError, match="'completion' is missing"):
        clean([qa("a")], [{"prompt": "a"}])


def test_limits_of_characters_and_words():
    rows = [qa("one two", "three"), qa("one two", "three four")]
    rows[1]["prompt"] += " five"
    assert reasons(rows, max_words=3) == [(1, "long", None)]
    assert reasons(rows, max_characters=12) == [(1, "long", None)]
    assert clean(rows, max_words=3).dropped[0].why == "5 words, at most 3"


def test_limits_of_tokens_and_rows_that_a_base_cannot_take():
    def count(row):
        if "é" in row["prompt"]:
            raise DataError("no é here")
        return len(row["prompt"])

    rows = [qa("ab"), qa("abc"), qa("é")]
    cleaned = clean(rows, count_tokens=count, max_tokens=2)
    assert [(d.reason, d.why) for d in cleaned.dropped] == [
        ("long", "3 tokens, at most 2"),
        ("broken", "no é here"),
    ]


def test_a_report_counts_tells_and_has_its_remark():
    cleaned = clean([{"text": f"{LONG} {i}"} for i in range(9)])
    report = cleaned.report
    assert (report.rows, report.kept, report.found, report.dropped["near"]) == (9, 1, 8, 8)
    assert report.lines()[0] == "rows: 9 rows = 1 good + 8 not"
    assert report.lines()[1] == f"  8 near: {REASONS['near']}"
    assert "it is the template that is alike" in report.lines()[-1]
    assert len(report.examples["near"]) == 3
    assert report.as_json()["dropped"]["near"] == 8


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"keep": ("ugly",)}, "'ugly' is no reason that can be kept; there are empty, control"),
        ({"keep": ("broken",)}, "'broken' is no reason that can be kept"),
        ({"match": "same"}, "match 'same' must be normalized or exact"),
        ({"near": 0.2}, "threshold 0.2 must be from 0.5 to 1"),
        ({"shingle": "lines"}, "shingle 'lines'"),
    ],
)
def test_rules_outside_of_what_is_allowed(rules, message):
    with pytest.raises(ConfigError, match=message):
        clean([], **rules)


words = st.sampled_from(["a", "A", "b.", "c", " ", "\x00", *LONG.split()[:9]])
texts = st.one_of(
    st.lists(words, max_size=3).map(" ".join),
    st.tuples(st.just(LONG), st.lists(words, max_size=2).map(" ".join)).map(" ".join),
)
rows_of = st.lists(
    st.one_of(
        st.builds(qa, texts, texts),
        st.builds(lambda text: {"text": text}, texts),
        st.builds(lambda i, o: {"instruction": i, "output": o}, texts, texts),
        st.just({"what": 1}),
    ),
    max_size=12,
)
rules_of = st.fixed_dictionaries(
    {},
    optional={
        "near": st.sampled_from([None, 0.5, 0.8, 1.0]),
        "match": st.sampled_from(["exact", "normalized"]),
        "keep": st.sets(st.sampled_from([r for r in REASONS if r != "broken"])).map(tuple),
        "max_words": st.integers(1, 20),
    },
)


@settings(max_examples=150, deadline=None)
@given(rows_of, rows_of.map(lambda rows: [r for r in rows if "what" not in r]), rules_of)
def test_sums_add_up_order_is_kept_and_cleaning_twice_changes_nothing(rows, test, rules):
    cleaned = clean(rows, test, **rules)
    report = cleaned.report
    assert report.rows == len(rows) == len(cleaned.kept) + len(cleaned.dropped)
    assert report.rows == report.kept + sum(report.dropped.values())
    gone = {d.where.number for d in cleaned.dropped}
    assert len(gone) == len(cleaned.dropped)
    stayed = [row for i, row in enumerate(rows) if i not in gone]
    assert [row.get("completion", row.get("output")) for row in cleaned.kept] == [
        row.get("completion", row.get("output", row.get("text"))) for row in stayed
    ]
    for d in cleaned.dropped:
        if d.collides and d.reason != "leaked":
            assert d.collides.number not in gone
            assert d.collides.number < d.where.number
    again = clean(cleaned.kept, test, **rules)
    assert again.kept == cleaned.kept
    assert again.dropped == []


def test_cleaning_twice_changes_nothing_where_buckets_are_full():
    rng = random.Random(0)
    rows = [
        {"text": f"{LONG} {LONG[::-1]} " + " ".join(rng.choices("abcdefgh", k=rng.randint(0, 5)))}
        for _ in range(400)
    ]
    once = clean(rows, near=0.95)
    assert 16 < len(once.kept) < 400
    assert clean(once.kept, near=0.95).kept == once.kept
