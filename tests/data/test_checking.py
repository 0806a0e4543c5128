"""Files checked and cleaned: what is written, what is said, what is left as it was."""

import json
import os
import random
import subprocess
import sys
import threading
import tracemalloc

import pytest

from minilora.data import checking, splitting
from minilora.data.checking import check_file, clean_file
from minilora.data.cleaning import Judge, Rules, clean
from minilora.data.reading import Where
from minilora.data.tokenizers import CharTokenizer
from minilora.errors import DataError

CHARACTERS = CharTokenizer.from_alphabet("abcdefgh:> ?")
WITHOUT_NEAR = Rules(near=None)


def qa(question, answer="b"):
    return {"prompt": question, "completion": answer}


@pytest.fixture
def file(tmp_path):
    """file([row or raw bytes, …]): a file of JSON lines, rows.jsonl."""

    def write(rows, name="rows.jsonl"):
        lines = (r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows)
        (tmp_path / name).write_bytes(b"\n".join(lines) + b"\n")
        return tmp_path / name

    return write


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_check_and_a_clean_say_the_same_and_only_the_clean_writes(file, tmp_path):
    rows = [qa("a?"), b"{", qa("a?", "c"), qa("é", "\ud83d"), qa("A"), qa("c")]
    path, out, dropped = file(rows), tmp_path / "x/out.jsonl", tmp_path / "dropped.jsonl"
    checked = check_file(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl"]
    cleaned = clean_file(path, out, dropped)
    assert checked.as_json() == cleaned.as_json()
    assert read(out) == [qa("a?"), qa("c")]
    assert [(d["reason"], d["where"], d.get("collides_with")) for d in read(dropped)] == [
        ("broken", f"{path}, line 2", None),
        ("conflict", f"{path}, line 3", f"{path}, line 1"),
        ("control", f"{path}, line 4", None),
        ("duplicate", f"{path}, line 5", f"{path}, line 1"),
    ]
    assert [d["row"] for d in read(dropped)] == ["{", rows[2], rows[3], rows[4]]
    again = clean_file(out, tmp_path / "2.jsonl", tmp_path / "3.jsonl")
    assert again.found == 0
    assert (tmp_path / "2.jsonl").read_bytes() == out.read_bytes()


def test_a_file_is_cleaned_as_a_list_is(file, tmp_path):
    pytest.importorskip("datasketch")
    rng = random.Random(0)
    rows = [{"text": " ".join(rng.choices("ab", k=rng.randint(1, 6)))} for _ in range(80)]
    test = rows[:3]
    path = file(rows)
    clean_file(
        path, tmp_path / "o.jsonl", tmp_path / "d.jsonl", test=file(test, "t.jsonl"), rules=Rules()
    )
    kept = clean(rows, test).kept
    assert 0 < len(kept) < 77
    assert read(tmp_path / "o.jsonl") == kept


def test_nothing_is_written_over_or_half(file, tmp_path):
    path, out, dropped = file([qa("a")]), tmp_path / "o.jsonl", tmp_path / "d.jsonl"
    for first, second in ((path, dropped), (out, path), (out, out)):
        with pytest.raises(DataError, match="would be written over"):
            clean_file(path, first, second)
    with pytest.raises(DataError, match="would be written over"):
        clean_file(path, file([qa("b")], "t.jsonl"), dropped, test=tmp_path / "t.jsonl")
    blank = file([b"", b" "], "blank.jsonl")
    with pytest.raises(DataError, match="has no rows, only blank lines"):
        clean_file(blank, out, dropped)
    assert not out.exists()
    assert not dropped.exists()
    assert read(path) == [qa("a")]


def test_what_was_broken_is_in_the_file_of_dropped_rows(file, tmp_path):
    rows = [qa("a"), qa("n", 5), b'{"n": 1e400, "prompt": "b", "completion": "c"}']
    path, dropped = file(rows), tmp_path / "d.jsonl"
    report = clean_file(path, tmp_path / "o.jsonl", dropped)
    assert check_file(path).as_json() == report.as_json()
    assert [(d["reason"], d["where"], d["row"]) for d in read(dropped)] == [
        ("broken", f"{path}, line 2", rows[1]),
        ("broken", f"{path}, line 3", rows[2].decode()),
    ]
    assert read(tmp_path / "o.jsonl") == [qa("a")]


def test_a_row_that_cannot_be_written_is_named(file, tmp_path, monkeypatch):
    def unsayable(path, *_, **__):
        yield Where(path, 7), qa("a") | {"n": float("inf")}

    path, out = file([qa("a")]), tmp_path / "o.jsonl"
    monkeypatch.setattr(checking, "found_rows", unsayable)
    with pytest.raises(DataError, match=r"rows\.jsonl, line 7: cannot be written as JSON .*mend"):
        clean_file(str(path), out, tmp_path / "d.jsonl")
    monkeypatch.setattr(splitting, "read_rows", unsayable)
    with pytest.raises(DataError, match=r"rows\.jsonl, line 7: cannot be written as JSON .*mend"):
        splitting.split_file(str(path), {"train": out}, splitting.Shares(0, 0, near=None))
    assert not out.exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("name", ["ff", "ff.jsonl"])
def test_a_pipe_is_read_once(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)
    # A process of its own, as one that waits for a writer for ever cannot be stopped from here.
    code = "import sys; from minilora.data.checking import check_file; " + (
        "print(check_file(sys.argv[1], format=sys.argv[2] or None).kept)"
    )
    argv = [sys.executable, "-c", code, str(path), "" if "." in name else "jsonl"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            threading.Thread(
                target=path.write_text, args=(json.dumps(qa("a")) + "\n",), daemon=True
            ).start()
            assert process.communicate(timeout=30)[0] == "1\n"
        finally:
            process.kill()


def test_against_a_base_long_rows_and_those_it_cannot_take_are_told(file):
    path = file([qa("ab>", "ba"), qa("abc>", "ba"), qa("z")])
    assert check_file(path, CHARACTERS, 6).dropped["long"] == 1  # with the end token
    report = check_file(path, CHARACTERS, 5)
    assert (report.kept, report.dropped["long"], report.dropped["broken"]) == (0, 2, 1)
    assert report.examples["long"][0] == f"{path}, line 1: 6 tokens, at most 5"
    assert report.examples["broken"][0].startswith(f"{path}, line 3: the character 'z'")


def test_what_is_often_a_mistake_is_remarked_and_kept(file):
    rows = [qa("Capital of France is", "Paris"), qa("a: ", "b"), qa("a is", " b"), qa("q=", "b")]
    path = file(rows)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    report = check_file(path)
    assert report.kept == 4
    assert [remark[:30] for remark in report.remarks] == [
        "the file begins with a byte or",
        "in 1 the answer is joined to t",
        "in 1 the prompt ends in a spac",
    ]
    assert "France isParis" in report.remarks[1]


def test_a_clean_file_takes_few_words(file):
    report = check_file(file([qa("a?"), qa("c?")]))
    assert report.lines() == [f"{report.name}: 2 rows = 2 good + 0 not"]


def test_what_is_remembered_of_a_row_is_bounded_whatever_its_length():
    pytest.importorskip("datasketch")
    rng = random.Random(0)
    words = [f"w{i}" for i in range(5000)]
    measured = {}
    for n in (20, 200):
        judge = Judge(Rules())
        tracemalloc.start()
        for i in range(400):
            row = qa(" ".join(rng.choices(words, k=n)), " ".join(rng.choices(words, k=n)))
            assert judge(Where("rows", i), row) is None
        measured[n] = tracemalloc.get_traced_memory()[0] / 400
        tracemalloc.stop()
    assert measured[200] < 5500
    assert measured[200] < 1.1 * measured[20]
