"""Checkpoints that bitsandbytes has quantized: each matrix in four bits, as several arrays.

    X.weight                      two codes a byte, the first one high: (⌈n/2⌉, 1) uint8
    X.weight.absmax               of all blocks: (blocks,) float32, or uint8 if quantized once more
    X.weight.quant_map            the sixteen levels
    X.weight.nested_absmax        of absmax in turn, one for 256: (⌈blocks/256⌉,) float32
    X.weight.nested_quant_map     its 256 levels
    X.weight.quant_state.bitsandbytes__nf4    in JSON: shape, block size, the mean of absmax

These are the bits that `quantize` makes, so they are taken over as they are and nothing is rounded
a second time; and a base that was quantized here is written so, for transformers to open. There a
weight that was in bfloat16 is rounded to that again when it is unpacked, here it is not.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from minilora.errors import ConfigError, FormatError
from minilora.quant import Quantized
from minilora.quant.constants import NESTED_BLOCK, Constants, DoubleQuantized
from minilora.quant.dynamic import dynamic_map
from minilora.quant.levels import levels
from minilora.quant.linear import PackedMatrix

_FORMATS = ("nf4", "fp4")
_STATE = re.compile(r"(?P<name>.+)\.quant_state\.bitsandbytes__(?P<format>\w+)")


def check_settings(said: Any, where: Any) -> None:
    """ConfigError for a `quantization_config` that is not of four bits by bitsandbytes."""
    said = said if isinstance(said, dict) else {}
    method = said.get("quant_method", "bitsandbytes" if "load_in_4bit" in said else None)
    if method == "bitsandbytes" and said.get("load_in_4bit"):
        return
    how = "bitsandbytes in 8 bits" if method == "bitsandbytes" else repr(method)
    raise ConfigError(
        f"{where}: its weights are quantized by {how}, which is not read; read are those of "
        "bitsandbytes in 4 bits, and unquantized ones"
    )


def packing(
    weights: Iterable[tuple[str, np.ndarray]],
    shapes: Mapping[str, Any],
    dtype: Any,
    where: Any,
) -> Iterator[tuple[str, Any]]:
    """(name, array) pairs of a checkpoint, the arrays of each quantized matrix put together.

    shapes   of all arrays that will come;  where  the folder, for messages

    Raises FormatError, with the matrix's name, for arrays that are missing, cut off, or of another
    kind than this page says, and for constants that are not finite.
    """
    states = {m["name"]: m["format"] for m in map(_STATE.fullmatch, shapes) if m}
    if not states:
        raise FormatError(
            f"{where}: config.json says that the weights are quantized, and none of them is"
        )
    parts: dict[str, dict[str, np.ndarray]] = {name: {} for name in states}
    # Parts are called after their matrix, and `.weight` ends its name.
    belongs = {part: part.partition(".weight")[0] + ".weight" for part in shapes}
    left = Counter(belongs.values())
    for name, array in weights:
        whole = belongs[name]
        if whole not in states:
            yield name, array
            continue
        parts[whole][name[len(whole) + 1 :]] = array
        left[whole] -= 1
        if not left[whole]:
            matrix = _Parts(f"{where}: {whole}", states[whole], parts.pop(whole))
            yield whole, PackedMatrix(matrix.quantized(), dtype)


class _Parts:
    """The arrays of one matrix, none believed before it was looked at."""

    def __init__(self, called: str, data_type: str, arrays: dict[str, np.ndarray]):
        self.called, self.data_type, self.arrays = called, data_type, arrays
        self.nested = "nested_absmax" in arrays

    def quantized(self) -> Quantized:
        if self.data_type not in _FORMATS:
            raise self.wrong(f"is in {self.data_type!r}; read are {' and '.join(_FORMATS)}")
        state = self.state()
        shape, block_size = tuple(state["shape"]), state["blocksize"]
        size = shape[0] * shape[1]
        n_blocks = -(-size // block_size)
        self.check_levels("quant_map", levels(self.data_type))
        codes = self.take("", np.uint8, (-(-size // 2), 1)).reshape(-1)
        constants: Constants
        if self.nested:
            self.check_levels("nested_quant_map", dynamic_map(signed=True))
            constants = DoubleQuantized(
                self.take("absmax", np.uint8, (n_blocks,)),
                self.constants("nested_absmax", -(-n_blocks // NESTED_BLOCK)),
                np.array(state["nested_offset"], np.float32),
            )
        else:
            constants = Constants(self.constants("absmax", n_blocks))
        return Quantized(shape, self.data_type, block_size, codes, constants)

    def state(self) -> dict[str, Any]:
        """What the matrix says about itself."""
        raw = self.take(f"quant_state.bitsandbytes__{self.data_type}", np.uint8, None)
        try:
            said = json.loads(raw.tobytes().decode())
            sizes = [*said["shape"], said["blocksize"]]
            sound = len(sizes) == 3 and all(type(n) is int and n > 0 for n in sizes)
            if self.nested:
                sound &= said["nested_blocksize"] == NESTED_BLOCK
                # NaN is not within, and neither is what only float64 reaches.
                sound &= abs(float(said["nested_offset"])) <= float(np.finfo(np.float32).max)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise self.wrong(f"does not say what it is: {error}") from error
        if not sound:
            raise self.wrong(f"says of itself what cannot be, or is not read: {said}")
        return said

    def take(self, name: str, dtype: Any, shape: tuple[int, ...] | None) -> np.ndarray:
        """One array, of the type and shape that it has to have."""
        if name not in self.arrays:
            raise self.wrong(f"has no {name or 'codes'}")
        array = self.arrays[name]
        if array.dtype != dtype or (shape is not None and array.shape != shape):
            needed = np.dtype(dtype).name + ("" if shape is None else f" {shape}")
            raise self.wrong(
                f"needs its {name or 'codes'} to be {needed}, and they are {array.dtype} "
                f"{array.shape}: cut off, or in an order for one processor"
            )
        return array

    def constants(self, name: str, n: int) -> np.ndarray:
        """Constants (n,) float32, of blocks or of `NESTED_BLOCK` of them, all finite."""
        array = self.take(name, np.float32, (n,))
        finite = np.isfinite(array)
        if not finite.all():
            first = int(np.argmin(finite))
            of = f"the blocks from {first * NESTED_BLOCK} on" if self.nested else f"block {first}"
            raise self.wrong(
                f"has {array[first]} as {name}[{first}], so the numbers of {of} would be lost; "
                "the file is damaged: get it again"
            )
        return array

    def check_levels(self, name: str, expected: np.ndarray) -> None:
        found = self.take(name, np.float32, expected.shape)
        if not np.allclose(found, expected, rtol=0, atol=1e-6):
            raise self.wrong(f"has levels of its own ({name}), which is not read")

    def wrong(self, what: str) -> FormatError:
        return FormatError(f"{self.called} {what}")


def arrays_of(name: str, matrix: PackedMatrix) -> dict[str, np.ndarray]:
    """The arrays of one quantized matrix under bitsandbytes' names.

    Raises ConfigError for a format that it has not.
    """
    q = matrix.blocks
    if not isinstance(q, Quantized) or q.data_type not in _FORMATS:
        raise ConfigError(
            f"{name} is {matrix.data_type}, and a folder for transformers holds weights in "
            f"{' or '.join(_FORMATS)}, or in floats: unpack_weights(model) makes them floats"
        )
    state = {
        "quant_type": q.data_type,
        "blocksize": q.block_size,
        "dtype": str(matrix.dtype),
        "shape": list(q.shape),
    }
    found = {name: q.codes.reshape(-1, 1), f"{name}.quant_map": levels(q.data_type)}
    if isinstance(q.constants, DoubleQuantized):
        found[f"{name}.absmax"] = q.constants.codes
        found[f"{name}.nested_absmax"] = q.constants.scales
        found[f"{name}.nested_quant_map"] = dynamic_map(signed=True)
        state |= {
            "nested_blocksize": NESTED_BLOCK,
            "nested_dtype": "float32",
            "nested_offset": float(q.constants.mean),
        }
    else:
        found[f"{name}.absmax"] = q.constants.part(0, len(q.constants))
    text = json.dumps(state).encode()
    found[f"{name}.quant_state.bitsandbytes__{q.data_type}"] = np.frombuffer(text, np.uint8)
    return found


def settings_of(matrices: Iterable[PackedMatrix]) -> dict[str, Any]:
    """The `quantization_config` for a `config.json`."""
    first: Any = next(iter(matrices)).blocks
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": first.data_type,
        "bnb_4bit_use_double_quant": getattr(first, "double_quant", False),
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_compute_dtype": "float32",
    }
