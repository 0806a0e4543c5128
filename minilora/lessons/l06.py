"""Lesson 06: LoRA by hand, to the last gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora.lessons.content import Both, Exercise, Lesson, Option, Prediction, Question, Wrong

Case = tuple[Any, ...]


def _arrays(rng: np.random.Generator, lead: tuple[int, ...], out: int, n_in: int, r: int) -> Case:
    x = rng.normal(size=(*lead, n_in))
    return x, rng.normal(size=(out, n_in)), rng.normal(size=(r, n_in)), rng.normal(size=(out, r))


_SIZES = (((5,), 4, 3, 2), ((4,), 4, 4, 4), ((2, 3), 6, 5, 2))


def _forward_cases(rng: np.random.Generator) -> list[Case]:
    return [(*_arrays(rng, *size), 6.0) for size in _SIZES]


def _forward(x: Any, W: Any, A: Any, B: Any, alpha: float) -> Any:
    """Through the merged matrix, where the exercise goes two ways."""
    merged = W + alpha / A.shape[0] * (B @ A)
    return np.einsum("...i,oi->...o", x, merged)


FORWARD = Exercise(
    number="06.1",
    name="lora_forward",
    title=Both("forward on both ways", "两条路的前向"),
    task=Both(
        "Write the output of an adapted matrix, h = x Wᵀ + (α/r) · x Aᵀ Bᵀ, for x (…, in), "
        "W (out, in), A (r, in), B (out, r). The result h has shape (…, out).",
        "写出带旁路的矩阵的输出 h = x Wᵀ + (α/r) · x Aᵀ Bᵀ，其中 x (…, in)，W (out, in)，"
        "A (r, in)，B (out, r)。结果 h 的形状是 (…, out)。",
    ),
    pointer=Both(
        "Main way: x @ W.T. Bypass: x @ A.T is (…, r), and that @ B.T is (…, out). "
        "Only the bypass is scaled, by α/r, and r is the number of rows of A.",
        "主路：x @ W.T。旁路：x @ A.T 是 (…, r)，再 @ B.T 得到 (…, out)。"
        "只有旁路乘以 α/r，r 是 A 的行数。",
    ),
    stub='''
def lora_forward(x, W, A, B, alpha):
    """h (…, out)"""
    return ...
''',
    solution='''
def lora_forward(x, W, A, B, alpha):
    """h (…, out)"""
    r = A.shape[0]
    u = x @ A.T  # (…, r)
    return x @ W.T + (alpha / r) * (u @ B.T)
''',
    another="""
def lora_forward(x, W, A, B, alpha):
    change = (alpha / len(A)) * np.matmul(B, A)
    return np.matmul(x, np.transpose(W + change))
""",
    wrong=(
        Wrong(
            "def lora_forward(x, W, A, B, alpha):\n    return x @ W.T + alpha * (x @ A.T @ B.T)",
            Both(
                "Double r and keep α: does the bypass grow louder? It should not.",
                "把 r 加倍而 α 不变：旁路会不会变得更响？不应该。",
            ),
        ),
        Wrong(
            "def lora_forward(x, W, A, B, alpha):\n"
            "    return alpha / A.shape[0] * (x @ W.T + x @ A.T @ B.T)",
            Both(
                "With B = 0 the result must be the base's, x Wᵀ. Is it, here?",
                "B = 0 时结果必须就是原模型的 x Wᵀ。这里是吗？",
            ),
        ),
        Wrong(
            "def lora_forward(x, W, A, B, alpha):\n"
            "    return x @ W.T + alpha / A.shape[0] * (x @ B @ A)",
            Both(
                "Which of the two reads the input? A has shape (r, in).",
                "两个矩阵里哪一个读输入？A 的形状是 (r, in)。",
            ),
        ),
    ),
    cases=_forward_cases,
    reference=_forward,
    difficulty=1,
    minutes=6,
    core=True,
    catches=("M21", "M22"),
)


def _backward_cases(rng: np.random.Generator) -> list[Case]:
    cases = []
    for lead, out, n_in, r in _SIZES:
        x, W, A, B = _arrays(rng, lead, out, n_in, r)
        cases.append((rng.normal(size=(*lead, out)), x, W, A, B, 1.5))
    return cases


def _backward(dh: Any, x: Any, W: Any, A: Any, B: Any, s: float) -> Any:
    """Token by token, with outer products."""
    dx, dA, dB = np.zeros_like(x), np.zeros_like(A), np.zeros_like(B)
    rows = zip(dh.reshape(-1, dh.shape[-1]), x.reshape(-1, x.shape[-1]), strict=True)
    flat = dx.reshape(-1, x.shape[-1])
    for t, (d, v) in enumerate(rows):
        flat[t] = (W + s * B @ A).T @ d
        dA += s * np.outer(B.T @ d, v)
        dB += s * np.outer(d, A @ v)
    return dx, dA, dB


def _wrong_backward(dx: str, dA: str, dB: str) -> str:
    return f"""
