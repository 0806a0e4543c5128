"""Safetensors: a header in JSON that says where each array lies, then the bytes of the arrays.

    8 bytes   length of the header, little-endian
    header    {"name": {"dtype": "F32", "shape": […], "data_offsets": [from, to]}, …}
    data      the arrays, end to end

The `safetensors` library checks a file before anything in it is believed: that offsets follow
each other without a hole, fit the shapes, and end where the file ends. The bytes are then read
here, one array at a time and without mapping the file: the library's NumPy side knows no bfloat16,
and a mapped file that someone truncates kills the process. They are written here, too, because
the library's writer takes the memory of a strided array as it lies, gives the file to its owner
alone, and reports a full disk as something else than OSError.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors

from minilora.errors import FormatError
from minilora.files.atomic import locate, whole_file
from minilora.files.json_files import parse_json, read_json
from minilora.files.narrow import stored, widened
from minilora.files.reading import damaged, reading

_KIND = "a safetensors file"
# bfloat16 is the upper half of float32, and NumPy has no such type: it is read as 16 bits.
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "|b1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items() if name != "BF16"}
# NumPy's name, and bfloat16's → the format's, of what weights are rounded to.
NARROW = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class _Entry(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    start: int


def read_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of a file by name, in the types of the file; bfloat16 is widened to float32.

    Raises FormatError for a file that is missing, damaged, or holds a type NumPy has not.
    """
    return dict(iterate_tensors(path))


def iterate_tensors(path: str | os.PathLike[str]) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a file one at a time, as `(name, array)`, in the order of the file.

    The whole header is checked before the first array is made.
    """
    entries, _ = _header(path)
    with reading(path, _KIND), open(path, "rb") as file:
        for name, entry in entries.items():
            file.seek(entry.start)
            count = math.prod(entry.shape)
            array = np.fromfile(file, _DTYPES[entry.dtype], count)
            if array.size != count:
                raise damaged(path, _KIND, f"it ends inside of {name!r}")
            if entry.dtype == "BF16":
                array = widened(array)
            yield name, array.reshape(entry.shape)


def read_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of all arrays by name; only the header is read."""
    entries, _ = _header(path)
    return {name: entry.shape for name, entry in entries.items()}


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The strings that a file says about itself; empty when it says none."""
    _, metadata = _header(path)
    return metadata


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays wholly or not at all. The same arrays and metadata give the same bytes.

    Raises FormatError for an array of a type that safetensors has not, OSError for what the
    system refuses (a full disk, a folder that cannot be written).
    """
    arrays = {name: np.asarray(array) for name, array in tensors.items()}
    for name, array in arrays.items():
        if array.dtype.newbyteorder("<") not in _NAMES:
            raise FormatError(
                f"{path}: the array {name!r} is of type {array.dtype}; safetensors holds "
                f"{', '.join(str(dtype) for dtype in _NAMES)}"
            )
    # Larger elements first, so that each array starts at a multiple of its element's size.
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    types = {name: _NAMES[arrays[name].dtype.newbyteorder("<")] for name in order}
    _write(path, arrays, types, metadata, lambda name: arrays[name])


def write_rounded(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    dtype: str,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays all in one type, each rounded when its turn comes.

    dtype   "float32", "float16" or "bfloat16"

    Raises NonFiniteError for an array that the type cannot hold, OSError for what the system
    refuses. There is then no file.
    """
    types = dict.fromkeys(tensors, NARROW[dtype])
    _write(path, tensors, types, metadata, lambda name: stored(name, tensors[name], dtype))


def _write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    types: Mapping[str, str],
    metadata: Mapping[str, str] | None,
    kept: Callable[[str], np.ndarray],
) -> None:
    """The header, then what `kept` gives for each name, in the order and type that `types` says."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, kind in types.items():
        shape = arrays[name].shape
        start, end = end, end + math.prod(shape) * np.dtype(_DTYPES[kind]).itemsize
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in types:
            array = kept(name)
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            file.write(np.ascontiguousarray(little).data)


def checkpoint_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The safetensors files that a model folder consists of: one, or the shards of its index.

    Raises FormatError when there are none, or the index names a file that is not there.
    """
    folder = Path(folder)
    single, index = locate(folder, "model.safetensors"), folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise FormatError(
            f"{folder}: no weights; looked for {single.name} and {index.name} in that folder"
        )
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise damaged(index, "an index of shards", "'weight_map' names no arrays")
    names = dict.fromkeys(placed.values())
    for name in names:
        # An index must not lead out of its folder.
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise damaged(index, "an index of shards", f"there is no file {name!r} beside it")
    return [folder / name for name in names]


def iterate_checkpoint(folder: str | os.PathLike[str]) -> Iterator[tuple[str, np.ndarray]]:
    """All arrays of a model folder, over all its shards, one at a time.

    Raises FormatError for what `checkpoint_files` and `iterate_tensors` refuse, and for an array
    that lies in two shards.
    """
    seen: set[str] = set()
    for path in checkpoint_files(folder):
        for name, array in iterate_tensors(path):
            if name in seen:
                raise damaged(path, _KIND, f"{name!r} lies in another shard, too")
            seen.add(name)
            yield name, array


def read_checkpoint(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of a model folder by name, over all its shards."""
    return dict(iterate_checkpoint(folder))


def _header(path: str | os.PathLike[str]) -> tuple[dict[str, _Entry], dict[str, str]]:
    """Where each array lies, once the library has found the file sound."""
    with reading(path, _KIND):
        if not os.path.isfile(path):
            raise FormatError(f"{os.fspath(path)}: there is no such file")
        with safetensors.safe_open(path, "numpy"), open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length).decode()
    header = parse_json(text, path)
    metadata = header.pop("__metadata__", {})
    entries = {}
    for name, said in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if said["dtype"] not in _DTYPES:
            raise FormatError(
                f"{path}: {name!r} is of type {said['dtype']}, which is not read; "
                f"allowed are {', '.join(_DTYPES)}"
            )
        start = 8 + length + said["data_offsets"][0]
        entries[name] = _Entry(said["dtype"], tuple(said["shape"]), start)
    return entries, metadata
