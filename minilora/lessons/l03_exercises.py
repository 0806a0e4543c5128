"""Exercises of lesson 03: labels, the masked loss, causal attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minilora.lessons.content import Both, Exercise, Wrong

Case = tuple[Any, ...]
_IGNORE = -100


def _label_cases(rng: np.random.Generator) -> list[Case]:
    shapes = (((9,), 4), ((5, 5), 3), ((2, 7), 1), ((3, 6), 4))
    return [(rng.integers(2, 28, shape), prompt_len) for shape, prompt_len in shapes]


def _labels(tokens: Any, prompt_len: int) -> Any:
    """Place by place: what comes next, if it belongs to the answer."""
    T = tokens.shape[-1]
    columns = [
        tokens[..., t + 1] if prompt_len <= t + 1 < T else np.full(tokens.shape[:-1], _IGNORE)
        for t in range(T)
    ]
    return np.stack(columns, axis=-1)


def _labels_code(line: str) -> str:
    return (
        "def labels_for(tokens, prompt_len):\n"
        "    labels = np.full(tokens.shape, -100)\n"
        f"    {line}\n"
        "    return labels"
    )


LABELS = Exercise(
    number="03.1",
    name="labels_for",
    title=Both("what each place is asked for", "每个位置要回答什么"),
    task=Both(
        "`tokens` (…, T) are a prompt of `prompt_len` ≥ 1 tokens, then the answer, whose last "
        "token is the end. Give labels (…, T): at place t the *next* token, where that belongs "
        "to the answer; −100 everywhere else, also at the last place, behind which nothing "
        "comes.",
        "`tokens` (…, T) 先是 `prompt_len` ≥ 1 个提示词元，然后是答案，答案最后一个词元是结束符。"
        "给出 labels (…, T)：位置 t 的标签是*下一个*词元，前提是它属于答案；"
        "其余位置，包括后面再没有词元的最后一个位置，都填 −100。",
    ),
    pointer=Both(
        "The answer is tokens[…, prompt_len:]. Each of its tokens is asked for one place "
        "earlier, so the labels begin at place prompt_len − 1 and end before the last place.",
        "答案是 tokens[…, prompt_len:]。每个答案词元都由前一个位置来预测，"
        "所以标签从位置 prompt_len − 1 开始，到最后一个位置之前为止。",
    ),
    stub='''
def labels_for(tokens, prompt_len):
    """labels (…, T)"""
    return ...
''',
    solution='''
def labels_for(tokens, prompt_len):
    """labels (…, T)"""
    labels = np.full(tokens.shape, -100)  # (…, T)
    labels[..., prompt_len - 1 : -1] = tokens[..., prompt_len:]
    return labels
''',
    another="""
def labels_for(tokens, prompt_len):
    place = np.arange(1, tokens.shape[-1] + 1)
    asked = (place >= prompt_len) & (place < tokens.shape[-1])
    return np.where(asked, np.roll(tokens, -1, axis=-1), -100)
