"""Exercises of lesson 04: a step of AdamW, mixing old data in, comparing at equal ability."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minilora.lessons.content import Both, Exercise, Wrong

Case = tuple[Any, ...]
_STEPS = 50
_BATCHES = 40


def _step_cases(rng: np.random.Generator) -> list[Case]:
    """w, the gradients of all steps, lr, wd; in the second case gradients as small as ε."""
    kinds = (((3, 5), 1.0, 0.1), ((4, 4), 1e-8, 0.0), ((2, 3, 4), 30.0, 0.5))
    return [
        (rng.normal(size=shape), size * rng.normal(size=(_STEPS, *shape)), 0.01, wd)
        for shape, size, wd in kinds
    ]


def _fifty_steps(f: Callable[..., Any], case: Case) -> Any:
    w, gradients, lr, wd = case
    w, m, v = w.copy(), np.zeros_like(w), np.zeros_like(w)
    seen = {}
    for t, g in enumerate(gradients, 1):
        result = f(w, g, m, v, t, lr, wd)
        if result is ...:
            return ...
        w, m, v = result
        if t in (1, 2, _STEPS):
            seen[f"w after step {t}"] = np.array(w)
    return {**seen, "m": m, "v": v}


def _adamw(w: Any, gradients: Any, lr: float, wd: float) -> Any:
    """m̂ and v̂ as what they are: weighted means of all gradients and squares so far."""
    seen = {}
    for t in range(1, len(gradients) + 1):
        late, late2 = (b ** np.arange(t - 1, -1, -1.0) for b in (0.9, 0.999))
        m_hat = np.tensordot(late / late.sum(), gradients[:t], 1)
        v_hat = np.tensordot(late2 / late2.sum(), gradients[:t] ** 2, 1)
        w = (1 - lr * wd) * w - lr * m_hat / (np.sqrt(v_hat) + 1e-8)
        if t in (1, 2, _STEPS):
            seen[f"w after step {t}"] = w
    return {**seen, "m": 0.1 * late.sum() * m_hat, "v": 0.001 * late2.sum() * v_hat}


def _step_code(
    gradient: str = "g",
    m_hat: str = "m / (1 - b1**t)",
    v_hat: str = "v / (1 - b2**t)",
    root: str = "np.sqrt(v_hat) + eps",
    decay: str = "lr * wd * w",
) -> str:
    return f"""
def adamw_step(w, g, m, v, t, lr, wd):
    b1, b2, eps = 0.9, 0.999, 1e-8
    g = {gradient}
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g**2
    m_hat, v_hat = {m_hat}, {v_hat}
    return w - lr * m_hat / ({root}) - {decay}, m, v
"""


STEP = Exercise(
    number="04.1",
    name="adamw_step",
    title=Both("one step of AdamW", "AdamW 的一步"),
    task=Both(
        "w, g, m, v are arrays of one shape, t counts steps from 1. Give the new w, m and v after "
        "one step with learning rate lr and weight decay wd. The check takes 50 steps, some with "
        "gradients as small as ε.",
        "w、g、m、v 是形状相同的数组，t 从 1 开始数步。给出以学习率 lr、权重衰减 wd 走一步之后"
        "新的 w、m、v。检查会走 50 步，其中有的梯度小到和 ε 差不多。",
    ),
    pointer=Both(
        "First the new m and v. Then m̂ and v̂ divide *them* by 1 − β₁ᵗ and 1 − β₂ᵗ; m and v "
        "themselves are returned undivided. ε is added to the root. The decay lr·wd·w is apart "
        "from all this.",
        "先算新的 m 和 v。然后 m̂、v̂ 是*它们*除以 1 − β₁ᵗ 和 1 − β₂ᵗ；返回的 m、v 本身不除。"
        "ε 加在根号外面。衰减项 lr·wd·w 与这些无关，单独减去。",
    ),
    stub='''
def adamw_step(w, g, m, v, t, lr, wd):
    """New w, m, v, each shaped like w"""
    b1, b2, eps = 0.9, 0.999, 1e-8  # β₁, β₂, ε
    return ...
''',
    solution='''
def adamw_step(w, g, m, v, t, lr, wd):
    """New w, m, v, each shaped like w"""
    b1, b2, eps = 0.9, 0.999, 1e-8  # β₁, β₂, ε
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g**2
    m_hat = m / (1 - b1**t)
    v_hat = v / (1 - b2**t)
    w = w - lr * (m_hat / (np.sqrt(v_hat) + eps) + wd * w)
    return w, m, v
''',
    another="""
