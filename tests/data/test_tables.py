"""Tables: CSV as spreadsheets write it, Parquet with its types."""

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.data.checking import clean_file
from minilora.data.reading import found_records, read_records, read_rows
from minilora.errors import DataError, FormatError


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_with_quotes_and_lines_inside(tmp_path, delimiter):
    d = delimiter
    path = write(tmp_path / "a.csv", f'prompt{d}completion\r\n"a{d} ""b"""{d}c\r\n\n"x\ny"{d}z\n')
    assert [(w.number, row) for w, row in read_rows(path)] == [
        (2, {"prompt": f'a{d} "b"', "completion": "c"}),
        (4, {"prompt": "x\ny", "completion": "z"}),
    ]


texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=20)


@settings(max_examples=60)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_whatever_the_library_writes_is_read_back(tmp_path_factory, cells):
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["one", "two"])
    writer.writerows(cells)
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(out.getvalue().encode())
    assert [tuple(row.values()) for _, row in read_records(path)] == cells


def test_a_row_of_another_width_or_encoding_is_told_and_the_others_read(tmp_path):
    path = write(tmp_path / "a.csv", b"one,two\na,b\nc\na,b,c\n\xe9,f\ng,h\n")
    found = {where.number: each for where, each in found_records(path)}
    assert found[2] == {"one": "a", "two": "b"}
    assert found[6] == {"one": "g", "two": "h"}
    assert "line 3: 1 cells for 2 columns (one, two)" in str(found[3])
    assert "line 4: 3 cells" in str(found[4]) and "needs quotes" in str(found[4])
    assert "line 5, character 1 of 'one': 0xe9 is no UTF-8" in str(found[5])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("one,one\na,b\n", "line 1: .*'one' is there twice"),
        ("one,\na,b\n", "line 1: .*one has no name"),
        ('one,two\na,b\n"c,d\ne,f\n', "line 3: .*closes it"),
        (b"\xe9,two\na,b\n", "line 1, character 1 of the name of a column: 0xe9"),
    ],
)
def test_a_table_that_cannot_be_read_is_told_with_its_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        list(read_records(write(tmp_path / "a.csv", content)))


def test_parquet_has_types_and_nothing_where_there_is_nothing(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table(
        {
            "prompt": ["a", "b", None],
            "completion": ["x", "y", "z"],
            "score": [1.5, float("nan"), None],
        }
    )
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path)
    records = [(str(where), record) for where, record in read_records(path)]
    assert records[1] == (f"{path}, row 2", {"prompt": "b", "completion": "y", "score": None})
    assert records[0][1]["score"] == 1.5
    rows = read_rows(path)
    assert next(rows)[1]["prompt"] == "a"
    next(rows)
    with pytest.raises(DataError, match=r"row 3: 'prompt' is text, not null"):
        next(rows)
    json.dumps([record for _, record in records], allow_nan=False)


def test_numbers_that_json_has_not_are_told_with_row_and_column(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    numbers = [float("inf"), 1.5, float("nan"), 2.0]
    lists = [[1.0], [2.0], [3.0], [float("nan")]]
    table = pyarrow.table({"text": list("abcd"), "n": numbers, "l": lists})
    path, dropped = tmp_path / "a.parquet", tmp_path / "d.jsonl"
    parquet.write_table(table, path)
    report = clean_file(path, tmp_path / "o.jsonl", dropped)
    assert (report.kept, report.dropped["broken"]) == (2, 2)
    assert report.examples["broken"][0].startswith(f"{path}, row 1: 'n' has the number inf, which")
    assert report.examples["broken"][1].startswith(f"{path}, row 4: 'l' has the number [nan]")
    assert '"row": {"text": "a", "n": "inf", "l": [1.0]}' in dropped.read_text()


def test_what_is_no_parquet_is_said(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(FormatError, match=r"a\.parquet: not a Parquet file, or damaged"):
        list(read_records(write(tmp_path / "a.parquet", "one,two\n")))
