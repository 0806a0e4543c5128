"""Five forms in which people write rows, and what each of them says."""

import pytest

from minilora.data.rows import as_row, parts
from minilora.errors import DataError

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


@pytest.mark.parametrize(
    ("record", "row", "said"),
    [
        (
            {"prompt": "a", "completion": "b", "id": 3},
            {"prompt": "a", "completion": "b", "id": 3},
            ("", "a", "b"),
        ),
        ({"text": "once", "url": "u"}, {"prompt": "", "completion": "once", "url": "u"}, None),
        ({"messages": CHAT}, {"messages": CHAT}, ("", "hi", "ho")),
        (
            {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
            {"messages": CHAT},
            ("", "hi", "ho"),
        ),
        (
            {"instruction": "add", "input": "1 2", "output": "3"},
            {"instruction": "add", "input": "1 2", "output": "3"},
            ("", "add\n1 2", "3"),
        ),
        (
            {"instruction": "add", "input": None, "output": "3", "text": "add 3"},
            {"instruction": "add", "output": "3", "text": "add 3"},
            ("", "add", "3"),
        ),
    ],
)
def test_each_form_becomes_one_that_training_takes(record, row, said):
    before = dict(record)
    assert as_row(record) == row
    assert record == before
    assert as_row(row) == row
    if said:
        whole = parts(row)
        assert (whole.before, whole.question, whole.answer) == said


def test_a_conversation_has_what_came_before_and_all_that_came_after():
    turns = [
        {"role": "system", "content": "be brief"},
        *CHAT,
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "no"},
    ]
    whole = parts({"messages": turns})
    assert (whole.before, whole.question, whole.answer) == ("be brief", "hi", "ho\nand?\nno")
    assert parts({"messages": turns[:2]}).answer == ""
    assert parts({"messages": [*turns[:2], {"role": "assistant", "content": " "}]}).answer == ""


def test_the_key_of_a_text_that_asks_nothing_is_the_text():
    assert parts(as_row({"text": "once"})).key == "once"
    assert parts(as_row({"prompt": "q", "completion": "a"})).key == "q"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1], r"a row is an object, not \[1\]; write"),
        ({}, r"no form that is known \(the keys are \[\]\).*minilora data build"),
        ({"question": "a"}, 'no form that is known .*"question"'),
        ({"prompt": "a"}, "'completion' is missing"),
        ({"completion": "a"}, "'prompt' is missing"),
        ({"instruction": "a"}, "'output' is missing"),
        ({"prompt": "a", "completion": 3}, "'completion' is text, not the number 3.*quotes: '3'"),
        ({"prompt": "a", "completion": True}, "'completion' is text, not true"),
        ({"prompt": ["a"], "completion": "b"}, r"'prompt' is text, not \[\"a\"\]"),
        ({"text": None}, "'text' is text, not null"),
        ({"prompt": "a", "messages": CHAT}, "'messages' and 'prompt' in one row"),
        ({"messages": "hi"}, "'messages' is a list with at least one message, not \"hi\""),
        ({"messages": []}, "at least one message"),
        ({"messages": ["hi"]}, r"messages\[0\] is an object"),
        ({"messages": [{"role": "bot", "content": ""}]}, r"messages\[0\]: 'role' is one of system"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\]: 'content' is text, not null"),
        ({"messages": [{"role": ["user"], "content": ""}]}, r"'role' is one of"),
        ({"conversations": [{"from": "me", "value": "a"}]}, r"conversations\[0\]: 'from' is one"),
    ],
)
def test_what_is_no_row_is_told_with_what_would_be(record, message):
    with pytest.raises(DataError, match=message) as error:
        as_row(record)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 350
