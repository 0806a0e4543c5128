"""Lesson 05: whether the change that fine-tuning makes is of low rank."""

from __future__ import annotations

from minilora.lessons.content import Both, Lesson, Option, Prediction, Question
from minilora.lessons.l05_exercises import ENERGY, OVERLAP, TRUNCATE

_RANK = Prediction(
    "rank",
    Both(
        "Full fine-tuning teaches the base a new skill: each matrix W becomes W + ΔW. Take a ΔW of "
        "128 × 128. How many of its 128 singular values are not zero (its rank, as NumPy counts)?",
        "全量微调教会基础模型一项新技能：每个矩阵 W 变成 W + ΔW。取一个 128 × 128 的 ΔW，"
        "它的 128 个奇异值里有几个不为零（也就是 NumPy 数出来的秩）？",
    ),
    Both(
        "8 tempts, for ‘ΔW is of low rank’ sounds like a statement about this number. But each "
        "step adds a little in directions of its own, and no singular value stays at exactly "
        "zero. If low rank means anything here, it is that few of them are large.",
        "容易答 8，因为“ΔW 是低秩的”听起来就是在说这个数。但每一步都会在一些新的方向上加一点，"
        "没有哪个奇异值恰好停在零。这里的“低秩”若有意义，只能是指大的奇异值很少。",
    ),
    high=128,
    catches=("M16",),
)
_DIRECTIONS = Prediction(
    "directions",
    Both(
        "The energy of a matrix is the sum of the squares of its entries. In that ΔW of 128 × 128, "
        "how many of the strongest directions hold 90 % of it?",
        "矩阵的能量是所有元素的平方和。在那个 128 × 128 的 ΔW 里，最强的几个方向就含有 90 % "
        "的能量？",
    ),
    Both(
        "Two guesses tempt: 8, for adapters often have r = 8; and 115, as if all of the 128 "
        "weighed the same. Not even in a random matrix do they, so the number says nothing until "
        "it stands beside that control.",
        "有两种容易的猜法：8，因为适配器常用 r = 8；以及 115，仿佛 128 个方向一样重。"
        "即使在随机矩阵里它们也不一样重，所以这个数要放在随机对照旁边才有意义。",
    ),
    high=128,
    catches=("M16",),
)
_TRAINED = Prediction(
    "trained",
    Both(
        "In every matrix, ΔW is cut to its single strongest direction: most of the new skill is "
        "gone. Now LoRA with r = 1 is trained from the start: one direction a matrix, too. How "
        "many percent of the new strings does it get right?",
        "把每个矩阵的 ΔW 截断到唯一一个最强的方向：新技能大半没有了。"
        "现在从头训练 LoRA，r = 1，同样每个矩阵一个方向。新字符串有百分之几做对？",
    ),
    Both(
        "As few as after the cut tempts: the same rank, so the same reach. But a cut keeps a part "
        "of a solution that was found with all directions at hand. Training with one looks for "
        "another solution, in which the one direction of each matrix suits those of all others.",
        "容易答“和截断之后一样少”：秩相同，能做到的也相同。但截断只是留下某个解的一部分，"
        "而那个解是在所有方向都可用时找到的。只用一个方向来训练，会去找另一个解，"
        "其中每个矩阵的那一个方向与其他矩阵的相互配合。",
    ),
    unit=" %",
    catches=("M17",),
)

