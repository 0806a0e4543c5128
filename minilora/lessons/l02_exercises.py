"""The exercises of lesson 02: backward of a product and of the loss, a difference, the flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minilora import ops
from minilora.autograd import Tensor
from minilora.lessons.content import Both, Exercise, Wrong

Case = tuple[Any, ...]

# Leading axes, out, in: not square, square, and with axes (B, T).
_SIZES = (((5,), 4, 3), ((4,), 4, 4), ((2, 3), 6, 5))


def _linear_cases(rng: np.random.Generator) -> list[Case]:
    return [
        (
            rng.normal(size=(*lead, out)),
            rng.normal(size=(*lead, n_in)),
            rng.normal(size=(out, n_in)),
        )
        for lead, out, n_in in _SIZES
    ]


def _linear(dy: Any, x: Any, W: Any) -> Any:
    """Token by token: a matrix times a vector, and an outer product."""
    dx, dW = np.zeros_like(x), np.zeros_like(W)
    for token in np.ndindex(x.shape[:-1]):
        dx[token] = W.T @ dy[token]
        dW += np.outer(dy[token], x[token])
    return dx, dW


def _wrong_linear(dx: str, dW: str) -> str:
    return f"""
def linear_backward(dy, x, W):
    d, rows = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    return {dx}, {dW}
"""


LINEAR = Exercise(
    number="02.1",
    name="linear_backward",
    title=Both("backward of a product", "矩阵乘积的反向传播"),
    task=Both(
        "From dy = dL/dy (…, out) find dx (…, in) and dW (out, in) of y = x Wᵀ. The dots stand "
        "for any leading axes: none but the tokens, or (B, T).",
        "由 dy = dL/dy (…, out) 求 y = x Wᵀ 的 dx (…, in) 和 dW (out, in)。省略号代表任意的前导轴："
        "可以只有词元这一个轴，也可以是 (B, T)。",
    ),
    pointer=Both(
        "dx = dy @ W has the shape of x already. For dW flatten the leading axes of both with "
        "reshape(-1, …): (tokens, out) transposed, times (tokens, in), sums over all tokens.",
        "dx = dy @ W 的形状已经与 x 相同。求 dW 时先用 reshape(-1, …) 把两者的前导轴展平："
        "(词元数, out) 转置后乘以 (词元数, in)，就对所有词元求了和。",
    ),
    stub='''
def linear_backward(dy, x, W):
    """dx (…, in), dW (out, in)"""
    return ...
''',
    solution='''
def linear_backward(dy, x, W):
    """dx (…, in), dW (out, in)"""
    d = dy.reshape(-1, dy.shape[-1])  # (tokens, out)
    rows = x.reshape(-1, x.shape[-1])  # (tokens, in)
    return dy @ W, d.T @ rows
''',
    another="""
def linear_backward(dy, x, W):
    lead = tuple(range(dy.ndim - 1))
    return np.einsum("...o,oi->...i", dy, W), np.tensordot(dy, x, (lead, lead))
