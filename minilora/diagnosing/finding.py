"""Findings: what a diagnosis says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# What a diagnosis yields: why something is wrong, and what to do.
Said = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Finding:
    """One fault: which diagnosis found it, the reason, and the way out."""

    diagnosis: str
    reason: str
    way_out: str

    def __str__(self) -> str:
        return f"{self.diagnosis}: {self.reason}. {self.way_out}"


class Findings(list[Finding]):
    """Findings in order; as text a line each, or "nothing found"."""

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "nothing found"

    __repr__ = __str__


def findings(diagnoses: Iterable[Callable[..., Said]], *subjects: Any) -> Iterator[Finding]:
    """What these diagnoses find when each looks at the same subjects."""
    for diagnosis in diagnoses:
        for reason, way_out in diagnosis(*subjects):
            yield Finding(diagnosis.__name__, reason, way_out)


def some(names: Sequence[str], of: int, what: str) -> str:
    """How many of them, and the first by name."""
    return f"{len(names)} of {of} {what} (first {names[0]})"
