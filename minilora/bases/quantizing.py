"""A base in few bits: its matrices are quantized while it is loaded, one at a time.

What is quantized are the matrices of the layers. Embeddings, the head and the norms stay floats, as
in QLoRA (arXiv 2305.14314): of a large model they are little, and the head's errors would be the
first to be seen. A base that comes so is frozen as a whole: what is trained stands beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minilora.errors import ConfigError
from minilora.model import Transformer
from minilora.nn import Module
from minilora.quant import quantize
from minilora.quant.blockwise import check
from minilora.quant.linear import PackedMatrix, layer_matrices, packed_weights, spread

_MATRIX = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight")


@dataclass(frozen=True)
class Quantization:
    """How a base's matrices are packed.

    data_type      one of quant.DATA_TYPES
    block_size     numbers that share a constant, from 1 to 2**31
    double_quant   the constants are quantized, too

    Raises ConfigError for what is not allowed.
    """

    data_type: str = "nf4"
    block_size: int = 64
    double_quant: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_size", check(self.data_type, self.block_size))

    def pack(self, name: str, W: np.ndarray, dtype: Any) -> PackedMatrix:
        """A matrix W (out, in) in few bits, that stands for floats of `dtype`."""
        single = np.ascontiguousarray(W, np.float32)
        blocks = quantize(single, self.data_type, self.block_size, self.double_quant, name=name)
        return PackedMatrix(blocks, dtype, spread(W))

    def packing(self, weights: Iterable[tuple[str, Any]], dtype: Any) -> Iterator[tuple[str, Any]]:
        """(name, array) pairs of a base, those of matrices in the layers packed as they pass."""
        for name, array in weights:
            yield name, self.pack(name, array, dtype) if _MATRIX.fullmatch(name) else array


def quantize_base(
    model: Transformer, data_type: str = "nf4", *, block_size: int = 64, double_quant: bool = True
) -> Transformer:
    """Quantize the matrices in the layers of a model that is at hand, in place, and freeze it.

    All of them or none: until the last is packed, bits and floats are there together.

    Raises ConfigError for an unknown format or block size, and for a model that is quantized
    already or has adapters; NonFiniteError naming a weight with NaN or infinities.
    """
    how = Quantization(data_type, block_size, double_quant)
    refuse_packed(model, f"quantize to {data_type}")
    matrices = layer_matrices(model)
    besides = [name for name in matrices if not _MATRIX.fullmatch(name)]
    if besides:
        raise ConfigError(
            f"{besides[0]} is no matrix of a plain base: quantize the base first, and put adapters "
            "beside it then"
        )
    packed: dict[str, Any] = {name: how.pack(name, p.data, p.dtype) for name, p in matrices.items()}
    for name, p in matrices.items():
        p.requires_grad = False
        p.data = packed.pop(name)
    model.requires_grad_(False)
    return model


def refuse_packed(model: Module, what: str) -> None:
    """ConfigError if some weights are in few bits already."""
    there = packed_weights(model)
    if there:
        name, W = next(iter(there.items()))
        raise ConfigError(
            f"{what}: this base is quantized already ({name} is {W.data_type}), and rounding what "
            "was rounded loses twice; start from the base in floats"
        )
