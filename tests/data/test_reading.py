"""Rows from files: where each stands, what is wrong with damaged ones, in bounded memory."""

import json
import re
import tracemalloc

import pytest

from minilora.data import lines
from minilora.data.lines import LONGEST_LINE
from minilora.data.reading import (
    LONGEST_KEPT,
    BrokenRowError,
    Troubles,
    found_records,
    found_rows,
    read_records,
    read_rows,
)
from minilora.errors import DataError, FormatError

PAIR = {"prompt": "a", "completion": "b"}


@pytest.fixture
def file(tmp_path):
    """file("rows.jsonl", text or bytes): its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def found(path, format=None, how=found_rows):
    """{number: row, or the message after the place}."""
    return {
        where.number: str(each) if isinstance(each, DataError) else each
        for where, each in how(path, format)
    }


def test_json_lines_with_blank_lines_between(file):
    path = file("rows.jsonl", f"{json.dumps(PAIR)}\n\n  \n{json.dumps({'text': 'é'})}")
    assert found(path) == {1: PAIR, 4: {"prompt": "", "completion": "é"}}
    assert [str(where) for where, _ in read_rows(path)] == [f"{path}, line 1", f"{path}, line 4"]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.ndjson"])
def test_an_array_and_lines_are_told_apart_by_looking(file, name):
    assert list(found(file(name, json.dumps([PAIR, PAIR], indent=1)))) == [1, 2]
    assert list(found(file(name, f"{json.dumps(PAIR)}\n" * 3))) == [1, 2, 3]
    assert str(next(read_rows(file(name, json.dumps([PAIR]))))[0]).endswith(f"{name}, item 1")


def test_text_is_a_row_a_paragraph(file):
    path = file("a.txt", "\n\none\ntwo\n \nthree\n")
    rows = found(path)
    assert rows == {
        3: {"prompt": "", "completion": "one\ntwo"},
        6: {"prompt": "", "completion": "three"},
    }


@pytest.mark.parametrize(
    "content", ['{"prompt": "a", "completion": "b"}\n', "prompt,completion\na,b\n", "[{}]"]
)
def test_a_byte_order_mark_is_passed_over(file, content):
    name = "rows.csv" if "," in content[:8] else "rows.jsonl"
    marked, plain = file("m" + name, b"\xef\xbb\xbf" + content.encode()), file(name, content)
    assert list(found(marked, how=found_records).values()) == list(
        found(plain, how=found_records).values()
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": 1, "prompt": "caf\xe9"}', r"byte 25, in 'prompt': 0xe9 .*is 'é'.*iconv"),
        (b'{"prompt": "a", "prompt": "b"}', "the key 'prompt' is given twice"),
        (b'{"prompt": NaN}', "NaN is not a number that JSON has"),
        (b'{"prompt": "a", "completion": "b", "n": [-1e400]}', "number -1e400 is too large"),
        (b'{"prompt": "a", }', "column 17: malformed JSON"),
        (b"[1, 2]", r"a row is an object \{…\}, not '\[1, 2\]'"),
        (b'{"prompt": "a", "completion": 3}', "'completion' is text, not the number 3"),
        (b'{"prompt": "a", "completion": "b"', "malformed JSON"),
        (b'{"prompt": "a\x00", "completion": "b"}', "Invalid control character"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_line_is_told_and_the_others_are_read(file, line, message):
    good = json.dumps(PAIR).encode()
    path = file("rows.jsonl", b"\n".join([good, line, good, b""]))
    rows = found(path)
    assert rows.pop(2).startswith(f"{path}, line 2")
    assert re.search(message, found(path)[2])
    assert rows == {1: PAIR, 3: PAIR}
    with pytest.raises(DataError, match=rf"line 2.*{message}"):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("name", "content", "record"),
    [
        ("a.jsonl", '{"prompt": "n", "completion": 5}', {"prompt": "n", "completion": 5}),
        ("a.jsonl", '{"prompt": "n", }\r\n', '{"prompt": "n", }'),
        ("a.jsonl", b'{"prompt": "\xe9"}\n', '{"prompt": "\ufffd"}'),
        ("a.jsonl", "3\n", 3),
        ("a.jsonl", '{"x": "' + "é" * 9000, '{"x": "' + "é" * (LONGEST_KEPT - 8) + "…"),
        ("a.json", '[{"prompt": "n"}]', {"prompt": "n"}),
        ("a.json", "[3]", 3),
        ("a.csv", "prompt,completion\na,b,c\n", ["a", "b", "c"]),
        ("a.csv", "question\na\n", {"question": "a"}),
        ("a.txt", b"a\nb\xff", "a\nb\ufffd"),
    ],
)
def test_what_stands_in_a_broken_row_is_kept(file, name, content, record):
    ((_, broken),) = found_rows(file(name, content))
    assert isinstance(broken, BrokenRowError)
    assert broken.record == record


def test_a_file_that_was_cut_off_is_told_to_be(file):
    path = file("rows.jsonl", json.dumps(PAIR) + '\n{"prompt": "a", "comple')
    assert "the file ends here, is it whole?" in found(path)[2]
    path = file("rows.json", f"[{json.dumps(PAIR)}, ")
    with pytest.raises(DataError, match=r"line 1.*nothing is read"):
        list(read_rows(path))


def test_troubles_are_counted_and_the_first_told(file):
    path = file("rows.jsonl", "{}\n" * 30 + json.dumps(PAIR))
    troubles = Troubles(limit=3)
    assert [row for _, row in read_rows(path, troubles=troubles)] == [PAIR]
    assert troubles.count == 30
    assert [where.number for where, _ in troubles.first] == [1, 2, 3]
    assert all("no form that is known" in words for _, words in troubles.first)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a.json"])
def test_what_is_not_there_or_empty_or_of_another_encoding_is_said(file, tmp_path, name):
    with pytest.raises(FormatError, match=r"none\..*No such file"):
        list(read_rows(tmp_path / f"none{name[1:]}"))
    with pytest.raises(DataError, match="is empty; it needs at least one row"):
        list(read_rows(file(name, "")))
    with pytest.raises(DataError, match=r"this is UTF-16.*iconv -f UTF-16"):
        list(read_rows(file(name, "[1] a".encode("utf-16"))))


def test_how_it_is_to_be_read_can_be_told_and_must_be_known(file):
    path = file("rows.data", json.dumps(PAIR))
    with pytest.raises(DataError, match=r"not seen from the name.*\.jsonl.*--format"):
        list(read_rows(path))
    assert found(path, "jsonl") == {1: PAIR}
    with pytest.raises(DataError, match="the format 'xml' must be one of jsonl"):
        list(read_rows(path, "xml"))


def test_broken_text_in_a_paragraph_has_its_own_line(file):
    rows = found(file("a.txt", b"one\n\ntwo\nth\xffree\n\nfour"))
    assert "line 4, byte 3: 0xff is no UTF-8" in rows[3]
    assert rows[6]["completion"] == "four"


def test_a_line_of_100_mb_is_refused_in_bounded_memory(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = json.dumps(PAIR).encode()
    with open(path, "wb") as out:
        out.write(good + b"\n")
        out.seek(100 * 10**6)  # a hole, which reads as zeros
        out.write(b"\n" + good + b"\n")
    tracemalloc.start()
    rows = found(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (rows[1], rows[3]) == (PAIR, PAIR)
    assert f"line 2: longer than {LONGEST_LINE:,} bytes" in rows[2]
    assert peak < 3 * LONGEST_LINE
    for name in ("a.csv", "a.txt"):
        path = path.rename(tmp_path / name)
        tracemalloc.start()
        with pytest.raises(DataError, match="longer than"):
            list(read_records(path))
        assert tracemalloc.get_traced_memory()[1] < 3 * LONGEST_LINE
        tracemalloc.stop()


def test_a_paragraph_without_end_is_refused_in_bounded_memory(tmp_path):
    path = tmp_path / "a.txt"
    with open(path, "wb") as out:
        for _ in range(25):  # the rest is short enough for a row, but no paragraph
            out.write(b"x" * 10**6 + b"\n")
        out.write(b"\nthe next\n")
    tracemalloc.start()
    rows = found(path)
    assert tracemalloc.get_traced_memory()[1] < 3 * LONGEST_LINE
    tracemalloc.stop()
    assert "line 1: a paragraph of more than" in rows.pop(1)
    assert rows == {27: {"prompt": "", "completion": "the next"}}


def test_of_a_paragraph_with_a_line_that_is_too_long_nothing_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST_LINE", 100)
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n\nbefore\n" + b"x" * 200 + b"\nafter\n" + b"y" * 200 + b"\n\ntwo\n")
    rows = found(path)
    assert "line 4: longer than 100 bytes" in rows.pop(4)
    assert [row["completion"] for row in rows.values()] == ["one", "two"]


@pytest.mark.parametrize("name", ["big.jsonl", "big.csv", "big.txt"])
def test_of_a_large_file_one_row_is_in_memory(tmp_path, name):
    path, n = tmp_path / name, 4000
    text = "word " * 1000
    with open(path, "w") as out:
        if name == "big.csv":
            out.write("prompt,completion\n")
        for i in range(n):
            row = {"prompt": str(i), "completion": text}
            out.write(
                {
                    "big.jsonl": json.dumps(row) + "\n",
                    "big.csv": f'{i},"{text}"\n',
                    "big.txt": f"{i} {text}\n\n",
                }[name]
            )
    assert path.stat().st_size > 15 * 10**6
    tracemalloc.start()
    count = sum(1 for _ in read_rows(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == n
    assert peak < 10**6
