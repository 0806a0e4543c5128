"""Rows from a table: the columns of each record put into a template, or into several of them.

A template is text with `{column}` in it, and only that: nothing is looked up inside of a value, so
neither a table nor a template can reach for more than the columns. Several templates that say the
same in other words make answers depend less on how a question happens to be put.
"""

from __future__ import annotations

import json
import os
import random
import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minilora.data.lines import decoded, without_mark
from minilora.data.matching import digest
from minilora.data.reading import read_records
from minilora.data.rows import Row
from minilora.data.writing import json_line, keep_apart, written
from minilora.errors import ConfigError, DataError, FormatError
from minilora.files.json_files import parse_json
from minilora.files.reading import reading

RECORD = "record"
# Of the lines of a file of templates: {column} may begin one as well, and so may a quote.
_IN_JSON = re.compile(r'\s*(\{\s*"|"([^"\\]|\\.)*"\s*$)')
# What begins like this was meant as an array, so if it is damaged that is said; [INST] is text.
_LIKE_AN_ARRAY = re.compile(r'\s*\[\s*("|\{\s*")')


class TableTemplate:
    """Text with `{column}` where the value of a column goes; `{{` and `}}` are braces.

    Raises ConfigError for anything else between braces, e.g. `{column.name}` or `{column!r}`.
    """

    def __init__(self, text: str):
        self.text = text
        self._pieces: list[tuple[str, str | None]] = []
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise _bad(text, str(error)) from error
        for literal, name, form, conversion in parsed:
            if name is not None and (form or conversion or not name or set(name) & set(".[]{}")):
                raise _bad(text, f"between braces stands {name!r}")
            self._pieces.append((literal, name))

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, each once."""
        return tuple(dict.fromkeys(name for _, name in self._pieces if name is not None))

    def fill(self, record: Mapping[str, Any]) -> str:
        """The text with a record's values in it: text as it stands, other values as JSON."""
        return "".join(
            literal if name is None else literal + _as_text(record[name])
            for literal, name in self._pieces
        )


