"""Exercises of lesson 08: merging, what a step holds, what it multiplies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minilora.lessons.content import Both, Exercise, Wrong

Case = tuple[Any, ...]


def _merge_cases(rng: np.random.Generator) -> list[Case]:
    sizes = ((4, 3, 2), (6, 5, 2), (4, 4, 4), (5, 5, 2))
    return [
        (
            rng.normal(size=(n_out, n_in)),
            rng.normal(size=(r, n_in)),
            rng.normal(size=(n_out, r)),
            float(rng.uniform(1.5, 3)),
        )
        for n_out, n_in, r in sizes
    ]


def _merged(W: Any, A: Any, B: Any, s: float) -> Any:
    """Column by column: what the two ways make of each unit vector."""
    units = np.eye(A.shape[1])
    return np.stack([W @ e + s * (B @ (A @ e)) for e in units], axis=1)


MERGE = Exercise(
    number="08.1",
    name="merge",
    title=Both("one matrix for both ways", "把两条路并成一个矩阵"),
    task=Both(
        "Give the matrix (out, in) that does alone what W (out, in) and the bypass of A (r, in) "
        "and B (out, r), scaled by s, do together. W stays as it is.",
        "给出一个矩阵 (out, in)，它单独就能做到 W (out, in) 与旁路 A (r, in)、B (out, r)"
        "（乘以 s）一起做的事。W 保持不变。",
    ),
    pointer=Both(
        "h = x Wᵀ + s x Aᵀ Bᵀ = x (W + s B A)ᵀ. B @ A is (out, in), like W. `W + …` makes a new "
        "array, `W += …` writes into the old one.",
        "h = x Wᵀ + s x Aᵀ Bᵀ = x (W + s B A)ᵀ。B @ A 的形状是 (out, in)，和 W 一样。"
        "`W + …` 生成新数组，`W += …` 会改写原来的。",
    ),
    stub='''
def merge(W, A, B, s):
    """A new matrix (out, in)"""
    return ...
''',
    solution='''
def merge(W, A, B, s):
    """A new matrix (out, in)"""
    return W + s * (B @ A)  # (out, in)
''',
    another="""
def merge(W, A, B, s):
    total = np.array(W)
    for row, column in zip(A, B.T):
        total += s * np.outer(column, row)
    return total
""",
    wrong=(
        Wrong(
            "def merge(W, A, B, s):\n    return W + s * (A @ B)",
            Both(
                "Which shape has A @ B? W is (out, in), A reads the input and is (r, in).",
                "A @ B 是什么形状？W 是 (out, in)；A 读输入，是 (r, in)。",
            ),
        ),
        Wrong(
            "def merge(W, A, B, s):\n    return W + s * (A.T @ B.T)",
            Both(
                "That is the transpose of B A: (in, out). Which of its axes had W first?",
                "这是 B A 的转置：(in, out)。W 的第一个轴是哪一个？",
            ),
        ),
        Wrong(
            "def merge(W, A, B, s):\n    return W + B @ A",
            Both(
                "Compare with h for one x: what multiplies the bypass there?",
                "拿一个 x 和 h 比较：那里的旁路还乘了什么？",
            ),
        ),
        Wrong(
            "def merge(W, A, B, s):\n    W += s * (B @ A)\n    return W",
            Both(
                "The result is right. But where is your base now, to switch back to?",
                "结果是对的。但你的基础模型现在在哪里，怎么切换回去？",
            ),
        ),
    ),
    cases=_merge_cases,
    reference=_merged,
    difficulty=1,
    minutes=6,
    core=True,
    catches=("M6", "M21", "M31"),
)


def _held_cases(rng: np.random.Generator) -> list[Case]:
    """Sizes B, T, C, r, and bytes of a float. Some arrays are shared, so they are made later."""
    sizes = [tuple(map(int, rng.integers(2, 9, 4))) for _ in range(2)]
    return [(*size, nbytes) for size in (*sizes, (4, 4, 4, 4)) for nbytes in (4, 8)]


def _of_a_step(f: Callable[..., Any], case: Case) -> Any:
    """What q, k, v with LoRA, and an embedding, keep: x once, though three read it."""
    B, T, C, r, nbytes = case
    kind = f"f{nbytes}"
    x, ids = np.ones((B, T, C), kind), np.ones((B, T), "i8")
    weights = [np.ones((C, C), kind) for _ in "qkv"]
    inner = [np.ones((B, T, r), kind) for _ in "qkv"]
    saved: list[Any] = [ids]
    for W, u in zip(weights, inner, strict=True):
        saved += [x, W, u]
    return f(saved, weights)


def _held(B: int, T: int, C: int, r: int, nbytes: int) -> int:
    return B * T * (8 + nbytes * (C + 3 * r))


HELD = Exercise(
    number="08.2",
    name="held_bytes",
    title=Both("what a step holds, in bytes", "一步持有多少字节"),
    task=Both(
        "`saved` lists the arrays that the operations of a forward pass keep for backward, in "
        "order; `weights` lists the model's weights. Give the bytes of activations that are held. "
        "One array may stand in `saved` several times.",
        "`saved` 按顺序列出前向传播的各个运算为反向传播保留的数组；`weights` 列出模型的权重。"
        "给出所持有的激活值的字节数。同一个数组可能在 `saved` 里出现多次。",
    ),
    pointer=Both(
        "id(array) is the same for one array and different for two: {id(a): a for a in saved} has "
        "each once. Leave out those that are weights. a.nbytes is size times bytes of one number.",
        "同一个数组的 id(array) 相同，不同数组的不同："
        "{id(a): a for a in saved} 里每个数组只有一次。去掉其中的权重。"
        "a.nbytes 等于元素个数乘以每个数的字节数。",
    ),
    stub='''
def held_bytes(saved, weights):
    """A whole number of bytes"""
    return ...
''',
    solution='''
def held_bytes(saved, weights):
    """A whole number of bytes"""
    once = {id(a): a for a in saved}
    for w in weights:
        once.pop(id(w), None)
    return sum(a.nbytes for a in once.values())
''',
    another="""