def lora_backward(dh, x, W, A, B, s):
    flat, rows = dh.reshape(-1, dh.shape[-1]), x.reshape(-1, x.shape[-1])
    u = rows @ A.T
    du = s * flat @ B
    dA, dB = {dA}, {dB}
    dx = {dx}
    return dx.reshape(x.shape), dA, dB
"""


BACKWARD = Exercise(
    number="06.2",
    name="lora_backward",
    title=Both("every gradient of it", "它的每一个梯度"),
    task=Both(
        "From dh = dL/dh (…, out) find dx (…, in), dA (r, in) and dB (out, r) of "
        "h = x Wᵀ + s · x Aᵀ Bᵀ. W is frozen: no dW. Sum over all leading axes for dA and dB.",
        "由 dh = dL/dh (…, out) 求 h = x Wᵀ + s · x Aᵀ Bᵀ 的 "
        "dx (…, in)、dA (r, in) 和 dB (out, r)。"
        "W 是冻结的：不求 dW。dA 和 dB 要对前面所有的轴求和。",
    ),
    pointer=Both(
        "With u = x Aᵀ: dB = s Σ dhᵀ u; du = s · dh B; dA = Σ duᵀ x; and x has two readers, so "
        "dx = dh W + du A. Flatten the leading axes with reshape(-1, …) before the sums.",
        "令 u = x Aᵀ：dB = s Σ dhᵀ u；du = s · dh B；dA = Σ duᵀ x；x 有两个读者，"
        "所以 dx = dh W + du A。求和之前先用 reshape(-1, …) 把前面的轴展平。",
    ),
    stub='''
def lora_backward(dh, x, W, A, B, s):
    """dx (…, in), dA (r, in), dB (out, r)"""
    return ...
''',
    solution='''
def lora_backward(dh, x, W, A, B, s):
    """dx (…, in), dA (r, in), dB (out, r)"""
    d = dh.reshape(-1, dh.shape[-1])  # (tokens, out)
    rows = x.reshape(-1, x.shape[-1])  # (tokens, in)
    du = s * d @ B  # (tokens, r)
    dB = s * d.T @ (rows @ A.T)
    dA = du.T @ rows
    dx = d @ W + du @ A
    return dx.reshape(x.shape), dA, dB
''',
    another="""
def lora_backward(dh, x, W, A, B, s):
    lead = tuple(range(dh.ndim - 1))
    du = s * np.einsum("...o,or->...r", dh, B)
    dB = s * np.tensordot(dh, x @ A.T, (lead, lead))
    dA = np.tensordot(du, x, (lead, lead))
    return dh @ (W + s * B @ A), dA, dB
