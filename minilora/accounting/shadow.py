"""Shadows: arrays of which only the shape exists.

A shadow has a shape, a type and a place in the books, but no contents. NumPy's operations on
shadows give shadows, so the library's own code runs on them as it stands, forward, backward and
update, and one learns which arrays it would make, how long it would hold each, and which matrix
products it would call: for a model of eight billion parameters, in a second, in no memory.

So a prediction cannot drift away from what is predicted: there is no second description of the
model, and none of any operation.

How: NumPy asks an operand that is no array of its own what to do (`__array_ufunc__` and
`__array_function__`, NEPs 13 and 18). What computes gives a new shadow. What only looks at an
array in another way (slicing, transposing) gives a view, and whether reshaping is one depends on
the strides; those are NumPy's own, of a dummy array whose elements are never read or written.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from minilora.errors import MiniloraError


class Books:
    """What shadows are held now, what was held at most, and the matrix products called so far.

    held, peak    bytes
    flops         of matrix products; a multiplication and an addition are two
    elementwise   numbers made by all other operations
    """

    def __init__(self) -> None:
        self.held = self.peak = self.flops = self.elementwise = 0

    def enter(self, nbytes: int) -> None:
        self.held += nbytes
        self.peak = max(self.peak, self.held)


_open: ContextVar[Books] = ContextVar("books")


@contextmanager
def books() -> Iterator[Books]:
    """Inside this `with`, also in threads that share a batch, new shadows are entered here."""
    account = Books()
    before = _open.set(account)
    try:
        yield account
    finally:
        _open.reset(before)


class _Block:
    """Memory that an array would own and its views would share. Closed when the last one goes."""

    __slots__ = ("books", "nbytes")

    def __init__(self, nbytes: int):
        self.books, self.nbytes = _open.get(), nbytes
        self.books.enter(nbytes)

    def __del__(self) -> None:
        self.books.held -= self.nbytes


def books_of(array: Shadow) -> Books:
    """The books that a shadow is entered in."""
    return array.block.books


class Shadow(NDArrayOperatorsMixin):
    """An array without contents; `shadow(shape, dtype)` makes one.

    product   the flops of the matrix product that it came from, if it did
    """

    __slots__ = ("block", "layout", "product")

    def __init__(self, layout: np.ndarray, block: _Block, product: int = 0):
        self.layout, self.block, self.product = layout, block, product

    shape = property(lambda self: self.layout.shape)
    dtype = property(lambda self: self.layout.dtype)
    ndim = property(lambda self: self.layout.ndim)
    size = property(lambda self: self.layout.size)
    nbytes = property(lambda self: self.layout.nbytes)
    itemsize = property(lambda self: self.layout.itemsize)
    T = property(lambda self: self._view(self.layout.T))

    def __len__(self) -> int:
        return len(self.layout)

    def __repr__(self) -> str:
        return f"Shadow({self.shape}, {self.dtype})"

    def __float__(self) -> float:
        return 0.0

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        shapes = [np.shape(x) for x in inputs]
        account = _open.get()
        product = max(getattr(x, "product", 0) for x in inputs)
        if method == "__call__":
            shape = _call_shape(ufunc, shapes)
        elif method == "reduce":
            shape = _reduced(shapes[0], options.get("axis", 0), options.get("keepdims", False))
        elif method == "reduceat":
            shape = (len(inputs[1]), *shapes[0][1:])
        else:  # at: in place
            return None
        if ufunc is np.matmul:
            product = 2 * math.prod(shape) * shapes[0][-1]
            account.flops += product
        else:
            account.elementwise += math.prod(shape)
        if options.get("out") is not None:
            return options["out"][0]
        made = shadow(shape, options.get("dtype") or _result_type(ufunc, method, inputs))
        made.product = product
        return made

    def __add__(self, other: Any) -> Any:
        refs = sys.getrefcount(self), sys.getrefcount(other)
        return _operator(np.add, self, other, refs, commutes=True)

    def __mul__(self, other: Any) -> Any:
        refs = sys.getrefcount(self), sys.getrefcount(other)
        return _operator(np.multiply, self, other, refs, commutes=True)

    def __sub__(self, other: Any) -> Any:
        refs = sys.getrefcount(self), sys.getrefcount(other)
        return _operator(np.subtract, self, other, refs)

    def __truediv__(self, other: Any) -> Any:
        refs = sys.getrefcount(self), sys.getrefcount(other)
        return _operator(np.true_divide, self, other, refs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function not in _FUNCTIONS:
            raise MiniloraError(f"np.{function.__name__} has no shadow; see accounting/shadow.py")
        return _FUNCTIONS[function](*args, **kwargs)

    def _view(self, layout: np.ndarray) -> Shadow:
        return Shadow(layout, self.block, self.product)

    def transpose(self, *axes: Any) -> Shadow:
        return self._view(self.layout.transpose(*axes))

    def swapaxes(self, a: int, b: int) -> Shadow:
        return self._view(self.layout.swapaxes(a, b))

    def squeeze(self, axis: Any = None) -> Shadow:
        return self._view(self.layout.squeeze(axis))

    def reshape(self, *shape: Any) -> Shadow:
        wanted = shape[0] if len(shape) == 1 and np.ndim(shape[0]) else shape
        try:
            return self._view(np.reshape(self.layout, wanted, copy=False))
        except ValueError:
            # In this order the elements do not lie in memory: a copy, of the shape that -1 gives.
            return self.copy().reshape(wanted)

    def ravel(self) -> Shadow:
        return self.reshape(-1)

    def copy(self) -> Shadow:
        return shadow(self.shape, self.dtype)

    def astype(self, dtype: Any, copy: bool = True) -> Shadow:
        return self if not copy and self.dtype == dtype else shadow(self.shape, dtype)

    def item(self) -> float:
        return 0.0

    def sum(self, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Shadow:
        return _reduce(np.add, self, axis=axis, dtype=dtype, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Shadow:
        return _reduce(np.add, self, axis=axis, keepdims=keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Shadow:
        return _reduce(np.maximum, self, axis=axis, keepdims=keepdims)

    def __getitem__(self, index: Any) -> Shadow:
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, np.ndarray | list) for part in parts):
            return shadow(_fancy_shape(self.shape, parts), self.dtype)
        return self._view(self.layout[index])

    def __setitem__(self, index: Any, value: Any) -> None:
        """Nothing to be written."""


def shadow(shape: Any, dtype: Any = np.float32) -> Shadow:
    """A new shadow, entered into the books that are open."""
    one = np.zeros(1, dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    # The strides of an array in C order, over a memory of one element that nobody will look at.
    strides = [one.itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape))]
    layout = np.lib.stride_tricks.as_strided(one, shape, strides)
    return Shadow(layout, _Block(layout.nbytes))


def _operator(ufunc: Any, x: Shadow, y: Any, refs: tuple[int, int], commutes: bool = False) -> Any:
    """x ∘ y as NumPy does it: into the memory of a large operand that nobody else will read.

    refs   how many references there were to x and y; as many as to a temporary means nobody else

    NumPy elides temporaries of 256 KiB and more that have the result's shape.
    """
    shape = np.broadcast_shapes(np.shape(x), np.shape(y))
    for operand, count, may in ((x, refs[0], True), (y, refs[1], commutes)):
        if (
            may
            and count <= _TEMPORARY
            and isinstance(operand, Shadow)
            and operand.shape == shape
            and operand.nbytes >= 2**18
        ):
            return ufunc(x, y, out=(operand,))
    return ufunc(x, y)


class _Probe:
    """Tells how many references there are to an operand that is a temporary."""

    def __mul__(self, other: Any) -> int:
        return sys.getrefcount(self)


_TEMPORARY = _Probe() * 1


def _reduce(ufunc: Any, x: Shadow, **options: Any) -> Shadow:
    return ufunc.reduce(x, **options)


def _call_shape(ufunc: np.ufunc, shapes: list[tuple]) -> tuple[int, ...]:
    if ufunc is np.matmul:
        (*a, n, _), (*b, _, m) = shapes
        return (*np.broadcast_shapes(tuple(a), tuple(b)), n, m)
    if ufunc is np.vecdot:
        return np.broadcast_shapes(*shapes)[:-1]
    if ufunc.signature is not None:
        raise MiniloraError(f"np.{ufunc.__name__} has no shadow; see accounting/shadow.py")
    return np.broadcast_shapes(*shapes)


def _result_type(ufunc: np.ufunc, method: str, inputs: Sequence[Any]) -> np.dtype:
    """The type that the ufunc gives for inputs of these types."""
    kinds = [x.dtype if hasattr(x, "dtype") else type(x) for x in inputs]
    if method != "__call__":  # a reduction: of its one input with itself
        kinds = kinds[:1] * 2
    return ufunc.resolve_dtypes((*kinds, *[None] * ufunc.nout))[-1]


def _reduced(shape: tuple[int, ...], axis: Any, keepdims: bool) -> tuple[int, ...]:
    axes = range(len(shape)) if axis is None else (axis,) if np.ndim(axis) == 0 else axis
    gone = {a % len(shape) for a in axes}
    if keepdims:
        return tuple(1 if i in gone else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in gone)


def _fancy_shape(shape: tuple[int, ...], parts: tuple[Any, ...]) -> tuple[int, ...]:
    """The shape of x[index arrays]: what NumPy gives for an array of no memory at all."""
    empty = np.lib.stride_tricks.as_strided(np.zeros(1, np.bool_), shape, (0,) * len(shape))
    return empty[parts].shape


def _concatenate(arrays: Sequence[Any], axis: int = 0) -> Shadow:
    shape = list(arrays[0].shape)
    shape[axis] = sum(a.shape[axis] for a in arrays)
    return shadow(tuple(shape), arrays[0].dtype)


def _split(x: Shadow, cuts: Sequence[int], axis: int = 0) -> list[Shadow]:
    return [x._view(piece) for piece in np.split(x.layout, cuts, axis)]


def _like(shape: Any, dtype: Any = np.float64, **_: Any) -> Shadow:
    return shadow(shape, dtype)


# What the library's code calls by name, and what that makes of shadows.
_FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    np.empty: _like,
    np.zeros: _like,
    np.empty_like: lambda x, dtype=None: shadow(x.shape, dtype or x.dtype),
    np.zeros_like: lambda x, dtype=None: shadow(x.shape, dtype or x.dtype),
    np.ones_like: lambda x, dtype=None: shadow(x.shape, dtype or x.dtype),
    np.swapaxes: lambda x, a, b: x.swapaxes(a, b),
    np.concatenate: _concatenate,
    np.split: _split,
    np.roll: lambda x, shift, axis: shadow(x.shape, x.dtype),
    np.broadcast_to: lambda x, shape: x._view(np.broadcast_to(x.layout, shape)),
    np.shape: lambda x: x.shape,
    np.ndim: lambda x: x.ndim,
}
