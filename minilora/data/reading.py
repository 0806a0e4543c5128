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


class BrokenRowError(DataError):
    """A row that cannot be read. record: what stands there, so that it can be mended.

    As it was parsed; if it could not be, as text of at most LONGEST_KEPT characters.
    """

    def __init__(self, message: str, record: Any):
        super().__init__(message)
        self.record = record


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


# Of what cannot even be parsed so many characters are kept, so that dropped rows stay small.
LONGEST_KEPT = 2000

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
    """As `read_rows`, with the error in place of each row that cannot be read.

    The error is a `BrokenRowError` where anything is known of the row but its place.
    """
    for where, record in found_records(path, format, progress=progress):
        if isinstance(record, DataError):
            yield where, record
            continue
        try:
            yield where, as_row(record)
        except DataError as error:
            yield where, BrokenRowError(f"{where}: {error}", record)


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
    # Whoever looks into a pipe has read from it.
    looked_into = format == "jsonl" and (os.path.isfile(path) or not os.path.exists(path))
    return "json" if looked_into and _begins_with_bracket(path) else format


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
        return BrokenRowError(f"{error}{cut_off}", _kept(raw))
    except BrokenRowError as error:
        return error
    except DataError as error:
        return BrokenRowError(str(error), _kept(raw))


def _kept(raw: bytes) -> str:
    """The beginning of what could not be parsed, as text; … where it is cut."""
    text = raw[: 4 * LONGEST_KEPT].decode("utf-8", "replace").rstrip("\r\n")
    return text if len(text) <= LONGEST_KEPT else f"{text[: LONGEST_KEPT - 1]}…"


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
    refused = False  # what follows up to the next blank line belongs to what was refused
    for number, raw in _closed(raw_lines(path, progress=progress)):
        if isinstance(raw, DataError):
            if not refused:
                yield Where(os.fspath(path), number), raw
            paragraph, size, refused = [], 0, True
        elif not raw.strip():
            if paragraph:
                yield _paragraph(paragraph, Where(os.fspath(path), first))
            paragraph, size, refused = [], 0, False
        elif not refused:
            first = first if paragraph else number
            paragraph.append(raw)
            size += len(raw)
            if size > LONGEST_LINE:
                where = Where(os.fspath(path), first)
                said = f"{where}: a paragraph of more than {LONGEST_LINE:,} bytes"
                yield where, BrokenRowError(said, _kept(b"".join(paragraph[:LONGEST_KEPT])))
                paragraph, size, refused = [], 0, True


def _closed(lines: Iterable[tuple[int, bytes | DataError]]) -> Iterator[Any]:
    """The lines, and a blank one after the last, which ends its paragraph."""
    yield from lines
    yield 0, b""


def _paragraph(raw: list[bytes], where: Where) -> Found:
    try:
        return where, {"text": decoded(b"".join(raw), where.file, where.number).strip()}
    except DataError as error:
        return where, BrokenRowError(str(error), _kept(b"".join(raw)))


def _object(value: object, where: Where) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise BrokenRowError(f"{where}: a row is an object {{…}}, not {str(value)[:40]!r}", value)
