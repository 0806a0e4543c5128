"""An array in few bits: blocks of numbers, each a code, and what its block shares.

    ŵ = level[code] · absmax                absmax the largest |w| of the block
    ŵ = code · scale + minimum              int4-minmax: scale = (max - min) / 15

A block is some numbers in a row of the flattened array, wherever a row of the matrix ends; the last
may be shorter. The smaller it is, the less an outlier spoils, and the more the constants weigh. An
error is at most absmax times half the largest gap between levels, where the constants are not
quantized in turn, and where absmax is at least 1e-38. Of less float32 has no inverse: such a block
is divided by 1e-38 instead, so its numbers get lower levels than are theirs, far below all of them
that of 0.

Dettmers et al., "QLoRA", arXiv 2305.14314, section 2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minilora.errors import ConfigError, DTypeError, NonFiniteError, ShapeError
from minilora.quant.constants import (
    NESTED_BLOCK,
    Constants,
    DoubleQuantized,
    block_parts,
    scaled_blocks,
)
from minilora.quant.levels import levels, nearest
from minilora.quant.packing import looked_up, pack

# Bits of a code.
DATA_TYPES = {"nf4": 4, "fp4": 4, "int4": 4, "int4-minmax": 4, "int8": 8, "int8-dynamic": 8}
# Numbers at a time: in floats they are still in the cache when the constants come.
PIECE = 2**16
# A block that is larger than its array is simply all of it. There is a limit since NumPy counts in
# 64 bits; no matrix has so many numbers.
LARGEST_BLOCK = 2**31


def bits_per_parameter(
    data_type: str = "nf4", block_size: int = 64, double_quant: bool = True
) -> float:
    """Bits of a number, its share of the block's constants included.

    4 + 32/64 = 4.5 for blocks of 64, and 4 + 8/64 + 32/(64·256) = 4.127 with double quantization;
    twice the constants for int4-minmax. Left out is what does not grow: a mean, a block begun.
    """
    block_size = check(data_type, block_size)
    constants = 2 if data_type == "int4-minmax" else 1
    shared = 8 + 32 / NESTED_BLOCK if double_quant else 32
    return DATA_TYPES[data_type] + constants * shared / block_size


class Quantized:
    """An array of float32 numbers of which only codes and constants are held. Not to be changed.

    shape, size, ndim, dtype    of the array that it stands for
    data_type, block_size       how
    codes                       uint8 in one row; of four bits two a byte, the first one high
    constants                   of all blocks: absmax, or the scale
    minimums                    of all blocks, of int4-minmax; otherwise None
    nbytes                      what is really held
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self,
        shape: tuple[int, ...],
        data_type: str,
        block_size: int,
        codes: np.ndarray,
        constants: Constants,
        minimums: Constants | None = None,
    ):
        self.shape, self.data_type, self.block_size = shape, data_type, block_size
        self.codes, self.constants, self.minimums = codes, constants, minimums
        for array in self.arrays().values():
            array.setflags(write=False)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def double_quant(self) -> bool:
        """Whether the constants are quantized, too."""
        return isinstance(self.constants, DoubleQuantized)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that is held, by name."""
        held = {"codes": self.codes, **self.constants.arrays()}
        if self.minimums is not None:
            held |= {f"minimum_{name}": a for name, a in self.minimums.arrays().items()}
        return held

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays().values())

    @property
    def bits_per_parameter(self) -> float:
        """Bits that are really held, for each number."""
        return 8 * self.nbytes / max(self.size, 1)

    def __repr__(self) -> str:
        twice = ", double" if self.double_quant else ""
        return (
            f"Quantized({self.shape}, {self.data_type}, blocks of {self.block_size}{twice}, "
            f"{self.nbytes:,} bytes)"
        )

    def part(self, start: int, stop: int) -> np.ndarray:
        """Numbers start to stop of the flattened array: (stop - start,) float32."""
        flat = looked_up(self.codes, start, stop, self.data_type)
        blocks = start // self.block_size, -(-stop // self.block_size)
        scales = self.constants.part(*blocks)
        if self.minimums is None:
            for numbers, scale in block_parts(flat, start, self.block_size, scales):
                numbers *= scale
        else:
            lows = self.minimums.part(*blocks)
            for numbers, scale, low in block_parts(flat, start, self.block_size, scales, lows):
                numbers *= scale
                numbers += low
        return flat

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop of a matrix: (stop - start, in) float32.

        Raises ShapeError for an array that is no matrix, and for rows that it has not.
        """
        if self.ndim != 2 or not 0 <= start <= stop <= self.shape[0]:
            raise ShapeError(f"rows {start} to {stop} of an array of shape {self.shape}")
        n = self.shape[1]
        return self.part(start * n, stop * n).reshape(stop - start, n)