""",
    wrong=(
        Wrong(
            _labels_code("labels[..., prompt_len:] = tokens[..., prompt_len:]"),
            Both(
                "At place t the model has read token t, and your label asks for token t. Can it "
                "not simply copy its input?",
                "在位置 t，模型已经读到第 t 个词元，而你的标签问的也是它。它照抄输入不就行了？",
            ),
        ),
        Wrong(
            _labels_code("labels[..., :-1] = tokens[..., 1:]"),
            Both(
                "These labels ask for the prompt, too. Should the model learn to ask, or to "
                "answer?",
                "这些标签把提示也算进去了。模型该学会提问，还是学会回答？",
            ),
        ),
        Wrong(
            _labels_code("labels[..., prompt_len - 1 : -2] = tokens[..., prompt_len:-1]"),
            Both(
                "The end token is never asked for. Who tells the model when to stop?",
                "结束符从来没有被问到。谁来告诉模型该停下？",
            ),
        ),
        Wrong(
            _labels_code("labels[..., prompt_len:-1] = tokens[..., prompt_len + 1 :]"),
            Both(
                "Which place must say the first token of the answer? It has read the prompt only.",
                "答案的第一个词元该由哪个位置说出来？那个位置只读过提示。",
            ),
        ),
    ),
    cases=_label_cases,
    reference=_labels,
    tolerance=0,
    difficulty=1,
    minutes=8,
    core=True,
    catches=("M10",),
)


def _loss_cases(rng: np.random.Generator) -> list[Case]:
    cases = []
    for lead, V in (((5,), 7), ((4,), 4), ((2, 3), 6)):
        labels = rng.integers(0, V, lead)
        labels.flat[:2] = -100
        cases.append((rng.normal(size=(*lead, V)), labels))
    # Logits of 10⁴: the right token is the likeliest; then the least likely, whose p rounds to 0.
    for choose in (np.argmax, np.argmin):
        logits = 1e4 * rng.choice([-1.0, 1.0, 2.0, -2.0, 0.5], size=(6, 5))
        logits[:, :2] = -1e4, 1e4
        labels = choose(logits, axis=-1)
        labels[:2] = -100
        cases.append((logits, labels))
    return [*cases, (rng.normal(size=(2, 3, 4)), np.full((2, 3), -100))]


def _loss(logits: Any, labels: Any) -> Any:
    """Token by token, with a sum of exponentials that cannot overflow."""
    z, y = logits.reshape(-1, logits.shape[-1]), labels.ravel()
    losses = [np.logaddexp.reduce(z[i]) - z[i, y[i]] for i in range(len(y)) if y[i] != _IGNORE]
    return sum(losses) / len(losses) if losses else "refused"


def _loss_or_refusal(f: Callable[..., Any], case: Case) -> Any:
    """What it gives; "refused" if it says why where there is no target."""
    try:
        return f(*case)
    except ValueError as error:
        if str(error) and not (case[1] != _IGNORE).any():
            return "refused"
        raise


_LOWERED = "z - z.max(axis=-1, keepdims=True)"
_LOG_SUM = "z - np.log(np.exp(z).sum(axis=-1, keepdims=True))"
_BY_HAND = "np.log(np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True))"


def _loss_code(
    z: str = _LOWERED,
    logp: str = _LOG_SUM,
    n: str = "asked.sum()",
    refuse: bool = True,
) -> str:
    lines = [
        "def masked_loss(logits, labels):",
        "    asked = labels != -100",
        "    if not asked.any():\n        raise ValueError('no target')" if refuse else "",
        "    z = logits[asked]",
        f"    z = {z}" if z else "",
        f"    logp = {logp}",
        f"    return -logp[np.arange(len(z)), labels[asked]].sum() / {n}",
    ]
    return "\n".join(line for line in lines if line)


_BY_TARGETS = Both(
    "You divide by all places, B·T. Were they all asked? Mask one place more: should the loss of "
    "the others shrink?",
    "你除以的是所有位置 B·T。它们都被问到了吗？再多遮住一个位置，其余位置的损失难道该变小？",
)
_OVERFLOW = Both(
    "exp of 10⁴ is infinite in floats. What may be subtracted from all logits of a token without "
    "changing its probabilities?",
    "10⁴ 的指数在浮点数里是无穷大。从一个词元的所有 logits 里减去什么，概率不会变？",
)
_UNDERFLOW = Both(
    "A probability may round to 0, and ln 0 is −∞. Can you get ln p without making p first?",
    "概率可能舍入成 0，而 ln 0 是 −∞。能不能不先算出 p 就得到 ln p？",
)

LOSS = Exercise(
    number="03.2",
    name="masked_loss",
    title=Both("the mean over what is asked", "只对被问到的位置求平均"),
    task=Both(
        "`logits` (…, V) and `labels` (…), already shifted, −100 where nothing is asked. Give the "
        "mean of −ln p over the asked places, p = softmax(logits). It must hold for logits of "
        "10⁴. If nothing at all is asked, raise a ValueError that says why.",
        "`logits` (…, V) 和 `labels` (…)，标签已经错开一位，不问的位置是 −100。对被问到的位置求 "
        "−ln p 的平均，p = softmax(logits)。logits 大到 10⁴ 时也必须正确。如果一个位置都没有问，"
        "就抛出 ValueError 并说明原因。",
    ),
    pointer=Both(
        "asked = labels != -100, z = logits[asked] (n, V). With m = max z: "
        "ln p = z − m − ln Σ exp(z − m). Take one number a row, add up, divide by n; refuse n = 0.",
        "asked = labels != -100，z = logits[asked] (n, V)。令 m = max z："
        "ln p = z − m − ln Σ exp(z − m)。每行取一个数，加起来除以 n；n = 0 时拒绝。",
    ),
    stub='''
def masked_loss(logits, labels):
    """A number"""
    return ...
''',
    solution='''
def masked_loss(logits, labels):
    """A number"""
    asked = labels != -100  # (…)
    if not asked.any():
        raise ValueError("all labels are -100: there is no mean over no token")
    z = logits[asked]  # (n, V)
    z = z - z.max(axis=-1, keepdims=True)
    logp = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))  # (n, V)
    return -logp[np.arange(len(z)), labels[asked]].mean()
''',
    another="""
def masked_loss(logits, labels):
    total, n = 0.0, 0
    for place in np.ndindex(labels.shape):
        if labels[place] != -100:
            z = logits[place] - logits[place][labels[place]]
            total += z.max() + np.log(np.exp(z - z.max()).sum())
            n += 1
    if n == 0:
        raise ValueError("nothing is asked")
    return total / n