def held_bytes(saved, weights):
    total, counted = 0, list(weights)
    for a in saved:
        if not any(a is b for b in counted):
            counted.append(a)
            total += a.size * a.itemsize
    return total
""",
    wrong=(
        Wrong(
            "def held_bytes(saved, weights):\n"
            "    known = {id(w) for w in weights}\n"
            "    return sum(a.nbytes for a in saved if id(a) not in known)",
            Both(
                "q, k and v read the same x. How many arrays is that, and how many readers?",
                "q、k、v 读的是同一个 x。这是几个数组，几个读者？",
            ),
        ),
        Wrong(
            "def held_bytes(saved, weights):\n"
            "    known = {id(w) for w in weights}\n"
            "    return sum(a.size for i, a in {id(a): a for a in saved}.items()"
            " if i not in known)",
            Both(
                "These are numbers. How many bytes has each of them? Not all have equally many.",
                "这是数的个数。每个数占几个字节？并不都一样多。",
            ),
        ),
        Wrong(
            "def held_bytes(saved, weights):\n"
            "    return sum(a.nbytes for a in {id(a): a for a in saved}.values())",
            Both(
                "W is among them. Was it made by this step, or was it there before?",
                "W 也算进去了。它是这一步产生的，还是本来就在？",
            ),
        ),
    ),
    cases=_held_cases,
    reference=_held,
    observe=_of_a_step,
    tolerance=0,
    difficulty=2,
    minutes=8,
    core=True,
    catches=("M30",),
)


def _ratio_cases(rng: np.random.Generator) -> list[Case]:
    some = [(int(n), int(r)) for n, r in zip(*rng.integers(2, 900, (2, 3)), strict=True)]
    return [(4096, 8), (128, 8), (128, 32), *some]


def _ratio(N: int, r: int) -> Any:
    """Product by product."""
    full = [N * N] * 3  # y, dx, dW
    lora = [N * N] * 2 + [N * r] * 6  # y, dx; u, uBᵀ, du, dB, dA, du A
    return sum(lora) / sum(full), (sum(full) - 2 * N * N) / (6 * N)


def _ratio_code(ratio: str, even: str) -> str:
    return f"def flop_ratio(N, r):\n    return {ratio}, {even}"


RATIO = Exercise(
    number="08.3",
    name="flop_ratio",
    title=Both("multiplications, LoRA over full", "乘法次数：LoRA 与全量之比"),
    task=Both(
        "One N × N matrix, a token, forward and backward. Give two numbers: the multiply-adds of "
        "LoRA with rank r (W frozen) over those of full fine-tuning, and the r, not rounded, at "
        "which both are equal.",
        "一个 N × N 的矩阵，一个词元，前向加反向。给出两个数：秩为 r 的 LoRA（W 冻结）与全量微调的"
        "乘加次数之比，以及两者相等时的 r（不取整）。",
    ),
    pointer=Both(
        "Full: y, dx and dW, each N². LoRA: y and dx through W, and six thin products of N·r: "
        "forward through A and B, du, dB, dA, and du·A for dx.",
        "全量：y、dx、dW，各 N²。LoRA：经过 W 的 y 和 dx，再加六个 N·r 的瘦乘积："
        "前向经过 A 和 B，以及 du、dB、dA，还有 dx 里的 du·A。",
    ),
    stub='''
def flop_ratio(N, r):
    """LoRA over full, and the r of break-even"""
    return ...
''',
    solution='''
def flop_ratio(N, r):
    """LoRA over full, and the r of break-even"""
    full = 3 * N**2
    lora = 2 * N**2 + 6 * N * r
    return lora / full, N / 6
''',
    another="""
def flop_ratio(N, r):
    return 2 / 3 + 2 * r / N, N * (1 - 2 / 3) / 2
""",
    wrong=(
        Wrong(
            _ratio_code("2 * r / N", "N / 2"),
            Both(
                "That is the share of *trained numbers*. Who multiplies by W in forward, and for "
                "dx?",
                "这是*训练的数*所占的比例。前向和求 dx 时，谁来乘 W？",
            ),
        ),
        Wrong(
            _ratio_code("1 / 3 + 2 * r / N", "N / 3"),
            Both(
                "Which of the three products went? The signal for the layer below still passes W.",
                "三个乘积里少了哪一个？传给下一层的信号仍要穿过 W。",
            ),
        ),
        Wrong(
            _ratio_code("2 / 3", "float('inf')"),
            Both(
                "The bypass multiplies, too. Let r grow to N: is LoRA still cheaper?",
                "旁路也要做乘法。让 r 增大到 N：LoRA 还更省吗？",
            ),
        ),
        Wrong(
            _ratio_code("(2 * N**2 + 2 * N * r) / (3 * N**2)", "N / 2"),
            Both(
                "A and B are gone through forward. And backward? They get gradients, and pass one "
                "on.",
                "前向经过了 A 和 B。反向呢？它们要有自己的梯度，还要把梯度传下去。",
            ),
        ),
    ),
    cases=_ratio_cases,
    reference=_ratio,
    difficulty=1,
    minutes=5,
    catches=("M23",),
)
