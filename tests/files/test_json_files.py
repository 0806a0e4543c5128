"""JSON and JSON Lines: what is wrong is said with file and line."""

import os

import numpy as np
import pytest

from minilora.errors import FormatError
from minilora.files import json_files
from minilora.files.json_files import append_json_line, read_json, read_json_lines, write_json


def test_round_trip_with_numpy_and_text_as_it_is(tmp_path):
    path = tmp_path / "rows.json"
    write_json(path, {"é": np.float32(0.5), "n": np.int64(3), "a": np.arange(3), "p": path})
    assert read_json(path) == {"é": 0.5, "n": 3, "a": [0, 1, 2], "p": str(path)}
    assert "é" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "line 1"),
        (b'{"a": 1,\n "b": }', "line 2"),
        (b'{"a": 1', "line 1"),
        (b'{"a": 1,\n "c": "\xff"}', "line 2, byte 8: broken UTF-8"),
        (b'{"a": 1, "a": 2}', "'a' is given twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 1e400}', "line 1: malformed JSON: the number 1e400 is too large"),
        (b'{"a": -1' + b"0" * 999 + b".5}", "the number -1000000000000000… is too large"),
        (b"[1, 2]", "should hold an object"),
        (b'{"a":' * 100_000, "too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "malformed"),
    ],
)
def test_damaged_json_names_file_and_line(tmp_path, raw, said):
    path = tmp_path / "bad.json"
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=said) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400


def test_missing_and_absurdly_large_files(tmp_path):
    with pytest.raises(FormatError, match="No such file"):
        read_json(tmp_path / "missing.json")
    with pytest.raises(FormatError, match="cannot be read"):
        read_json(tmp_path)
    with open(tmp_path / "large.json", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(FormatError, match="too many"):
        read_json(tmp_path / "large.json")


def test_what_json_cannot_say_is_refused_and_nothing_written(tmp_path):
    for value in ({"a": float("nan")}, {"a": object()}):
        with pytest.raises(FormatError, match="as JSON"):
            write_json(tmp_path / "file.json", value)
        with pytest.raises(FormatError, match="as JSON"):
            append_json_line(tmp_path / "file.jsonl", value)
    assert os.listdir(tmp_path) == []


def test_lines_come_with_their_numbers(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": "\xc3\xa9"}')
    assert list(read_json_lines(path)) == [(1, {"a": 1}), (4, {"a": "é"})]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"a": 1}\n{"a": 2\n', "line 2, column"),
        (b'{"a": 1}\n\n{"a": "\xe9"}\n', "line 3, byte 8: broken UTF-8"),
        (b'{"a": 1}\n{"a": 1, "a": 1}', "line 2"),
        (b"{'a': 1}", "line 1"),
    ],
)
def test_a_bad_line_is_named(tmp_path, raw, said):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=said):
        list(read_json_lines(path))


def test_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "LONGEST_LINE", 100)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"1\n" + b" " * 1000)
    with pytest.raises(FormatError, match="line 2"):
        list(read_json_lines(path))
    with pytest.raises(FormatError, match="No such file"):
        list(read_json_lines(tmp_path / "missing.jsonl"))


def test_appending_line_by_line(tmp_path):
    path = tmp_path / "log.jsonl"
    for step in range(3):
        append_json_line(path, {"step": step, "loss": np.float32(0.25)})
    assert [row["step"] for _, row in read_json_lines(path)] == [0, 1, 2]