""",
    wrong=(
        Wrong(
            _wrong_linear("dy @ W", "rows.T @ d"),
            Both(
                "A gradient has the shape of what it is of, and W is (out, in). Is yours?",
                "梯度与它所属的数组同形，而 W 是 (out, in)。你的 dW 是吗？",
            ),
        ),
        Wrong(
            _wrong_linear("dy @ W.T", "d.T @ rows"),
            Both(
                "Which axis of W did y have? dy must meet that one. (If W is square, both run.)",
                "y 用的是 W 的哪一个轴？dy 应当与它相乘。（W 是方阵时，两种写法都不报错。）",
            ),
        ),
        Wrong(
            _wrong_linear("dy @ W", "np.einsum('...o,...i->...oi', dy, x)"),
            Both(
                "Did every token use the same W? Then what becomes of their parts?",
                "每个词元用的是不是同一个 W？那么它们各自的那一份该怎么办？",
            ),
        ),
        Wrong(
            _wrong_linear("dy @ W", "np.swapaxes(dy, -1, -2) @ x"),
            Both(
                "With axes (B, T) you get one gradient for each row of the batch. How many W are "
                "there?",
                "有 (B, T) 两个轴时，你给批次的每一行都算出了一个梯度。可是一共有几个 W？",
            ),
        ),
        Wrong(
            _wrong_linear("dy @ W", "dy.T @ x"),
            Both(
                "With axes (B, T), .T turns all axes round. How do tokens become the rows of one "
                "matrix?",
                "有 (B, T) 两个轴时，.T 会把所有的轴都反过来。怎样把词元排成一个矩阵的行？",
            ),
        ),
    ),
    cases=_linear_cases,
    reference=_linear,
    difficulty=2,
    minutes=10,
    core=True,
    catches=("M6",),
)


def _xent_cases(rng: np.random.Generator) -> list[Case]:
    cases = []
    for lead, V in (((6,), 4), ((5,), 5), ((2, 3), 7)):
        labels = rng.integers(0, V, lead)
        labels.flat[1] = labels.flat[4] = -100
        cases.append((2 * rng.normal(size=(*lead, V)), labels))
    return cases


def _xent(z: Any, labels: Any) -> Any:
    """Token by token, each probability as 1 / Σ e^(difference)."""
    dz, n = np.zeros_like(z), int(np.sum(labels != -100))
    for token in np.ndindex(labels.shape):
        if labels[token] == -100:
            continue
        for j in range(z.shape[-1]):
            p = 1 / sum(np.exp(other - z[token][j]) for other in z[token])
            dz[(*token, j)] = (p - (j == labels[token])) / n
    return dz


def _wrong_xent(end: str, onehot: str = "(labels[..., None] == np.arange(z.shape[-1]))") -> str:
    return f"""
def xent_backward(z, labels):
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    asked = labels != -100
    onehot = {onehot}
    return {end}
"""


XENT = Exercise(
    number="02.2",
    name="xent_backward",
    title=Both("backward of the loss", "损失的反向传播"),
    task=Both(
        "Find dz (…, V) of L = −Σ ln p[label] / n with p = softmax(z), for logits z (…, V) and "
        "labels (…). Where a label is −100, nobody asked: that token counts neither in the sum nor "
        "in n.",
        "对 logits z (…, V) 和标签 labels (…)，求 L = −Σ ln p[label] / n 的 dz (…, V)，"
        "其中 p = softmax(z)。标签为 −100 的词元没有被提问：既不计入求和，也不计入 n。",
    ),
    pointer=Both(
        "p − onehot for each token, all divided by n = (labels != −100).sum(), and rows of "
        "unasked tokens set to zero: multiply by asked[..., None].",
        "每个词元算 p − onehot，一律除以 n = (labels != −100).sum()；"
        "没有被提问的行要置零：乘以 asked[..., None]。",
    ),
    stub='''
def xent_backward(z, labels):
    """dz (…, V)"""
    return ...
''',
    solution='''
def xent_backward(z, labels):
    """dz (…, V)"""
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)  # (…, V)
    asked = labels != -100  # (…)
    onehot = labels[..., None] == np.arange(z.shape[-1])  # (…, V)
    return (p - onehot) * asked[..., None] / asked.sum()
''',
    another="""
def xent_backward(z, labels):
    dz = np.zeros_like(z)
    asked = np.nonzero(labels != -100)
    e = np.exp(z[asked])
    dz[asked] = e / e.sum(axis=-1, keepdims=True) - np.eye(z.shape[-1])[labels[asked]]
    return dz / len(asked[0])