def adamw_step(w, g, m, v, t, lr, wd):
    m, v = m + 0.1 * (g - m), v + 0.001 * (g * g - v)
    move = np.sqrt(v) / np.sqrt(1 - 0.999**t) + 1e-8
    return (1 - lr * wd) * w - lr / (1 - 0.9**t) * m / move, m, v
""",
    wrong=(
        Wrong(
            _step_code(m_hat="m", v_hat="v"),
            Both(
                "At the first step m is a tenth of g, and v a thousandth of g². Is that step lr "
                "long?",
                "第一步时 m 是 g 的十分之一，v 是 g² 的千分之一。这一步的长度还是 lr 吗？",
            ),
        ),
        Wrong(
            _step_code(gradient="g + wd * w", decay="0"),
            Both(
                "Here the weight decay passes through g, so m̂/√v̂ rescales it with the rest. Does "
                "wd still say how fast w shrinks? (This is L2, not AdamW.)",
                "这里权重衰减混进了 g，于是被 m̂/√v̂ 一起重新缩放。"
                "wd 还能说明 w 缩小得多快吗？（这是 L2，不是 AdamW。）",
            ),
        ),
        Wrong(
            _step_code(root="np.sqrt(v_hat + eps)"),
            Both(
                "Take g = 10⁻⁸. What is √ε, beside it? ε is to keep the quotient finite, no more.",
                "取 g = 10⁻⁸。和它相比，√ε 有多大？ε 只是为了让商保持有限。",
            ),
        ),
        Wrong(
            _step_code(decay="wd * w"),
            Both(
                "With lr = 0 nothing should move, as at the start of a warm-up. Does w stay here?",
                "lr = 0 时什么都不该动（预热的开头就是这样）。这里 w 不变吗？",
            ),
        ),
    ),
    cases=_step_cases,
    reference=_adamw,
    observe=_fifty_steps,
    tolerance=1e-12,
    difficulty=2,
    minutes=10,
    core=True,
    catches=("M15",),
)


def _mix_cases(rng: np.random.Generator) -> list[Case]:
    """Rows that say whence they are; ρn is a whole number in each case."""
    cases = []
    for rho, n in ((0.25, 20), (0.05, 20), (0.5, 12), (0.0, 10)):
        sizes = rng.integers(100, 160), rng.integers(40, 60)
        new, old = (
            [f"{name} {i}" for i in range(size)]
            for name, size in zip(("new", "old"), sizes, strict=True)
        )
        cases.append((new, old, rho, n))
    return cases


def _forty_batches(f: Callable[..., Any], case: Case) -> Any:
    """What many batches have in common, whatever was drawn."""
    new, old, rho, n = case
    rng = np.random.default_rng(4)
    batches = []
    for _ in range(_BATCHES):
        rows = f(new, old, rho, n, rng)
        if rows is ...:
            return ...
        batches.append([str(row) for row in rows])
    known, drawn = set(old), [row for rows in batches for row in rows]
    seen_old = {row for row in drawn if row in known}
    places = {i for rows in batches for i, row in enumerate(rows) if row in known}
    k = max(sum(row in known for row in rows) for rows in batches)
    return {
        "rows in a batch": sorted({len(rows) for rows in batches}),
        "old rows in a batch": sorted({sum(row in known for row in rows) for rows in batches}),
        "rows that nobody gave": len(set(drawn) - known - set(new)),
        "batches bring other new rows": len(set(drawn) - known) > n,
        "batches bring other old rows": k == 0 or len(seen_old) >= min(len(old), _BATCHES * k) / 2,
        "old rows may stand anywhere": k == 0 or 2 * len(places) > n + k,
    }


def _mixed(new: Any, old: Any, rho: float, n: int) -> Any:
    return {
        "rows in a batch": [n],
        "old rows in a batch": [round(rho * n)],
        "rows that nobody gave": 0,
        "batches bring other new rows": True,
        "batches bring other old rows": True,
        "old rows may stand anywhere": True,
    }


def _mix_code(
    k: str = "round(rho * n)",
    fresh: str = "n - k",
    some: str = "[old[i] for i in rng.integers(len(old), size=k)]",
    order: str = "rng.permutation(len(rows))",
) -> str:
    return f"""
