"""Watching: whoever keeps books over a step is told what happens on the tape.

The engine tells and does not ask: who watches, and what for, it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol


class Watcher(Protocol):
    """Someone who is told, in whichever thread it happens."""

    def recorded(self, op: Any) -> None:
        """The operation (a Function) has been put on the tape, with what it saved."""

    def passed(self, op: Any, gradients: dict[Any, Any]) -> None:
        """Backward has passed it, and it has let go of that; the gradients that are under way."""


_watchers: ContextVar[tuple[Watcher, ...]] = ContextVar("watchers", default=())


def watchers() -> tuple[Watcher, ...]:
    """Who is watching here."""
    return _watchers.get()


@contextmanager
def watch(watcher: Watcher) -> Iterator[None]:
    """Inside this `with`, tell `watcher` what happens, also in the threads that share a batch."""
    before = _watchers.set((*_watchers.get(), watcher))
    try:
        yield
    finally:
        _watchers.reset(before)