@dataclass(frozen=True)
class Pair:
    """What a row is made by: a template of the prompt, and one of the completion."""

    prompt: TableTemplate
    completion: TableTemplate

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of both, each once."""
        return tuple(dict.fromkeys(self.prompt.columns + self.completion.columns))


@dataclass
class BuildReport:
    """What became of a table: records = those used + those left out; rows = used × `each`."""

    records: int = 0
    used: int = 0
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    by_template: Counter[int] = field(default_factory=Counter)
    unused_columns: tuple[str, ...] = ()
    _prompts: set[bytes] = field(default_factory=set, repr=False)

    @property
    def distinct_prompts(self) -> int:
        """How many different prompts there are among the rows."""
        return len(self._prompts)

    def lines(self) -> list[str]:
        """A few short sentences."""
        said = [
            f"{self.records:,} records = {self.used:,} used + {self.records - self.used:,} left out"
        ]
        said += [
            f"  {count:,} left out: nothing in column {column!r}"
            for column, count in self.left_out.items()
        ]
        said.append(f"{self.rows:,} rows, {self.distinct_prompts:,} distinct prompts")
        if len(self.by_template) > 1:
            counts = (f"{i + 1}: {n:,}" for i, n in sorted(self.by_template.items()))
            said.append(f"rows by template: {', '.join(counts)}")
        if self.unused_columns:
            said.append(f"columns in no template: {', '.join(self.unused_columns)}")
        return said

    def as_json(self) -> dict[str, Any]:
        """The same as one object."""
        return {
            "records": self.records,
            "used": self.used,
            "left_out": dict(self.left_out),
            "rows": self.rows,
            "distinct_prompts": self.distinct_prompts,
            "rows_by_template": {str(i + 1): n for i, n in sorted(self.by_template.items())},
            "unused_columns": list(self.unused_columns),
        }


def build(
    records: Iterable[Mapping[str, Any]],
    templates: Sequence[Pair],
    *,
    each: int = 1,
    seed: int = 0,
    keep_blank: bool = False,
    report: BuildReport | None = None,
) -> Iterator[Row]:
    """The rows of a table's records, `each` of them from different templates, drawn by the seed.

    With several rows of a record each says under "record" of which, so that a split can keep them
    together: whoever trains on one has seen the answer to the others.

    Which templates a record gets depends on the seed and its place alone. A record that has nothing
    (or, unless `keep_blank`, a blank text) in a column it needs is left out, and counted.

    Raises ConfigError for templates that name a column that the first record has not.
    """
    if not 1 <= each <= len(templates):
        raise ConfigError(
            f"{each} rows of each record need as many templates, not {len(templates)}"
        )
    report = BuildReport() if report is None else report
    for number, record in enumerate(records):
        if number == 0:
            _check_columns(templates, record)
            needed = {name for pair in templates for name in pair.columns}
            report.unused_columns = tuple(name for name in record if name not in needed)
        report.records += 1
        chosen = random.Random(f"{seed} {number}").sample(range(len(templates)), each)
        missing = _missing([templates[i] for i in chosen], record, keep_blank)
        if missing is not None:
            report.left_out[missing] += 1
            continue
        report.used += 1
        for i in chosen:
            pair = templates[i]
            row: Row = {
                "prompt": pair.prompt.fill(record),
                "completion": pair.completion.fill(record),
            }
            if each > 1:
                row[RECORD] = number + 1
            report.rows += 1
            report.by_template[i] += 1
            report._prompts.add(digest(row["prompt"]))
            yield row


def build_file(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    templates: Sequence[Pair],
    *,
    each: int = 1,
    seed: int = 0,
    keep_blank: bool = False,
    format: str | None = None,
    progress: bool = False,
) -> BuildReport:
    """Write the rows that `build` makes from a file, as JSON Lines, whole or not at all.

    Raises DataError, FormatError at the first record that cannot be read, OSError.
    """
    keep_apart([path], [out])
    report = BuildReport()
    records = (record for _, record in read_records(path, format, progress=progress))
    with written([out]) as (file,):
        for row in build(
            records, templates, each=each, seed=seed, keep_blank=keep_blank, report=report
        ):
            file.write(json_line(row))
        if not report.records:
            raise DataError(f"{os.fspath(path)} has no records; it needs at least one")
    return report


def read_templates(path: str | os.PathLike[str], completion: str | None = None) -> list[Pair]:
    """Templates from a file: one a line, as JSON Lines, or as a JSON array.

    A line of text, or a JSON string, is a prompt and goes with `completion`; an object
    {"prompt": …, "completion": …} has its own. Only a line feed ends a line.

    Raises FormatError, ConfigError naming file and line.
    """
    with reading(path, "templates"):
        text = decoded(without_mark(Path(path).read_bytes(), path), path)
    array = _array(text, path) if text.lstrip().startswith("[") else None
    if array is not None:
        found = list(enumerate(array, 1))
    else:
        lines = (line.rstrip("\r") for line in text.split("\n"))
        found = [
            (number, parse_json(line, path, number) if _IN_JSON.match(line) else line)
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]
    if not found:
        raise FormatError(f"{path} has no templates; write one a line")
    made = []
    for number, value in found:
        try:
            made.append(_pair(value, completion))
        except ConfigError as error:
            raise ConfigError(f"{path}, template {number}: {error}") from error
    return made


def _array(text: str, path: str | os.PathLike[str]) -> list[Any] | None:
    """The JSON array that the whole text is; None if it is none, but lines in brackets."""
    try:
        value = parse_json(text, path)
    except FormatError as error:
        if not _LIKE_AN_ARRAY.match(text):
            return None
        raise FormatError(
            f"{error}; if this is no array but a line of text, write it as a JSON string, in "
            'quotes, with \\" for each quote inside'
        ) from error
    return value if isinstance(value, list) else None


def _pair(value: object, completion: str | None) -> Pair:
    if isinstance(value, dict) and set(value) == {"prompt", "completion"}:
        prompt, completion = value["prompt"], value["completion"]
    elif isinstance(value, str):
        prompt = value
    else:
        raise ConfigError('is text, or an object {"prompt": …, "completion": …}')
    if completion is None:
        raise ConfigError('has no completion; give --completion, or {"prompt": …, "completion": …}')
    if not isinstance(prompt, str) or not isinstance(completion, str):
        raise ConfigError("prompt and completion are text")
    return Pair(TableTemplate(prompt), TableTemplate(completion))


def _check_columns(templates: Sequence[Pair], record: Mapping[str, Any]) -> None:
    for pair in templates:
        for name in pair.columns:
            if name not in record:
                raise ConfigError(
                    f"there is no column {name!r} for the template {pair.prompt.text[:60]!r}; the "
                    f"columns are {', '.join(map(str, record))}; braces that mean braces are "
                    "written twice: {{ }}"
                )


def _missing(pairs: Iterable[Pair], record: Mapping[str, Any], keep_blank: bool) -> str | None:
    for pair in pairs:
        for name in pair.columns:
            value = record.get(name)
            blank = isinstance(value, str) and not value.strip() and not keep_blank
            if value is None or blank:
                return name
    return None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _bad(text: str, why: str) -> ConfigError:
    return ConfigError(
        f"the template {text[:60]!r}: {why}; write {{column}} with the name of a column and "
        "nothing else, and braces that mean braces twice: {{ }}"
    )
