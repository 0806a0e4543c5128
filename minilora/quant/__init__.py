"""Weights in few bits: formats, what they share, and what a matrix loses in them."""

from minilora.quant.blockwise import (
    DATA_TYPES,
    Quantized,
    bits_per_parameter,
    dequantize,
    quantize,
)

__all__ = ["DATA_TYPES", "Quantized", "bits_per_parameter", "dequantize", "quantize"]
