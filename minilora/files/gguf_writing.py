"""GGUF, written: settings and arrays in one file, wholly or not at all. `gguf.py` reads it.

The `gguf` package lays out the file; the arrays go through it one at a time, so that one that is
to be written in fewer bits is copied only when its turn comes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minilora.errors import FormatError, require
from minilora.files.atomic import whole_file
from minilora.files.narrow import stored


def write_gguf(
    path: str | os.PathLike[str],
    architecture: str,
    settings: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    *,
    half: bool = False,
) -> None:
    """Write a GGUF file for llama.cpp.

    architecture   what llama.cpp computes with it: "llama", "qwen2"
    settings       by name: a bool, a whole number from 0, a float, a text, or a list of texts or of
                   whole numbers that is not empty
    tensors        by name, rows first as NumPy has them
    half           arrays of two axes in float16; all others stay float32, as llama.cpp has them

    Raises MissingExtraError without the package `gguf`, FormatError for a setting GGUF has no type
    for, NonFiniteError for an array beyond float16, OSError for what the system refuses.
    """
    gguf = require("gguf", extra="llm", purpose="writing a GGUF file")
    types = {
        name: "float16" if half and array.ndim == 2 else "float32"
        for name, array in tensors.items()
    }
    writer = gguf.GGUFWriter(None, architecture)
    for name, value in settings.items():
        writer.add_key_value(name, value, *_types_of(name, value, gguf.GGUFValueType))
    for name, array in tensors.items():
        dtype = np.dtype(types[name])
        writer.add_tensor_info(name, array.shape, dtype, array.size * dtype.itemsize)
    with whole_file(path) as file:
        try:
            # The package opens the file itself, by its name.
            writer.write_header_to_file(Path(file.name))
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name, array in tensors.items():
                writer.write_tensor_data(stored(name, array, types[name]))
        finally:
            writer.close()


def _types_of(name: str, value: Any, types: Any) -> tuple[Any, ...]:
    """GGUF's type of a setting and, for a list, of what is in it."""
    scalars = {bool: types.BOOL, int: types.UINT32, float: types.FLOAT32, str: types.STRING}
    if type(value) in scalars:
        return (scalars[type(value)],)
    if isinstance(value, list) and value and {type(item) for item in value} in ({str}, {int}):
        return types.ARRAY, types.INT32 if isinstance(value[0], int) else types.STRING
    raise FormatError(f"the setting {name!r} = {value!r} has no type in a GGUF file")
