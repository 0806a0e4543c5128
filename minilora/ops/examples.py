"""For each operation, small inputs on which its gradient is checked.

`minilora gradcheck` prints what comes out, and the tests demand 1e-7 of every row. Shapes are
never square and never equal where they need not be: a transpose in the wrong place must not pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from minilora import ops
from minilora.autograd import Function, GradcheckReport, Tensor, gradcheck
from minilora.errors import ConfigError


@dataclass(frozen=True)
class Example:
    """One operation, applied to random float64 inputs of some shapes.

    op         the operation's name, as `minilora gradcheck` takes it
    function   tensors in, tensor out
    inputs     name → a function of a random generator that makes the array
    """

    op: str
    function: Callable[..., Tensor]
    inputs: dict[str, Callable[[np.random.Generator], np.ndarray]]

    def arrays(self, seed: int = 0) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [make(rng) for make in self.inputs.values()]

    def check(self, *, h: float = 1e-5, seed: int = 0) -> GradcheckReport:
        """Hold every element of every input against a central difference."""
        arrays = self.arrays(seed)
        return gradcheck(self.function, *arrays, h=h, seed=seed, names=list(self.inputs))


def _normal(*shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.standard_normal(shape)


def _positive(*shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.uniform(0.5, 2.0, shape)


def _apart(*shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    """Distinct values at least 0.1 apart: where two are equal a maximum has a corner."""
    return lambda rng: 0.1 * rng.permutation(int(np.prod(shape))).reshape(shape).astype(np.float64)


def _angles(T: int, half: int) -> dict[str, np.ndarray]:
    angle = np.arange(T)[:, None, None] * np.linspace(1.0, 0.1, half)
    return {"cos": np.cos(angle), "sin": np.sin(angle)}


_IDS = np.array([[2, 0, 2], [4, 2, 1]])
_LABELS = np.array([[1, -100, 4], [-100, 0, 1]])


def _examples() -> Iterator[Example]:
    n, pos = _normal, _positive
    yield Example("add", ops.add, {"x": n(2, 3, 4), "y": n(3, 1)})
    yield Example("sub", ops.sub, {"x": n(3, 1), "y": n(2, 3, 4)})
    yield Example("mul", ops.mul, {"x": n(2, 3, 4), "y": n(4)})
    yield Example("div", ops.div, {"x": n(2, 1, 4), "y": pos(3, 1)})
    yield Example("neg", ops.neg, {"x": n(2, 3)})
    yield Example("exp", ops.exp, {"x": n(2, 3)})
    yield Example("log", ops.log, {"x": pos(2, 3)})
    yield Example("pow", lambda x: ops.pow(x, 2.5), {"x": pos(2, 3)})
    yield Example("tanh", ops.tanh, {"x": n(2, 3)})
    yield Example("sigmoid", ops.sigmoid, {"x": n(2, 3)})
    yield Example("silu", ops.silu, {"x": n(2, 3)})
    yield Example("relu", lambda x: ops.relu(x - 0.55), {"x": _apart(3, 4)})
    yield Example("sum", lambda x: ops.sum(x, axis=(0, 2)), {"x": n(2, 3, 4)})
    yield Example("mean", lambda x: ops.mean(x, axis=-1, keepdims=True), {"x": n(2, 3, 4)})
    yield Example("max", lambda x: ops.max(x, axis=1), {"x": _apart(2, 3, 4)})
    yield Example("reshape", lambda x: ops.reshape(x, 4, -1), {"x": n(2, 3, 4)})
    yield Example("transpose", lambda x: ops.transpose(x, 1, 2, 0), {"x": n(2, 3, 4)})
    yield Example("slice", lambda x: x[:, 1:, ::2], {"x": n(2, 3, 4)})
    yield Example("slice", lambda x: x[np.array([1, 0, 1])], {"x": n(2, 3)})
    yield Example(
        "concatenate", lambda x, y: ops.concatenate([x, y], 1), {"x": n(2, 3), "y": n(2, 5)}
    )
    yield Example("matmul", ops.matmul, {"x": n(2, 1, 3, 4), "y": n(5, 4, 2)})
    yield Example("linear", ops.linear, {"x": n(2, 3, 4), "W": n(5, 4)})
    yield Example("linear", ops.linear, {"x": n(2, 3, 4), "W": n(5, 4), "b": n(5)})
    yield Example("embedding", lambda W: ops.embedding(W, ids=_IDS), {"W": n(5, 4)})
    yield Example(
        "rms_norm", lambda x, g: ops.rms_norm(x, g, eps=1e-5), {"x": n(2, 3, 4), "g": n(4)}
    )
    yield Example("rotary", lambda x: ops.rotary(x, **_angles(3, 2)), {"x": n(2, 3, 2, 4)})
    heads = {"q": n(2, 4, 3, 5), "k": n(2, 2, 3, 5), "v": n(2, 2, 3, 5)}
    yield Example("attention", ops.attention, heads)
    padded = np.array([1, 0])
    yield Example("attention", lambda q, k, v: ops.attention(q, k, v, start=padded), heads)
    yield Example("attention", lambda q, k, v: ops.attention(q, k, v, block=2), heads)
    yield Example(
        "attention",
        lambda q, k, v: ops.attention(q, k, v, start=padded, block=2),
        heads,
    )
    packed, shared = np.array([[0, 1, 1], [0, 0, 2]]), np.array([[0, 1], [0, 0]])
    yield Example("attention", lambda q, k, v: ops.attention(q, k, v, start=packed), heads)
    yield Example(
        "attention",
        lambda q, k, v: ops.attention(q, k, v, start=shared, block=2),
        heads,
    )
    yield Example("swiglu", ops.swiglu, {"g": n(2, 3, 4), "u": n(2, 3, 4)})
    yield Example("softmax", ops.softmax, {"x": n(2, 3, 4)})
    yield Example("log_softmax", ops.log_softmax, {"x": n(2, 3, 4)})
    yield Example(
        "cross_entropy", lambda z: ops.cross_entropy(z, labels=_LABELS), {"z": n(2, 3, 5)}
    )
    yield Example(
        "linear_cross_entropy",
        lambda x, W: ops.linear_cross_entropy(x, W, labels=_LABELS),
        {"x": n(2, 3, 4), "W": n(5, 4)},
    )
    yield Example(
        "dropout", lambda x: ops.dropout(x, p=0.4, rng=np.random.default_rng(7)), {"x": n(3, 4)}
    )
    yield Example(
        "checkpoint",
        lambda x, W: ops.checkpoint(lambda t: ops.tanh(ops.linear(t, W)), x, [W]),
        {"x": n(2, 3, 4), "W": n(5, 4)},
    )
    W = np.random.default_rng(1).standard_normal((5, 4))
    bypass = {"x": n(2, 3, 4), "A": n(2, 4), "B": n(5, 2)}
    yield Example(
        "lora_linear",
        lambda x, A, B: ops.lora_linear(x, Tensor(W.astype(x.dtype)), A, B, scaling=1.5),
        bypass,
    )
    yield Example(
        "lora_linear_composed",
        lambda x, W, A, B: ops.lora_linear_composed(x, W, A, B, scaling=1.5),
        {"x": n(2, 3, 4), "W": n(5, 4), "A": n(2, 4), "B": n(5, 2)},
    )


def examples(names: list[str] | None = None) -> list[Example]:
    """The examples of the named operations, or of all. ConfigError for an unknown name."""
    every = list(_examples())
    known = sorted({e.op for e in every})
    for name in names or []:
        if name not in known:
            raise ConfigError(f"no operation is called {name!r}; there are: {', '.join(known)}")
    return [e for e in every if not names or e.op in names]


def checked_operations() -> set[type[Function]]:
    """The Function classes that the examples put on the tape."""
    from minilora.autograd import tape

    found: set[type[Function]] = set()
    for e in examples():
        leaves = [Tensor(a, requires_grad=True) for a in e.arrays()]
        found |= {type(op) for op in tape(e.function(*leaves))}
    return found
