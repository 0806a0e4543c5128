"""The blocks of a GGUF, kept as they are: 32 numbers of a row share a scale, and perhaps a minimum.

    Q4_0   w = d (q - 8)      d 16 bits, q 4 bits each        4.5 bits a number
    Q4_1   w = d q + m        d, m 16 bits, q 4 bits each     5
    Q8_0   w = d q            d 16 bits, q 8 bits, signed     8.5

A file has a block's scale, minimum and codes beside each other. Here they stand in three arrays,
the same bytes in another order: what belongs to one formula is then contiguous, and undoing it goes
at 0.5 instead of 0.8 ns a number. Of a block's 32 four-bit codes the first 16 are the low halves
of its bytes, the last 16 the high ones.

llama.cpp, `ggml-common.h` and `ggml-quants.c`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minilora.errors import FormatError

BLOCK = 32


class _Kind(NamedTuple):
    """bits   of a code;  minimum   whether a block has one;  zero   the code that means 0"""

    bits: int
    minimum: bool
    zero: int


KINDS = {"Q4_0": _Kind(4, False, 8), "Q4_1": _Kind(4, True, 0), "Q8_0": _Kind(8, False, 0)}


class StoredBlocks:
    """A matrix (out, in) in blocks along its rows.

    data_type   Q4_0, Q4_1 or Q8_0
    codes       (out, in/32, 16) uint8, two codes a byte; of Q8_0 (out, in/32, 32) int8
    scales      (out, in/32) float16;  minimums  the same, or None
    """

    block_size = BLOCK

    def __init__(
        self, data_type: str, codes: np.ndarray, scales: np.ndarray, minimums: np.ndarray | None
    ):
        self.data_type = data_type
        self.codes, self.scales, self.minimums = codes, scales, minimums
        self.shape = (codes.shape[0], codes.shape[1] * BLOCK)

    @classmethod
    def from_bytes(cls, data_type: str, raw: np.ndarray, name: str = "an array") -> StoredBlocks:
        """From the rows of a file: raw (out, bytes of a row) uint8.

        Raises FormatError, with `name`, for a kind that is not known here, for rows that are no
        whole blocks, and for a scale or minimum that is not finite, naming its block.
        """
        if data_type not in KINDS:
            raise FormatError(
                f"{name} is quantized as {data_type}, whose blocks are not kept as they are; "
                f"{', '.join(KINDS)} are. Load it without keep_quantized"
            )
        kind = KINDS[data_type]
        front = 4 if kind.minimum else 2
        size = front + BLOCK * kind.bits // 8
        if raw.ndim != 2 or raw.shape[1] % size:
            raise FormatError(
                f"{name}: its rows of {raw.shape[-1]:,} bytes are no whole blocks of {data_type}, "
                f"which have {size}"
            )
        blocks = raw.reshape(len(raw), -1, size)
        halves = np.ascontiguousarray(blocks[..., :front]).view("<f2")
        _check_finite(halves, name)
        return cls(
            data_type,
            np.ascontiguousarray(blocks[..., front:]).view(np.int8 if kind.bits == 8 else np.uint8),
            np.ascontiguousarray(halves[..., 0]),
            np.ascontiguousarray(halves[..., 1]) if kind.minimum else None,
        )

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return self.shape[0] * self.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return sum(a.nbytes for a in self.arrays().values())

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that is held, by name."""
        held = {"codes": self.codes, "scales": self.scales}
        return held if self.minimums is None else held | {"minimums": self.minimums}

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop as floats: (stop - start, in) float32."""
        return self._undone(slice(start, stop))

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Single rows as floats: indices (n,) → (n, in) float32."""
        return self._undone(indices)

    def reordered(self, order: np.ndarray) -> StoredBlocks:
        """The same with its rows in another order. Blocks lie along rows, so nothing is undone."""
        minimums = None if self.minimums is None else self.minimums[order]
        return StoredBlocks(self.data_type, self.codes[order], self.scales[order], minimums)

    def _undone(self, which: slice | np.ndarray) -> np.ndarray:
        kind, codes = KINDS[self.data_type], self.codes[which]
        W = np.empty((*codes.shape[:2], BLOCK), np.float32)
        if kind.bits == 8:
            W[:] = codes
        else:
            W[..., : BLOCK // 2] = codes & 15
            W[..., BLOCK // 2 :] = codes >> 4
        if kind.zero:
            W -= np.float32(kind.zero)
        W *= self.scales[which].astype(np.float32)[..., None]
        if self.minimums is not None:
            W += self.minimums[which].astype(np.float32)[..., None]
        return W.reshape(len(W), -1)


def _check_finite(halves: np.ndarray, name: str) -> None:
    """FormatError for a scale or a minimum (out, in/32, 1 or 2) that is no number, or infinite."""
    finite = np.isfinite(halves)
    if not finite.all():
        row, block, which = np.unravel_index(int(np.argmin(finite)), halves.shape)
        raise FormatError(
            f"{name}: in row {row} the {('scale', 'minimum')[which]} of block {block} is "
            f"{halves[row, block, which]}, so its numbers would be lost; the file is damaged: "
            "get it again"
        )
