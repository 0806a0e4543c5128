"""The numbers that a code can stand for, in blocks whose largest number is 1.

A quantized number is a code, the place of one level in a short list, times a constant that its
block shares. All formats differ in the list alone, and the list is a guess of how weights lie:

    NF4    as a normal distribution: where there are many numbers, levels are close together
    FP4    as floats do: a sign, an exponent, a digit; each power of two as fine as the next
    INT4   evenly, and so as fine at the rare ends as in the crowded middle

Dettmers et al., "QLoRA", arXiv 2305.14314, section 3 and appendix E.
"""

from __future__ import annotations

from functools import cache
from statistics import NormalDist

import numpy as np

from minilora.quant import dynamic

# The probability of the outermost level, between 1 - 1/30 and 1 - 1/32: half a part from the end,
# if there were 15 or 16 of them. At 1 itself the quantile would be infinite.
_LAST = 0.9677083

# As published, and as other programs hold them. They were computed in float32, and so differ from
# `nf4_levels` by up to 1.1e-7.
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
# Sign, two bits of exponent, one digit. In twelfths, so that the largest is 1; the second is the
# one number below the smallest exponent.
_FP4 = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
# Even levels: how many there are on each side of 0.
_SIDE = {"int4": 7, "int8": 127}


def nf4_levels() -> np.ndarray:
    """The sixteen levels of NF4 from the quantiles of a normal distribution: (16,) float64.

    Levels stand where they cut N(0, 1) into equal parts. There are to be an exact 0 and two ends,
    and sixteen is even: so there are seven levels below 0 and eight above it, and each side is
    divided by itself. They would be used alike if a block's largest number stood at the outermost
    level, 1.85 σ; of 64 numbers it is at 2.6 σ on average, so those near 0 are used most.
    """

    def quantiles(n: int) -> list[float]:
        # n levels from the far end towards the median, which is left out: 0 is added once.
        return [NormalDist().inv_cdf(p) for p in np.linspace(_LAST, 0.5, n + 1)[:-1]]

    levels = np.sort([-q for q in quantiles(7)] + [0.0] + quantiles(8))
    return levels / levels[-1]


@cache
def levels(data_type: str) -> np.ndarray:
    """The level of each code, in the order of the codes: (16,) or (256,) float32.

    Of "nf4", "fp4", "int4", "int8" and "int8-dynamic"; of "int4-minmax" the codes themselves.
    """
    if data_type == "nf4":
        found = np.array(NF4, np.float32)
    elif data_type == "fp4":
        half = np.array(_FP4, np.float32) / np.float32(12)
        found = np.concatenate([half, -half]) + np.float32(0)
    elif data_type in _SIDE:
        found = _even(_SIDE[data_type])
    elif data_type == "int4-minmax":
        found = np.arange(16, dtype=np.float32)
    else:
        found = dynamic.dynamic_map(signed=True).copy()
    found.setflags(write=False)
    return found


def _even(last: int) -> np.ndarray:
    """-last … last, as fractions of it. One code, the first, is never used: 0 is in the middle."""
    return (np.arange(-last - 1, last + 1) / last).astype(np.float32)


def nearest(x: np.ndarray, data_type: str) -> np.ndarray:
    """The code of the level next to each number: x float32 of any shape, in [-1, 1] → uint8.

    Halfway between two levels, as float32 has it, it is the lower one. Not for int4-minmax.
    """
    if data_type in _SIDE:
        last = np.float32(_SIDE[data_type])
        return (np.ceil(x * last - np.float32(0.5)) + (last + 1)).astype(np.uint8)
    if data_type == "int8-dynamic":
        return dynamic.nearest(x)
    order, halves = _decisions(data_type)
    # The place is the number of halves that lie below. Counting fifteen is faster than searching.
    below = np.zeros(np.shape(x), np.uint8)
    for half in halves:
        below += x > half
    return order[below]


@cache
def _decisions(data_type: str) -> tuple[np.ndarray, np.ndarray]:
    """The codes in the order of their levels, and the halves between neighbours."""
    found = levels(data_type)
    order = np.argsort(found, kind="stable")
    rising = found[order]
    return order.astype(np.uint8), (rising[:-1] + rising[1:]) / np.float32(2)
