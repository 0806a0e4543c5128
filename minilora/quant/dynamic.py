"""The dynamic 8-bit map: 256 levels that are close together near 0, at every power of ten.

An 8-bit number says how small it is first: seven decades below 1, and the smaller the decade, the
fewer levels are left for it, from 64 in the largest down to 1. So numbers of very different sizes
keep their digits, where even steps would leave nothing of the small ones. The moments of an
optimizer are such numbers, and so are the constants of four-bit blocks.

Dettmers, "8-bit approximations", arXiv 1511.04561; 8-bit optimizers, arXiv 2110.02861, section 1.3.
"""

from __future__ import annotations

from functools import cache

import numpy as np

DECADES = 7


def _even(n: int) -> np.ndarray:
    """n numbers from 0.1 to 1, rounded as PyTorch's linspace rounds them: from either end."""
    low, steps = np.float32(0.1), np.arange(n)
    step = np.float64((np.float32(1) - low) / np.float32(n - 1))
    return np.where(steps < n // 2, low + step * steps, 1 - step * steps[::-1]).astype(np.float32)


@cache
def dynamic_map(signed: bool = True) -> np.ndarray:
    """The levels in rising order (256,) float32, the largest of them 1.

    signed   half of them below 0; else all from 0, and twice as many in each decade
    """
    found = [0.0, 1.0]
    for decade in range(DECADES):
        # [0.1, 1] in equal parts, and of each part the middle: a level for each.
        parts = 2 ** (decade if signed else decade + 1)
        edges = _even(parts + 1)
        middles = (edges[:-1] + edges[1:]) / np.float32(2)
        levels = (np.float32(10.0 ** (decade - DECADES + 1)) * middles).tolist()
        found += levels
        if signed:
            found += [-level for level in levels]
    levels_in_order = np.sort(np.array(found, np.float32))
    levels_in_order.setflags(write=False)
    return levels_in_order


def nearest(x: np.ndarray, signed: bool = True) -> np.ndarray:
    """The code of the level next to each number: float32 in [-1, 1], any shape → uint8.

    Halfway between two levels, as float32 has it, it is the lower one.

    Searching among 256 levels takes 76 ns a number, and this 3: the first 16 bits of a float32
    (sign, exponent, 7 digits) name a stretch in which at most one half lies, so a table tells the
    code at its lower end, and one comparison the rest.
    """
    codes, halves = _stretches(signed)
    x = np.ascontiguousarray(x, np.float32)
    found = codes[x.view(np.uint32) >> 16]
    found += x > halves[found]
    return found


@cache
def _stretches(signed: bool) -> tuple[np.ndarray, np.ndarray]:
    """The code at the lower end of each stretch (65536,), and the halves above each code (256,)."""
    levels = dynamic_map(signed)
    halves = (levels[:-1] + levels[1:]) / np.float32(2)
    first = np.arange(2**16, dtype=np.uint32) << 16
    lower = np.where(first >> 31, first | 0xFFFF, first).view(np.float32)  # of negatives the other
    codes = np.searchsorted(halves, np.nan_to_num(lower, nan=1.0), side="left").astype(np.uint8)
    return codes, np.append(halves, np.float32(np.inf))
