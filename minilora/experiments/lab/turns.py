"""Seconds of steps that take turns: what else the machine does then falls on all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


def by_turns(steps: Sequence[Callable[[int], object]], turns: int) -> list[tuple[float, ...]]:
    """Seconds of each step in each turn: `turns` tuples, after one turn that warms up.

    steps   each called with the number of the turn, from 0
    """
    taken = []
    for turn in range(turns + 1):
        each = []
        for step in steps:
            began = time.perf_counter()
            step(turn)
            each.append(time.perf_counter() - began)
        taken.append(tuple(each))
    return taken[1:]
