"""Gradcheck: do not believe a derivation, nudge every input and look.

For each element of each input, f(x + h) and f(x - h) are computed and their difference over 2h is
held against what backward says. The error of that measurement is about h²|f‴|/6 (the curve between
the two points) plus ε|f|/h (rounding), which is why it must be done in float64, where with
h = 1e-5 both are far below 1e-7; in float32 no h gives a verdict.

The outputs are weighted by a fixed random vector, so that one backward checks them all and errors
of different outputs cannot cancel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minilora.autograd.backward import backward
from minilora.autograd.tensor import Tensor, no_grad
from minilora.errors import ConfigError, DTypeError


@dataclass(frozen=True)
class InputCheck:
    """The verdict on one input: its worst element."""

    name: str
    shape: tuple[int, ...]
    max_error: float
    index: tuple[int, ...]
    analytic: float
    numeric: float
    ok: bool


@dataclass(frozen=True)
class GradcheckReport:
    """What `gradcheck` found. Truthy if every input passed; `str()` of it is a table."""

    inputs: list[InputCheck] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.inputs)

    @property
    def max_error(self) -> float:
        return max((check.max_error for check in self.inputs), default=0.0)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        return "\n".join(
            f"{c.name:<8} {c.shape!s:<14} {c.max_error:9.1e}  {'ok' if c.ok else 'WRONG'}"
            + (
                ""
                if c.ok
                else f" at {c.index}: backward {c.analytic:.6g}, measured {c.numeric:.6g}"
            )
            for c in self.inputs
        )


def gradcheck(
    function: Callable[..., Tensor],
    *inputs: Any,
    h: float = 1e-5,
    tolerance: float = 1e-7,
    names: list[str] | None = None,
    seed: int = 0,
    samples: int | None = None,
) -> GradcheckReport:
    """Hold backward of `function(*inputs)` against central differences.

    inputs      float64 arrays (or tensors), each checked; other types are passed through.
    h           the nudge.
    tolerance   on max |a-n| / max(1e-8, |a|+|n|).
    samples     check only this many elements of each input, drawn by `seed`; None checks all.

    Raises DTypeError for float32 and ConfigError for arrays that are not contiguous or share
    memory, where a verdict would mean nothing, and for samples below 1.
    """
    if samples is not None and samples < 1:
        raise ConfigError(f"samples {samples} must be 1 or more, or None to check every element")
    arrays: list[Any] = [x.data if isinstance(x, Tensor) else x for x in inputs]
    checked = [i for i, a in enumerate(arrays) if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    _refuse_unfit([arrays[i] for i in checked])
    arrays = [a.copy() if i in checked else a for i, a in enumerate(arrays)]
    rng = np.random.default_rng(seed)

    leaves = [Tensor(a, requires_grad=True) if i in checked else a for i, a in enumerate(arrays)]
    y = function(*leaves)
    v = rng.standard_normal(y.shape)
    grads = backward(y, v)

    def measure(array: np.ndarray, index: tuple[int, ...]) -> float:
        old = array[index]
        with no_grad(), np.errstate(over="ignore", invalid="ignore"):
            # Copies: an output may be a view of the input that is about to be nudged again.
            array[index] = old + h
            above = function(*leaves).data.copy()
            array[index] = old - h
            below = function(*leaves).data.copy()
            array[index] = old
        # Differences first: an output that does not depend on the element drops out exactly.
        return float(((above - below) * v).sum() / (2 * h))

    report = GradcheckReport()
    for place, i in enumerate(checked):
        analytic = grads[leaves[i]] if leaves[i] in grads else np.zeros_like(arrays[i])
        name = names[place] if names else f"input {i}"
        if analytic.shape != arrays[i].shape or analytic.dtype != arrays[i].dtype:
            raise ConfigError(
                f"backward gave {name} a gradient of {analytic.dtype} {analytic.shape}; the input "
                f"is {arrays[i].dtype} {arrays[i].shape}: they must be alike"
            )
        indices = list(np.ndindex(arrays[i].shape))
        if samples is not None and samples < len(indices):
            indices = [indices[k] for k in rng.choice(len(indices), samples, replace=False)]
        report.inputs.append(_compare(name, analytic, indices, arrays[i], measure, tolerance))
    return report


def _compare(
    name: str,
    analytic: np.ndarray,
    indices: list[tuple[int, ...]],
    array: np.ndarray,
    measure: Callable[[np.ndarray, tuple[int, ...]], float],
    tolerance: float,
) -> InputCheck:
    worst = InputCheck(name, array.shape, 0.0, (), 0.0, 0.0, True)
    for index in indices:
        a, n = float(analytic[index]), measure(array, index)
        error = abs(a - n) / max(1e-8, abs(a) + abs(n))
        # A NaN compares as neither, and is the worst there is.
        if not error <= worst.max_error:
            worst = InputCheck(name, array.shape, error, index, a, n, bool(error <= tolerance))
            if np.isnan(error):
                break
    return worst


def _refuse_unfit(arrays: list[np.ndarray]) -> None:
    for a in arrays:
        if a.dtype != np.float64:
            raise DTypeError(
                f"gradcheck needs float64, not {a.dtype}: in {a.dtype} rounding hides the "
                "difference it measures; convert the inputs with .astype(np.float64)"
            )
        if not a.flags.c_contiguous:
            raise ConfigError(
                f"gradcheck nudges elements one by one, and an array of shape {a.shape} with "
                f"strides {a.strides} is a view whose elements may be shared; pass a.copy()"
            )
    for i, a in enumerate(arrays):
        if any(np.shares_memory(a, b) for b in arrays[i + 1 :]):
            raise ConfigError("two inputs of gradcheck share memory; pass copies")