""",
    wrong=(
        Wrong(
            _wrong_backward("du @ A", "du.T @ rows", "s * flat.T @ u"),
            Both(
                "W gets no gradient, but does the signal not pass through it on its way down?",
                "W 自己不要梯度，但往下传的信号难道不经过它吗？",
            ),
        ),
        Wrong(
            _wrong_backward("flat @ W", "du.T @ rows", "s * flat.T @ u"),
            Both(
                "x went two ways to h. By how many does the gradient come back?",
                "x 沿两条路到达 h。梯度应当沿几条路回来？",
            ),
        ),
        Wrong(
            _wrong_backward("flat @ W + du @ A", "(flat @ B).T @ rows", "s * flat.T @ u"),
            Both(
                "s stands between A and the loss as well. Where is it in dA?",
                "A 到损失的路上也有 s。dA 里的 s 呢？",
            ),
        ),
        Wrong(
            _wrong_backward("flat @ W + du @ A", "rows.T @ du", "s * flat.T @ u"),
            Both(
                "A gradient has the shape of what it is of. A is (r, in).",
                "梯度与它所属的矩阵同形。A 是 (r, in)。",
            ),
        ),
    ),
    cases=_backward_cases,
    reference=_backward,
    difficulty=3,
    minutes=15,
    core=True,
    catches=("M5",),
)

# (out, in) of every adapted matrix, and r: what a count is asked for.
_LLAMA_3_8B_QV = [(4096, 4096), (1024, 4096)] * 32
_LLAMA_3_8B_ALL = [
    (4096, 4096),
    (1024, 4096),
    (1024, 4096),
    (4096, 4096),
    (14336, 4096),
    (14336, 4096),
    (4096, 14336),
] * 32
_SMOLLM2_QV = [(576, 576), (192, 576)] * 30


def _count_cases(rng: np.random.Generator) -> list[Case]:
    some = [(int(a), int(b)) for a, b in rng.integers(2, 60, (5, 2))]
    known = [[(4096, 4096)], _LLAMA_3_8B_QV, _LLAMA_3_8B_ALL, _SMOLLM2_QV]
    return [(shapes, 8) for shapes in known] + [(some, 3)]


def _count(shapes: Any, r: int) -> int:
    return sum(r * n_in + out * r for out, n_in in shapes)


COUNT = Exercise(
    number="06.3",
    name="lora_count",
    title=Both("how many numbers are trained", "要训练多少个数"),
    task=Both(
        "Count the trained numbers of an adapter of rank r. `shapes` lists (out, in) of every "
        "adapted matrix, layer after layer.",
        "数一数秩为 r 的适配器要训练多少个数。`shapes` 逐层列出每个被适配矩阵的 (out, in)。",
    ),
    pointer=Both(
        "A matrix of shape (out, in) gets A (r, in) and B (out, r): r·in + out·r numbers. Add up "
        "over all of them.",
        "形状 (out, in) 的矩阵得到 A (r, in) 和 B (out, r)：r·in + out·r 个数。把所有矩阵加起来。",
    ),
    stub='''
def lora_count(shapes, r):
    """A whole number"""
    return ...
''',
    solution='''
def lora_count(shapes, r):
    """A whole number"""
    return sum(r * (n_in + n_out) for n_out, n_in in shapes)
''',
    another="""
def lora_count(shapes, r):
    total = 0
    for shape in shapes:
        total += np.zeros((r, shape[1])).size + np.zeros((shape[0], r)).size
    return total
