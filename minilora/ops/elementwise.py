"""Operations on each element by itself, with broadcasting.

Where an input was broadcast, one of its elements went into several outputs, so its gradient is the
sum over them: `unbroadcast`.
"""

from __future__ import annotations

import numbers

import numpy as np

from minilora.autograd import Function
from minilora.errors import ConfigError, ShapeError


def unbroadcast(dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum `dy` over the axes along which an input of `shape` was repeated."""
    if dy.shape == shape:
        return dy
    new = tuple(range(dy.ndim - len(shape)))
    stretched = tuple(
        len(new) + i for i, n in enumerate(shape) if n == 1 and dy.shape[len(new) + i] != 1
    )
    return dy.sum(axis=new + stretched, keepdims=True).reshape(shape)


class _Binary(Function):
    """What add, subtract, multiply and divide share: two shapes that must broadcast."""

    def check(ctx, x: np.ndarray, y: np.ndarray) -> None:
        try:
            np.broadcast_shapes(x.shape, y.shape)
        except ValueError:
            raise ShapeError(
                f"{type(ctx).__name__}: shapes {x.shape} and {y.shape} do not fit; from the last "
                "axis backwards they must be equal, or one of them 1"
            ) from None
        ctx.shapes = x.shape, y.shape


class Add(_Binary):
    """z = x + y     dx = dz     dy = dz

    Kept: nothing.
    """

    def forward(ctx, x, y):
        ctx.check(x, y)
        return x + y

    def backward(ctx, dz):
        dx = unbroadcast(dz, ctx.shapes[0]) if ctx.needs.x else None
        dy = unbroadcast(dz, ctx.shapes[1]) if ctx.needs.y else None
        return dx, dy


class Sub(_Binary):
    """z = x - y     dx = dz     dy = -dz

    Kept: nothing.
    """

    def forward(ctx, x, y):
        ctx.check(x, y)
        return x - y

    def backward(ctx, dz):
        dx = unbroadcast(dz, ctx.shapes[0]) if ctx.needs.x else None
        dy = unbroadcast(-dz, ctx.shapes[1]) if ctx.needs.y else None
        return dx, dy


class Mul(_Binary):
    """z = x · y     dx = dz · y     dy = dz · x

    Kept: each factor, for the other's gradient.
    """

    def forward(ctx, x, y):
        ctx.check(x, y)
        ctx.save(x=x if ctx.needs.y else None, y=y if ctx.needs.x else None)
        return x * y

    def backward(ctx, dz):
        dx = unbroadcast(dz * ctx.saved.y, ctx.shapes[0]) if ctx.needs.x else None
        dy = unbroadcast(dz * ctx.saved.x, ctx.shapes[1]) if ctx.needs.y else None
        return dx, dy


class Div(_Binary):
    """z = x / y     dx = dz / y     dy = -dz · x / y²

    Kept: y, and x if the divisor's gradient is wanted.
    """

    def forward(ctx, x, y):
        ctx.check(x, y)
        ctx.save(x=x if ctx.needs.y else None, y=y if ctx.needs.x or ctx.needs.y else None)
        return x / y

    def backward(ctx, dz):
        y = ctx.saved.y
        dx = unbroadcast(dz / y, ctx.shapes[0]) if ctx.needs.x else None
        dy = unbroadcast(-dz * ctx.saved.x / (y * y), ctx.shapes[1]) if ctx.needs.y else None
        return dx, dy


class Neg(Function):
    """y = -x     dx = -dy

    Kept: nothing.
    """

    def forward(ctx, x):
        return -x

    def backward(ctx, dy):
        return -dy


class Pow(Function):
    """y = xⁿ, n a number     dx = dy · n xⁿ⁻¹

    Kept: x.
    """

    def forward(ctx, x, *, n):
        if isinstance(n, bool) or not isinstance(n, numbers.Real):
            raise ConfigError(
                f"Pow: the exponent is a number, not of type {type(n).__name__}; of a tensor y, "
                "xʸ is (x.log() * y).exp()"
            )
        ctx.n = n = float(n)  # a NumPy float64 would widen everything
        ctx.save(x=x if ctx.needs.x else None)
        return x**n

    def backward(ctx, dy):
        # Of x⁰ it is 0 everywhere, where the formula has 0 · ∞ at x = 0.
        return dy * (ctx.n * ctx.saved.x ** (ctx.n - 1)) if ctx.n else np.zeros_like(dy)


class Exp(Function):
    """y = eˣ     dx = dy · y

    Kept: y, its own derivative.
    """

    def forward(ctx, x):
        y = np.exp(x)
        ctx.save(y=y if ctx.needs.x else None)
        return y

    def backward(ctx, dy):
        return dy * ctx.saved.y


class Log(Function):
    """y = ln x     dx = dy / x

    Kept: x.
    """

    def forward(ctx, x):
        ctx.save(x=x if ctx.needs.x else None)
        return np.log(x)

    def backward(ctx, dy):
        return dy / ctx.saved.x


class Tanh(Function):
    """y = tanh x     dx = dy · (1 - y²)

    Kept: y.
    """

    def forward(ctx, x):
        y = np.tanh(x)
        ctx.save(y=y if ctx.needs.x else None)
        return y

    def backward(ctx, dy):
        y = ctx.saved.y
        return dy * (1 - y * y)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e⁻ˣ). Where e⁻ˣ overflows to infinity, 1/∞ = 0 is the right answer."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


class Sigmoid(Function):
    """y = σ(x) = 1 / (1 + e⁻ˣ)     dx = dy · y (1 - y)

    Kept: y.
    """

    def forward(ctx, x):
        y = sigmoid(x)
        ctx.save(y=y if ctx.needs.x else None)
        return y

    def backward(ctx, dy):
        y = ctx.saved.y
        return dy * y * (1 - y)


class SiLU(Function):
    """y = x σ(x)     dx = dy · σ(x) (1 + x (1 - σ(x)))

    Kept: x. σ is computed again, which costs one exponential an element and saves an array of
    x's size.
    """

    def forward(ctx, x):
        ctx.save(x=x if ctx.needs.x else None)
        return x * sigmoid(x)

    def backward(ctx, dy):
        x = ctx.saved.x
        s = sigmoid(x)
        return dy * s * (1 + x * (1 - s))


class ReLU(Function):
    """y = max(x, 0)     dx = dy where x > 0, else 0

    Kept: where x > 0, one byte an element.
    """

    def forward(ctx, x):
        ctx.save(on=x > 0 if ctx.needs.x else None)
        return np.maximum(x, 0)

    def backward(ctx, dy):
        return dy * ctx.saved.on
