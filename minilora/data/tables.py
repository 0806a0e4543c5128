"""Rows from tables: CSV, in which every value is text, and Parquet, in which each has its type."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator
from typing import Any

from tqdm.auto import tqdm

from minilora.data.lines import LONGEST_LINE, not_utf8, raw_lines
from minilora.data.reading import BrokenRowError, Found, Where
from minilora.errors import DataError, require
from minilora.files.reading import reading

# Rows of a Parquet file that are in memory at once.
_PARQUET_ROWS = 256
_DELIMITERS = ",;\t"


def csv_records(path: str | os.PathLike[str], progress: bool = False) -> Iterator[Found]:
    """The rows of a CSV file under the names in its first line; commas, semicolons or tabs.

    Yields an error for a row with more or fewer cells than columns, or text that is no UTF-8.
    Raises DataError for a first line that names no columns.
    """
    # The library's limit on a field is the process's, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
    lines = _texts(path, progress)
    first = next(lines, "")
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(_chain(first, lines), delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        where = Where(os.fspath(path), reader.line_num + 1)
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{where}: {error}; a quote inside a text is written twice, and one that opens a "
                "text closes it"
            ) from error
        if cells is None:
            return
        if not names:
            names = _column_names(cells, where)
        elif cells:
            yield where, _record(names, cells, where)


def parquet_records(path: str | os.PathLike[str], progress: bool = False) -> Iterator[Found]:
    """The rows of a Parquet file, some at a time. MissingExtraError without `pyarrow`."""
    parquet = require("pyarrow.parquet", extra="parquet", purpose=f"reading {path}")
    with reading(path, "a Parquet file"), parquet.ParquetFile(path) as file:
        number = 0
        names = file.schema_arrow.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(
                f"{path}: the column {twice[0]!r} is there twice; name each differently"
            )
        with tqdm(
            total=file.metadata.num_rows,
            unit="row",
            delay=0.5,
            leave=False,
            disable=not progress,
        ) as bar:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for record in batch.to_pylist():
                    number += 1
                    # A table has NaN where it has nothing.
                    known = {k: None if v != v else v for k, v in record.items()}
                    where = Where(os.fspath(path), number, "row")
                    yield where, _sayable(known, where)
                bar.update(batch.num_rows)


def _sayable(record: dict[str, Any], where: Where) -> dict[str, Any] | DataError:
    """The record, or an error if it has a number, also inside of a list, that JSON has not."""
    unsaid = [name for name, value in record.items() if not _finite(value)]
    if not unsaid:
        return record
    return BrokenRowError(
        f"{where}: {unsaid[0]!r} has the number {str(record[unsaid[0]])[:40]}, which JSON cannot "
        "say; write what is meant, or nothing",
        record | {name: str(record[name]) for name in unsaid},
    )


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_finite, value))


def _texts(path: str | os.PathLike[str], progress: bool) -> Iterator[str]:
    """Lines as text, in which bytes that are no UTF-8 can still be told, cell by cell."""
    for _, raw in raw_lines(path, progress=progress):
        if isinstance(raw, DataError):
            raise raw
        yield raw.decode("utf-8", "surrogateescape")


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _column_names(cells: list[str], where: Where) -> list[str]:
    names = [cell.strip() for cell in cells]
    for name in names:
        if not name or names.count(name) > 1:
            what = f"{name!r} is there twice" if name else "one has no name"
            raise DataError(
                f"{where}: the first line names the columns, each differently, and {what} "
                f"({', '.join(names)[:80]})"
            )
        _utf8(name, "the name of a column", where)
    return names


def _record(names: list[str], cells: list[str], where: Where) -> dict[str, Any] | DataError:
    if len(cells) != len(names):
        hint = "; a comma inside a text needs quotes around the text" if cells[len(names) :] else ""
        said = f"{len(cells)} cells for {len(names)} columns ({', '.join(names)[:80]}){hint}"
        return BrokenRowError(f"{where}: {said}", cells)
    try:
        for name, cell in zip(names, cells, strict=True):
            _utf8(cell, repr(name), where)
    except DataError as error:
        return BrokenRowError(str(error), dict(zip(names, cells, strict=True)))
    return dict(zip(names, cells, strict=True))


def _utf8(text: str, name: str, where: Where) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) - 0xDC00
        raise DataError(
            f"{where}, character {error.start + 1} of {name}: {not_utf8(byte)}"
        ) from error
