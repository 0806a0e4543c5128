"""Rows for training, validation and test, of which no question is on two sides.

The side is decided by a hash of the question, not by a draw: the same question is always on the
same side, in whichever order rows come and whatever is added. Questions that are nearly the same
are tied together first, since a model that learnt the one has seen the other. The least hash of
those tied decides for all, so only a new row that ties questions can move any.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

from minilora.data.matching import digest, normalized
from minilora.data.near import THRESHOLD, NearIndex, Shingle
from minilora.data.reading import read_rows
from minilora.data.rows import Row, as_row, parts
from minilora.data.writing import json_line, keep_apart, written
from minilora.errors import ConfigError, DataError

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Shares:
    """Which share of the questions is for validation and for test, and the seed of the hash.

    near: nearness from which questions stay together, in [0.5, 1]; None: only the same ones.
    together: a key of the rows; those with the same value there stay together as well.
    """

    validation: float = 0.1
    test: float = 0.1
    seed: int = 0
    near: float | None = THRESHOLD
    shingle: Shingle = "words"
    size: int | None = None
    together: str | None = None

    def __post_init__(self) -> None:
        for name, share in (("validation", self.validation), ("test", self.test)):
            if not 0 <= share < 1:
                raise ConfigError(f"the share for {name}, {share}, must be in [0, 1), e.g. 0.1")
        if self.validation + self.test >= 1:
            raise ConfigError(
                f"validation {self.validation} and test {self.test} leave nothing to train on; "
                "together they must be below 1"
            )

    def of(self, side: Side) -> float:
        """The share of a side."""
        given = {"validation": self.validation, "test": self.test}
        return given.get(side, 1 - self.validation - self.test)

    def side_of(self, question: bytes) -> Side:
        """Where the rows of a question (its 16-byte digest) belong."""
        hashed = blake2b(question + str(self.seed).encode(), digest_size=8).digest()
        place = int.from_bytes(hashed, "little") / 2**64
        if place < self.test:
            return "test"
        return "validation" if place < self.test + self.validation else "train"


def split(
    rows: Iterable[Mapping[str, Any]],
    share: float = 0.1,
    seed: int = 0,
    *,
    validation: float = 0.0,
    near: float | None = THRESHOLD,
    together: str | None = None,
) -> dict[Side, list[Row]]:
    """Rows in memory by side, in their order: a `share` for the test, and one for validation.

    near, together: which rows stay together, see `Shares`.

    Raises ConfigError for shares outside of [0, 1), DataError naming a row that is none, or a side
    to which no row came.
    """
    ties = _Ties(Shares(validation, share, seed, near, together=together))
    made = []
    for i, row in enumerate(rows):
        try:
            made.append(as_row(row))
            ties.see(made[-1])
        except DataError as error:
            raise DataError(f"rows[{i}]: {error}") from error
    by_side: dict[Side, list[Row]] = {side: [] for side in SIDES}
    for row, side in zip(made, ties.sides(), strict=True):
        by_side[side].append(row)
    return by_side


@dataclass
class SplitReport:
    """What became of the rows of a file: how many are on each side, and of how many questions."""

    rows: int
    questions: int
    groups: int
    by_side: dict[Side, int]
    remarks: list[str]

    def lines(self) -> list[str]:
        """A few short sentences."""
        said = [
            f"{self.rows:,} rows; distinct questions: {self.questions:,}; groups that stay "
            f"together: {self.groups:,}"
        ]
        said += [
            f"  {side}: {n:,} ({100 * n / self.rows:.1f} %)" for side, n in self.by_side.items()
        ]
        return said + [f"  note: {remark}" for remark in self.remarks]

    def as_json(self) -> dict[str, Any]:
        """The same as one object."""
        return {
            "rows": self.rows,
            "questions": self.questions,
            "groups": self.groups,
            "by_side": dict(self.by_side),
            "remarks": self.remarks,
        }


def split_file(
    path: str | os.PathLike[str],
    out: Mapping[Side, str | os.PathLike[str]],
    shares: Shares,
    *,
    format: str | None = None,
    progress: bool = False,
) -> SplitReport:
    """Write the rows of a file into one file a side, as JSON Lines; it is read twice.

    out: a path for each side whose share is not 0.

    Raises DataError, FormatError at the first row that cannot be read, or naming a side to which no
    row came; OSError. Nothing is written then.
    """
    wanted = [side for side in SIDES if shares.of(side)]
    if set(out) != set(wanted):
        raise ConfigError(f"give a path for each of {', '.join(wanted)}, not {', '.join(out)}")
    keep_apart([path], out.values())
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError(f"{os.fspath(path)} is read twice, so it must be a file; save it as one")
    ties = _Ties(shares)
    for where, row in read_rows(path, format, progress=progress):
        try:
            ties.see(row)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    sides = ties.sides()
    counts: dict[Side, int] = dict.fromkeys(out, 0)
    with written(out.values()) as files:
        open_files = dict(zip(out, files, strict=True))
        for side, (where, row) in zip(sides, read_rows(path, format), strict=True):
            open_files[side].write(json_line(row, where))
            counts[side] += 1
    return SplitReport(len(sides), ties.questions, ties.groups, counts, _remarks(counts, shares))


def _remarks(counts: Mapping[Side, int], shares: Shares) -> list[str]:
    total = sum(counts.values())
    return [
        f"{side} has {100 * n / total:.1f} % of the rows where {100 * shares.of(side):.1f} % were "
        "asked for: with few groups, or large ones, that cannot be helped; try another --seed"
        for side, n in counts.items()
        if abs(n / total - shares.of(side)) > max(0.05, 2 / total)
    ]


class _Ties:
    """Which questions belong together: the same ones, and those near each other (union-find)."""

    def __init__(self, shares: Shares):
        self._shares = shares
        self._index = (
            None
            if shares.near is None
            else NearIndex(shares.near, kind=shares.shingle, size=shares.size)
        )
        self._number: dict[bytes, int] = {}
        self._groups: dict[bytes, int] = {}
        self._parent: list[int] = []
        self._of_row: list[int] = []

    def see(self, row: Row) -> None:
        """The next row. DataError if it lacks the key that says what it belongs to."""
        question = parts(row).key
        key = digest(normalized(question))
        number = self._number.get(key)
        if number is None:
            number = self._number[key] = len(self._parent)
            self._parent.append(number)
            self._tie_near(question, number)
        together = self._shares.together
        if together is not None:
            if together not in row:
                raise DataError(f"has no {together!r}; with --together, each row says to what")
            group = digest(json.dumps(row[together], sort_keys=True, default=str))
            self._tie(number, self._groups.setdefault(group, number))
        self._of_row.append(number)

    def _tie_near(self, question: str, number: int) -> None:
        if self._index:
            signature = self._index.signature(question)
            for other, _ in self._index.near(signature):
                self._tie(number, other)
            self._index.add(number, signature)

    def _tie(self, number: int, other: int) -> None:
        self._parent[self._root(other)] = self._root(number)

    def sides(self) -> list[Side]:
        """The side of each row that was seen, in order.

        DataError if no row came to a side that was to have a share.
        """
        least: dict[int, bytes] = {}
        for key, number in self._number.items():
            root = self._root(number)
            least[root] = min(least.get(root, key), key)
        side = {root: self._shares.side_of(key) for root, key in least.items()}
        empty = [each for each in SIDES if self._shares.of(each) and each not in side.values()]
        if empty:
            raise DataError(
                f"of {len(self._of_row):,} rows in {len(side):,} groups that stay together none "
                f"came to {' and '.join(empty)}; give more rows, a larger share or another seed, "
                "or, if one long template ties all questions, do without nearness (near off)"
            )
        return [side[self._root(number)] for number in self._of_row]

    @property
    def questions(self) -> int:
        """Different questions among them."""
        return len(self._parent)

    @property
    def groups(self) -> int:
        """Groups of questions that stay together."""
        return sum(parent == number for number, parent in enumerate(self._parent))

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number
