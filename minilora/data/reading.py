"""Rows from a file, lazily and each with its place, so that a mistake can be found and mended.

    .jsonl .ndjson .json  an object a line, or one array of objects; which, is seen by looking
    .csv .tsv             a table whose first line names the columns
    .parquet              the same, with the extra `parquet`
    .txt .md              a text a paragraph: what stands between blank lines is one row

Only a JSON array has to be in memory whole; of everything else one row is at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minilora.data.lines import LONGEST_LINE, decoded, raw_lines, without_mark
from minilora.data.rows import Row, as_row
from minilora.errors import DataError, FormatError
from minilora.files.json_files import LARGEST_FILE, parse_json
from minilora.files.reading import reading

FORMATS = ("jsonl", "json", "csv", "parquet", "text")
SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
}


@dataclass(frozen=True)
class Where:
    """A place in a file: the number of a line, a row or an item, from 1; in a list: from 0."""

    file: str
    number: int
    unit: str = "line"

    def __str__(self) -> str:
        if self.unit == "index":
            return f"{self.file}[{self.number}]"
        return f"{self.file}, {self.unit} {self.number}"


@dataclass
class Troubles:
    """What could not be read: how many rows, and the first `limit` of them in words."""

    limit: int = 20
    count: int = 0
    first: list[tuple[Where, str]] = field(default_factory=list)

    def add(self, where: Where, error: DataError) -> None:
        """Count one, and keep what it says if it is among the first."""
        self.count += 1
        if len(self.first) < self.limit:
            self.first.append((where, str(error)))


Found = tuple[Where, dict[str, Any] | DataError]


def format_or_lines(path: str | os.PathLike[str]) -> str | None:
    """None if a file's name says its format; else it is taken for JSON Lines, as a pipe is."""
    return None if Path(path).suffix.lower() in SUFFIXES else "jsonl"


def read_rows(
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    troubles: Troubles | None = None,
    progress: bool = False,
) -> Iterator[tuple[Where, Row]]:
    """The rows of a file in a form that training takes (see `rows.as_row`), each with its place.

    format: one of FORMATS; None: by the file's name.
    troubles: gathers rows that cannot be read, which are passed over; None: the first one raises.

    Raises DataError or FormatError naming the file, the place, the field and what to do.
    """
    for where, row in found_rows(path, format, progress=progress):
        if not isinstance(row, DataError):
            yield where, row
        elif troubles is None:
            raise row
        else:
            troubles.add(where, row)


def found_rows(
    path: str | os.PathLike[str], format: str | None = None, *, progress: bool = False
) -> Iterator[Found]:
    """As `read_rows`, with the error in place of each row that cannot be read."""
    for where, record in found_records(path, format, progress=progress):
        if isinstance(record, DataError):
            yield where, record
            continue
        try:
            yield where, as_row(record)
        except DataError as error:
            yield where, DataError(f"{where}: {error}")


def read_records(
    path: str | os.PathLike[str], format: str | None = None, *, progress: bool = False
) -> Iterator[tuple[Where, dict[str, Any]]]:
    """What stands in a file, as it stands there: columns of a table, keys of an object.

    Raises DataError or FormatError at the first record that cannot be read.
    """
    for where, record in found_records(path, format, progress=progress):
        if isinstance(record, DataError):
            raise record
        yield where, record


def found_records(
    path: str | os.PathLike[str], format: str | None = None, *, progress: bool = False
) -> Iterator[Found]:
    """As `read_records`, with the error in place of each record that cannot be read."""
    from minilora.data.tables import csv_records, parquet_records

    format = format or _format_of(path)
    if format not in FORMATS:
        raise DataError(f"the format {format!r} must be one of {', '.join(FORMATS)}")
    with reading(path, "rows"):
        if Path(path).is_file() and Path(path).stat().st_size == 0:
            raise DataError(f"{path} is empty; it needs at least one row")
    readers = {"json": _json, "csv": csv_records, "parquet": parquet_records, "text": _text}
    return readers.get(format, _json_lines)(path, progress)


def _format_of(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path}: how it is to be read is not seen from the name; end it in one of "
            f"{' '.join(SUFFIXES)}, or give --format: {', '.join(FORMATS)}"
        )
    format = SUFFIXES[suffix]
    return "json" if format == "jsonl" and _begins_with_bracket(path) else format


def _begins_with_bracket(path: str | os.PathLike[str]) -> bool:
    with reading(path, "rows"), open(path, "rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _json_lines(path: str | os.PathLike[str], progress: bool) -> Iterator[Found]:
    for number, raw in raw_lines(path, progress=progress):
        if not isinstance(raw, DataError) and not raw.strip():
            continue
        where = Where(os.fspath(path), number)
        yield where, raw if isinstance(raw, DataError) else _line_object(raw, where)


def _line_object(raw: bytes, where: Where) -> dict[str, Any] | DataError:
    try:
        value = parse_json(
            decoded(raw, where.file, where.number).rstrip(), where.file, where.number
        )
        return _object(value, where)
    except FormatError as error:
        cut_off = "" if raw.endswith(b"\n") else "; the file ends here, is it whole?"
        return DataError(f"{error}{cut_off}")
    except DataError as error:
        return error


def _json(path: str | os.PathLike[str], progress: bool) -> Iterator[Found]:
    with reading(path, "JSON"):
        size = Path(path).stat().st_size
        if size > LARGEST_FILE:
            raise DataError(
                f"{path}: a JSON array is read whole, {size:,} bytes are too many, at most "
                f"{LARGEST_FILE:,}; write JSON Lines, an object a line: jq -c .[]"
            )
        text = decoded(without_mark(Path(path).read_bytes(), path), path)
    try:
        items = parse_json(text, path)
    except FormatError as error:
        raise DataError(f"{error}; of a JSON array that is damaged nothing is read") from error
    if not isinstance(items, list):
        raise DataError(f"{path}: should hold an array of rows […], or an object a line")
    for number, item in enumerate(items, 1):
        where = Where(os.fspath(path), number, "item")
        try:
            yield where, _object(item, where)
        except DataError as error:
            yield where, error


def _text(path: str | os.PathLike[str], progress: bool) -> Iterator[Found]:
    paragraph: list[bytes] = []
    first = size = 0
    for number, raw in _closed(raw_lines(path, progress=progress)):
        if isinstance(raw, DataError):
            yield Where(os.fspath(path), number), raw
        elif raw.strip():
            first = first if paragraph else number
            paragraph.append(raw)
            size += len(raw)
            if size <= LONGEST_LINE:
                continue
            yield (
                Where(os.fspath(path), first),
                DataError(f"{path}, line {first}: a paragraph of more than {LONGEST_LINE:,} bytes"),
            )
            paragraph, size = [], 0
        elif paragraph:
            yield _paragraph(paragraph, Where(os.fspath(path), first))
            paragraph, size = [], 0


def _closed(lines: Iterable[tuple[int, bytes | DataError]]) -> Iterator[Any]:
    """The lines, and a blank one after the last, which ends its paragraph."""
    yield from lines
    yield 0, b""


def _paragraph(raw: list[bytes], where: Where) -> Found:
    try:
        return where, {"text": decoded(b"".join(raw), where.file, where.number).strip()}
    except DataError as error:
        return where, error


def _object(value: object, where: Where) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise DataError(f"{where}: a row is an object {{…}}, not {str(value)[:40]!r}")
