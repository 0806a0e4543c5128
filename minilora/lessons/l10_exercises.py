"""The exercises of lesson 10: count the relatives, write a bottleneck, look at a prefix."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora.lessons.content import Both, Exercise, Wrong

Case = tuple[Any, ...]

METHODS = ("lora", "prompt", "prefix", "adapter")


def _count_cases(rng: np.random.Generator) -> list[Case]:
    """Heads that share keys (d_kv < C), and heads that do not."""
    L, d_kv, groups = (int(n) for n in rng.integers((2, 8, 2), (6, 20, 5)))
    widths = ((L, groups * d_kv, d_kv), (L + 1, 2 * d_kv, 2 * d_kv))
    return [
        (method, *width, int(n))
        for width in widths
        for method, n in zip(METHODS, rng.integers(1, 30, len(METHODS)), strict=True)
    ]


def _counted(method: str, L: int, C: int, d_kv: int, n: int) -> int:
    """Array by array."""
    shapes: dict[str, list[tuple[int, ...]]] = {
        "prompt": [(n, C)],
        "prefix": [(n, d_kv), (n, d_kv)] * L,
        "adapter": [(n, C), (n,), (C, n), (C,)] * 2 * L,
        "lora": [(n, C), (C, n), (n, C), (d_kv, n)] * L,
    }
    return sum(np.empty(shape).size for shape in shapes[method])


def _counting(
    prefix: str = "2 * L * n * d_kv",
    adapter: str = "2 * L * (2 * C * n + n + C)",
    lora: str = "L * n * (C + C + C + d_kv)",
) -> str:
    return f"""
def count(method, L, C, d_kv, n):
    sizes = {{"prompt": n * C, "prefix": {prefix}, "adapter": {adapter}, "lora": {lora}}}
    return sizes[method]
