"""JSON and JSON Lines, read strictly: what is wrong is said with file and line.

Strict means that a key given twice and numbers that JSON does not have (NaN, Infinity) or no
computer holds (1e400) are errors, where Python's reader would quietly take the last one or go
beyond the standard.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from minilora.errors import FormatError
from minilora.files.atomic import whole_file
from minilora.files.reading import reading

# The largest JSON files around are tokenizers, at 35 MB. A limit keeps a file that is no JSON at
# all (a disk image under the wrong name) from being read into memory before anyone looks at it.
LARGEST_FILE = 128 * 2**20
LONGEST_LINE = 16 * 2**20


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object in a JSON file. Raises FormatError naming file and line."""
    with reading(path, "JSON"):
        size = os.stat(path).st_size
        if size > LARGEST_FILE:
            raise FormatError(f"{path}: {size:,} bytes are too many, at most {LARGEST_FILE:,}")
        text = _decoded(Path(path).read_bytes(), path, 1)
    value = parse_json(text, path)
    if not isinstance(value, dict):
        raise FormatError(f"{path}: should hold an object {{…}}, holds {_shown(value)}")
    return value


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a value as indented JSON, wholly or not at all; NumPy's numbers and arrays are taken.

    Raises FormatError for a value that JSON cannot say, OSError for what the system refuses.
    """
    text = _dumped(value, indent=2)
    with whole_file(path) as file:
        file.write(text.encode() + b"\n")


def read_json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, Any]]:
    """The values of a JSON Lines file one by one, each with the number of its line, from 1.

    Blank lines are passed over. Raises FormatError naming file and line.
    """
    with reading(path, "JSON Lines"), open(path, "rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise FormatError(f"{path}, line {number}: longer than {LONGEST_LINE:,} bytes")
            text = _decoded(line, path, number)
            if text.strip():
                yield number, parse_json(text.rstrip(), path, number)


def append_json_line(path: str | os.PathLike[str], value: Any) -> None:
    """Add one line to a JSON Lines file, in a single write, so that no part of a line appears.

    Raises FormatError for a value that JSON cannot say, OSError for what the system refuses; the
    file then is as it was.
    """
    line = _dumped(value).encode() + b"\n"
    with open(path, "ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            if file.write(line) != len(line):
                raise OSError(28, "No space left on device", str(path))
        except OSError:
            file.truncate(before)
            raise


def parse_json(text: str, path: str | os.PathLike[str], first_line: int = 1) -> Any:
    """The value of a JSON text; `path` and the number of its first line are for the message."""
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        where = f"{path}, line {line}, column {error.colno}"
        raise FormatError(f"{where}: malformed JSON: {error.msg}") from error
    except RecursionError as error:
        raise FormatError(f"{path}, line {first_line}: JSON nested too deeply") from error
    except ValueError as error:
        raise FormatError(f"{path}, line {first_line}: malformed JSON: {error}") from error


def _decoded(raw: bytes, path: str | os.PathLike[str], first_line: int) -> str:
    try:
        # A byte order mark, which some editors put first, is no part of the text.
        return raw.decode("utf-8-sig" if first_line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line = first_line + raw.count(b"\n", 0, error.start)
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise FormatError(
            f"{path}, line {line}, byte {column}: broken UTF-8 ({raw[error.start]:#04x}); "
            "save the file as UTF-8"
        ) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {key!r} is given twice")
        made[key] = value
    return made


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        shown = digits if len(digits) <= 20 else f"{digits[:17]}…"
        raise ValueError(f"the number {shown} is too large, at most 1.8e308; write it as text")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that JSON has")


def _dumped(value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"cannot be written as JSON: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is no JSON type")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "…"
