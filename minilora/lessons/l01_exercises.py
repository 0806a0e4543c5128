"""The exercises of lesson 01: count the parameters, pay for a step, find the longest text."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from minilora.accounting.counts import Method, arrays
from minilora.accounting.presets import PRESETS
from minilora.config import ModelConfig
from minilora.lessons.content import Both, Exercise, Wrong

Case = tuple[Any, ...]


def _configs(rng: np.random.Generator) -> list[Case]:
    """Two known models and two random ones: heads that share keys, and heads that do not."""
    known = [(PRESETS["llama-3-8b"],), (PRESETS["smollm2-135m"],)]
    V, F, L, D = (int(n) for n in rng.integers((50, 20, 2, 2), (90, 40, 5, 6)))
    shared = ModelConfig(V, 12 * D, F, L, 6, n_kv_heads=2)
    alone = ModelConfig(V + 7, 8 * D, F + 3, L, 4, tie_word_embeddings=True)
    return [*known, (shared,), (alone,)]


def _count(cfg: ModelConfig) -> int:
    """Array by array, of the library's own model built out of shadows."""
    return sum(array.size for array in arrays(cfg, Method()))


def _counting(
    head: str = "1 if cfg.tie_word_embeddings else 2", keys: str = "K", norms: str = "2 * C"
):
    return f"""
def count_params(cfg):
    C, F = cfg.hidden_size, cfg.intermediate_size
    K = C * cfg.n_kv_heads // cfg.n_heads
    layer = 2 * C * C + 2 * C * {keys} + 3 * C * F + {norms}
    last = {"0" if norms == "0" else "C"}
    return cfg.vocab_size * C * ({head}) + cfg.n_layers * layer + last
"""


COUNT = Exercise(
    number="01.1",
    name="count_params",
    title=Both("how many parameters", "有多少个参数"),
    task=Both(
        "Count the parameters of a Llama from its settings: `cfg.vocab_size` V, `cfg.hidden_size` "
        "C, `cfg.intermediate_size` F, `cfg.n_layers` L, `cfg.n_heads`, `cfg.n_kv_heads`, and "
        "`cfg.tie_word_embeddings`. The keys of all heads are C_kv = C · n_kv_heads / n_heads "
        "channels wide. There are no biases.",
        "根据配置数出一个 Llama 的参数个数：`cfg.vocab_size` V、`cfg.hidden_size` C、"
        "`cfg.intermediate_size` F、`cfg.n_layers` L、`cfg.n_heads`、`cfg.n_kv_heads` 和 "
        "`cfg.tie_word_embeddings`。所有头的键合起来宽 C_kv = C · n_kv_heads / n_heads。"
        "没有偏置。",
    ),
    pointer=Both(
        "V·C once if tied, twice if not; in each of L layers 2C² (q, o), 2C·C_kv (k, v), 3C·F "
        "(gate, up, down) and 2C (norms); and the last norm, C.",
        "V·C：共享时算一次，不共享算两次；L 层中每层有 2C²（q、o）、2C·C_kv（k、v）、"
        "3C·F（gate、up、down）和 2C（归一化）；最后还有一个归一化 C。",
    ),
    stub='''
def count_params(cfg):
    """A whole number"""
    return ...
''',
    solution='''
def count_params(cfg):
    """A whole number"""
    V, C, F, L = cfg.vocab_size, cfg.hidden_size, cfg.intermediate_size, cfg.n_layers
    C_kv = C * cfg.n_kv_heads // cfg.n_heads  # keys of all heads together
    tables = 1 if cfg.tie_word_embeddings else 2
    layer = 2 * C * C + 2 * C * C_kv + 3 * C * F + 2 * C
    return tables * V * C + L * layer + C
''',
    another="""
def count_params(cfg):
    C, F, head = cfg.hidden_size, cfg.intermediate_size, cfg.hidden_size // cfg.n_heads
    shapes = [(C, C), (cfg.n_kv_heads * head, C), (cfg.n_kv_heads * head, C), (C, C)]
    shapes += [(F, C), (F, C), (C, F), (1, C), (1, C)]
    shapes = shapes * cfg.n_layers + [(cfg.vocab_size, C), (1, C)]
    if not cfg.tie_word_embeddings:
        shapes.append((cfg.vocab_size, C))
    return sum(a * b for a, b in shapes)
""",
    wrong=(
        Wrong(
            _counting(head="2"),
            Both(
                "A tied head has two names. How many arrays are behind them?",
                "共享的输出头有两个名字，它们背后是几个数组？",
            ),
        ),
        Wrong(
            _counting(keys="C"),
            Both(
                "k and v as wide as q? How many heads have keys of their own (`n_kv_heads`)?",
                "k、v 和 q 一样宽吗？有几个头拥有自己的键（`n_kv_heads`）？",
            ),
        ),
        Wrong(
            _counting(norms="0"),
            Both(
                "You are (2L + 1)·C short. What comes twice in a layer, and once more at the end?",
                "少了 (2L + 1)·C 个。什么东西每层出现两次，末尾还有一次？",
            ),
        ),
    ),
    cases=_configs,
    reference=_count,
    tolerance=0,
    difficulty=1,
    minutes=8,
    core=True,
    catches=("M4",),
)


