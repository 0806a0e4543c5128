"""The lines of a file, one by one and never more than one in memory, each decoded or explained.

What a file is encoded in cannot be asked, only tried: UTF-8 is what is read, and where the bytes
are no UTF-8 the message says which byte of which field, and what would make them so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import BinaryIO

from tqdm.auto import tqdm

from minilora.errors import DataError
from minilora.files.reading import reading

# A row is what a person reads at a sitting; a line longer than this is no line of such a file.
LONGEST_LINE = 16 * 2**20

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_KEY = re.compile(rb'"((?:[^"\\]|\\.){1,60})"\s*:')


def raw_lines(
    path: str | os.PathLike[str], *, progress: bool = False
) -> Iterator[tuple[int, bytes | DataError]]:
    """The number of each line, from 1, and its bytes, without a byte order mark; lazily.

    A line of more than LONGEST_LINE bytes comes as the error that says so; it is passed over in
    pieces, so that memory stays bounded. Raises FormatError if the file cannot be read, DataError
    if it is of another encoding altogether.
    """
    with reading(path, "rows"), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        bar = tqdm(
            total=size,
            desc=os.path.basename(os.fspath(path)),
            unit="B",
            unit_scale=True,
            delay=0.5,
            leave=False,
            dynamic_ncols=True,
            disable=not progress,
        )
        with bar:
            number = 0
            while raw := file.readline(LONGEST_LINE + 1):
                number += 1
                bar.update(len(raw))
                if number == 1:
                    raw = without_mark(raw, path)
                if len(raw) > LONGEST_LINE:
                    _pass_over(file, bar)
                    yield number, _too_long(path, number)
                else:
                    yield number, raw


def decoded(raw: bytes, path: str | os.PathLike[str], first_line: int = 1) -> str:
    """The text of some lines. DataError naming file, line, byte and, if there is one, the field.

    first_line: the number of the first of them.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start
        line = first_line + raw.count(b"\n", 0, at)
        byte = at - raw.rfind(b"\n", 0, at)
        keys = _KEY.findall(raw, 0, at)
        inside = f", in {keys[-1].decode('utf-8', 'replace')!r}" if keys else ""
        raise DataError(f"{path}, line {line}, byte {byte}{inside}: {not_utf8(raw[at])}") from error


def not_utf8(byte: int) -> str:
    """What to do about a byte that is no UTF-8, and what its author probably meant."""
    meant = bytes([byte]).decode("cp1252", "ignore")
    perhaps = f" (in WINDOWS-1252 it is {meant!r})" if meant.isprintable() and meant else ""
    return (
        f"{byte:#04x} is no UTF-8{perhaps}; save the file as UTF-8, or convert it: "
        "iconv -f WINDOWS-1252 -t UTF-8"
    )


def without_mark(raw: bytes, path: str | os.PathLike[str]) -> bytes:
    """The beginning of a file without its byte order mark. DataError for UTF-16's."""
    if raw.startswith(_UTF16_MARKS):
        raise DataError(
            f"{path}: this is UTF-16, read is UTF-8; save it as UTF-8, or convert it: "
            "iconv -f UTF-16 -t UTF-8"
        )
    return raw.removeprefix(_UTF8_MARK)


def _pass_over(file: BinaryIO, bar: tqdm) -> None:
    """Read on to the end of a line that is too long, piece by piece."""
    while piece := file.readline(2**20):
        bar.update(len(piece))
        if piece.endswith(b"\n"):
            return


def _too_long(path: str | os.PathLike[str], number: int) -> DataError:
    return DataError(
        f"{path}, line {number}: longer than {LONGEST_LINE:,} bytes; is this one row a line? "
        "Shorten it or leave it out"
    )
