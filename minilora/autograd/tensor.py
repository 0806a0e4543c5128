"""A Tensor is an array that remembers which operation made it.

That is all that automatic differentiation needs: follow `node` backwards from a loss and one has
the whole computation in reverse. A tensor points to the *operation* that made it and not to the
tensors that went in, so an array that no backward needs is freed as soon as the forward pass has
done with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from minilora.errors import DTypeError, TapeError

# A context variable: other threads do not see it, but the threads that share a batch inherit it.
_recording: ContextVar[bool] = ContextVar("recording", default=True)


def grad_enabled() -> bool:
    """Whether operations are being recorded here."""
    return _recording.get()


@contextmanager
def no_grad() -> Iterator[None]:
    """Inside this `with` nothing is recorded and nothing is kept."""
    before = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(before)


def is_array(x: Any) -> bool:
    """NumPy's array, or one that stands in for it under the same protocol (NEP 18).

    There is one such: `accounting/shadow.py` has arrays of which only the shape exists. It is for
    their sake that operations say `np.zeros(shape, dtype, like=x)` where they make an array.
    """
    return hasattr(type(x), "__array_function__")


class Tensor:
    """An array, whether its gradient is wanted, and the operation that made it.

    data            the array. A Python float or a list of floats becomes float32.
    requires_grad   True for a leaf whose gradient is wanted; only floats can have one.
    grad            after `backward()`: dLoss/dthis, of the same shape and type; else None.
    node            the operation on the tape (a Function) that made this tensor; None for a leaf.

    Raises DTypeError for an integer array that is to have a gradient.
    """

    __slots__ = ("_requires_grad", "data", "grad", "node")
    # NumPy must leave `array + tensor` to us instead of adding element by element.
    __array_ufunc__ = None

    def __init__(self, data: Any, requires_grad: bool = False, node: Any = None):
        if isinstance(data, Tensor):
            data = data.data
        array = data if is_array(data) else np.asarray(data)
        if array.dtype == np.float64 and not (is_array(data) or isinstance(data, np.generic)):
            array = array.astype(np.float32)
        self.data: np.ndarray = array
        self.grad: np.ndarray | None = None
        self.node = node
        self._requires_grad = False
        if requires_grad:
            self.requires_grad = True

    @property
    def requires_grad(self) -> bool:
        """Whether backward leads here: a trainable leaf, or made from one."""
        return self._requires_grad or self.node is not None

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if self.node is not None:
            raise TapeError(
                "requires_grad can be set on leaves only, and this tensor was made by "
                f"{type(self.node).__name__}; use .detach() to get a leaf"
            )
        if wanted and self.data.dtype.kind != "f":
            raise DTypeError(
                f"a tensor of {self.data.dtype} cannot have a gradient, only floats can; "
                "convert it first, e.g. Tensor(x.astype(np.float32), requires_grad=True)"
            )
        refuse = getattr(self.data, "refuse_gradient", None)
        if wanted and refuse is not None:
            refuse()  # what stands in for an array, and cannot be trained, says why
        self._requires_grad = bool(wanted)
        if not wanted:
            self.grad = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    def __len__(self) -> int:
        return len(self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.data, dtype, copy=copy)

    def __repr__(self) -> str:
        made = f", made by {type(self.node).__name__}" if self.node is not None else ""
        wanted = ", requires_grad=True" if self._requires_grad else ""
        return f"{type(self).__name__}({self.data!r}{wanted}{made})"

    def item(self) -> float:
        """The one number of a tensor of size 1, as a Python number."""
        return self.data.item()

    def numpy(self) -> np.ndarray:
        """The array itself, not a copy."""
        return self.data

    def detach(self) -> Tensor:
        """The same array as a leaf: no gradient flows through here."""
        return Tensor(self.data)

    if TYPE_CHECKING:  # taught to Tensor by `backward.py` and by `minilora.ops`, which stand above

        def backward(self, gradient: Any = None) -> None: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __pow__(self, other: float) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __iter__(self) -> Iterator[Tensor]: ...
        def exp(self) -> Tensor: ...
        def log(self) -> Tensor: ...
        def tanh(self) -> Tensor: ...
        def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def max(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def reshape(self, *shape: Any) -> Tensor: ...
        def transpose(self, *axes: Any) -> Tensor: ...


class Parameter(Tensor):
    """A tensor that belongs to a model. Trainable unless frozen by `requires_grad = False`."""

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True):
        super().__init__(data, requires_grad)