""",
    wrong=(
        Wrong(
            _wrong_xent("(p - onehot) * asked[..., None]"),
            Both(
                "The loss is a mean. What does that do to the part of each token?",
                "损失是平均值。这对每个词元的那一份意味着什么？",
            ),
        ),
        Wrong(
            _wrong_xent("(p - onehot) * asked[..., None] / labels.size"),
            Both(
                "You divide by all positions. How many of them are targets?",
                "你除以了所有位置的个数。其中有多少个是目标？",
            ),
        ),
        Wrong(
            _wrong_xent("(p - onehot) / asked.sum()"),
            Both(
                "Look at a row with label −100. Who asked this token for anything?",
                "看一看标签为 −100 的那一行。谁问过这个词元？",
            ),
        ),
        Wrong(
            _wrong_xent("(p - onehot) / labels.size"),
            Both(
                "Rows with label −100 pull on the logits, and count in n, too. Were they asked?",
                "标签为 −100 的行既在拉动 logits，又被算进了 n。它们被提问了吗？",
            ),
        ),
        Wrong(
            _wrong_xent(
                "(p - onehot) * asked[..., None] / asked.sum()", "np.eye(len(p.T))[labels]"
            ),
            Both(
                "−100 is no place in a vocabulary. What should a row do that nobody asks?",
                "词表里没有第 −100 个位置。没有被提问的行应该怎么办？",
            ),
        ),
    ),
    cases=_xent_cases,
    reference=_xent,
    difficulty=2,
    minutes=10,
    core=True,
    catches=("M9",),
)


class _Cubic:
    """Σ a x³ + (Σ b x)², whose central difference is exactly its gradient + a h²."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...]):
        self.a, self.b = rng.normal(size=shape), rng.normal(size=shape)

    def __call__(self, x: Any) -> float:
        return float((self.a * x**3).sum() + (self.b * x).sum() ** 2)

    def differenced(self, x: Any, h: float) -> Any:
        return 3 * self.a * x**2 + 2 * (self.b * x).sum() * self.b + self.a * h**2


def _difference_cases(rng: np.random.Generator) -> list[Case]:
    shapes = ((3, 4), (4, 4), (2, 3, 5))
    return [(_Cubic(rng, shape), rng.normal(size=shape), 0.1) for shape in shapes]


def _difference(f: Any, x: Any, h: float) -> Any:
    return {"gradient": f.differenced(x, h), "f asked in float64": True, "x as before": True}


def _watched(function: Callable[..., Any], case: Case) -> Any:
    """The result, in which type f was asked, and whether x is what it was, to the bit."""
    f, x, h = case
    types: set[Any] = set()
    before = x.copy()

    def asked(at: Any) -> float:
        types.add(np.asarray(at).dtype)
        return f(at)

    got = function(asked, x, h)
    if got is ...:
        return ...
    same = bool(np.array_equal(x, before))
    return {"gradient": got, "f asked in float64": types == {x.dtype}, "x as before": same}


def _wrong_difference(*body: str, before: str = "pass") -> str:
    lines = "\n".join(f"        {line}" for line in body)
    return f"""
def central_difference(f, x, h):
    {before}
    n = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        old = x[i]
{lines}
    return n
"""