"""


COUNT = Exercise(
    number="10.1",
    name="count",
    title=Both("what each one trains", "各自训练多少个数"),
    task=Both(
        "Count the trained numbers of a method, `'prompt'` or `'prefix'` with n virtual tokens, "
        "`'adapter'` with a bottleneck of n behind attention and behind the MLP, `'lora'` with "
        "rank n on q and v, in a Llama of L layers, C channels, and keys of all heads together "
        "d_kv wide. q is as wide as C.",
        "数出一种方法训练的数：带 n 个虚拟词元的 `'prompt'` 或 `'prefix'`；在注意力之后和 MLP "
        "之后各有一个瓶颈宽度为 n 的适配器，即 `'adapter'`；在 q 和 v 上秩为 n 的 `'lora'`。"
        "模型是 L 层、C 个通道的 Llama，所有头的键合起来宽 d_kv，q 和 C 一样宽。",
    ),
    pointer=Both(
        "List the arrays. prompt: (n, C), once. prefix: (n, d_kv) for the keys and as many for "
        "the values, each layer. adapter: W1 (n, C), b1 (n,), W2 (C, n), b2 (C,), twice a layer. "
        "lora: A (n, C) and B (out, n) for each of q and v, each layer.",
        "把数组列出来。prompt：一个 (n, C)。prefix：每层键 (n, d_kv)，值也同样多。"
        "适配器（adapter）：W1 (n, C)、b1 (n,)、W2 (C, n)、b2 (C,)，每层两份。"
        "lora：每层的 q 和 v 各有 A (n, C) 与 B (out, n)。",
    ),
    stub='''
def count(method, L, C, d_kv, n):
    """A whole number"""
    return ...
''',
    solution='''
def count(method, L, C, d_kv, n):
    """A whole number"""
    if method == "prompt":
        return n * C
    if method == "prefix":
        return 2 * L * n * d_kv  # keys and values
    if method == "adapter":
        return 2 * L * (2 * C * n + n + C)  # behind attention and behind the MLP
    return L * n * ((C + C) + (C + d_kv))  # q, and v
''',
    another=_counting("L * (n * d_kv + n * d_kv)", "L * (4 * C * n + 2 * n + 2 * C)"),
    wrong=(
        Wrong(
            _counting(prefix="L * n * d_kv"),
            Both(
                "A prefix half as large as it is. Which two things does attention read from a "
                "token that stands before the text?",
                "prefix 只数了一半。注意力从文本之前的一个词元那里读取哪两样东西？",
            ),
        ),
        Wrong(
            _counting(prefix="2 * L * n * C"),
            Both(
                "How wide are keys and values where several heads of q share one?",
                "当 q 的几个头共用一组键和值时，键和值有多宽？",
            ),
        ),
        Wrong(
            _counting(adapter="2 * L * 2 * C * n"),
            Both(
                "Each adapter is n + C short. What else than W1 and W2 stands in its formula?",
                "每个适配器少了 n + C 个。公式里除了 W1 和 W2 还有什么？",
            ),
        ),
        Wrong(
            _counting(adapter="L * (2 * C * n + n + C)"),
            Both(
                "One adapter a layer? Behind which two parts of a block does it stand?",
                "每层一个适配器？它位于块的哪两个部分之后？",
            ),
        ),
        Wrong(
            _counting(lora="2 * L * n * (C + C)"),
            Both(
                "Is v as wide as q? B of v is (d_kv, n).",
                "v 和 q 一样宽吗？v 的 B 是 (d_kv, n)。",
            ),
        ),
    ),
    cases=_count_cases,
    reference=_counted,
    tolerance=0,
    difficulty=1,
    minutes=8,
    core=True,
    catches=("M24",),
)


def _bottleneck_cases(rng: np.random.Generator) -> list[Case]:
    """Several rows; as many inner channels as outer ones; batch and time."""
    found = []
    for lead, C, m in (((5,), 6, 3), ((4,), 4, 4), ((2, 3), 5, 2)):
        x = rng.normal(size=(*lead, C))
        W1, W2 = rng.normal(size=(m, C)), rng.normal(size=(C, m))
        found.append((x, W1, rng.normal(size=m), W2, rng.normal(size=C)))
    return found


def _bottlenecked(x: Any, W1: Any, b1: Any, W2: Any, b2: Any) -> Any:
    """One row after the other, one inner channel after the other."""
    rows = []
    for row in x.reshape(-1, x.shape[-1]):
        y = row + b2
        for w, b, column in zip(W1, b1, W2.T, strict=True):
            u = sum(a * c for a, c in zip(w, row, strict=True)) + b
            y = y + (u * column if u > 0 else 0)
        rows.append(y)
    return np.array(rows).reshape(x.shape)


def _written(line: str) -> str:
    return f"""
def bottleneck(x, W1, b1, W2, b2):
    def relu(u):
        return np.maximum(u, 0)
    return {line}
"""


BOTTLENECK = Exercise(
    number="10.2",
    name="bottleneck",
    title=Both("a network squeezed through m channels", "挤过 m 个通道的小网络"),
    task=Both(
        "Compute y = x + W₂ σ(W₁ x + b₁) + b₂ for every token of x (…, C), with σ the ReLU, "
        "`np.maximum(u, 0)`; W1 (m, C), b1 (m,), W2 (C, m), b2 (C,). The result is (…, C).",
        "对 x (…, C) 的每个词元计算 y = x + W₂ σ(W₁ x + b₁) + b₂，其中 σ 是 ReLU，即 "
        "`np.maximum(u, 0)`；W1 (m, C)、b1 (m,)、W2 (C, m)、b2 (C,)。结果是 (…, C)。",
    ),
    pointer=Both(
        "Down: x @ W1.T is (…, m). Then b1, then σ. Up: … @ W2.T is (…, C). Then b2, and x is "
        "added last, untouched.",
        "下：x @ W1.T 是 (…, m)。再加 b1，再过 σ。上：… @ W2.T 是 (…, C)。"
        "再加 b2，最后加上原封不动的 x。",
    ),
    stub='''
def bottleneck(x, W1, b1, W2, b2):
    """y (…, C)"""
    return ...
''',
    solution='''
def bottleneck(x, W1, b1, W2, b2):
    """y (…, C)"""
    u = np.maximum(x @ W1.T + b1, 0)  # (…, m)
    return x + u @ W2.T + b2  # (…, C)
''',
    another="""
