"""What is wrong with a row, in the order in which it is asked; whoever is dropped has a reason.

A row is held against the rows kept before it, never against dropped ones. So rows keep their order,
of several that are alike the first stays, and cleaning what is clean changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from minilora.data.matching import digest, normalized, words
from minilora.data.near import THRESHOLD, NearIndex, Shingle
from minilora.data.reading import BrokenRowError, Found, Where
from minilora.data.reports import Report
from minilora.data.rows import Parts, Row, as_row, parts
from minilora.errors import ConfigError, DataError

REASONS = {
    "broken": "cannot be read as a row",
    "empty": "nothing is answered",
    "control": "has characters that no person typed",
    "long": "too long",
    "repeated": "the answer stands in the question",
    "leaked": "the question is in the test set",
    "duplicate": "the same question and answer as before",
    "conflict": "the same question as before with another answer",
    "near": "nearly the same question and answer as before",
}
# A shorter answer may well be found in its question: "yes or no?", "copy abcd".
REPEATED_WORDS = 8
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffd\ufffe\uffff]")


@dataclass(frozen=True)
class Rules:
    """What counts as wrong.

    keep            reasons (of REASONS) for which nothing is dropped
    match           what "the same" means: "normalized" (see `matching`) or "exact", to the letter
    near            nearness from which rows are near duplicates, in [0.5, 1]; None: not looked for
    shingle, size   what nearness is counted in: runs of "words" (3) or "characters" (5)
    max_characters, max_words    of question and answer together; None: any number
    max_tokens      of the row, as `count_tokens` counts them
    count_tokens    row → tokens; DataError for a row that the base cannot take
    """

    keep: tuple[str, ...] = ()
    match: Literal["normalized", "exact"] = "normalized"
    near: float | None = THRESHOLD
    shingle: Shingle = "words"
    size: int | None = None
    max_characters: int | None = None
    max_words: int | None = None
    max_tokens: int | None = None
    count_tokens: Callable[[Row], int] | None = None

    def __post_init__(self) -> None:
        for reason in self.keep:
            if reason not in REASONS or reason == "broken":
                allowed = ", ".join(name for name in REASONS if name != "broken")
                raise ConfigError(f"{reason!r} is no reason that can be kept; there are {allowed}")
        if self.match not in ("normalized", "exact"):
            raise ConfigError(f"match {self.match!r} must be normalized or exact")


@dataclass(frozen=True)
class Dropped:
    """A row that was left out: where it stood, a reason of REASONS, and that reason in words.

    row: of a "broken" one what stood there, as it was parsed, or as text if that failed; None if
    it was not even read. collides: the row that it was held against, if any.
    """

    where: Where
    row: Any
    reason: str
    why: str
    collides: Where | None = None

    def as_json(self) -> dict[str, Any]:
        """What stands in the file of dropped rows."""
        against = {"collides_with": str(self.collides)} if self.collides else {}
        return {
            "reason": self.reason,
            "why": self.why,
            "where": str(self.where),
            **against,
            "row": self.row,
        }


@dataclass(frozen=True)
class Cleaned:
    """Rows that were kept, in their order, those that were dropped, and the sums."""

    kept: list[Row]
    dropped: list[Dropped]
    report: Report


def clean(
    rows: Iterable[Mapping[str, Any]], test: Iterable[Mapping[str, Any]] = (), **rules: Any
) -> Cleaned:
    """Rows in memory without those that are wrong, or whose question is one of `test`.

    rows, test: in any form of `data.rows`. rules: fields of `Rules`.

    Raises ConfigError for a rule outside of what is allowed, DataError for a broken row in `test`.
    """
    judge = Judge(Rules(**rules))
    judge.add_tests(_located(test, "test"))
    report = Report("rows", REASONS)
    kept: list[Row] = []
    dropped: list[Dropped] = []
    for _, each in judged(_located(rows, "rows"), judge, report):
        if isinstance(each, Dropped):
            dropped.append(each)
        else:
            kept.append(each)
    return Cleaned(kept, dropped, report)


def judged(
    found: Iterable[Found], judge: Judge, report: Report
) -> Iterator[tuple[Where, Row | Dropped]]:
    """Each row if it is kept, and what is told of it if it is dropped, both with their place.

    The report counts along.
    """
    for where, row in found:
        report.rows += 1
        drop = judge(where, row)
        if drop:
            report.drop(drop.reason, f"{drop.where}: {drop.why}")
            yield where, drop
        elif not isinstance(row, DataError):
            report.kept += 1
            yield where, row
    if report.dropped["near"] > report.rows / 2:
        report.remarks.append(
            "most rows are near duplicates; if one long template stands around short texts, it is "
            "the template that is alike: --keep near, or a higher --near"
        )


class Judge:
    """Says of one row after the other whether it is wrong, remembering those that were not.

    Of a row that is kept, some 4,000 bytes are remembered, however long it is.
    """

    def __init__(self, rules: Rules):
        self.rules = rules
        self._same = normalized if rules.match == "normalized" else str
        self._rows: dict[bytes, int] = {}
        self._questions: dict[bytes, int] = {}
        self._tests: dict[bytes, Where] = {}
        self._near = self._index(2) if "near" not in rules.keep else None
        self._near_tests = self._index(1) if "leaked" not in rules.keep else None
        self._test_places: list[Where] = []

    def __call__(self, where: Where, row: Row | DataError) -> Dropped | None:
        """Why the row is to be dropped; None if it is kept, and remembered."""
        if isinstance(row, DataError):
            record = getattr(row, "record", None)
            return Dropped(where, record, "broken", str(row).removeprefix(str(where)).lstrip(":, "))
        said = parts(row)
        for reason, ask in (
            ("empty", _empty),
            ("control", _control),
            ("long", self._long),
            ("repeated", _repeated),
        ):
            why = ask(said, row) if reason not in self.rules.keep else None
            if why:
                return Dropped(where, row, reason, why)
        try:
            return self._too_many_tokens(where, row) or self._collision(where, row, said)
        except DataError as error:
            return Dropped(where, row, "broken", str(error))

    def add_tests(self, found: Iterable[Found]) -> None:
        """Rows that are tested on: their questions must not be trained on.

        Raises DataError for one that cannot be read: what it asks could then be trained on.
        """
        for where, row in found:
            if isinstance(row, DataError):
                raise row
            question = parts(row).key
            self._tests.setdefault(digest(self._same(question)), where)
            if self._near_tests:
                self._near_tests.add(len(self._test_places), self._near_tests.signature(question))
                self._test_places.append(where)

    def _index(self, texts: int) -> NearIndex | None:
        rules = self.rules
        if rules.near is None:
            return None
        return NearIndex(
            rules.near, texts=texts, kind=rules.shingle, size=rules.size, same=self._same
        )

    def _long(self, said: Parts, row: Row) -> str | None:
        whole = (said.before, said.question, said.answer)
        limit = self.rules.max_characters
        if limit is not None and (n := sum(map(len, whole))) > limit:
            return f"{n:,} characters, at most {limit:,}"
        limit = self.rules.max_words
        if limit is not None and (n := sum(len(words(text)) for text in whole)) > limit:
            return f"{n:,} words, at most {limit:,}"
        return None

    def _too_many_tokens(self, where: Where, row: Row) -> Dropped | None:
        """DataError for a row that the base cannot take at all."""
        limit = self.rules.max_tokens
        if self.rules.count_tokens is None:
            return None
        n = self.rules.count_tokens(row)
        if limit is None or n <= limit or "long" in self.rules.keep:
            return None
        return Dropped(where, row, "long", f"{n:,} tokens, at most {limit:,}")

    def _collision(self, where: Where, row: Row, said: Parts) -> Dropped | None:
        """The row held against the test and against all that were kept; None: it is kept."""
        question, answer = self._same(said.key), self._same(said.answer)
        if "leaked" not in self.rules.keep:
            leak = self._leak(where, row, said, digest(question))
            if leak:
                return leak
        asked = digest(self._same(said.before), question)
        whole = digest(self._same(said.before), question, answer)
        if whole in self._rows:
            return self._against("duplicate", where, row, self._rows[whole], "as")
        if asked in self._questions and "conflict" not in self.rules.keep:
            return self._against("conflict", where, row, self._questions[asked], "unlike")
        if self._near:
            signature = self._near.signature(f"{said.before} {said.question}", said.answer)
            near = self._near.near(signature)
            if near:
                number, nearness = max(near, key=lambda each: each[1])
                return self._against("near", where, row, number, f"nearness {nearness:.2f} to")
            self._near.add(where.number, signature)
        self._rows[whole] = where.number
        self._questions.setdefault(asked, where.number)
        return None

    def _against(
        self, reason: str, where: Where, row: Row, number: int, words: str
    ) -> Dropped | None:
        """Dropped for the sake of a row that was kept before, unless that is no reason."""
        if reason in self.rules.keep:
            return None
        other = replace(where, number=number)
        return Dropped(where, row, reason, f"{words} {other}", other)

    def _leak(self, where: Where, row: Row, said: Parts, asked: bytes) -> Dropped | None:
        test = self._tests.get(asked)
        if test:
            return Dropped(where, row, "leaked", f"as {test}", test)
        if self._near_tests and self._test_places:
            near = self._near_tests.near(self._near_tests.signature(said.key))
            if near:
                place, nearness = max(near, key=lambda each: each[1])
                test = self._test_places[place]
                return Dropped(where, row, "leaked", f"nearness {nearness:.2f} to {test}", test)
        return None


def _empty(said: Parts, row: Row) -> str | None:
    if said.answer.strip():
        return None
    return "the answer is blank" if said.answer else "there is no answer"


def _control(said: Parts, row: Row) -> str | None:
    for name, text in (
        ("system message", said.before),
        ("question", said.question),
        ("answer", said.answer),
    ):
        found = _CONTROL.search(text)
        if found:
            damaged = ", left by reading in a wrong encoding" if found[0] == "\ufffd" else ""
            return f"U+{ord(found[0]):04X} at character {found.start() + 1} of the {name}{damaged}"
    return None


def _repeated(said: Parts, row: Row) -> str | None:
    answer = normalized(said.answer)
    if len(words(answer)) < REPEATED_WORDS or answer not in normalized(said.question):
        return None
    return f"all {len(words(answer))} words of the answer stand in the question"


def _located(rows: Iterable[Mapping[str, Any]], name: str) -> Iterator[Found]:
    """Rows in memory, each with its place, from 0; the error in place of a broken one."""
    for i, record in enumerate(rows):
        where = Where(name, i, "index")
        try:
            yield where, as_row(record)
        except DataError as error:
            yield where, BrokenRowError(str(error), record)
