"""Is it the same? Numbers, arrays, and tuples, lists, dicts of them, to a tolerance."""

from __future__ import annotations

from typing import Any

import numpy as np


def same(a: Any, b: Any, tolerance: float) -> bool:
    """Whether two results agree; numbers to `tolerance` of the largest that is compared."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k], tolerance) for k in a)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if a is None or b is None or isinstance(a, str) or isinstance(b, str):
        return type(a) is type(b) and a == b
    x, y = as_numbers(a), as_numbers(b)
    if x is None or y is None:
        return type(a) is type(b) and bool(a == b)
    if x.shape != y.shape:
        return False
    if x.size == 0:
        return True
    scale = max(1e-300, float(np.abs(y[np.isfinite(y)]).max(initial=0)))
    return bool(np.allclose(x, y, rtol=0, atol=tolerance * scale, equal_nan=True))


def as_numbers(value: Any) -> np.ndarray | None:
    """A value as an array of float64, or None if it is none. Takes Tensors, too."""
    value = getattr(value, "data", value) if type(value).__name__ in _TENSORS else value
    if isinstance(value, set | frozenset | dict):
        return None
    try:
        array = np.asarray(value)
        return array.astype(np.float64) if array.dtype.kind in "biuf" else None
    except (TypeError, ValueError):
        return None


_TENSORS = ("Tensor", "Parameter")


def snapshot(value: Any) -> Any:
    """A copy of inputs, deep enough to see whether they were written to."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, tuple | list):
        return type(value)(snapshot(v) for v in value)
    if isinstance(value, dict):
        return {k: snapshot(v) for k, v in value.items()}
    return value