DIFFERENCE = Exercise(
    number="02.3",
    name="central_difference",
    title=Both("nudge and look", "推一下，看一看"),
    task=Both(
        "Measure the gradient of f, which takes an array like x and gives a number: for every "
        "element of x, nudge it by +h and by −h, leave the others, and divide the difference of f "
        "by 2h. The result has the shape of x; afterwards x is what it was.",
        "测量 f 的梯度；f 接受与 x 同形的数组，返回一个数。对 x 的每个元素，让它分别加 +h 和 −h，"
        "其余元素不动，把 f 的差除以 2h。结果与 x 同形；做完之后 x 要和原来一样。",
    ),
    pointer=Both(
        "for i in np.ndindex(x.shape): keep old = x[i], set x[i] = old + h and ask f, set "
        "x[i] = old − h and ask f, then put old back.",
        "for i in np.ndindex(x.shape)：先记下 old = x[i]，令 x[i] = old + h 求 f，"
        "再令 x[i] = old − h 求 f，最后把 old 放回去。",
    ),
    stub='''
def central_difference(f, x, h):
    """The shape of x"""
    return ...
''',
    solution='''
def central_difference(f, x, h):
    """The shape of x"""
    n = np.zeros(x.shape)  # float64, like x
    for i in np.ndindex(x.shape):
        old = x[i]
        x[i] = old + h
        above = f(x)
        x[i] = old - h
        n[i] = (above - f(x)) / (2 * h)
        x[i] = old
    return n
''',
    another="""
def central_difference(f, x, h):
    moves = h * np.eye(x.size).reshape(-1, *x.shape)
    return np.array([(f(x + m) - f(x - m)) / (2 * h) for m in moves]).reshape(x.shape)
""",
    wrong=(
        Wrong(
            _wrong_difference(
                "x[i] = old + h", "above = f(x)", "x[i] = old", "n[i] = (above - f(x)) / h"
            ),
            Both(
                "Halve h: does your error halve, or does it fall to a quarter? Look to both sides.",
                "把 h 减半：你的误差是减半，还是降到四分之一？两边都要看。",
            ),
        ),
        Wrong(
            _wrong_difference(
                "x[i] = old + h", "above = f(x)", "x[i] = old - h", "n[i] = (above - f(x)) / (2*h)"
            ),
            Both(
                "Look at x after the call. Where was the second element's nudge made from?",
                "看一看调用之后的 x。轮到第二个元素时，是从哪一点出发的？",
            ),
        ),
        Wrong(
            _wrong_difference(
                "x[i] += h",
                "above = f(x)",
                "x[i] -= 2 * h",
                "n[i] = (above - f(x)) / (2 * h)",
                "x[i] += h",
            ),
            Both(
                "Nearly. x + h − 2h + h is not x to the last bit: what could be kept instead?",
                "差一点。x + h − 2h + h 在最后一位上并不等于 x：可以先把什么记下来？",
            ),
        ),
        Wrong(
            _wrong_difference(
                "x[i] = old + h",
                "above = f(x)",
                "x[i] = old - h",
                "n[i] = (above - f(x)) / (2 * h)",
                "x[i] = old",
                before="x = x.astype(np.float32)",
            ),
            Both(
                "You ask f in float32. Its rounding is divided by 2h: is there any h that helps?",
                "你是用 float32 去求 f 的。它的舍入误差要除以 2h：有哪个 h 救得了吗？",
            ),
        ),
    ),
    cases=_difference_cases,
    reference=_difference,
    observe=_watched,
    tolerance=1e-4,
    difficulty=1,
    minutes=6,
    catches=("M7",),
)


def _flag_cases(rng: np.random.Generator) -> list[Case]:
    return [(False, False), (False, True), (True, False), (True, True)]


def _flags(x_wants: bool, W_wants: bool) -> Any:
    """The engine itself is asked: what stands on its tape?"""
    x = Tensor(np.zeros((2, 3)), requires_grad=x_wants)
    W = Tensor(np.zeros((4, 3)), requires_grad=W_wants)
    node = ops.linear(x, W).node
    if node is None:
        return _as_words((x_wants, W_wants), set(), {"y"})
    made = {f"d{name}" for name, wanted in vars(node.needs).items() if wanted}
    return _as_words((x_wants, W_wants), set(vars(node.saved)), {"y"} | made)


def _as_words(case: Case, saved: Any, products: Any) -> dict[str, bool]:
    """Yes or no for each name that there is, so that a hint can say which is wrong, and where."""
    where = "x_wants={}, W_wants={}".format(*case)
    named = [("saved", saved, ("x", "W")), ("products", products, ("y", "dx", "dW"))]
    asked = {f"{n} in {kind}, {where}": n in set(got) for kind, got, names in named for n in names}
    strange = (set(saved) - {"x", "W"}) | (set(products) - {"y", "dx", "dW"})
    return asked | {f"other names, {where}": bool(strange)}