def _steps(rng: np.random.Generator) -> list[Case]:
    """All trained, an adapter on a frozen base, and random counts; by every scheme."""
    some = int(rng.integers(1000, 2000))
    counts = [(8_030_261_248, 8_030_261_248), (8_033_669_120, 3_407_872), (some, some // 3)]
    return [(P, P_t, scheme) for P, P_t in counts for scheme in ("16-bit", "mixed", "32-bit")]


def _bytes(P: int, P_t: int, scheme: str) -> dict[str, int]:
    """Number by number: each array of a step with its own item size."""
    low, high = np.dtype(np.float16).itemsize, np.dtype(np.float32).itemsize
    of = {"16-bit": (low, low, [low] * 2), "mixed": (low, low, [high] * 3)}
    weight, gradient, state = of.get(scheme, (high, high, [high] * 2))
    optimizer = sum(P_t * each for each in state)
    return {"weights": P * weight, "gradients": P_t * gradient, "optimizer": optimizer}


def _paying(gradients: str = "P_t", moments: int = 2, master: int = 4) -> str:
    return f"""
def step_bytes(P, P_t, scheme):
    w, m, copy = {{"16-bit": (2, 2, 0), "mixed": (2, 4, {master}), "32-bit": (4, 4, 0)}}[scheme]
    optimizer = P_t * ({moments} * m + copy)
    return {{"weights": P * w, "gradients": {gradients} * w, "optimizer": optimizer}}
"""


STEP = Exercise(
    number="01.2",
    name="step_bytes",
    title=Both("the standing bytes of a step", "一步训练固定占用的字节"),
    task=Both(
        'Give the bytes of a step with AdamW as {"weights": …, "gradients": …, "optimizer": …}: '
        'P parameters in all, P_t of them trained. `scheme` is "16-bit" (all in 2 bytes), "mixed" '
        "(2 bytes; m, v and a master copy of what is trained in 4) or "
        '"32-bit" (all in 4 bytes).',
        '给出用 AdamW 训练一步的字节数 {"weights": …, "gradients": …, "optimizer": …}：'
        '共 P 个参数，其中 P_t 个可训练。`scheme` 为 "16-bit"（全部用 2 字节）、"mixed"'
        "（2 字节；m、v 和可训练部分的主权重用 4 字节）或 "
        '"32-bit"（全部用 4 字节）。',
    ),
    pointer=Both(
        "Weights: P times their size. Gradients and the optimizer: P_t times theirs. AdamW keeps "
        "two numbers, m and v; mixed precision keeps a third, the master copy.",
        "权重：P 乘以每个数的字节数。梯度和优化器状态：P_t 乘以各自的字节数。"
        "AdamW 保存两个数 m 和 v；混合精度再多一个，即主权重。",
    ),
    stub='''
def step_bytes(P, P_t, scheme):
    """{"weights": …, "gradients": …, "optimizer": …}, whole numbers"""
    return ...
''',
    solution='''
def step_bytes(P, P_t, scheme):
    """{"weights": …, "gradients": …, "optimizer": …}, whole numbers"""
    b = 4 if scheme == "32-bit" else 2  # bytes of a weight, and of its gradient
    optimizer = {"16-bit": 2 + 2, "mixed": 4 + 4 + 4, "32-bit": 4 + 4}[scheme]
    return {"weights": b * P, "gradients": b * P_t, "optimizer": optimizer * P_t}
''',
    another="""
def step_bytes(P, P_t, scheme):
    table = {"16-bit": (2, 2, 4), "mixed": (2, 2, 12), "32-bit": (4, 4, 8)}
    names, counts = ("weights", "gradients", "optimizer"), (P, P_t, P_t)
    return {k: n * b for k, n, b in zip(names, counts, table[scheme])}
""",
    wrong=(
        Wrong(
            _paying(gradients="P"),
            Both(
                "Gradients for all P? Who gets one, if most of them are frozen?",
                "给全部 P 个参数算梯度？大部分都冻结了，谁才有梯度？",
            ),
        ),
        Wrong(
            _paying(moments=1),
            Both(
                "AdamW keeps a mean of the gradients. And what does it divide that by?",
                "AdamW 保存梯度的均值。它又用什么去除这个均值？",
            ),
        ),
        Wrong(
            _paying(master=0),
            Both(
                "In 2 bytes, what becomes of a tiny lr·g that is added to a large weight?",
                "只有 2 个字节时，一个很小的 lr·g 加到大的权重上会怎样？",
            ),
        ),
    ),
    cases=_steps,
    reference=_bytes,
    tolerance=0,
    difficulty=1,
    minutes=6,
    core=True,
    catches=("M1", "M2"),
)

# Of Llama-3-8B with LoRA on q and v: what stands, and each token's part; T² of its attention.
_STANDING, _TOKEN, _PAIR = 16_115_048_448, 3_806_208, 2048


def _rooms(rng: np.random.Generator) -> list[Case]:
    """Real sizes; a card that the base alone overfills; one that is filled to the last byte.

    A token always takes so much that a loop over T is short, even one that forgets `fixed`.
    """
    some = [int(n) for n in rng.integers((10**8, 10**5, 1), (10**9, 2 * 10**5, 9))]
    full = (1, 2**30 - 1000 * 700_000, 700_000, 0)
    real = [(24, _STANDING, _TOKEN, 0), (24, _STANDING, _TOKEN, _PAIR), (12, _STANDING, _TOKEN, 0)]
    return [*real, full, (2, *some)]


def _longest(card_gib: int, fixed: int, a: int, b: int) -> int:
    """By halving, in fractions of the card."""
    card = card_gib * 1024**3

    def share(T: int) -> Fraction:
        return Fraction(fixed + T * (a + b * T), card)

    low, high = 0, card
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if share(middle) <= 1 else (low, middle)
    return low


def _filling(card: str = "card_gib * 2**30", fixed: str = "fixed", square: str = "b") -> str:
    return f"""
def max_context(card_gib, fixed, a, b):
    room, T = {card} - {fixed}, 0
    if {square} == 0:
        return max(0, room // a)
    while a * (T + 1) + {square} * (T + 1) ** 2 <= room:
        T += 1
    return T
"""


CONTEXT = Exercise(
    number="01.3",
    name="max_context",
    title=Both("the longest text that fits", "放得下的最长文本"),
    task=Both(
        "Find the largest whole T for which fixed + a·T + b·T² bytes fit on a card of `card_gib` "
        "GiB: `fixed` for weights, gradients and optimizer state, a for what each token keeps, b "
        "for attention weights, where they are kept. All are whole numbers; b may be 0. If not "
        "even one token fits, give 0.",
        "求最大的整数 T，使 fixed + a·T + b·T² 个字节放得进一块 `card_gib` GiB 的显卡。"
        "`fixed` 是权重、梯度和优化器状态，a 是每个词元保留的字节，b 来自（若保存的话）注意力权重。"
        "所有量都是整数；b 可以为 0。如果连一个词元都放不下，返回 0。",
    ),
    pointer=Both(
        "A GiB is 2**30 bytes. Take away `fixed` first; then let T grow while one more token "
        "still fits: a·(T+1) + b·(T+1)² against the room that is left.",
        "一个 GiB 是 2**30 字节。先减去 `fixed`；再让 T 增大，只要再多一个词元还放得下："
        "拿 a·(T+1) + b·(T+1)² 与剩下的空间比较。",
    ),
    stub='''
def max_context(card_gib, fixed, a, b):
    """T, a whole number"""
    return ...
''',
    solution='''
def max_context(card_gib, fixed, a, b):
    """T, a whole number"""
    room = card_gib * 2**30 - fixed
    T = 0
    while a * (T + 1) + b * (T + 1) ** 2 <= room:
        T += 1
    return T
''',
    another="""
def max_context(card_gib, fixed, a, b):
    room = card_gib * 1024**3 - fixed
    if room < 0:
        return 0
    T = room // a if b == 0 else int((-a + (a * a + 4 * b * room) ** 0.5) / (2 * b)) + 1
    return T - 1 if a * T + b * T * T > room else T
""",
    wrong=(
        Wrong(
            _filling(card="card_gib * 10**9"),
            Both(
                "Is a card's memory told in GB or in GiB? They are 7 percent apart.",
                "显卡的容量说的是 GB 还是 GiB？两者相差百分之 7。",
            ),
        ),
        Wrong(
            _filling(fixed="0"),
            Both(
                "What lies on the card before the first token comes?",
                "在第一个词元到来之前，显卡上已经放着什么？",
            ),
        ),
        Wrong(
            _filling(square="0"),
            Both(
                "Double T: what doubles, and what quadruples?",
                "把 T 加倍：什么变成两倍，什么变成四倍？",
            ),
        ),
    ),
    cases=_rooms,
    reference=_longest,
    tolerance=0,
    difficulty=2,
    minutes=8,
    catches=("M3", "M42"),
)
