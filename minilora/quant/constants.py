"""What a block shares: one float32 each, or eight bits each when they are quantized once more.

A constant for every 64 numbers costs each of them half a bit, an eighth of all. But constants are
numbers like others and can be quantized in turn: their mean is taken off, since all are positive
and of a similar size, and the rest is held in the dynamic 8-bit map, 256 of them sharing a float32.
That is 8/64 + 32/(64·256) = 0.127 bits a number instead of 0.5.

Dettmers et al., "QLoRA", arXiv 2305.14314, section 3, "Double Quantization".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minilora.errors import ConfigError
from minilora.quant.dynamic import dynamic_map
from minilora.quant.levels import nearest

# Constants that share a float32.
NESTED_BLOCK = 256


class Constants:
    """One number for every block, as float32: values (n,) finite."""

    def __init__(self, values: np.ndarray):
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def part(self, start: int, stop: int) -> np.ndarray:
        """Constants start to stop: (stop - start,) float32."""
        return self._values[start:stop]

    def arrays(self) -> dict[str, np.ndarray]:
        """What is held."""
        return {"constants": self._values}


class DoubleQuantized(Constants):
    """One number for every block in eight bits: codes, a float32 for 256 of them, and their mean.

    codes   (n,) uint8;  scales  (⌈n/256⌉,) float32;  mean  () float32
    """

    def __init__(self, codes: np.ndarray, scales: np.ndarray, mean: np.ndarray):
        self.codes, self.scales, self.mean = codes, scales, mean

    @classmethod
    def of(cls, values: np.ndarray) -> DoubleQuantized:
        """Quantize the constants (n,) float32. ConfigError if they are too far apart for that."""
        mean = np.array(values.mean(dtype=np.float64) if len(values) else 0, np.float32)
        with np.errstate(over="ignore"):
            rest = values - mean
        if not np.isfinite(rest).all():  # minimums, which have both signs
            raise ConfigError(
                "double quantization: some block's constant is further from the mean of all than "
                "float32 reaches, 3.4e38; look where such numbers come from, or give "
                "double_quant=False"
            )
        scaled, scales = scaled_blocks(rest, NESTED_BLOCK)
        return cls(nearest(scaled, "int8-dynamic"), scales, mean)

    def __len__(self) -> int:
        return len(self.codes)

    def part(self, start: int, stop: int) -> np.ndarray:
        found = dynamic_map(signed=True)[self.codes[start:stop]]
        scales = self.scales[start // NESTED_BLOCK :]
        for part, scale in block_parts(found, start, NESTED_BLOCK, scales):
            part *= scale
        # A constant near float32's largest may be rounded to more than that.
        with np.errstate(over="ignore"):
            found += self.mean
        return np.clip(found, -_LARGEST, _LARGEST, out=found)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"constants": self.codes, "nested_scales": self.scales, "mean": self.mean}


# The smallest number that a block is divided by: of smaller ones float32 has no inverse.
_SMALLEST = np.float32(1e-38)
_LARGEST = np.finfo(np.float32).max


def scaled_blocks(flat: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers between -1 and 1, and the largest magnitude of each block: (n,), (⌈n/block_size⌉,).

    Rounded as bitsandbytes does: whole blocks are multiplied with the inverse of their largest, a
    last one that is not whole is divided by it, and that largest is then at least 1e-38. Where it
    quantizes constants once more bitsandbytes has no such least, so of a last block of zeros it
    holds 0 as the largest, and here it is 1e-38; what comes back is the same.
    """
    whole = len(flat) - len(flat) % block_size
    blocks = flat[:whole].reshape(-1, block_size)
    largest = np.abs(blocks).max(axis=1, initial=0)
    inverse = np.float32(1) / np.maximum(largest, _SMALLEST)
    scaled = np.empty_like(flat)
    np.multiply(blocks, inverse[:, None], out=scaled[:whole].reshape(-1, block_size))
    if whole < len(flat):
        last = max(np.abs(flat[whole:]).max(), _SMALLEST)
        largest = np.append(largest, last)
        np.divide(flat[whole:], last, out=scaled[whole:])
    return np.clip(scaled, -1, 1, out=scaled), largest


def block_parts(
    flat: np.ndarray, start: int, block_size: int, *constants: np.ndarray
) -> Iterator[tuple[np.ndarray, ...]]:
    """Numbers of an array beside the constants of their blocks, as they broadcast.

    What is left of a block in front, whole blocks as a matrix, and what is begun of one at the end.

    flat        (n,) the numbers from place `start` of the array on
    constants   each (b,), from the block on in which that place is
    """
    front = min(-start % block_size, len(flat))
    whole = (len(flat) - front) // block_size
    back = front + whole * block_size
    first = 1 if front else 0
    if front:
        yield flat[:front], *(c[:1] for c in constants)
    if whole:
        blocks = flat[front:back].reshape(-1, block_size)
        yield blocks, *(c[first : first + whole, None] for c in constants)
    if back < len(flat):
        yield flat[back:], *(c[first + whole : first + whole + 1] for c in constants)
