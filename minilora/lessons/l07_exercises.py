"""Exercises of lesson 07: the first step, α and the learning rate, a pair for each layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from minilora import ops
from minilora.autograd import Parameter, Tensor, backward
from minilora.lessons.content import Both, Exercise, Wrong
from minilora.optim import AdamW

Case = tuple[Any, ...]

# Leading axes, out, in, r.
_SIZES = (((5,), 4, 7, 3), ((4,), 4, 4, 4), ((2, 3), 6, 5, 2))


def _step_cases(rng: np.random.Generator) -> list[Case]:
    return [
        (
            rng.normal(size=(*lead, n_in)),
            rng.normal(size=(*lead, n_out)),
            rng.normal(size=(r, n_in)),
            s,
            opt,
        )
        for lead, n_out, n_in, r in _SIZES
        for s, opt in ((0.4, "adam"), (1.7, "sgd"))
    ]


def _first_step(x: Any, g: Any, A: Any, s: float, opt: str) -> float:
    """Without a step: s·Σ|M| or s²·ΣM², over ‖g‖, of M = gᵀ(xAᵀ), summed token by token."""
    rows = zip(g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1]), strict=True)
    M = sum(np.outer(d, A @ v) for d, v in rows)
    size = s * np.abs(M).sum() if opt == "adam" else s**2 * np.square(M).sum()
    return float(size / np.sqrt(np.square(g).sum()))


def _step_code(
    G: str = "s * d.T @ u",
    adam: str = "-np.sign(G)",
    change: str = "s * u @ B.T",
    result: str = "-(change * d).sum() / np.linalg.norm(d)",
) -> str:
    return f"""
def first_step_change(x, g, A, s, opt):
    u, d = (x @ A.T).reshape(-1, len(A)), g.reshape(-1, g.shape[-1])
    G = {G}
    B = {adam} if opt == "adam" else -G
    change = {change}
    return {result}
"""


FIRST_STEP = Exercise(
    number="07.1",
    name="first_step_change",
    title=Both("what the first step does", "第一步做了什么"),
    task=Both(
        "B is zero and makes one step at learning rate 1: B = −G under SGD, B = −sign(G) under "
        "Adam, with G = dL/dB (out, r). Then h has moved by Δh (…, out). Return its useful part, "
        "−⟨Δh, g⟩ / ‖g‖, one number: x (…, in), g = dL/dh (…, out), A (r, in), scaling s, and "
        '`opt` is "sgd" or "adam". Sum over all leading axes.',
        "B 为零，以学习率 1 走一步：SGD 下 B = −G，Adam 下 B = −sign(G)，其中 G = dL/dB (out, r)。"
        "于是 h 移动了 Δh (…, out)。返回其中有用的部分 −⟨Δh, g⟩ / ‖g‖，一个数："
        "x (…, in)，g = dL/dh (…, out)，A (r, in)，缩放 s，"
        '`opt` 是 "sgd" 或 "adam"。要对前面所有的轴求和。',
    ),
    pointer=Both(
        "u = x Aᵀ, with leading axes flattened: (tokens, r). G = s · gᵀ u. Then Δh = s · u Bᵀ, "
        "with the new B: s stands in both.",
        "u = x Aᵀ，前面的轴展平：(词元数, r)。G = s · gᵀ u。然后用新的 B 得到 "
        "Δh = s · u Bᵀ：两处都有 s。",
    ),
    stub='''
def first_step_change(x, g, A, s, opt):
    """A number"""
    return ...
''',
    solution='''
def first_step_change(x, g, A, s, opt):
    """A number"""
    u = (x @ A.T).reshape(-1, len(A))  # (tokens, r)
    d = g.reshape(-1, g.shape[-1])  # (tokens, out)
    G = s * d.T @ u  # (out, r)
    B = -np.sign(G) if opt == "adam" else -G
    change = s * u @ B.T  # (tokens, out)
    return -(change * d).sum() / np.linalg.norm(d)
''',
    another="""