def mix(new, old, rho, n, rng):
    k = {k}
    rows = [new[i] for i in rng.integers(len(new), size={fresh})] + {some}
    return [rows[i] for i in {order}]
"""


MIX = Exercise(
    number="04.2",
    name="mix",
    title=Both("old data in every batch", "每个批次里掺入旧数据"),
    task=Both(
        "Give a batch: a list of n rows, of which the share rho is drawn at random from `old`, the "
        "others from `new`, in random order. rho·n is a whole number here, up to rounding. "
        "`rng` is a NumPy generator; the check draws many batches.",
        "给出一个批次：n 行的列表，其中比例 rho 随机取自 `old`，其余取自 `new`，顺序随机。"
        "这里 rho·n 是整数（不计舍入误差）。`rng` 是 NumPy 的随机数生成器；检查会抽取许多批次。",
    ),
    pointer=Both(
        "k = round(rho * n) rows are old and n − k are new. rng.integers(len(old), size=k) draws "
        "places in a list; rng.permutation(n) is an order.",
        "k = round(rho * n) 行是旧的，n − k 行是新的。rng.integers(len(old), size=k) 抽取列表中的"
        "位置；rng.permutation(n) 是一个顺序。",
    ),
    stub='''
def mix(new, old, rho, n, rng):
    """A list of n rows"""
    return ...
''',
    solution='''
def mix(new, old, rho, n, rng):
    """A list of n rows"""
    k = round(rho * n)
    rows = [new[i] for i in rng.integers(len(new), size=n - k)]
    rows += [old[i] for i in rng.integers(len(old), size=k)]
    return [rows[i] for i in rng.permutation(n)]
''',
    another="""
def mix(new, old, rho, n, rng):
    k = int(rho * n + 0.5)
    rows = [*rng.choice(old, k, replace=False), *rng.choice(new, n - k, replace=False)]
    rng.shuffle(rows)
    return rows
