"""Exercises of lesson 09: the levels of NF4, a block and its codes, the bits of a number."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora.lessons.content import Both, Exercise, Wrong
from minilora.quant.levels import NF4

Case = tuple[Any, ...]


def _levels_code(
    upper: str = "np.linspace(0.9677083, 0.5, 9)[:-1]",
    lower: str = "np.linspace(0.9677083, 0.5, 8)[:-1]",
    zero: str = "[0.0]",
    result: str = "levels / levels.max()",
) -> str:
    return f"""
def nf4_levels():
    from statistics import NormalDist
    q = NormalDist().inv_cdf
    upper = [q(p) for p in {upper}]
    lower = [-q(p) for p in {lower}]
    levels = np.sort(lower + {zero} + upper)
    return {result}
"""


LEVELS = Exercise(
    number="09.1",
    name="nf4_levels",
    title=Both("sixteen levels", "十六个取值"),
    task=Both(
        "Return the 16 levels of NF4, rising, as an array (16,). On the side above 0 there are 8: "
        "the normal quantiles Φ⁻¹(p) at 8 probabilities from p = 0.9677083 down to 0.5, in even "
        "steps, 0.5 itself left out. On the side below 0 there are 7, made in the same way and "
        "with a minus. Then 0 itself. All are divided by the largest. "
        "`NormalDist().inv_cdf(p)` of Python's `statistics` is Φ⁻¹(p).",
        "返回 NF4 的 16 个取值，从小到大，数组 (16,)。0 的上侧有 8 个："
        "概率从 p = 0.9677083 等距降到 0.5，不含 0.5 本身，共 8 个概率，取正态分位数 Φ⁻¹(p)。"
        "0 的下侧有 7 个，做法相同，再加负号。然后是 0 本身。最后全部除以最大的一个。"
        "Python 的 `statistics` 里，`NormalDist().inv_cdf(p)` 就是 Φ⁻¹(p)。",
    ),
    pointer=Both(
        "np.linspace(0.9677083, 0.5, 9)[:-1] are the 8 probabilities of the upper side. With 8 in "
        "the place of 9 they are the 7 of the lower side. np.sort takes a list.",
        "np.linspace(0.9677083, 0.5, 9)[:-1] 就是上侧的 8 个概率。把 9 换成 8，"
        "就是下侧的 7 个。np.sort 可以直接用在 list 上。",
    ),
    stub='''
def nf4_levels():
    """(16,), rising from -1 to 1"""
    from statistics import NormalDist
    return ...
''',
    solution='''
def nf4_levels():
    """(16,), rising from -1 to 1"""
    from statistics import NormalDist
    quantile = NormalDist().inv_cdf
    upper = [quantile(p) for p in np.linspace(0.9677083, 0.5, 9)[:-1]]  # 8
    lower = [-quantile(p) for p in np.linspace(0.9677083, 0.5, 8)[:-1]]  # 7
    levels = np.sort(lower + [0.0] + upper)  # (16,)
    return levels / levels.max()
''',
    another="""
def nf4_levels():
    from statistics import NormalDist
    def side(n):
        step = (0.9677083 - 0.5) / n
        return [NormalDist().inv_cdf(0.5 + step * (i + 1)) for i in range(n)]
    seven, eight = side(7), side(8)
    return np.array([-v for v in reversed(seven)] + [0] + eight) / eight[-1]