def first_step_change(x, g, A, s, opt):
    u, lead = np.einsum("...i,ri->...r", x, A), tuple(range(g.ndim - 1))
    G = s * np.tensordot(g, u, (lead, lead))
    step = {"adam": np.sign, "sgd": np.positive}[opt](G)
    change = s * np.einsum("...r,or->...o", u, step)
    return np.vdot(change, g) / np.sqrt((g * g).sum())
""",
    wrong=(
        Wrong(
            _step_code(adam="-G"),
            Both(
                "That is SGD's step. Adam divides G by its own size: what is left of it at step "
                "one?",
                "这是 SGD 的一步。Adam 把 G 除以它自己的大小：第一步里 G 还剩下什么？",
            ),
        ),
        Wrong(
            _step_code(G="d.T @ u"),
            Both(
                "s lies between B and the loss. Where is it in G?",
                "s 就在 B 到损失的路上。G 里的 s 呢？",
            ),
        ),
        Wrong(
            _step_code(change="u @ B.T"),
            Both(
                "The backward pass has met s. Does the forward pass of the moved B not meet it?",
                "反向时乘过 s 了。B 移动之后的前向难道不经过 s 吗？",
            ),
        ),
        Wrong(
            _step_code(result="B"),
            Both(
                "That is how far B has moved. What of it reaches h?",
                "这是 B 移动了多少。其中有多少到达 h？",
            ),
        ),
    ),
    cases=_step_cases,
    reference=_first_step,
    difficulty=2,
    minutes=10,
    core=True,
    catches=("M26",),
)

_LR_A, _RANK = 0.02, 3


def _lr_cases(rng: np.random.Generator) -> list[Case]:
    return [
        (16.0, 8.0, 0.02),
        (3.0, 6.0, 0.05),
        (8.0, 8.0, 0.01),
        (float(rng.uniform(4, 8)), float(rng.uniform(12, 20)), 0.03),
    ]


def forty_steps(alpha: float, lr_A: float, lr_B: float) -> np.ndarray:
    """s·B·A (out, in) of a small matrix after 40 steps of Adam in float64, ε as good as none."""
    rng = np.random.default_rng(7)
    x, W = Tensor(rng.normal(size=(9, 6))), Tensor(rng.normal(size=(5, 6)))
    y = Tensor(rng.normal(size=(9, 5)))
    A, B = Parameter(rng.uniform(-0.4, 0.4, (_RANK, 6))), Parameter(np.zeros((5, _RANK)))
    groups = [{"params": [A], "lr": lr_A}, {"params": [B], "lr": lr_B}]
    optimizer = AdamW(groups, eps=1e-300)
    for _ in range(40):
        error = ops.lora_linear(x, W, A, B, scaling=alpha / _RANK) - y
        gradients: Any = backward((error * error).sum())
        optimizer.step(gradients)
    return alpha / _RANK * B.data @ A.data


def _tried(f: Any, case: Case) -> Any:
    """What a reader's learning rate is, and what comes of a training with it."""
    _, new_alpha, _ = case
    lr = f(*case)
    if isinstance(lr, type(...)):
        return lr
    return {
        "the learning rate": lr,
        "s·B·A after 40 steps": forty_steps(new_alpha, _LR_A, float(lr)),
    }


def _equivalent(alpha: float, new_alpha: float, lr_B: float) -> dict[str, Any]:
    """The rate as it comes out of logarithms; and the training that it is to repeat."""
    lr = float(np.exp(np.log(lr_B) + np.log(alpha) - np.log(new_alpha)))
    return {"the learning rate": lr, "s·B·A after 40 steps": forty_steps(alpha, _LR_A, lr_B)}


