"""A frozen matrix in few bits, which multiplies as an array of floats does: QLoRA's base.

    y = x Ŵᵀ = [x Ŵ₁ᵀ, x Ŵ₂ᵀ, …]        dx = dy Ŵ = dy₁ Ŵ₁ + dy₂ Ŵ₂ + …        no dW

Ŵ are the floats that the bits stand for, and Ŵᵢ some of its rows. A piece is unpacked when a
product comes to it and is gone before the next: of all the model's matrices one piece exists in
floats at any time, in each thread. In backward it is unpacked once more: what a 4-bit base saves in
memory is paid for in time.

So neither layer nor operation is another one. `Linear`, LoRA's bypass, the head's cross entropy and
an embedding's look-up use their weight in three ways, `x @ W.T`, `dy @ W` and `W[ids]`, and
`PackedMatrix` answers those. It is what a Parameter holds in the place of an array, so it has a
name, a count and bytes like any other weight. It cannot be trained: bits have no gradient.

Dettmers et al., "QLoRA", arXiv 2305.14314, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn, Protocol

import numpy as np

from minilora.autograd import Parameter
from minilora.errors import ConfigError, DTypeError, ShapeError
from minilora.nn import Linear, Module

# Floats of a piece: few enough that they are still in the cache when the product reads them.
PIECE = 2**18
# Numbers of an array by which it is recognized: training moves nearly all of them.
_SPREAD = 256


class Blocks(Protocol):
    """What a matrix is packed in: its own formats' (`quantize`), or a GGUF's (`StoredBlocks`)."""

    data_type: str

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...
    def rows(self, start: int, stop: int) -> np.ndarray: ...
    def arrays(self) -> dict[str, np.ndarray]: ...


class PackedMatrix:
    """A matrix (out, in) of which only the bits are held.

    blocks      the bits
    dtype       of the floats that it stands for, and of what it multiplies
    origin      `spread` of what it was before it was packed, if that is known: a kilobyte, by
                which the base is recognized; not counted among the weights
    data_type   what it is packed as: "nf4", "Q4_1", …
    nbytes      what is really held
    """

    # Products with arrays are this class's, whichever side it stands on.
    __array_ufunc__ = None
    ndim = 2

    def __init__(self, blocks: Blocks, dtype: Any = np.float32, origin: np.ndarray | None = None):
        self.blocks, self.dtype, self.origin = blocks, np.dtype(dtype), origin
        n_out, n_in = blocks.shape
        self.shape, self.data_type = (n_out, n_in), blocks.data_type

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def nbytes(self) -> int:
        return self.blocks.nbytes

    @property
    def T(self) -> _Transposed:
        return _Transposed(self)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"PackedMatrix({self.shape}, {self.data_type}, {self.nbytes:,} bytes)"

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop, unpacked: (stop - start, in)."""
        return self.blocks.rows(start, stop).astype(self.dtype, copy=False)

    def pieces(self) -> Iterator[tuple[slice, np.ndarray]]:
        """All rows in order, some at a time: where they stand, and unpacked."""
        step = max(1, PIECE // self.shape[1])
        for start in range(0, len(self), step):
            here = slice(start, min(start + step, len(self)))
            yield here, self.rows(here.start, here.stop)

    def whole(self) -> np.ndarray:
        """All of it as an array of floats (out, in)."""
        W = np.empty(self.shape, self.dtype)
        for here, piece in self.pieces():
            W[here] = piece
        return W

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.whole(), dtype, copy=None)

    def __array_function__(self, function: Any, *_: Any) -> NoReturn:
        raise DTypeError(
            f"np.{function.__name__} is not for a matrix packed as {self.data_type}; unpack it "
            "first: np.asarray(W), or some of its rows: W.rows(start, stop)"
        )

    def __getitem__(self, index: Any) -> np.ndarray:
        """Rows by a slice or by integers of any shape, unpacked."""
        ids = np.arange(len(self))[index]
        take: Any = getattr(self.blocks, "take", None)
        if take is None:
            found = [self.rows(i, i + 1)[0] for i in ids.ravel().tolist()]
            rows = np.array(found, self.dtype).reshape(-1, self.shape[1])
        else:
            rows = take(ids.ravel()).astype(self.dtype, copy=False)
        return rows.reshape(*ids.shape, self.shape[1])

    def __rmatmul__(self, dy: np.ndarray) -> np.ndarray:
        """dy Ŵ: (n, out) → (n, in), a sum over pieces."""
        _check(dy, self.shape)
        total: Any = None
        for here, piece in self.pieces():
            part = dy[:, here] @ piece
            if total is None:
                total = part
            else:
                total += part
        return total

    def refuse_gradient(self) -> NoReturn:
        """Say why it is not trained: what Tensor asks when somebody wants its gradient."""
        raise ConfigError(
            f"a weight packed as {self.data_type} cannot be trained: a step of gradient descent is "
            "far smaller than the distance of two of its levels, so nothing would move. Train an "
            "adapter beside it (get_peft_model), or load the base without quantizing it for full "
            "fine-tuning"
        )


class _Transposed:
    """Ŵᵀ (in, out), as a factor."""

    __array_ufunc__ = None

    def __init__(self, matrix: PackedMatrix):
        self.T = matrix
        self.shape = matrix.shape[::-1]

    def __rmatmul__(self, x: np.ndarray) -> np.ndarray:
        """x Ŵᵀ: (n, in) → (n, out), piece by piece side by side."""
        _check(x, self.shape)
        y = np.empty((len(x), self.shape[1]), x.dtype, like=x)
        for here, piece in self.T.pieces():
            np.matmul(x, piece.T, out=y[:, here])
        return y


def _check(x: Any, shape: tuple[int, ...]) -> None:
    if x.ndim != 2 or x.shape[1] != shape[0]:
        raise ShapeError(f"{x.shape} @ {shape}: a packed matrix multiplies matrices that fit it")


def spread(array: Any) -> np.ndarray:
    """Some 256 numbers of an array in float32, evenly spread over it, or all of a smaller one.

    Of a packed one those of before it was packed, if they are known.
    """
    places = np.arange(0, array.size, max(1, array.size // _SPREAD))
    if not isinstance(array, PackedMatrix):
        return array.reshape(-1)[places].astype("<f4")
    if array.origin is not None:
        return array.origin
    rows, columns = np.divmod(places, array.shape[1])
    return array[rows][np.arange(len(rows)), columns].astype("<f4")


def unpacked(array: Any) -> Any:
    """The array itself, or the floats that a packed one stands for."""
    return array.whole() if isinstance(array, PackedMatrix) else array


def packed_weights(model: Module) -> dict[str, PackedMatrix]:
    """name → each weight of which only the bits are held."""
    held: dict[str, Any] = model.state_dict()
    return {name: array for name, array in held.items() if isinstance(array, PackedMatrix)}


def unpack_weights(model: Module) -> None:
    """Put floats in the place of all bits: as large as it was before it was quantized."""
    for p in model.parameters():
        p.data = unpacked(p.data)


def layer_matrices(model: Module) -> dict[str, Parameter]:
    """name → the weight of each Linear in the layers: what QLoRA packs, and nothing else.

    Embeddings, the head and the norms stay as they are: they are looked up or added to, and few.
    """
    return {
        f"{path}.weight": m.weight
        for path, m in model.named_modules()
        if isinstance(m, Linear) and ".layers." in f".{path}."
    }
