"""What became of rows, in sums that add up: rows = kept + what was dropped for each reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Of each reason so many are told in words; all of them are counted.
EXAMPLES = 3


class Report:
    """Counts of rows by reason, the first ones in words, and remarks for which nothing is dropped.

    name: of what was looked at. reasons: name → what it means.
    """

    def __init__(self, name: str, reasons: Mapping[str, str]):
        self.name, self.meaning = name, dict(reasons)
        self.rows = self.kept = 0
        self.dropped = dict.fromkeys(reasons, 0)
        self.examples: dict[str, list[str]] = {reason: [] for reason in reasons}
        self.remarks: list[str] = []

    def drop(self, reason: str, why: str) -> None:
        """Count one, and keep its words if it is among the first."""
        self.dropped[reason] += 1
        if len(self.examples[reason]) < EXAMPLES:
            self.examples[reason].append(why)

    @property
    def found(self) -> int:
        """How many rows are dropped."""
        return sum(self.dropped.values())

    def lines(self, examples: int = 1) -> list[str]:
        """A few short sentences: the sums, each reason with its first `examples`, the remarks."""
        rows = f"{self.rows:,} row{'' if self.rows == 1 else 's'}"
        said = [f"{self.name}: {rows} = {self.kept:,} good + {self.found:,} not"]
        for reason, count in self.dropped.items():
            if count:
                said.append(f"  {count:,} {reason}: {self.meaning[reason]}")
                said += [f"    {why}" for why in self.examples[reason][:examples]]
        return said + [f"  note: {remark}" for remark in self.remarks]

    def as_json(self) -> dict[str, Any]:
        """The same as one object."""
        return {
            "name": self.name,
            "rows": self.rows,
            "kept": self.kept,
            "dropped": self.dropped,
            "examples": {reason: said for reason, said in self.examples.items() if said},
            "remarks": self.remarks,
        }