def bottleneck(x, W1, b1, W2, b2):
    u = np.einsum("...c,mc->...m", x, W1) + b1
    return x + np.einsum("...m,cm->...c", u * (u > 0), W2) + b2
""",
    wrong=(
        Wrong(
            _written("relu(x @ W1.T + b1) @ W2.T + b2"),
            Both(
                "Put W2 = 0 and b2 = 0, as it begins: what comes out, and what should?",
                "令 W2 = 0、b2 = 0，也就是它的起点：得到什么，应该得到什么？",
            ),
        ),
        Wrong(
            _written("relu(x + (x @ W1.T + b1) @ W2.T + b2)"),
            Both(
                "σ on the sum: what becomes of a negative x when W2 = 0? σ stands inside, between "
                "the two matrices.",
                "σ 作用在和上：W2 = 0 时，负的 x 会变成什么？σ 在里面，位于两个矩阵之间。",
            ),
        ),
        Wrong(
            _written("x + relu(x @ W1.T) @ W2.T + b2"),
            Both(
                "For x = 0, what should reach σ?",
                "x = 0 时，到达 σ 的应该是什么？",
            ),
        ),
        Wrong(
            _written("x + (x @ W1.T + b1) @ W2.T + b2"),
            Both(
                "Without σ that is one matrix of rank m. Which method would it be?",
                "没有 σ，这就是一个秩为 m 的矩阵。那会是哪种方法？",
            ),
        ),
        Wrong(
            _written("x + relu(x @ W1 + b1) @ W2 + b2"),
            Both(
                "W1 is (m, C), out × in, as every W here. Which of its axes meets x?",
                "W1 是 (m, C)，即 out × in，和这里所有的 W 一样。它的哪个轴与 x 相乘？",
            ),
        ),
    ),
    cases=_bottleneck_cases,
    reference=_bottlenecked,
    difficulty=1,
    minutes=8,
    core=True,
    catches=("M37",),
)


def _prefix_cases(rng: np.random.Generator) -> list[Case]:
    """(B, H, T, D) with p keys before; p as large as T; one row, one head, one key."""
    sizes = ((2, 3, 5, 4, 2), (2, 2, 3, 3, 3), (1, 1, 4, 2, 1))
    return [
        (*rng.normal(size=(3, B, H, T, D)), *rng.normal(size=(2, H, p, D)))
        for B, H, T, D, p in sizes
    ]


def _looked(q: Any, k: Any, v: Any, pk: Any, pv: Any) -> Any:
    """Query by query, over the keys that it may see and no others."""
    out = np.empty(q.shape)
    for b, h, t in np.ndindex(*q.shape[:3]):
        keys = [*pk[h], *k[b, h, : t + 1]]
        values = [*pv[h], *v[b, h, : t + 1]]
        scores = [float(q[b, h, t] @ key) / q.shape[-1] ** 0.5 for key in keys]
        weights = [np.exp(s - max(scores)) for s in scores]
        out[b, h, t] = sum(w * value for w, value in zip(weights, values, strict=True))
        out[b, h, t] /= sum(weights)
    return out


def _attending(joined: str = "[own, text]", see: str = "p", queries: str = "q") -> str:
    """Attention over joined keys; `see`: how far right of the diagonal a query sees."""
    return f"""
def prefix_attention(q, k, v, pk, pv):
    B, p, T = len(q), pk.shape[1], q.shape[2]
    def join(own, text):
        own = np.broadcast_to(own, (B, *own.shape))
        return np.concatenate({joined}, axis=2)
    q, k, v = {queries}, join(pk, k), join(pv, v)
    s = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[3])
    s = np.where(np.tri(s.shape[2], s.shape[3], {see}, bool), s, -np.inf)
    a = np.exp(s - s.max(axis=3, keepdims=True))
    return a / a.sum(axis=3, keepdims=True) @ v