""",
    wrong=(
        Wrong(
            "def nf4_levels():\n    return np.linspace(-1, 1, 16)",
            Both(
                "Equal steps. Normal numbers are crowded near 0: what is to be equal between two "
                "levels, the distance or the probability?",
                "步长相等。正态分布的数挤在 0 附近：两个取值之间应当相等的，是距离还是概率？",
            ),
        ),
        Wrong(
            _levels_code(lower="np.linspace(0.9677083, 0.5, 9)[:-1]", zero="[]"),
            Both(
                "8 and 8, and no 0. A weight that is 0 (padding, say) must stay 0: where is its "
                "level?",
                "8 个加 8 个，没有 0。等于 0 的权重（例如填充）必须仍是 0：它的取值在哪里？",
            ),
        ),
        Wrong(
            _levels_code(result="levels"),
            Both(
                "The largest weight of a block is scaled to ±1. Do your ends stand at ±1?",
                "一个块里最大的权重会缩放到 ±1。你的两端在 ±1 吗？",
            ),
        ),
        Wrong(
            "def nf4_levels():\n"
            "    from statistics import NormalDist\n"
            "    return np.array([NormalDist().inv_cdf(p) for p in np.linspace(0, 1, 16)])",
            Both(
                "Below which value lies all of a normal distribution? That is Φ⁻¹(1).",
                "正态分布的全部都在哪个值之下？那就是 Φ⁻¹(1)。",
            ),
        ),
    ),
    cases=lambda rng: [()],
    reference=lambda: np.array(NF4),
    tolerance=1e-6,
    difficulty=3,
    minutes=12,
    core=True,
    catches=("M35",),
)


def _block_cases(rng: np.random.Generator) -> list[Case]:
    levels = np.array(NF4)
    downward = rng.normal(size=16)
    downward[3] = -5  # the largest magnitude stands below 0
    return [
        (rng.normal(size=64), levels),
        (downward, levels),
        (-np.abs(rng.normal(size=9)), levels),
        (np.zeros(8), levels),
        (rng.uniform(-0.02, 0.02, 33), np.sort(np.append(rng.uniform(-1, 1, 5), [-1, 0, 1]))),
    ]


def _nearest(w: Any, levels: Any) -> tuple[list[int], float]:
    """One number after another: the level at the least distance, not scaled."""
    a = max(abs(float(x)) for x in w)
    return [min(range(len(levels)), key=lambda k: abs(x - a * levels[k])) for x in w] if a else [
        min(range(len(levels)), key=lambda k: abs(levels[k]))
    ] * len(w), a


def _block_code(
    absmax: str = "np.abs(w).max()",
    scaled: str = "w / absmax if absmax > 0 else np.zeros_like(w)",
    codes: str = "np.abs(scaled[:, None] - levels).argmin(axis=1)",
) -> str:
    return f"""
def quantize_block(w, levels):
    absmax = {absmax}
    scaled = {scaled}
    codes = {codes}
    return codes, absmax
"""


BLOCK = Exercise(
    number="09.2",
    name="quantize_block",
    title=Both("a block of weights", "一个块的权重"),
    task=Both(
        "`w` (n,) is one block, `levels` (16,) rise from −1 to 1. Return `codes, absmax`: the "
        "largest |w| of the block, one number, and for each weight the place (0, 1, …) of the "
        "level that is nearest to w / absmax, (n,). A block of zeros is quantized, too: every "
        "weight of it to the level 0.",
        "`w` (n,) 是一个块，`levels` (16,) 从 −1 升到 1。返回 `codes, absmax`：块中最大的 |w|，"
        "一个数；以及每个权重的编码 (n,)，即离 w / absmax 最近的那个取值的位置（0, 1, …）。"
        "全零的块也要能量化：每个权重都取 0 这个值。",
    ),
    pointer=Both(
        "scaled[:, None] - levels is (n, 16): the distance of each weight to each level. argmin "
        "over the last axis. Before dividing, ask whether absmax is 0.",
        "scaled[:, None] - levels 是 (n, 16)：每个权重到每个取值的距离。对最后一个轴取 argmin。"
        "做除法之前先问：absmax 是不是 0？",
    ),
    stub='''
def quantize_block(w, levels):
    """codes (n,), absmax: a number"""
    return ...
''',
    solution='''
def quantize_block(w, levels):
    """codes (n,), absmax: a number"""
    absmax = np.abs(w).max()
    scaled = w / absmax if absmax > 0 else np.zeros_like(w)  # (n,)
    distances = np.abs(scaled[:, None] - levels)  # (n, 16)
    return distances.argmin(axis=1), absmax
''',
    another="""
