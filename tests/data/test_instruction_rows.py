"""Bad rows, in memory and in files: each is named with what is wrong and what is allowed."""

import json
import re

import pytest

from minilora.data.instructions import read_examples, to_examples
from minilora.data.tokenizers import CharTokenizer
from minilora.errors import DataError

CHARACTERS = CharTokenizer.from_alphabet("abcdefgh:> ")
PAIR = {"prompt": "ab>", "completion": "ba"}


def message(role="user", content="a"):
    return {"role": role, "content": content}


def said(user, assistant):
    return [message("user", user), message("assistant", assistant)]


BAD_ROWS = {
    "not an object": (3, r"a row is an object\D*3"),
    "a list": ([PAIR], r"a row is an object.*\[\{['\"]prompt"),
    "null": (None, "a row is an object.*(null|None)"),
    "no completion": ({"prompt": "a", "answer": "b"}, r"'completion' is missing .*\"answer\""),
    "no prompt": ({"completion": "a"}, "'prompt' is missing"),
    "no field": ({"word": "a"}, r"no form that is known \(the keys are \[\"word\"\]\); write"),
    "empty object": ({}, r"no form that is known \(the keys are \[\]\)"),
    "both forms": ({**PAIR, "messages": said("a", "b")}, "'messages' and 'prompt' in one row"),
    "prompt of numbers": ({**PAIR, "prompt": [1, 2]}, r"'prompt' is text, not \[1, 2\]"),
    "completion null": ({**PAIR, "completion": None}, "'completion' is text, not null"),
    "completion empty": ({**PAIR, "completion": ""}, "'completion' is empty.*nothing to learn"),
    "completion blank": ({**PAIR, "completion": " \n"}, "'completion' is blank.*nothing to learn"),
    "half a surrogate": ({**PAIR, "prompt": "a\ud83d"}, r"'prompt'.*\\ud83d, at character 1"),
    "messages a text": ({"messages": "hi"}, "'messages' is a list .*not \"hi\""),
    "messages empty": ({"messages": []}, r"'messages' is a list with at least one.*not \[\]"),
    "messages an object": ({"messages": message()}, "'messages' is a list .*not {\"role\""),
    "message a text": ({"messages": ["hi"]}, r'messages\[0\] is an object, not "hi"'),
    "no role": ({"messages": [{"content": "a"}]}, r"messages\[0\]: 'role' is one of .*, not null"),
    "no content": ({"messages": [{"role": "user"}]}, r"messages\[0\]: 'content' is text, not null"),
    "unknown role": (
        {"messages": [message("bot")]},
        r"messages\[0\]: 'role' is one of system, user, assistant, not \"bot\"",
    ),
    "content of parts": (
        {"messages": [message(content=[{"type": "text"}])]},
        r"messages\[0\]: 'content' is text, not \[\{\"type\"",
    ),
    "assistant silent": (
        {"messages": said("a", "")},
        r"messages\[1\]: 'content' is empty.*nothing to learn",
    ),
    "assistant first": (
        {"messages": [message("assistant")]},
        r"messages\[0\]: the assistant answers.*'user' message comes first",
    ),
    "no assistant": ({"messages": [message()]}, "no message has the role 'assistant'"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_in_memory_is_named_with_what_is_allowed(name):
    row, message = BAD_ROWS[name]
    with pytest.raises(DataError, match=rf"^rows\[1\]: .*{message}") as error:
        to_examples([PAIR, row], CHARACTERS, 99)
    assert len(str(error.value)) < 350 and "\n" not in str(error.value)


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_in_a_file_is_named_with_file_and_line(tmp_path, name):
    row, message = BAD_ROWS[name]
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(PAIR)}\n\n{json.dumps(row)}\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}, line 3: .*{message}"):
        read_examples(path, CHARACTERS, 99)


def test_a_row_longer_than_the_context_is_told_both_numbers(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(PAIR)}\n", encoding="utf-8")
    assert len(read_examples(path, CHARACTERS, 6)) == 1
    with pytest.raises(DataError, match=r"line 1: 6 tokens \(3 given, 3 to answer\).* has 5; sh"):
        read_examples(path, CHARACTERS, 5)


def test_a_character_that_the_base_lacks_is_named_with_its_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "ab>", "completion": "bä"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows.jsonl, line 1: .*'ä'"):
        read_examples(path, CHARACTERS, 99)


def test_a_conversation_for_a_base_without_template_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"^rows\[0\]: .*no chat template"):
        to_examples([{"messages": said("a", "b")}], CHARACTERS, 99)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is empty; it needs at least one row"),
        (b"\n  \n", "is empty; it needs at least one row"),
        (b'{"prompt": "a", "completion": "b"}\n{"prompt": "a\xff"}\n', "line 2.*UTF-8"),
        (b'{"prompt": "a", "completion": "b"}\n{"prompt": \n', "line 2.*malformed JSON"),
        (b'{"prompt": "a", "prompt": "c", "completion": "b"}\n', "line 1.*'prompt' is given twice"),
    ],
)
def test_a_damaged_file_is_named_with_the_line(tmp_path, raw, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}.*{message}"):
        read_examples(path, CHARACTERS, 99)


def test_a_file_that_is_not_there_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataError, match=re.escape(str(path))):
            read_examples(path, CHARACTERS, 99)


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="no rows to train on"):
        to_examples([], CHARACTERS, 99)
