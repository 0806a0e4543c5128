"""Every differentiable operation, one small class each: formula, forward, backward, what it keeps.

Read `matmul.py` first, then `lora.py`; the rest are variations. Each operation is used through a
function named after it (`ops.linear(x, W)`), and the simplest through Tensor's operators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minilora.autograd import Tensor, grad_enabled
from minilora.ops.attention import Attention, BlockAttention
from minilora.ops.checkpoint import Checkpoint
from minilora.ops.cross_entropy import IGNORE, CrossEntropy, LinearCrossEntropy, count_targets
from minilora.ops.dropout import Dropout
from minilora.ops.elementwise import (
    Add,
    Div,
    Exp,
    Log,
    Mul,
    Neg,
    Pow,
    ReLU,
    Sigmoid,
    SiLU,
    Sub,
    Tanh,
)
from minilora.ops.embedding import Embedding
from minilora.ops.lora import LoRALinear, lora_linear, lora_linear_composed
from minilora.ops.matmul import Linear, MatMul
from minilora.ops.reduce import Max, Mean, Sum
from minilora.ops.rmsnorm import RMSNorm
from minilora.ops.rotary import Rotary
from minilora.ops.shape import Concatenate, Reshape, Slice, Transpose
from minilora.ops.softmax import LogSoftmax, Softmax
from minilora.ops.swiglu import SwiGLU

add, sub, mul, div, neg = Add.apply, Sub.apply, Mul.apply, Div.apply, Neg.apply
exp, log, tanh, sigmoid, silu = Exp.apply, Log.apply, Tanh.apply, Sigmoid.apply, SiLU.apply
matmul, linear = MatMul.apply, Linear.apply
embedding, rms_norm, rotary = Embedding.apply, RMSNorm.apply, Rotary.apply
swiglu, relu = SwiGLU.apply, ReLU.apply
softmax, log_softmax = Softmax.apply, LogSoftmax.apply
cross_entropy, linear_cross_entropy = CrossEntropy.apply, LinearCrossEntropy.apply
dropout = Dropout.apply


def pow(x: Any, n: float) -> Tensor:
    """xⁿ, element by element; n is a number."""
    return Pow.apply(x, n=n)


def sum(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Σ x over `axis` (None: all)."""
    return Sum.apply(x, axis=axis, keepdims=keepdims)


def mean(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The mean of x over `axis` (None: all)."""
    return Mean.apply(x, axis=axis, keepdims=keepdims)


def max(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The largest of x over `axis` (None: all)."""
    return Max.apply(x, axis=axis, keepdims=keepdims)


def reshape(x: Any, *shape: Any) -> Tensor:
    """x in another shape; one entry may be -1. Takes numbers or one tuple."""
    return Reshape.apply(x, shape=_flat(shape))


def transpose(x: Any, *axes: Any) -> Tensor:
    """x with its axes in another order; without `axes`, the last two exchanged."""
    return Transpose.apply(x, axes=_flat(axes) or None)


def concatenate(xs: Any, axis: int = 0) -> Tensor:
    """Tensors end to end along `axis`."""
    return Concatenate.apply(*xs, axis=axis)


# Queries beyond which p, B·H·T·S numbers, is not kept but computed again, block by block.
LONG = 256
BLOCK = 128


def attention(
    q: Any, k: Any, v: Any, *, start: np.ndarray | None = None, block: int | None = None
) -> Tensor:
    """Causal attention: the plain form, or in blocks of queries if there are many (or as asked)."""
    if block is None and q.shape[2] <= LONG:
        return Attention.apply(q, k, v, start=start)
    return BlockAttention.apply(q, k, v, start=start, block=block or BLOCK)


def checkpoint(f: Callable[[Tensor], Tensor], x: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """f(x), keeping x alone: backward computes f again. The gradients are the same to the bit.

    f            gives the same each time it is called on the same x
    parameters   the leaves that f reads
    """
    leaves = [p for p in parameters if p.requires_grad]
    if not grad_enabled() or not (leaves or x.requires_grad):
        return f(x)
    return Checkpoint.apply(x, *leaves, f=f, leaves=leaves)


def _flat(numbers: tuple) -> tuple:
    return tuple(numbers[0]) if len(numbers) == 1 and np.ndim(numbers[0]) else numbers


def _teach_tensor_arithmetic() -> None:
    """Give Tensor its operators. It stands below this room and cannot import them itself."""
    methods = {
        "__add__": add,
        "__radd__": lambda x, y: add(y, x),
        "__sub__": sub,
        "__rsub__": lambda x, y: sub(y, x),
        "__mul__": mul,
        "__rmul__": lambda x, y: mul(y, x),
        "__truediv__": div,
        "__rtruediv__": lambda x, y: div(y, x),
        "__neg__": neg,
        "__pow__": pow,
        "__matmul__": matmul,
        "__getitem__": lambda x, index: Slice.apply(x, index=index),
        "__iter__": lambda x: (x[i] for i in range(len(x))),
        "exp": exp,
        "log": log,
        "tanh": tanh,
        "sum": sum,
        "mean": mean,
        "max": max,
        "reshape": reshape,
        "transpose": transpose,
    }
    for name, method in methods.items():
        # `add` and its like are bound class methods; a plain function becomes Tensor's method.
        setattr(Tensor, name, lambda x, *a, _method=method, **k: _method(x, *a, **k))


_teach_tensor_arithmetic()

__all__ = [
    "IGNORE",
    "Attention",
    "BlockAttention",
    "Checkpoint",
    "Concatenate",
    "CrossEntropy",
    "Dropout",
    "Embedding",
    "LinearCrossEntropy",
    "LoRALinear",
    "LogSoftmax",
    "RMSNorm",
    "Rotary",
    "SwiGLU",
    "add",
    "attention",
    "checkpoint",
    "concatenate",
    "count_targets",
    "cross_entropy",
    "div",
    "dropout",
    "embedding",
    "exp",
    "linear",
    "linear_cross_entropy",
    "log",
    "log_softmax",
    "lora_linear",
    "lora_linear_composed",
    "matmul",
    "max",
    "mean",
    "mul",
    "neg",
    "pow",
    "relu",
    "reshape",
    "rms_norm",
    "rotary",
    "sigmoid",
    "silu",
    "softmax",
    "sub",
    "sum",
    "swiglu",
    "tanh",
    "transpose",
]