def quantize_block(w, levels):
    absmax = max(-w.min(), w.max())
    halves = (levels[1:] + levels[:-1]) / 2
    return np.searchsorted(halves, w / (absmax or 1.0)), absmax
""",
    wrong=(
        Wrong(
            _block_code(codes='np.searchsorted(levels, scaled, side="right") - 1'),
            Both(
                "That is the level below, always. Which one is nearest?",
                "这总是取下面的那个值。哪一个最近？",
            ),
        ),
        Wrong(
            _block_code(absmax="w.max()"),
            Both(
                "Try it on −w. Should absmax be another one then?",
                "用 −w 试一试。absmax 应该变吗？",
            ),
        ),
        Wrong(
            _block_code(scaled="w / absmax"),
            Both(
                "What is 0/0 in a block of zeros, and which code comes of it?",
                "全零的块里，0/0 是什么？会得到哪个编码？",
            ),
        ),
    ),
    cases=_block_cases,
    reference=_nearest,
    difficulty=2,
    minutes=10,
    core=True,
)


def _bits_code(result: str) -> str:
    return f"def bits_per_param(block, double):\n    return {result}"


BITS = Exercise(
    number="09.3",
    name="bits_per_param",
    title=Both("what a weight really takes", "一个权重实际占多少位"),
    task=Both(
        "A weight is a code of 4 bits, and each `block` of weights shares one constant. Its "
        "constant has 32 bits; or, with `double`, 8 bits, and then 256 constants share one more "
        "number of 32 bits. Return the bits of a weight, its share of all constants included.",
        "每个权重是一个 4 位编码，每 `block` 个权重共用一个常数。常数占 32 位；"
        "若 `double` 为真，则占 8 位，而且每 256 个常数再共用一个 32 位的数。"
        "返回每个权重的位数，包括它分摊的所有常数。",
    ),
    pointer=Both(
        "One constant is paid by `block` weights. With `double` it has 8 + 32/256 bits.",
        "一个常数由 `block` 个权重分摊。`double` 为真时，它有 8 + 32/256 位。",
    ),
    stub='''
def bits_per_param(block, double):
    """A number"""
    return ...
''',
    solution='''
def bits_per_param(block, double):
    """A number"""
    constant = 8 + 32 / 256 if double else 32  # bits
    return 4 + constant / block
''',
    another=_bits_code("4 + 8 / block + 32 / (block * 256) if double else 4 + 32 / block"),
    wrong=(
        Wrong(
            _bits_code("4"),
            Both(
                "Without its block's absmax a code means nothing. Who stores that?",
                "没有所在块的 absmax，编码就没有意义。absmax 存在哪里？",
            ),
        ),
        Wrong(
            _bits_code("4 + (8 if double else 32) / block"),
            Both(
                "The constants are quantized now. Do quantized numbers need no constant of their "
                "own?",
                "现在常数也量化了。量化后的数难道不需要自己的常数吗？",
            ),
        ),
        Wrong(
            _bits_code("4 + 32 / block"),
            Both(
                "With `double` the constant of a block has 8 bits. Where is that in your sum?",
                "`double` 为真时，块的常数只占 8 位。你的算式里体现了吗？",
            ),
        ),
    ),
    cases=lambda rng: [
        (64, False),
        (64, True),
        (32, True),
        (4096, False),
        (int(rng.integers(8, 500)), True),
    ],
    reference=lambda block, double: (
        (4 * block * 256 + (256 * 8 + 32 if double else 256 * 32)) / (block * 256)
    ),
    tolerance=1e-9,
    difficulty=1,
    minutes=5,
    catches=("M32",),
)