EQUIVALENT = Exercise(
    number="07.2",
    name="equivalent_lr",
    title=Both("undo a change of α", "抵消 α 的改变"),
    task=Both(
        "α becomes new_alpha; r and A's learning rate stay. With which learning rate of B does "
        "Adam (ε → 0, no weight decay) learn exactly the same? The checker trains 40 steps with "
        "your answer and compares s·B·A.",
        "α 变成 new_alpha；r 和 A 的学习率不变。B 用多大的学习率，Adam（ε → 0，没有权重衰减）"
        "学到的才完全相同？检查时会用你的答案训练 40 步，再比较 s·B·A。",
    ),
    pointer=Both(
        "s·B must be as before at every step, so with α/c in the place of α, B must be c times as "
        "large. Adam moves B by about lr a step, whatever the size of G.",
        "每一步的 s·B 都要和原来一样，所以 α 换成 α/c 时，B 必须是 c 倍大。"
        "不论 G 多大，Adam 每一步都让 B 移动大约 lr。",
    ),
    stub='''
def equivalent_lr(alpha, new_alpha, lr_B):
    """The new learning rate of B"""
    return ...
''',
    solution='''
def equivalent_lr(alpha, new_alpha, lr_B):
    """The new learning rate of B"""
    c = alpha / new_alpha  # B has to become c times as large
    return c * lr_B
''',
    another="""
def equivalent_lr(alpha, new_alpha, lr_B):
    return (alpha * lr_B) / new_alpha
""",
    wrong=(
        Wrong(
            "def equivalent_lr(alpha, new_alpha, lr_B):\n    return lr_B * new_alpha / alpha",
            Both(
                "If α gets smaller, s·B can stay only if B gets larger. Does yours?",
                "α 变小时，只有 B 变大，s·B 才能不变。你的 B 变大了吗？",
            ),
        ),
        Wrong(
            "def equivalent_lr(alpha, new_alpha, lr_B):\n"
            "    return lr_B * (alpha / new_alpha) ** 2",
            Both(
                "That is right for SGD, where G has a factor s of its own. What does Adam make of "
                "it?",
                "这对 SGD 是对的，那里 G 自己还带一个 s。Adam 会怎样处理这个因子？",
            ),
        ),
        Wrong(
            "def equivalent_lr(alpha, new_alpha, lr_B):\n    return lr_B",
            Both(
                "Compare step 1: B moves by lr under both. Do both move h alike?",
                "比较第 1 步：两种情况下 B 都移动 lr。h 的移动也一样吗？",
            ),
        ),
    ),
    cases=_lr_cases,
    reference=_equivalent,
    observe=_tried,
    tolerance=1e-10,
    difficulty=2,
    minutes=8,
    catches=("M27",),
)


def _adapter(
    rng: np.random.Generator, layers: int, shapes: Mapping[str, tuple[int, int]], r: int
) -> dict[str, np.ndarray]:
    """As `adapter_weights` gives it, of random numbers. shapes: matrix → (out, in)."""
    found = {}
    for i in range(layers):
        for matrix, (n_out, n_in) in shapes.items():
            path = f"base_model.model.model.layers.{i}.self_attn.{matrix}"
            found[f"{path}.lora_A.weight"] = rng.normal(size=(r, n_in))
            found[f"{path}.lora_B.weight"] = rng.normal(size=(n_out, r))
    return found


def _swap_cases(rng: np.random.Generator) -> list[Case]:
    grouped = {"q_proj": (6, 5), "v_proj": (3, 5)}  # with fewer heads of keys, v is narrower
    return [
        (_adapter(rng, 4, grouped, 2), 0, 3),
        (_adapter(rng, 3, {"q_proj": (4, 4)}, 4), 2, 1),
        (_adapter(rng, 12, grouped, 1), 1, 2),
        (_adapter(rng, 3, grouped, 2), 1, 1),
    ]


