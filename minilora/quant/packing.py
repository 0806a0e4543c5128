"""Two codes of four bits in a byte, the first in the high half; and a byte to two levels at once.

A table of all 256 bytes holds the two levels of each side by side, as one item of eight bytes. So
unpacking looks up half as often as there are numbers, and never splits a byte.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from minilora.quant.levels import levels


def pack(codes: np.ndarray, fill: int = 0) -> np.ndarray:
    """Codes below 16, (n,) uint8 → (⌈n/2⌉,) uint8; `fill` stands beside the last of an odd n."""
    packed = codes[::2] << 4
    packed[: len(codes) // 2] |= codes[1::2]
    if len(codes) % 2:
        packed[-1] |= fill
    return packed


def unpack(packed: np.ndarray, n: int) -> np.ndarray:
    """The first n codes: (⌈n/2⌉,) uint8 → (n,) uint8."""
    codes = np.empty(2 * len(packed), np.uint8)
    codes[::2] = packed >> 4
    codes[1::2] = packed & 15
    return codes[:n]


def looked_up(packed: np.ndarray, start: int, stop: int, data_type: str) -> np.ndarray:
    """The levels of the codes from place start to stop: (stop - start,) float32.

    packed   all codes, two a byte for formats of four bits, one otherwise
    """
    table = _table(data_type)
    a_byte = table.itemsize // 4
    bytes_ = packed[start // a_byte : -(-stop // a_byte)]
    found = np.empty(len(bytes_), table.dtype)
    # A byte is never outside of 256 entries; with "clip" NumPy need not check and then copy.
    np.take(table, bytes_, out=found, mode="clip")
    skipped = start % a_byte
    return found.view(np.float32)[skipped : skipped + stop - start]


@cache
def _table(data_type: str) -> np.ndarray:
    """The level of each byte, float32, or the two of it as one item of eight bytes: (256,)."""
    single = levels(data_type)
    if len(single) == 256:
        return single
    pairs = np.stack([np.repeat(single, 16), np.tile(single, 16)], axis=1)
    return pairs.view(np.int64)[:, 0].copy()