""",
    wrong=(
        Wrong(
            _mix_code(k="round(n * rho / (1 + rho))"),
            Both(
                "A quarter of the *batch* is to be old. You took a quarter of the new rows: a "
                "quarter of what is it then?",
                "*整个批次*的四分之一应该是旧的。你取的是新行数的四分之一：那占整个批次的多少？",
            ),
        ),
        Wrong(
            _mix_code(fresh="n"),
            Both(
                "How many rows came back? The batch has n, and each old row takes a new one's "
                "place.",
                "返回了多少行？一个批次是 n 行，每个旧行都占去一个新行的位置。",
            ),
        ),
        Wrong(
            _mix_code(some="old[:k]"),
            Both(
                "How many *different* old rows are there in a hundred batches?",
                "一百个批次里一共有多少个*不同的*旧行？",
            ),
        ),
        Wrong(
            _mix_code(order="range(len(rows))"),
            Both(
                "Print one batch. Where do the old rows stand, in every one? If batches are cut "
                "into parts, which part learns what?",
                "打印一个批次看看。旧行每次都在哪里？如果批次被切成几份，各份分别学到什么？",
            ),
        ),
    ),
    cases=_mix_cases,
    reference=_mixed,
    observe=_forty_batches,
    tolerance=0,
    difficulty=1,
    minutes=6,
    catches=("M13",),
)


def _curve_cases(rng: np.random.Generator) -> list[Case]:
    rising = np.cumsum(rng.uniform(6, 9, 11)).tolist()  # from near 0 to beyond 60
    falling = np.sort(rng.uniform(5, 100, 11))[::-1].tolist()
    some = rng.uniform(5, 100, 6).tolist()
    wobbling = [0.0, 41.5, 86.0, 95.5, 88.0, 97.0]
    slow = [0.0, 20.5, 45.0, 62.5, 78.0, 84.5]
    exact = [0.0, 33.0, 90.0, 96.0, 99.0, 100.0]
    return [
        (list(zip(rising, falling, strict=True)), 60),
        *((list(zip(new, some, strict=True)), 90) for new in (wobbling, slow, exact)),
    ]


def _old_at(curve: Any, level: float) -> Any:
    """By NumPy: the piece of the path that crosses first."""
    new, old = np.array(curve).T
    there = np.flatnonzero(new >= level)
    if not len(there):
        return None
    piece = slice(there[0] - 1, there[0] + 1)
    return float(np.interp(level, new[piece], old[piece]))


OLD_AT = Exercise(
    number="04.3",
    name="old_at",
    title=Both("compare where both can the same", "在新技能相同的地方比较"),
    task=Both(
        "`curve` is a list of pairs (new, old), in percent, in the order of training; it begins "
        "below `level`. Give `old` where `new` *first* reaches `level`, along a straight line "
        "between two pairs; None if it never does.",
        "`curve` 是按训练顺序排列的数对 (new, old)，以百分比计，起点低于 `level`。"
        "给出 `new` *第一次*达到 `level` 时的 `old`，两个数对之间按直线计算；"
        "如果从未达到，给出 None。",
    ),
    pointer=Both(
        "Go through neighbours with zip(curve, curve[1:]). The first pair of them with new0 < "
        "level <= new1 is it; share = (level − new0)/(new1 − new0) of the way from old0 to old1.",
        "用 zip(curve, curve[1:]) 逐个看相邻的两个数对。第一个满足 new0 < level <= new1 的就是；"
        "从 old0 走向 old1 的路程取 share = (level − new0)/(new1 − new0)。",
    ),
    stub='''
def old_at(curve, level=90):
    """A number in percent, or None"""
    return ...
''',
    solution='''
def old_at(curve, level=90):
    """A number in percent, or None"""
    for (new0, old0), (new1, old1) in zip(curve, curve[1:]):
        if new0 < level <= new1:
            share = (level - new0) / (new1 - new0)
            return old0 + share * (old1 - old0)
    return None
''',
    another="""
def old_at(curve, level=90):
    i = next((i for i, (new, _) in enumerate(curve) if new >= level), None)
    if i is None:
        return None
    (a, b), (c, d) = curve[i - 1], curve[i]
    return ((c - level) * b + (level - a) * d) / (c - a)
""",
    wrong=(
        Wrong(
            "def old_at(curve, level=90):\n    return curve[-1][1]",
            Both(
                "That is the last step. Have two runs learnt equally much there?",
                "这是最后一步。两次训练在那里学到的一样多吗？",
            ),
        ),
        Wrong(
            "def old_at(curve, level=90):\n"
            "    return min(curve, key=lambda pair: abs(pair[0] - level))[1]",
            Both(
                "That is the nearest pair. Where does the path run *between* two pairs?",
                "这是最近的数对。路径在两个数对*之间*经过哪里？",
            ),
        ),
        Wrong(
            "def old_at(curve, level=90):\n"
            "    for (a, b), (c, d) in zip(curve, curve[1:]):\n"
            "        if a < level <= c:\n"
            "            return b + (level - a) / (c - a) * (d - b)\n"
            "    return curve[-1][1]",
            Both(
                "Should a run that never gets there have a number, as if it did?",
                "从未达到的训练，也应该有一个数，好像它达到了一样吗？",
            ),
        ),
        Wrong(
            "def old_at(curve, level=90):\n"
            "    new, old = zip(*sorted(curve))\n"
            "    return None if level > new[-1] else float(np.interp(level, new, old))",
            Both(
                "np.interp wants a growing x. Does a new skill only ever grow while it is learnt?",
                "np.interp 要求 x 递增。学习过程中新技能只会上升吗？",
            ),
        ),
    ),
    cases=_curve_cases,
    reference=_old_at,
    difficulty=2,
    minutes=8,
    core=True,
    catches=("M14",),
)
