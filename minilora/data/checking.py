"""A file looked over, and a file cleaned: read once, row by row, remembering hashes, not texts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace

from minilora.data.cleaning import REASONS, Dropped, Judge, Rules, judged
from minilora.data.instructions import to_examples
from minilora.data.reading import Where, found_rows
from minilora.data.reports import Report
from minilora.data.rows import Row
from minilora.data.tokenizers import Tokenizer
from minilora.data.writing import json_line, keep_apart, written
from minilora.errors import DataError

PathLike = str | os.PathLike[str]
WITHOUT_NEAR = Rules(near=None)


def check_file(
    path: PathLike,
    tokenizer: Tokenizer | None = None,
    max_length: int | None = None,
    *,
    test: PathLike | None = None,
    rules: Rules = WITHOUT_NEAR,
    format: str | None = None,
    progress: bool = False,
) -> Report:
    """What `clean_file` would drop from a file, and why; nothing is written.

    tokenizer, max_length   of a base: rows it cannot take, or of more tokens, are told as well
    test                    a file whose questions must not be trained on
    rules                   near duplicates are not looked for unless told so

    Cheap without near duplicates: about 0.1 ms a row of 80 words, and what its tokens take.

    Raises DataError, FormatError for a file of which nothing can be read, or without rows.
    """
    report = Report(os.fspath(path), REASONS)
    for _ in _gone_through(report, _for_base(rules, tokenizer, max_length), test, format, progress):
        pass
    return report


def clean_file(
    path: PathLike,
    out: PathLike,
    dropped: PathLike,
    tokenizer: Tokenizer | None = None,
    max_length: int | None = None,
    *,
    test: PathLike | None = None,
    rules: Rules = WITHOUT_NEAR,
    format: str | None = None,
    progress: bool = False,
) -> Report:
    """Write the good rows of a file to `out` and the others, with reasons, to `dropped`.

    Both are JSON Lines, whole or not written at all; otherwise as `check_file`.

    Raises OSError also for what the system refuses to have written.
    """
    keep_apart([path, *([test] if test else [])], [out, dropped])
    report = Report(os.fspath(path), REASONS)
    rules = _for_base(rules, tokenizer, max_length)
    with written([out, dropped]) as (good, bad):
        for where, each in _gone_through(report, rules, test, format, progress):
            if isinstance(each, Dropped):
                bad.write(json_line(each.as_json(), where))
            else:
                good.write(json_line(each, where))
    return report


def _gone_through(
    report: Report, rules: Rules, test: PathLike | None, format: str | None, progress: bool
) -> Iterator[tuple[Where, Row | Dropped]]:
    """The rows of the report's file, each judged; at their end the report is complete."""
    judge, remarks = Judge(rules), _Remarks()
    if test is not None:
        judge.add_tests(found_rows(test, progress=progress))
    for where, each in judged(found_rows(report.name, format, progress=progress), judge, report):
        remarks.see(each)
        yield where, each
    _finish(report, remarks)


def _for_base(rules: Rules, tokenizer: Tokenizer | None, max_length: int | None) -> Rules:
    if tokenizer is None:
        return rules

    def count(row: Row) -> int:
        try:
            (example,) = to_examples([row], tokenizer, sys.maxsize)
        except DataError as error:
            raise DataError(str(error).removeprefix("rows[0]: ")) from error
        return len(example.ids)

    return replace(rules, max_tokens=max_length, count_tokens=count)


class _Remarks:
    """What is often a mistake, though nobody can tell: said, and nothing is dropped for it."""

    def __init__(self) -> None:
        self.joined = self.spaces = 0
        self.first_joined = ""

    def see(self, row: Row | Dropped) -> None:
        if isinstance(row, Dropped) or "completion" not in row or not row["prompt"]:
            return
        prompt, completion = row["prompt"], row["completion"]
        self.spaces += prompt[-1] == " "
        if prompt[-1].isalnum() and completion[:1].isalnum():
            if not self.joined:
                self.first_joined = f"…{prompt[-20:]}{completion[:20]}…"
            self.joined += 1

    def said(self) -> Iterator[str]:
        if self.joined:
            yield (
                f"in {self.joined:,} the answer is joined to the question's last word without a "
                f"space, first {self.first_joined!r}; begin the completion with one"
            )
        if self.spaces:
            yield (
                f"in {self.spaces:,} the prompt ends in a space; language models have it at the "
                "beginning of the next word, so move it to the completion"
            )


def _finish(report: Report, remarks: _Remarks) -> None:
    if not report.rows:
        raise DataError(f"{report.name} has no rows, only blank lines; it needs at least one")
    if _begins_with_mark(report.name):
        report.remarks.append("the file begins with a byte order mark, which is passed over")
    report.remarks += remarks.said()


def _begins_with_mark(path: str) -> bool:
    if not os.path.isfile(path):  # a pipe that was read has no beginning any more
        return False
    with open(path, "rb") as file:
        return file.read(3) == b"\xef\xbb\xbf"