def _answered(function: Callable[..., Any], case: Case) -> Any:
    got = function(*case)
    return ... if got is ... else _as_words(case, *got)


def _wrong_flags(saved_x: str, saved_W: str, dx: str = "x_wants", dW: str = "W_wants") -> str:
    return f"""
def needed(x_wants, W_wants):
    saved = {{n for n, s in (("x", {saved_x}), ("W", {saved_W})) if s}}
    return saved, {{"y"}} | {{n for n, s in (("dx", {dx}), ("dW", {dW})) if s}}
"""


NEEDED = Exercise(
    number="02.4",
    name="needed",
    title=Both("what the flags decide", "标志决定什么"),
    task=Both(
        "For y = x Wᵀ, each input says whether its gradient is wanted. Give two sets of names: "
        'what forward saves for backward, out of "x" and "W", and which products a step makes, '
        'out of "y", "dx", "dW".',
        "对 y = x Wᵀ，每个输入都声明是否需要它的梯度。给出两个由名字组成的集合：前向传播为反向传播"
        '保存什么（从 "x"、"W" 中选），以及一步里要算哪些乘积（从 "y"、"dx"、"dW" 中选）。',
    ),
    pointer=Both(
        "y is always made. dx = dy W is made if x wants it, and reads W. dW = dyᵀ x is made if W "
        "wants it, and reads x.",
        "y 总是要算的。x 需要梯度时才算 dx = dy W，它要读 W。"
        "W 需要梯度时才算 dW = dyᵀ x，它要读 x。",
    ),
    stub='''
def needed(x_wants, W_wants):
    """saved, products: two sets of names"""
    return ...
''',
    solution='''
def needed(x_wants, W_wants):
    """saved, products: two sets of names"""
    saved, products = set(), {"y"}
    if x_wants:  # dx = dy W
        saved.add("W")
        products.add("dx")
    if W_wants:  # dW = dyᵀ x
        saved.add("x")
        products.add("dW")
    return saved, products
''',
    another="""
def needed(x_wants, W_wants):
    return ["W"] * x_wants + ["x"] * W_wants, ["y"] + ["dx"] * x_wants + ["dW"] * W_wants
""",
    wrong=(
        Wrong(
            _wrong_flags("x_wants or W_wants", "x_wants"),
            Both(
                "You keep x although W is frozen. Which gradient would read it?",
                "W 冻结了，你还保存着 x。哪个梯度会去读它？",
            ),
        ),
        Wrong(
            _wrong_flags("x_wants or W_wants", "x_wants or W_wants"),
            Both(
                "You keep both whenever anything is wanted. Who reads x if W is frozen, and who "
                "reads W if nothing lies below?",
                "只要有一个需要梯度，你就两个都保存。W 冻结时谁读 x？"
                "下面没有可训练的东西时谁读 W？",
            ),
        ),
        Wrong(
            _wrong_flags("W_wants", "x_wants and W_wants", "x_wants and W_wants"),
            Both(
                "W is frozen, and dx is not made. How does the layer below learn?",
                "W 冻结了，你就不算 dx。那么下面的层怎么学习？",
            ),
        ),
        Wrong(
            _wrong_flags("W_wants", "x_wants", "x_wants and W_wants"),
            Both(
                "You keep W for dx, but with W frozen you make no dx. How does the layer below "
                "learn?",
                "你为 dx 保存了 W，可是 W 冻结时又不算 dx。那么下面的层怎么学习？",
            ),
        ),
        Wrong(
            _wrong_flags("x_wants", "W_wants"),
            Both(
                "Write dx and dW down. Which of them reads x, and which W?",
                "把 dx 和 dW 的式子写下来。哪一个读 x，哪一个读 W？",
            ),
        ),
    ),
    cases=_flag_cases,
    reference=_flags,
    observe=_answered,
    tolerance=0,
    difficulty=1,
    minutes=4,
    core=True,
    catches=("M5",),
)

EXERCISES = (LINEAR, XENT, DIFFERENCE, NEEDED)
