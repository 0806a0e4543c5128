"""The general doctor: what can be said of a wrong result that is not among the known mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora.lessons.comparing import as_numbers, same
from minilora.lessons.content import Both


def diagnose(got: Any, right: Any, where: str = "") -> Both:
    """What distinguishes a result from the right one, as a hint."""
    place, ort = (f" of {where}", f"（{where}）") if where else ("", "")
    if isinstance(right, dict):
        return _of_dict(got, right)
    if isinstance(right, tuple | list) and not _plain(right):
        return _of_sequence(got, right)
    x, y = as_numbers(got), as_numbers(right)
    if got is None and right is not None:
        return Both(
            f"the result{place} is None: is there a `return`?",
            f"结果{ort}是 None：写了 return 吗？",
        )
    if x is None or y is None:
        return Both(
            f"the result{place} is {_kind(got)}, expected is {_kind(right)}",
            f"结果{ort}是 {_kind(got)}，应为 {_kind(right)}",
        )
    if x.shape != y.shape:
        turned = (
            " (the other way round: is something transposed?)" if x.shape == y.shape[::-1] else ""
        )
        return Both(
            f"the result{place} has shape {x.shape}, expected is {y.shape}{turned}",
            f"结果{ort}的形状是 {x.shape}，应为 {y.shape}",
        )
    return _of_numbers(x, y, place, ort)


def _of_numbers(x: np.ndarray, y: np.ndarray, place: str, ort: str) -> Both:
    if not np.isfinite(x).all() and np.isfinite(y).all():
        return Both(f"the result{place} is not finite", f"结果{ort}不是有限数")
    if x.ndim >= 2 and x.shape[-1] == x.shape[-2] and same(np.swapaxes(x, -1, -2), y, 1e-8):
        return Both(f"the result{place} is the transpose of what is right", f"结果{ort}正好是转置")
    factor = _factor(x, y)
    if factor is not None and abs(factor + 1) < 1e-9:
        return Both(f"the result{place} has the wrong sign", f"结果{ort}的符号反了")
    if factor is not None:
        return Both(
            f"the result{place} is {factor:.6g} times what is right, everywhere",
            f"结果{ort}处处是正确值的 {factor:.6g} 倍",
        )
    off = np.abs(x - y) > 1e-8 * max(1e-300, float(np.abs(y).max(initial=0)))
    worst = np.unravel_index(np.argmax(np.abs(x - y)), x.shape)
    at = f" at index {tuple(map(int, worst))}" if x.ndim else ""
    return Both(
        f"{int(off.sum())} of {x.size} numbers{place} are off; the furthest{at}: "
        f"{x[worst]:.6g}, expected {y[worst]:.6g}",
        f"{x.size} 个数中有 {int(off.sum())} 个不对{ort}；"
        f"差得最远的{at}：{x[worst]:.6g}，应为 {y[worst]:.6g}",
    )


def _factor(x: np.ndarray, y: np.ndarray) -> float | None:
    """c where x = c·y everywhere, c not 1; else None."""
    if x.size < 2 or not np.any(y) or not np.any(x):
        return None
    c = float((x * y).sum() / (y * y).sum())
    return c if same(x, c * y, 1e-9) and abs(c - 1) > 1e-9 else None


def _of_dict(got: Any, right: dict[str, Any]) -> Both:
    if not isinstance(got, dict):
        return Both(f"expected is a dict, not {_kind(got)}", f"应为 dict，不是 {_kind(got)}")
    if got.keys() != right.keys():
        return Both(
            f"the keys are {sorted(map(str, got))}, expected {sorted(map(str, right))}",
            f"键是 {sorted(map(str, got))}，应为 {sorted(map(str, right))}",
        )
    bad = next(k for k in right if not same(got[k], right[k], 1e-8))
    return diagnose(got[bad], right[bad], repr(bad))


def _of_sequence(got: Any, right: Any) -> Both:
    if not isinstance(got, tuple | list) or len(got) != len(right):
        n = len(got) if isinstance(got, tuple | list) else 1
        return Both(
            f"expected are {len(right)} results, not {n}", f"应有 {len(right)} 个结果，不是 {n} 个"
        )
    bad = [i for i, (a, b) in enumerate(zip(got, right, strict=True)) if not same(a, b, 1e-8)]
    i = bad[0] if bad else 0
    return diagnose(got[i], right[i], f"result {i + 1}")


def _plain(value: Any) -> bool:
    """Whether a sequence is one row of numbers, and not several results."""
    return all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in value)


def _kind(value: Any) -> str:
    return f"{type(value).__name__}"
