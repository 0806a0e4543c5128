"""Backward: from a loss to every trainable leaf, each operation once, newest first.

An operation is always newer than the operations that made its inputs. So if the newest one that
has been reached is always taken next, all who used its result have already handed in their part
of its gradient: the chain rule's sum is complete when it is needed. And only what the gradient
reaches is visited: below the lowest trainable leaf nothing is recorded, so nothing is walked.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minilora.autograd.function import Function
from minilora.autograd.tensor import Tensor, is_array
from minilora.autograd.watching import watchers
from minilora.errors import DTypeError, ShapeError, TapeError


def backward(
    loss: Tensor,
    gradient: Any = None,
    *,
    hand_in: Callable[[Tensor, np.ndarray], None] | None = None,
) -> dict[Tensor, np.ndarray]:
    """The gradient of `loss` for each trainable leaf that it was made from, as values.

    Writes to no tensor, so several threads may run it over tapes that share their parameters.
    Arrays kept for backward are let go as soon as they have been used.

    gradient   dL/dloss, of loss's shape; 1 if left out, which needs `loss` to be a scalar.
    hand_in    is given each leaf and its part of the gradient as soon as an operation has made it;
               a leaf that was used twice comes twice. Then nothing is held here, nor returned.

    Raises TapeError (nothing recorded, not a scalar, backward twice), ShapeError, DTypeError.
    """
    seed = _seed(loss, gradient)
    if loss.node is None:
        if hand_in is None:
            return {loss: seed}
        hand_in(loss, seed)
        return {}
    gradients: dict[Function | Tensor, np.ndarray] = {loss.node: seed}
    waiting = [(-loss.node.order, loss.node)]
    while waiting:
        _, op = heapq.heappop(waiting)
        dinputs = op.backward(gradients.pop(op))
        op.release()
        for edge, dinput in zip(op.edges, _as_tuple(dinputs), strict=True):
            if edge is None:
                continue
            if dinput is None:
                raise TapeError(
                    f"{type(op).__name__}.backward gave None where a gradient was wanted"
                )
            used_before = edge in gradients
            total = gradients[edge] + dinput if used_before else dinput  # used twice: parts add up
            # Of a scalar NumPy makes a number, no array.
            gradients[edge] = total if is_array(total) else np.asarray(total)
            if isinstance(edge, Function) and not used_before:
                heapq.heappush(waiting, (-edge.order, edge))
        for watcher in watchers():
            watcher.passed(op, gradients)
        if hand_in is not None:
            for leaf in [edge for edge in gradients if isinstance(edge, Tensor)]:
                hand_in(leaf, gradients.pop(leaf))
    return gradients  # type: ignore[return-value]  # every operation has been taken out


def _backward(self: Tensor, gradient: Any = None) -> None:
    """Add dself/dleaf to the `.grad` of every trainable leaf that this was made from.

    `gradient` (same shape as self) weighs the elements; it may be left out for a scalar. Where
    several threads share parameters, use `backward(loss)`, which hands the gradients back instead.
    """
    for leaf, grad in backward(self, gradient).items():
        # A copy: an operation may hand one and the same array to two of its inputs.
        leaf.grad = grad.copy() if leaf.grad is None else leaf.grad + grad


Tensor.backward = _backward  # type: ignore[method-assign]  # a method, but the walk is up here


def tape(loss: Tensor) -> Iterator[Function]:
    """Every recorded operation that `loss` was made by, newest first."""
    if loss.node is None:
        return
    seen = {loss.node}
    waiting = [(-loss.node.order, loss.node)]
    while waiting:
        _, op = heapq.heappop(waiting)
        yield op
        for edge in op.edges:
            if isinstance(edge, Function) and edge not in seen:
                seen.add(edge)
                heapq.heappush(waiting, (-edge.order, edge))


def _as_tuple(gradients: Any) -> tuple:
    return gradients if isinstance(gradients, tuple) else (gradients,)


def _seed(loss: Tensor, gradient: Any) -> np.ndarray:
    """dL/dloss: what was given, or 1."""
    if not loss.requires_grad:
        raise TapeError(
            "backward has nowhere to go: this tensor was made from nothing trainable. Set "
            "requires_grad = True on a leaf, and compute outside of no_grad()"
        )
    if gradient is None:
        if loss.size != 1:
            raise TapeError(
                f"backward from a tensor of shape {loss.shape} needs the gradient to start with; "
                "without one it starts from a scalar only (a loss: use .mean() or .sum())"
            )
        return np.ones_like(loss.data)
    given = gradient.data if isinstance(gradient, Tensor) else gradient
    given = given if is_array(given) else np.asarray(given)
    if given.shape != loss.shape:
        raise ShapeError(
            f"gradient has shape {given.shape}, the tensor {loss.shape}: must be equal"
        )
    if given.dtype != loss.dtype:
        raise DTypeError(f"gradient is {given.dtype}, the tensor {loss.dtype}: must be equal")
    return given
