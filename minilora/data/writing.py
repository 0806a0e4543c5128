"""Rows to JSON Lines: several files at once, each whole or not there, none over what is read."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from minilora.errors import DataError
from minilora.files.atomic import whole_file


def json_line(value: Any, where: object = "a row") -> bytes:
    """A value as one line of JSON Lines in UTF-8; what JSON has no type for, say a date, as text.

    where: of the row, for the message. Raises DataError for numbers that JSON does not have.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: cannot be written as JSON ({error}); mend this row or leave it out"
        ) from error
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        # Half of a surrogate pair is no UTF-8, but JSON can spell it.
        return json.dumps(value, allow_nan=False, default=str).encode() + b"\n"


@contextlib.contextmanager
def written(paths: Iterable[str | os.PathLike[str]]) -> Iterator[list[BinaryIO]]:
    """Files to write to; each takes its place when the block ends well, none if it raises."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(whole_file(path)) for path in paths]


def keep_apart(
    read: Iterable[str | os.PathLike[str]], write: Iterable[str | os.PathLike[str]]
) -> None:
    """DataError if a file would be written over one that is read, or two into one."""
    taken = {os.path.realpath(path) for path in read}
    for path in write:
        place = os.path.realpath(path)
        if place in taken:
            raise DataError(f"{os.fspath(path)} would be written over; choose another name for it")
        taken.add(place)


def beside(path: str | os.PathLike[str], kind: str) -> str:
    """The name of a file beside another: rows.csv and "clean" make rows.clean.jsonl."""
    return os.fspath(Path(path).with_suffix(f".{kind}.jsonl"))
