"""Weights in few bits: formats, what they lose, and what is left of an adapter merged into them."""

from minilora.quant.blockwise import (
    DATA_TYPES,
    Quantized,
    bits_per_parameter,
    dequantize,
    quantize,
)
from minilora.quant.measuring import RoundingError
from minilora.quant.merging import Requantized, requantized

__all__ = [
    "DATA_TYPES",
    "Quantized",
    "Requantized",
    "RoundingError",
    "bits_per_parameter",
    "dequantize",
    "quantize",
    "requantized",
]