_AFTER = Question(
    Both(
        "A matrix of 128 × 128, tuned once by LoRA with r = 8, once in full. What is the rank of "
        "its ΔW, as NumPy counts it?",
        "一个 128 × 128 的矩阵，一次用 r = 8 的 LoRA 微调，一次全量微调。"
        "NumPy 数出来的 ΔW 的秩各是多少？",
    ),
    (
        Option(
            Both("8 after both: the task decides", "都是 8：由任务决定"),
            Both(
                "The task decides how fast σ falls. Only the form of ΔW can make it zero.",
                "任务决定 σ 下降得多快。只有 ΔW 的形式强制时，σ 才会为零。",
            ),
        ),
        Option(
            Both("128 after both: small σ are not zero", "都是 128：小的 σ 不等于零"),
            Both(
                "True of full fine-tuning. But a product of (128, 8) and (8, 128) has rank 8 at "
                "most, however long it is trained.",
                "对全量微调是对的。但 (128, 8) 与 (8, 128) 之积的秩至多是 8，训练多久都一样。",
            ),
        ),
        Option(
            Both("at most 8 after LoRA, 128 in full", "LoRA 之后至多 8，全量之后 128"),
            Both(
                "BA passes through 8 numbers, so it cannot have more. Full fine-tuning has no such "
                "neck; its small σ are small, not zero.",
                "BA 要经过 8 个数，秩不可能更大。全量微调没有这个瓶颈；它的小 σ 只是小，并不是零。",
            ),
            True,
        ),
    ),
    catches=("M16",),
)
_WHAT = Question(
    Both("What has been decomposed when LoRA is done?", "LoRA 训练完时，被分解的是什么？"),
    (
        Option(
            Both(
                "nothing: A and B were trained in the place of a ΔW",
                "什么也没有：A 和 B 是代替 ΔW 来训练的",
            ),
            Both(
                "BA *is* the change. It was never a large matrix that somebody took apart.",
                "BA 本身就是改变量。从来没有一个大矩阵被人拆开过。",
            ),
            True,
        ),
        Option(
            Both("the ΔW of full fine-tuning", "全量微调的 ΔW"),
            Both(
                "Nobody has it: one would have to pay for full fine-tuning first. And cut to the "
                "same rank it does worse, as the figure shows.",
                "谁也没有它：要先付出全量微调的代价才有。而且截断到同样的秩，它的效果更差，见图。",
            ),
        ),
        Option(
            Both("the frozen W", "冻结的 W"),
            Both(
                "W stays as it is, whole and of full rank. The bypass lies beside it.",
                "W 原封不动，完整且满秩。旁路只是放在它旁边。",
            ),
        ),
    ),
    catches=("M17",),
)
_CHANCE = Question(
    Both(
        "Two adapters, d = 128: the first 8 directions of one and the first 64 of the other have "
        "φ = 0.5. Do they agree?",
        "两个适配器，d = 128：一个的前 8 个方向与另一个的前 64 个方向之间 φ = 0.5。它们一致吗？",
    ),
    (
        Option(
            Both("yes, half of what they learnt is shared", "一致，学到的有一半相同"),
            Both(
                "64 of 128 dimensions are half of all there are. Any 8 directions whatever lie "
                "half in them.",
                "128 维里的 64 维就是全部的一半。随便哪 8 个方向，都有一半落在里面。",
            ),
        ),
        Option(
            Both("that is chance: random ones have 0.5, too", "这是偶然水平：随机的也是 0.5"),
            Both(
                "max(i, j)/d = 64/128. What is above that counts, and nothing else does.",
                "max(i, j)/d = 64/128。只有高出它的部分才算数。",
            ),
            True,
        ),
        Option(
            Both("no, they avoid each other", "不一致，它们互相回避"),
            Both(
                "Then φ would be below what chance gives.",
                "那样 φ 会低于偶然水平。",
            ),
        ),
    ),
    catches=("M18",),
)
_COST = Question(
    Both(
        "A matrix of 4096 × 4096 is kept as two thin ones with k directions. Up to which k does "
        "that save numbers?",
        "把一个 4096 × 4096 的矩阵存成两个瘦长矩阵，保留 k 个方向。k 小于多少才省？",
    ),
    (
        Option(
            Both("below 64, the root of 4096", "小于 64，即 4096 的平方根"),
            Both(
                "No root is taken: k enters the cost once, not squared.",
                "没有开方：k 在代价里是一次的，不是平方。",
            ),
        ),
        Option(
            Both("below 4096", "小于 4096"),
            Both(
                "k directions cost k (4096 + 4096): u and v. At k = 4096 that is twice the whole.",
                "k 个方向要 k (4096 + 4096) 个数：u 和 v 都要存。k = 4096 时是整个矩阵的两倍。",
            ),
        ),
        Option(
            Both("below 2048", "小于 2048"),
            Both(
                "k · 8192 < 4096². Half of the side, for a square matrix.",
                "k · 8192 < 4096²。对方阵来说就是边长的一半。",
            ),
            True,
        ),
    ),
)

LESSON = Lesson(
    number="05",
    slug="low_rank",
    title=Both("Low rank", "低秩"),
    question=Both("Is ΔW really low-rank?", "ΔW 真的是低秩的吗？"),
    claim=Both(
        "What fine-tuning changes in a matrix is of low rank: redundant, and easily compressed. So "
        "ΔW may be decomposed into two thin matrices, ΔW ≈ BA. That works more generally than to "
        "look for the neurons that are most active in a task, and to change those.",
        "微调给矩阵带来的改变是低秩的：大量冗余，容易压缩。"
        "因此 ΔW 可以分解为两个瘦长的矩阵，ΔW ≈ BA。"
        "这比先找出任务中最活跃的神经元、再去改它们更为普适。",
    ),
    knows=Both(
        "what full fine-tuning is (lesson 04 helps), and matrix products.",
        "全量微调是什么（第 04 课有帮助），以及矩阵乘法。",
    ),
    can=Both(
        "measure the rank of a change by its energy, by what a cut leaves of the skill, and "
        "against a random control; say what ‘low-rank’ means here, and what it does not.",
        "用能量、用截断后剩下的技能、并对照随机矩阵来测量改变量的秩；"
        "说清“低秩”在这里是什么意思，又不是什么意思。",
    ),
    summary=Both(
        "‘Low-rank’ is no statement about how many singular values are zero, but about how few "
        "hold the energy, beside a random matrix of the same shape; and energy is not ability: "
        "cut, and test. LoRA cuts nothing. It trains so few directions from the start, and a "
        "single one then does what one direction of a known ΔW cannot.",
        "“低秩”说的不是有多少奇异值为零，而是能量集中在多么少的方向上，并且要和同样形状的"
        "随机矩阵比较；能量也不等于能力：要截断，再测试。LoRA 不截断任何东西。它从一开始就只训练"
        "这么少的方向，而这样训练出的一个方向，能做到已知 ΔW 的一个方向做不到的事。",
    ),
    not_shown=Both(
        "large models, long runs, broad data: there the rank of ΔW is disputed. Rivals trained at "
        "equal numbers: we cut all of them out of one ΔW, and to tune only the active rows from "
        "the start might do better than to keep only these, just as LoRA does.",
        "大模型、长时间训练、宽泛的数据：那里 ΔW 的秩还有争议。也没有在同样多的数下训练各个对手："
        "它们都是从同一个 ΔW 里截出来的；从一开始就只微调活跃的行，也许比只保留这些行更好，"
        "正如 LoRA 那样。",
    ),
    next=Both(
        "how does one train the two thin matrices, to the last gradient?",
        "两个瘦长的矩阵怎样训练，直到最后一个梯度？",
    ),
    predictions=(_RANK, _DIRECTIONS, _TRAINED),
    exercises=(TRUNCATE, ENERGY, OVERLAP),
    quiz=(_AFTER, _WHAT, _CHANCE, _COST),
    seconds=40,
    catches=("M16", "M17", "M18", "M19"),
)