"""


PREFIX = Exercise(
    number="10.3",
    name="prefix_attention",
    title=Both("attention with a prefix", "带前缀的注意力"),
    task=Both(
        "Attention of q, k, v (B, H, T, D), where p learnt keys pk and values pv (H, p, D) stand "
        "before those of the text, the same for every row. A token sees the whole prefix, and of "
        "the text itself and what stands before it. Scores are divided by √D. The result is "
        "(B, H, T, D).",
        "q、k、v (B, H, T, D) 的注意力，其中 p 个学到的键 pk 与值 pv (H, p, D) 排在文本的键和值"
        "之前，对每一行都相同。每个词元都看得见整个前缀，以及文本中的自己和自己之前的词元。"
        "分数除以 √D。结果是 (B, H, T, D)。",
    ),
    pointer=Both(
        "Repeat pk for the B rows (`np.broadcast_to`) and join along axis 2: p + T keys. Query t "
        "sees the keys 0 … p + t: `np.tri(T, p + T, p, dtype=bool)`.",
        "把 pk 重复 B 行（`np.broadcast_to`），沿轴 2 拼接：共 p + T 个键。"
        "查询 t 看得见键 0 … p + t：`np.tri(T, p + T, p, dtype=bool)`。",
    ),
    stub='''
def prefix_attention(q, k, v, pk, pv):
    """(B, H, T, D)"""
    return ...
''',
    solution='''
def prefix_attention(q, k, v, pk, pv):
    """(B, H, T, D)"""
    (B, _, T, D), p = q.shape, pk.shape[1]
    k = np.concatenate([np.broadcast_to(pk, (B, *pk.shape)), k], axis=2)  # (B, H, p + T, D)
    v = np.concatenate([np.broadcast_to(pv, (B, *pv.shape)), v], axis=2)  # (B, H, p + T, D)
    s = q @ k.swapaxes(2, 3) / np.sqrt(D)  # (B, H, T, p + T)
    s = np.where(np.tri(T, p + T, p, dtype=bool), s, -np.inf)
    a = np.exp(s - s.max(axis=3, keepdims=True))
    return a / a.sum(axis=3, keepdims=True) @ v  # (B, H, T, D)
''',
    another="""
def prefix_attention(q, k, v, pk, pv):
    T, root = q.shape[2], np.sqrt(q.shape[3])
    on_prefix = np.exp(np.einsum("bhtd,hpd->bhtp", q, pk) / root)
    on_text = np.exp(np.einsum("bhtd,bhsd->bhts", q, k) / root) * np.tri(T)
    total = on_prefix.sum(axis=3) + on_text.sum(axis=3)
    both = np.einsum("bhtp,hpd->bhtd", on_prefix, pv) + np.einsum("bhts,bhsd->bhtd", on_text, v)
    return both / total[..., None]
""",
    wrong=(
        Wrong(
            _attending(see="0"),
            Both(
                "Your causal mask counts the prefix as text: token 0 sees one of its keys only. "
                "Which tokens may see the prefix?",
                "你的因果掩码把前缀当成了文本：词元 0 只看得见其中一个键。哪些词元可以看见前缀？",
            ),
        ),
        Wrong(
            _attending(joined="[text, own]", see="0"),
            Both(
                "The prefix stands last. Who sees it there, under a causal mask?",
                "前缀排在了最后。在因果掩码下，谁看得见它？",
            ),
        ),
        Wrong(
            _attending(queries="join(pk, q)", see="0"),
            Both(
                "p + T tokens come out. A prefix is looked at; does it look at anything itself?",
                "输出了 p + T 个词元。前缀是被看的；它自己会去看什么吗？",
            ),
        ),
        Wrong(
            _attending(see="s.shape[3]"),
            Both(
                "All of the prefix, and all of the text: does token 0 see the end?",
                "看见了整个前缀，也看见了整个文本：词元 0 看得见结尾吗？",
            ),
        ),
    ),
    cases=_prefix_cases,
    reference=_looked,
    difficulty=3,
    minutes=12,
    catches=("M37",),
)
