"""GGUF, the file of llama.cpp: settings, a vocabulary and quantized arrays in one.

    "GGUF", version, number of arrays, number of settings
    settings    name, type, value                     (a value may be a list)
    arrays      name, shape, kind of quantization, offset
    data        the arrays, each starting at a multiple of the alignment

The header is walked here and checked against the size of the file before it is believed; the
`gguf` package knows the many kinds of quantization and undoes them. Its own reader is left out:
it turns each of 100,000 vocabulary entries into several arrays (1.7 s and 170 MB for a file of
98 MB), and loops for as long as a damaged length tells it to.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import contextlib
import math
import os
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from minilora.errors import FormatError, require
from minilora.files.reading import damaged, reading

_KIND = "a GGUF file"
_STRING, _LIST = 8, 9
_SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "|b1",
    10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
# The largest vocabularies have some 300,000 entries and twice as many merges. With a limit, a
# damaged length costs neither seconds nor gigabytes.
_LONGEST_LIST = 2**21
_LONGEST_STRING = 2**20
# Floats that are undone at once: so that the many temporary arrays of that stay in the cache.
_CHUNK = 2**19


class _Entry(NamedTuple):
    shape: tuple[int, ...]
    kind: int
    start: int
    n_bytes: int


class GGUFFile:
    """A GGUF file, opened: `metadata` by name as plain Python values, and arrays on demand.

    Raises MissingExtraError without the package `gguf`, FormatError for a file that is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self._gguf = require("gguf", extra="llm", purpose="reading a GGUF file")
        with reading(path, _KIND), open(path, "rb") as file:
            header = _Header(file, self.path)
            self.metadata, listed = header.read()
            self._entries = _placed(listed, header, self.metadata, self._gguf)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each array by name, rows first, as NumPy has it."""
        return {name: entry.shape for name, entry in self._entries.items()}

    @property
    def kinds(self) -> dict[str, str]:
        """What each array is quantized as, by name: Q4_1, Q8_0, …; F32, F16 and BF16 are floats."""
        kind = self._gguf.GGMLQuantizationType
        return {name: kind(entry.kind).name for name, entry in self._entries.items()}

    def read(self, name: str) -> np.ndarray:
        """The array of that name in float32, its quantization undone.

        Besides the result, a few MB are held at any time. Raises FormatError for an array that
        the file has not, and for a kind of quantization that the package cannot undo, naming those
        that it can.
        """
        entry = self._entry(name)
        array = np.empty(entry.shape, np.float32)
        if not array.size:
            return array
        rows = array.reshape(-1, entry.shape[-1]) if entry.shape else array.reshape(1, 1)
        row_bytes = entry.n_bytes // len(rows)
        step = max(1, _CHUNK // rows.shape[1])
        kind = self._gguf.GGMLQuantizationType(entry.kind)
        with reading(self.path, _KIND), open(self.path, "rb") as file:
            file.seek(entry.start)
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                raw = self._bytes(file, name, len(part) * row_bytes).reshape(len(part), row_bytes)
                try:
                    part[:] = self._gguf.quants.dequantize(raw, kind)
                except NotImplementedError as error:
                    raise _not_read(self.path, name, kind.name, self._gguf) from error
        return array

    def raw(self, name: str) -> np.ndarray:
        """The bytes of the rows of an array as the file has them, (rows, bytes of a row) uint8.

        Raises FormatError for an array that the file has not.
        """
        entry = self._entry(name)
        n_rows = math.prod(entry.shape[:-1])
        with reading(self.path, _KIND), open(self.path, "rb") as file:
            file.seek(entry.start)
            return self._bytes(file, name, entry.n_bytes).reshape(n_rows, -1)

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise FormatError(f"{self.path}: holds no array {name!r}")
        return self._entries[name]

    def _bytes(self, file: BinaryIO, name: str, n: int) -> np.ndarray:
        """The next n bytes of an array. FormatError if the file has become shorter meanwhile."""
        raw = np.fromfile(file, np.uint8, n)
        if raw.size != n:
            raise damaged(self.path, _KIND, f"it ends inside of {name!r}")
        return raw


class _Header:
    """Walks a header from front to back, never past the end of the file."""

    def __init__(self, file: BinaryIO, path: str):
        self.file, self.path = file, path
        self.size = os.fstat(file.fileno()).st_size
        self.at = 0

    def read(self) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], int, int]]]:
        """The settings; and for each array its shape, kind and offset into the data."""
        if self.take(4) != b"GGUF":
            raise self.damaged("it does not start with the letters GGUF")
        version = self.number("<u4")
        if version not in (2, 3):
            raise FormatError(f"{self.path}: GGUF version {version} is not read; 2 and 3 are")
        n_arrays, n_settings = self.number("<u8"), self.number("<u8")
        settings: dict[str, Any] = {}
        for _ in range(n_settings):
            name = self.string()
            if name in settings:
                raise self.damaged(f"the setting {name!r} is given twice")
            settings[name] = self.value(self.number("<u4"))
        arrays: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(n_arrays):
            name = self.string()
            if name in arrays:
                raise self.damaged(f"the array {name!r} is given twice")
            n_axes = self.number("<u4")
            if n_axes > 4:
                raise self.damaged(f"the array {name!r} has {n_axes} axes, at most 4 are allowed")
            shape = tuple(reversed([self.number("<u8") for _ in range(n_axes)]))
            arrays[name] = shape, self.number("<u4"), self.number("<u8")
        return settings, arrays

    def take(self, n_bytes: int) -> bytes:
        if n_bytes > self.size - self.at:
            raise self.damaged(f"it ends at byte {self.size:,}, in the middle of its header")
        self.at += n_bytes
        return self.file.read(n_bytes)

    def number(self, dtype: str) -> Any:
        return np.frombuffer(self.take(np.dtype(dtype).itemsize), dtype)[0].item()

    def length(self, longest: int, what: str) -> int:
        length = int.from_bytes(self.take(8), "little")
        if length > longest:
            raise self.damaged(f"{what} of {length:,}, at most {longest:,} are allowed")
        return length

    def string(self) -> str:
        return self.take(self.length(_LONGEST_STRING, "a text")).decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind != _LIST:
            raise self.damaged(f"a setting of the unknown type {kind}")
        item = self.number("<u4")
        length = self.length(_LONGEST_LIST, "a list")
        if item == _STRING:
            return [self.string() for _ in range(length)]
        if item not in _SCALARS:
            raise self.damaged(f"a list of the type {item}, which is not read")
        dtype = np.dtype(_SCALARS[item])
        return np.frombuffer(self.take(length * dtype.itemsize), dtype).tolist()

    def damaged(self, reason: str) -> FormatError:
        return damaged(self.path, _KIND, reason)


def _placed(
    listed: dict[str, tuple[tuple[int, ...], int, int]],
    header: _Header,
    settings: dict[str, Any],
    gguf: ModuleType,
) -> dict[str, _Entry]:
    """Where the bytes of each array are, once all are found to lie in the file and apart."""
    alignment = settings.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise header.damaged(f"an alignment of {alignment!r}, which is no power of two")
    data = header.at + -header.at % alignment
    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    entries = {}
    for name, (shape, kind, offset) in listed.items():
        if kind not in sizes:
            raise _not_read(header.path, name, f"kind {kind}, which is unknown,", gguf)
        block, block_bytes = sizes[kind]
        if shape and shape[-1] % block:
            called = gguf.GGMLQuantizationType(kind).name
            raise header.damaged(
                f"{name!r} is {called}, in blocks of {block}, and its rows of {shape[-1]} are no "
                "multiple of that"
            )
        n_bytes = math.prod(shape) // block * block_bytes
        if offset % alignment or data + offset + n_bytes > header.size:
            raise header.damaged(f"{name!r} lies outside of the file, which may have been cut off")
        entries[name] = _Entry(shape, kind, data + offset, n_bytes)
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].start):
        if entry.start < end:
            raise header.damaged(f"{name!r} lies on top of another array")
        end = entry.start + entry.n_bytes
    return entries


def _not_read(path: str, name: str, kind: str, gguf: ModuleType) -> FormatError:
    """The error for an array of a kind that the package cannot undo: the file may well be whole."""
    undone = []
    for known, (_, n_bytes) in gguf.GGML_QUANT_SIZES.items():
        # It keeps no list of what it undoes, so it is asked to, for one block of zeros.
        with contextlib.suppress(NotImplementedError), np.errstate(all="ignore"):
            gguf.quants.dequantize(np.zeros((1, n_bytes), np.uint8), known)
            undone.append(known.name)
    return FormatError(
        f"{path}: {name!r} is quantized as {kind} and is not read; read are {', '.join(undone)}. "
        "Take a file in another quantization"
    )