def quantize(
    w: np.ndarray,
    data_type: str = "nf4",
    block_size: int = 64,
    double_quant: bool = True,
    *,
    name: str = "the array",
) -> Quantized:
    """Hold an array of floats, of any shape, in few bits.

    data_type      one of DATA_TYPES: nf4, fp4, int4, int4-minmax, int8, int8-dynamic
    block_size     numbers that share their constants, from 1 to 2**31
    double_quant   the constants are quantized, too
    name           what the array is called if something is wrong with it

    Codes of nf4 and fp4 are those of bitsandbytes, bit for bit, and with double_quant=False so are
    the constants. Quantized once more, some 0.2 % of them have a neighbouring code: bitsandbytes on
    a processor first rounds them to a grid of 65,536 even steps.

    Raises ConfigError for a format or a block size that cannot be, for what is quantized already,
    and for constants that float32 does not reach; DTypeError for an array that is not float32 or
    float16; NonFiniteError for NaN and infinities.
    """
    block_size = check(data_type, block_size)
    flat = _floats(w, name)
    if data_type == "int4-minmax":
        codes, *shared = _between(flat, block_size)
    else:
        codes, *shared = _below_largest(flat, data_type, block_size)
    if DATA_TYPES[data_type] == 4:
        codes = pack(codes, levels(data_type).tolist().index(0.0))
    kind = DoubleQuantized.of if double_quant else Constants
    constants = [kind(values) for values in shared]
    if data_type == "int4-minmax":
        _check_reach(*constants)
    return Quantized(np.shape(w), data_type, block_size, codes, *constants)


def dequantize(q: Quantized) -> np.ndarray:
    """The numbers that the bits stand for: float32 of the array's shape."""
    found = np.empty(q.size, np.float32)
    for start in range(0, q.size, PIECE):
        stop = min(start + PIECE, q.size)
        found[start:stop] = q.part(start, stop)
    return found.reshape(q.shape)


def _below_largest(
    flat: np.ndarray, data_type: str, block_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and the largest magnitude of each block, some blocks at a time."""
    codes = np.empty(len(flat), np.uint8)
    largest = [np.empty(0, np.float32)]
    step = block_size * max(1, PIECE // block_size)
    for start in range(0, len(flat), step):
        scaled, those = scaled_blocks(flat[start : start + step], block_size)
        codes[start : start + step] = nearest(scaled, data_type)
        largest.append(those)
    return codes, np.concatenate(largest)


def _between(flat: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales and minimums of int4-minmax: sixteen even levels from minimum to maximum."""
    starts = np.arange(0, len(flat), block_size)
    none = np.empty(0, np.float32)
    low = np.minimum.reduceat(flat, starts) if len(flat) else none
    high = np.maximum.reduceat(flat, starts) if len(flat) else none
    with np.errstate(over="ignore"):
        scale = (high - low) / np.float32(15)
    if not np.isfinite(scale).all():
        raise ConfigError(_TOO_FAR)
    divisor = np.where(scale > 0, scale, np.float32(1))
    codes = np.empty(len(flat), np.uint8)
    blocks = block_parts(flat, 0, block_size, divisor, low)
    for (numbers, d, a), (there,) in zip(blocks, block_parts(codes, 0, block_size), strict=True):
        there[:] = np.clip(np.rint((numbers - a) / d), 0, 15)
    return codes, scale, low


_TOO_FAR = (
    "int4-minmax: some block's largest and smallest number are further apart than float32 reaches, "
    "3.4e38; look where such numbers come from"
)


def _check_reach(scales: Constants, lows: Constants) -> None:
    """ConfigError if a block's highest level, as `part` computes it, is beyond float32.

    Scales are rounded, and fifteen of them can be a little more than the largest number was.
    """
    n = len(scales)
    with np.errstate(over="ignore"):
        highest = np.float32(15) * scales.part(0, n) + lows.part(0, n)
    if not np.isfinite(highest).all():
        raise ConfigError(_TOO_FAR)


def check(data_type: str, block_size: int) -> int:
    """The block size as an int. ConfigError for an unknown format, and as `check_block_size`."""
    if not isinstance(data_type, str) or data_type not in DATA_TYPES:
        raise ConfigError(f"format {data_type!r} is none of {', '.join(DATA_TYPES)}")
    return check_block_size(block_size)


def check_block_size(block_size: int, usual: int = 64) -> int:
    """The block size as an int. ConfigError if it is no whole number from 1 to 2**31."""
    whole = isinstance(block_size, int | np.integer) and not isinstance(block_size, bool)
    if not whole or not 1 <= block_size <= LARGEST_BLOCK:
        raise ConfigError(
            f"block_size {block_size!r} must be a whole number from 1 to {LARGEST_BLOCK:,}; "
            f"{usual} is usual"
        )
    # NumPy's own small integers would overflow where sizes are multiplied.
    return int(block_size)


def _floats(w: Any, name: str) -> np.ndarray:
    """The numbers of an array in one row, float32 and finite, or what is wrong with it."""
    if isinstance(w, Quantized) or hasattr(w, "data_type"):
        raise ConfigError(
            f"{name} is quantized already, as {w.data_type}; rounding what was rounded loses "
            "twice: start from the floats"
        )
    if not isinstance(w, np.ndarray) or w.dtype not in (np.float32, np.float16):
        what = w.dtype if isinstance(w, np.ndarray) else type(w).__name__
        raise DTypeError(
            f"{name} is {what}, and what is quantized are arrays of float32 or float16; convert "
            "it first: .astype(np.float32)"
        )
    flat = np.ascontiguousarray(w, np.float32).reshape(-1)
    finite = np.isfinite(flat)
    if not finite.all():
        first = int(np.argmin(finite))
        place = ", ".join(str(i) for i in np.unravel_index(first, w.shape))
        raise NonFiniteError(
            f"{name}[{place}] is {flat[first]}, and {len(flat) - int(finite.sum()) - 1:,} more of "
            "its numbers are not finite: there is no level for them. Look where they come from "
            "before quantizing"
        )
    return flat