""",
    wrong=(
        Wrong(
            "def lora_count(shapes, r):\n    return sum(r * o * i for o, i in shapes)",
            Both(
                "That is r whole matrices. Two thin ones have how many numbers?",
                "这是 r 个完整的矩阵。两个瘦长矩阵一共有多少个数？",
            ),
        ),
        Wrong(
            "def lora_count(shapes, r):\n"
            "    width = max(i for _, i in shapes)\n"
            "    return sum(2 * r * width for _ in shapes)",
            Both(
                "Is v as wide as q? With grouped heads k and v are narrower (Llama-2-7B is "
                "the one where they are not).",
                "v 和 q 一样宽吗？分组注意力里 k、v 更窄（Llama-2-7B 才是一样宽的）。",
            ),
        ),
        Wrong(
            "def lora_count(shapes, r):\n"
            "    return sum(r * (o + i) for o, i in set(map(tuple, shapes)))",
            Both(
                "Does one pair serve all layers? Every adapted matrix has its own.",
                "一对 A、B 能供所有层共用吗？每个被适配的矩阵都有自己的一对。",
            ),
        ),
    ),
    cases=_count_cases,
    reference=_count,
    tolerance=0,
    difficulty=1,
    minutes=6,
    core=True,
    catches=("M25",),
)

LESSON = Lesson(
    number="06",
    slug="lora_by_hand",
    title=Both("LoRA by hand", "亲手推导 LoRA"),
    question=Both(
        "How does LoRA work, to the last gradient?", "LoRA 究竟如何工作，直到最后一个梯度？"
    ),
    claim=Both(
        "W is frozen and a thin bypass B·A is trained in its place. Backward simply skips what is "
        "frozen, so almost all computation is saved.",
        "冻结 W，改为训练一条瘦长的旁路 B·A。反向传播会跳过冻结的部分，因此几乎省下了全部计算。",
    ),
    knows=Both(
        "the gradients of a linear layer, dx = dy·W and dW = dyᵀx (lesson 02).",
        "线性层的梯度 dx = dy·W 和 dW = dyᵀx（第 02 课）。",
    ),
    can=Both(
        "write forward and every gradient of LoRA, and explain why it starts although B = 0.",
        "写出 LoRA 的前向和每一个梯度，并解释为什么 B = 0 也能开始学习。",
    ),
    summary=Both(
        "Two thin matrices lie beside a frozen one. The gradient still passes through W; only dW "
        "is spared. B starts at zero, so the first step moves B alone, and A follows.",
        "两个瘦长矩阵并排放在冻结矩阵旁边。梯度仍要穿过 W，省下的只有 dW。"
        "B 从零开始，所以第一步只动 B，随后 A 才跟上。",
    ),
    not_shown=Both(
        "dropout on the bypass; DoRA, which learns a length for every row of W.",
        "旁路上的 dropout；以及为 W 的每一行学习长度的 DoRA。",
    ),
    next=Both("what do its knobs r and α do?", "它的旋钮 r 和 α 有什么用？"),
    predictions=(
        Prediction(
            "zero",
            Both(
                "A is random, B = 0. At the very first step, which of the two gradients is exactly "
                "zero: only dA, only dB, both, or neither?",
                "A 随机，B = 0。在第一步，哪个梯度恰好为零：只有 dA、只有 dB、两个都是、都不是？",
            ),
            Both(
                "B = 0 silences the bypass, so 'both' tempts. But dB is made from A and x, which "
                "are not zero; only dA has the factor B.",
                "B = 0 让旁路不出声，所以容易答“两个都是”。但 dB 由 A 和 x 得到，它们不为零；"
                "只有 dA 含有因子 B。",
            ),
            options=("dA", "dB", "both", "neither"),
            catches=("M20",),
        ),
        Prediction(
            "saved",
            Both(
                "Of the multiplications of a training step of one adapted matrix (4096 × 4096, "
                "r = 8): how many percent does LoRA save?",
                "对一个被适配的矩阵（4096 × 4096，r = 8），训练一步的乘法里 LoRA 省下百分之几？",
            ),
            Both(
                "Nearly all numbers are frozen, so 99 % tempts. But forward needs W, and so does "
                "the signal on its way down: of three products one is spared.",
                "几乎所有的数都冻结了，所以容易答 99 %。"
                "但前向要用 W，往下传的信号也要用 W：三个乘积只省一个。",
            ),
            unit=" %",
            catches=("M23",),
        ),
    ),
    exercises=(FORWARD, BACKWARD, COUNT),
    quiz=(
        Question(
            Both(
                "B = 0, A random, one step of AdamW without weight decay. What has moved?",
                "B = 0，A 随机，走一步不带权重衰减的 AdamW。什么动了？",
            ),
            (
                Option(
                    Both("A and B", "A 和 B"),
                    Both("dA is exactly zero as long as B is.", "只要 B 为零，dA 就恰好为零。"),
                ),
                Option(
                    Both("only B", "只有 B"),
                    Both(
                        "dB has the factor A, which is not zero; dA has the factor B, which is.",
                        "dB 含因子 A，不为零；dA 含因子 B，为零。",
                    ),
                    True,
                ),
                Option(
                    Both("nothing", "什么都没动"),
                    Both(
                        "That is so if both are zero. Here A is random.",
                        "两者都为零时才会这样。这里 A 是随机的。",
                    ),
                ),
            ),
            catches=("M20",),
        ),
        Question(
            Both("Why not start with A and B both random?", "为什么不让 A 和 B 都随机？"),
            (
                Option(
                    Both("it could not learn", "那样学不会"),
                    Both(
                        "It learns, as the figure shows. Look at step 0.",
                        "能学会，图上可见。看一看第 0 步。",
                    ),
                ),
                Option(
                    Both("the start would not be the base", "起点就不再是原模型"),
                    Both(
                        "The bypass would add noise to what the base says, with nothing learnt.",
                        "还没学任何东西，旁路就已经在原模型的输出上加了噪声。",
                    ),
                    True,
                ),
                Option(
                    Both("it needs more memory", "需要更多内存"),
                    Both("Zeros take as much room as other numbers.", "零和别的数占一样大的地方。"),
                ),
            ),
            catches=("M20",),
        ),
        Question(
            Both(
                "Only the topmost layer has an adapter. Where does backward stop?",
                "只有最顶层有适配器。反向传播到哪里停下？",
            ),
            (
                Option(
                    Both("at the embeddings", "到词嵌入"),
                    Both(
                        "Nothing trainable lies below the topmost layer, so nobody asks for the "
                        "gradient there.",
                        "最顶层以下没有可训练的东西，没有谁需要那里的梯度。",
                    ),
                ),
                Option(
                    Both("at the adapter of the topmost layer", "在最顶层的适配器"),
                    Both(
                        "Below the lowest trainable thing no gradient is needed, and none made.",
                        "在最低的可训练部分以下，不需要梯度，也不计算梯度。",
                    ),
                    True,
                ),
                Option(
                    Both("at the first frozen matrix", "在第一个冻结的矩阵"),
                    Both(
                        "The signal passes through frozen matrices. It stops where nothing "
                        "trainable is left below.",
                        "信号会穿过冻结的矩阵。只有在下面再没有可训练的东西时才停。",
                    ),
                ),
            ),
            catches=("M5",),
        ),
    ),
    seconds=25,
    catches=("M20", "M24"),
)