def swapped(adapter: Mapping[str, np.ndarray], i: int, j: int) -> dict[str, np.ndarray]:
    """The same names, with the pairs of layers i and j in each other's place."""

    def source(name: str) -> str:
        now = {i: j, j: i}
        return re.sub(
            r"\.layers\.(\d+)\.", lambda m: f".layers.{now.get(int(m[1]), m[1])}.", name, count=1
        )

    return {name: np.array(adapter[source(name)]) for name in adapter}


def _swap_code(body: str) -> str:
    return f"""
def swap_layers(adapter, i, j):
    new = dict(adapter)
    for name in adapter:
        {body}
    return new
"""


SWAP = Exercise(
    number="07.3",
    name="swap_layers",
    title=Both("swap the pairs of two layers", "交换两层的 A、B 对"),
    task=Both(
        "`adapter` has an array for each name, such as `….layers.0.self_attn.q_proj.lora_A.weight` "
        "(r, in) and `….lora_B.weight` (out, r). Return a new dict with the same names, in which "
        "the pairs of layers i and j have changed places. The given one stays as it is.",
        "`adapter` 里每个名字对应一个数组，例如 "
        "`….layers.0.self_attn.q_proj.lora_A.weight` (r, in) 和 `….lora_B.weight` (out, r)。"
        "返回一个新的 dict，名字相同，但第 i 层和第 j 层的 A、B 互换了位置。传入的 dict 不能改动。",
    ),
    pointer=Both(
        'A name of layer i has f".layers.{i}." in it; `.replace` gives the name of its partner in '
        "layer j. Read from the old dict, write into the new one.",
        '第 i 层的名字里有 f".layers.{i}."；用 `.replace` 得到第 j 层里与它对应的名字。'
        "从旧的 dict 读，往新的 dict 写。",
    ),
    stub='''
def swap_layers(adapter, i, j):
    """name → array, as `adapter`"""
    return ...
''',
    solution='''
def swap_layers(adapter, i, j):
    """name → array, as `adapter`"""
    new = dict(adapter)
    for name in adapter:
        if f".layers.{i}." in name:
            partner = name.replace(f".layers.{i}.", f".layers.{j}.")
            new[name], new[partner] = adapter[partner], adapter[name]
    return new
''',
    another="""
def swap_layers(adapter, i, j):
    a, b, new = f".layers.{i}.", f".layers.{j}.", {}
    for name, array in adapter.items():
        if a in name:
            name = name.replace(a, b)
        elif b in name:
            name = name.replace(b, a)
        new[name] = np.copy(array)
    return new
""",
    wrong=(
        Wrong(
            _swap_code(
                'if f".layers.{i}." in name and "lora_A" in name:\n'
                '            partner = name.replace(f".layers.{i}.", f".layers.{j}.")\n'
                "            new[name], new[partner] = adapter[partner], adapter[name]"
            ),
            Both(
                "A has moved. A pair is two: where is the B that learned beside it?",
                "A 换过去了。一对是两个：和它一起学的 B 呢？",
            ),
        ),
        Wrong(
            _swap_code(
                'if f".layers.{i}." in name:\n'
                '            partner = name.replace(f".layers.{i}.", f".layers.{j}.")\n'
                "            new[name] = new[partner]\n"
                "            new[partner] = new[name]"
            ),
            Both(
                "Both layers have the same pair now. What was in `new[name]` when you read it?",
                "现在两层的 A、B 是同一份。读 `new[name]` 的时候，里面是什么？",
            ),
        ),
        Wrong(
            _swap_code(
                'if f"layers.{i}" in name:\n'
                '            partner = name.replace(f"layers.{i}", f"layers.{j}")\n'
                "            new[name], new[partner] = adapter[partner], adapter[name]"
            ),
            Both(
                "Is `layers.1` found in the name of layer 11, too? The dots belong to it.",
                "第 11 层的名字里是不是也有 `layers.1`？两边的点也要算在内。",
            ),
        ),
    ),
    cases=_swap_cases,
    reference=swapped,
    difficulty=1,
    minutes=8,
    core=True,
    catches=("M25",),
)
