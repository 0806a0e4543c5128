"""Floats in fewer bits: numbers rounded to float16 and bfloat16, and widened again.

    float32    1 sign, 8 bits of exponent, 23 of fraction
    float16    1, 5, 10: finer, but ends at 65,504
    bfloat16   1, 8, 7: the upper half of float32, as far-reaching and much coarser

NumPy has no bfloat16. It is kept as 16 bits (uint16), rounded to the nearest, ties to even, as
float16 is by NumPy and both are by PyTorch.
"""

from __future__ import annotations

import numpy as np

from minilora.errors import NonFiniteError

_LARGEST = {"float32": "3.4e38", "float16": "65,504", "bfloat16": "3.4e38"}


def bfloat16_bits(array: np.ndarray) -> np.ndarray:
    """An array as bfloat16: the upper 16 bits of each float32, rounded to the nearest."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    # Half of the last bit that is kept, or just less where that bit is 0: a tie goes to even.
    up = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # Rounding up could turn a NaN into an infinity.
    return np.where(np.isnan(array), (bits >> 16) | 0x40, up).astype(np.uint16)


def widened(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as float32: the same numbers."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """An array as it comes back from a file of this type, in float32. Too large: infinite."""
    if dtype == "bfloat16":
        return widened(bfloat16_bits(array))
    with np.errstate(over="ignore"):
        return array.astype(dtype).astype(np.float32)


def stored(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """An array as it is written in this type: float32, float16, or the bits of bfloat16.

    Raises NonFiniteError naming an array that is not finite, or not any more.
    """
    if dtype == "bfloat16":
        kept = bfloat16_bits(array)
        finite = np.isfinite(widened(kept)).all()
    else:
        with np.errstate(over="ignore"):
            kept = np.ascontiguousarray(array, dtype)
        finite = np.isfinite(kept).all()
    if finite:
        return kept
    if not np.isfinite(array).all():
        raise NonFiniteError(f"{name} holds numbers that are not finite; nothing was written")
    raise NonFiniteError(
        f"{name} goes up to {np.abs(array).max():.3g}, and {dtype} ends at {_LARGEST[dtype]}; "
        "nothing was written. Take float32, or bfloat16 where there is that"
    )