""",
    wrong=(
        Wrong(_loss_code(n="labels.size"), _BY_TARGETS),
        Wrong(_loss_code(n="labels.size", refuse=False), _BY_TARGETS),
        Wrong(
            _loss_code(refuse=False),
            Both(
                "With every label −100 this is 0/0. Is there a mean over no token? Raise a "
                "ValueError and say why.",
                "所有标签都是 −100 时，这就是 0/0。没有词元哪来的平均？"
                "请抛出 ValueError 并说明原因。",
            ),
        ),
        *(
            Wrong(_loss_code(z, logp, refuse=refuse), hint)
            for z, logp, hint in (
                ("", _BY_HAND, _OVERFLOW),
                ("", _LOG_SUM, _OVERFLOW),
                (_LOWERED, _BY_HAND, _UNDERFLOW),
            )
            for refuse in (True, False)
        ),
    ),
    cases=_loss_cases,
    reference=_loss,
    observe=_loss_or_refusal,
    difficulty=2,
    minutes=8,
    core=True,
    catches=("M9",),
)


def _attention_cases(rng: np.random.Generator) -> list[Case]:
    shapes = ((5, 3), (4, 4), (2, 6, 3), (2, 3, 5, 4))
    return [tuple(rng.normal(size=shape) for _ in range(3)) for shape in shapes]


def _attention(q: Any, k: Any, v: Any) -> Any:
    """Place by place, over what has been read by then."""
    y = np.zeros_like(q)
    for t in range(q.shape[-2]):
        seen = slice(0, t + 1)
        scores = np.einsum("...d,...sd->...s", q[..., t, :], k[..., seen, :])
        e = np.exp(scores / q.shape[-1] ** 0.5)
        p = e / e.sum(axis=-1, keepdims=True)
        y[..., t, :] = np.einsum("...s,...sd->...d", p, v[..., seen, :])
    return y


def _attention_code(
    mask: str = "np.tri(T, dtype=bool)", scale: str = "np.sqrt(D)", after: str = ""
) -> str:
    before = "" if after else f"    s = np.where({mask}, s, -np.inf)\n"
    return (
        "def causal_attention(q, k, v):\n"
        "    T, D = q.shape[-2:]\n"
        f"    s = q @ k.swapaxes(-1, -2) / {scale}\n"
        f"{before}"
        "    e = np.exp(s - s.max(axis=-1, keepdims=True))\n"
        f"    p = e / e.sum(axis=-1, keepdims=True){after}\n"
        "    return p @ v"
    )


ATTENTION = Exercise(
    number="03.3",
    name="causal_attention",
    title=Both("look back, never ahead", "只看过去，不看未来"),
    task=Both(
        "q, k, v (…, T, D) of one or more heads. Give softmax(q kᵀ/√D + causal mask) v, "
        "(…, T, D): place t takes a weighted mean of the values at places 0 to t.",
        "q、k、v (…, T, D)，一个或多个头。给出 softmax(q kᵀ/√D + 因果掩码) v，形状 (…, T, D)："
        "位置 t 对位置 0 到 t 的 v 作加权平均。",
    ),
    pointer=Both(
        "scores = q @ k.swapaxes(-1, -2) / √D is (…, T, T), rows ask, columns are asked. Set −∞ "
        "where column > row, *then* take the softmax over the last axis, then @ v.",
        "scores = q @ k.swapaxes(-1, -2) / √D 的形状是 (…, T, T)，行是提问者，列是被看的位置。"
        "先把列 > 行处设为 −∞，*再*对最后一轴做 softmax，然后 @ v。",
    ),
    stub='''
def causal_attention(q, k, v):
    """y (…, T, D)"""
    return ...
''',
    solution='''
def causal_attention(q, k, v):
    """y (…, T, D)"""
    T, D = q.shape[-2:]
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(D)  # (…, T, T)
    scores = np.where(np.tri(T, dtype=bool), scores, -np.inf)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)  # (…, T, T), each row adds up to 1
    return p @ v
''',
    another="""
def causal_attention(q, k, v):
    s = np.einsum("...td,...sd->...ts", q, k) * q.shape[-1] ** -0.5
    e = np.tril(np.exp(s))
    return np.einsum("...ts,...sd->...td", e, v) / e.sum(axis=-1)[..., None]
""",
    wrong=(
        Wrong(
            _attention_code(after=" * np.tri(T)"),
            Both(
                "The mask comes after the softmax. Do the rows of p still add up to 1?",
                "掩码放在了 softmax 之后。p 的每一行之和还是 1 吗？",
            ),
        ),
        Wrong(
            _attention_code(mask="np.tri(T, dtype=bool).T"),
            Both(
                "Here token 0 sees the end, and the last one only itself. Which axis asks?",
                "这里第 0 个词元看得到末尾，最后一个却只看得到自己。哪一个轴是提问的一方？",
            ),
        ),
        Wrong(
            _attention_code(scale="1"),
            Both(
                "Double D: a product of q and k adds up twice as many terms. Why should the "
                "softmax become sharper for that?",
                "把 D 加倍：q 与 k 的点积多了一倍的项。softmax 为什么要因此变得更尖？",
            ),
        ),
        Wrong(
            _attention_code(scale="D"),
            Both(
                "A sum of D random terms has a spread of √D. By what is it to be divided?",
                "D 个随机项之和的离散程度是 √D。那么该除以什么？",
            ),
        ),
        Wrong(
            _attention_code(mask="np.tri(T, k=-1, dtype=bool)"),
            Both(
                "May a token look at itself? Token 0 has nothing else to look at.",
                "词元可以看自己吗？第 0 个词元除了自己没有别的可看。",
            ),
        ),
    ),
    cases=_attention_cases,
    reference=_attention,
    difficulty=2,
    minutes=12,
)
