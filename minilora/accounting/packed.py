"""Packed matrices of which only the sizes exist: a base in few bits, foretold.

What is foretold is `quant.Quantized`: the same arrays, and as much workspace while rows of it are
unpacked. The matrix around them, its pieces and its products, is the library's own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minilora.accounting.shadow import Shadow, shadow
from minilora.bases.quantizing import Quantization
from minilora.nn import Module
from minilora.quant import DATA_TYPES
from minilora.quant.constants import NESTED_BLOCK
from minilora.quant.linear import PackedMatrix, layer_matrices


class ShadowBlocks:
    """The arrays of a matrix (out, in) in few bits, as shadows."""

    def __init__(self, shape: tuple[int, int], how: Quantization):
        self.shape, self.data_type = shape, how.data_type
        self._bits = DATA_TYPES[how.data_type]
        size = math.prod(shape)
        blocks = -(-size // how.block_size)
        self._held: dict[str, Any] = {"codes": shadow(-(-size * self._bits // 8), np.uint8)}
        for name in ("scale", "minimum")[: 1 + (how.data_type == "int4-minmax")]:
            if how.double_quant:
                self._held[name] = shadow(blocks, np.uint8)
                self._held[f"{name}_nested"] = shadow(-(-blocks // NESTED_BLOCK), np.float32)
                self._held[f"{name}_mean"] = shadow((), np.float32)
            else:
                self._held[name] = shadow(blocks, np.float32)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._held.values())

    def arrays(self) -> dict[str, Any]:
        return self._held

    def rows(self, start: int, stop: int) -> Any:
        n = (stop - start) * self.shape[1]
        unpacked = shadow(n, np.float32)
        # NumPy looks up by integers of 8 bytes, which it makes of the codes first.
        places: Shadow | None = shadow(-(-n * self._bits // 8), np.intp)
        del places
        return unpacked.reshape(stop - start, self.shape[1])


def pack_shadows(
    model: Module, data_type: str, block_size: int = 64, double_quant: bool = True
) -> None:
    """What `quantize_base` does, for a model of shadows. Raises ConfigError as it does."""
    how = Quantization(data_type, block_size, double_quant)
    model.requires_grad_(False)
    for p in layer_matrices(model).values():
        matrix: Any = PackedMatrix(ShadowBlocks(p.shape, how), p.dtype)  # type: ignore[arg-type]
        p.data = matrix
