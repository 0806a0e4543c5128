"""Lesson 01: the bill of a fine-tune, in bytes."""

from __future__ import annotations

from minilora.lessons.content import Both, Lesson, Option, Prediction, Question
from minilora.lessons.l01_exercises import CONTEXT, COUNT, STEP

LEFT = Prediction(
    "left",
    Both(
        "Llama-3-8B: 64 GB for full fine-tuning, by the sum above. LoRA with r = 8 on q and v "
        "trains 0.04 % of its parameters. How many percent of the 64 GB are left, by the same sum?",
        "Llama-3-8B：按上面的算法，全量微调要 64 GB。在 q 和 v 上做 r = 8 的 LoRA，"
        "只训练 0.04 % 的参数。按同样的算法，64 GB 还剩百分之几？",
    ),
    Both(
        "Few numbers are trained, so 0.04 % tempts. But only gradients and optimizer state follow "
        "what is trained. The frozen weights must all be there, to the last one.",
        "训练的数很少，所以容易答 0.04 %。但只有梯度和优化器状态随可训练的数而减少；"
        "冻结的权重一个也不能少，必须全部在场。",
    ),
    unit=" %",
    catches=("M1",),
)

FITS = Prediction(
    "fits",
    Both(
        "The same LoRA in 16 bits on a card of 24 GiB, one row of text, with all that forward "
        "keeps for backward. Does a row of 2048 tokens fit, and one of 4096?",
        "同样的 LoRA，16 位，一块 24 GiB 的显卡，每步一行文本，"
        "并且算上前向为反向保留的一切。2048 个词元的一行放得下吗？4096 个呢？",
    ),
    Both(
        "The adapter is a file of a few MB, so 'both' tempts. But what forward keeps does not "
        "follow r; it follows the length of the text.",
        "适配器文件只有几 MB，所以容易答“都放得下”（both）。但前向保留的东西与 r 无关，"
        "而是随文本长度增长。",
    ),
    options=("both", "2048 only", "neither"),
    catches=("M42",),
)

QUIZ = (
    Question(
        Both(
            "What is not in the 64 GB of the usual sum?",
            "通常所说的 64 GB 里，没有算进什么？",
        ),
        (
            Option(
                Both("the optimizer state", "优化器状态"),
                Both(
                    "m and v are its largest part, counted at 2 bytes each.",
                    "m 和 v 是其中最大的一项，各按 2 字节计。",
                ),
            ),
            Option(
                Both("the gradients", "梯度"),
                Both(
                    "They are in it: as many bytes as the weights.",
                    "算进去了：和权重一样多。",
                ),
            ),
            Option(
                Both("the activations, and a master copy of the weights", "激活值，以及主权重"),
                Both(
                    "Neither is in it. What forward keeps grows with the text, and mixed "
                    "precision keeps what is trained a second time, in 4 bytes.",
                    "两者都没有。前向保留的东西随文本增长；"
                    "混合精度还要把可训练的数用 4 字节再存一份。",
                ),
                True,
            ),
        ),
        catches=("M2",),
    ),
    Question(
        Both(
            "Of a LoRA step of an 8B model you halve r, from 16 to 8. What of the total?",
            "一个 8B 模型的 LoRA 训练，把 r 从 16 减半到 8。总量会怎样？",
        ),
        (
            Option(
                Both("it falls by a few percent at most", "最多减少百分之几"),
                Both(
                    "Only the thin bars halve: adapter, its gradients, its m and v. Grey and "
                    "purple stay.",
                    "减半的只有那几条细的：适配器、它的梯度、它的 m 和 v。灰色和紫色不变。",
                ),
                True,
            ),
            Option(
                Both("it halves", "减半"),
                Both(
                    "Frozen weights and activations are nearly all of it. Does either know r?",
                    "总量几乎全是冻结权重和激活值。它们与 r 有关吗？",
                ),
            ),
            Option(
                Both("it falls to a quarter", "减到四分之一"),
                Both(
                    "An adapter has r (in + out) numbers: with half of r, half of them, not a "
                    "quarter. And an adapter is a small part.",
                    "适配器有 r (in + out) 个数：r 减半，它就减半，不是四分之一。"
                    "何况适配器只是一小部分。",
                ),
            ),
        ),
        catches=("M1",),
    ),
    Question(
        Both(
            "Kept in 4 bytes, m and v of an 8B model are 64 GB alone. What did the 32 of the usual "
            "sum assume?",
            "用 4 字节保存时，8B 模型的 m 和 v 单独就要 64 GB。通常算法里的 32 是怎样假定的？",
        ),
        (
            Option(
                Both("that only m is kept", "只保存 m"),
                Both(
                    "m alone in 4 bytes would be 32, too, but then the step could not be divided "
                    "by √v: that is no AdamW.",
                    "只存 4 字节的 m 也是 32，但那样就没有 √v 可除，不再是 AdamW。",
                ),
            ),
            Option(
                Both("that both are kept in 2 bytes", "两者都用 2 字节保存"),
                Both(
                    "2 + 2 bytes a parameter. Usual mixed precision keeps them in 4 each, and a "
                    "master copy besides.",
                    "每个参数 2 + 2 字节。常见的混合精度各用 4 字节，另外还有主权重。",
                ),
                True,
            ),
            Option(
                Both("that half of the weights are frozen", "一半的权重被冻结"),
                Both(
                    "In full fine-tuning nothing is frozen.",
                    "全量微调里什么都不冻结。",
                ),
            ),
        ),
        catches=("M2",),
    ),
    Question(
        Both(
            "An adapter of Llama-3-8B is a file of 7 MB. Why can a card of 8 GiB not train it on "
            "a base in 16 bits?",
            "Llama-3-8B 的一个适配器只是 7 MB 的文件。"
            "为什么 8 GiB 的显卡不能在 16 位的基础模型上训练它？",
        ),
        (
            Option(
                Both("its m and v are too large", "它的 m 和 v 太大"),
                Both(
                    "They are a few times the adapter: megabytes.",
                    "它们只是适配器的几倍：几十兆字节。",
                ),
            ),
            Option(
                Both("each frozen weight has a gradient", "每个冻结的权重都有梯度"),
                Both(
                    "None has. Only what is trained gets one.",
                    "没有。只有可训练的才有梯度。",
                ),
            ),
            Option(
                Both("the frozen weights take part in every step", "每一步都要用到冻结的权重"),
                Both(
                    "Forward multiplies by them, and so does the signal on its way back. They lie "
                    "on the card, trained or not.",
                    "前向要乘它们，往回传的信号也要乘它们。训练与否，它们都要放在显卡上。",
                ),
                True,
            ),
        ),
        catches=("M42",),
    ),
)

LESSON = Lesson(
    number="01",
    slug="memory_bill",
    title=Both("The memory bill", "内存账单"),
    question=Both(
        "Why can't a 24 GB card tune an 8B model, and what exactly fills it?",
        "为什么 24 GB 的显卡微调不了 8B 的模型？究竟是什么把它占满的？",
    ),
    claim=Both(
        "Full fine-tuning of an 8B model needs 16 + 16 + 32 = 64 GB: weights, gradients, optimizer "
        "state. LoRA trains far below 1 % of it, so a consumer's card is enough.",
        "全量微调一个 8B 的模型需要 16 + 16 + 32 = 64 GB：权重、梯度、优化器状态。"
        "LoRA 训练的参数远少于 1 %，所以一块消费级显卡就够了。",
    ),
    knows=Both(
        "Python, and that a model is a list of matrices. Gradients come in lesson 02.",
        "Python，并且知道模型就是许多矩阵。梯度在第 02 课。",
    ),
    can=Both(
        "compute the parameters and the bytes of any Llama and any method, and name which of five "
        "terms LoRA shrinks: frozen weights, trained weights, gradients, optimizer state, "
        "activations.",
        "算出任何一个 Llama、任何一种方法的参数个数和字节数，并说出 LoRA 缩小了五项中的哪几项："
        "冻结的权重、可训练的权重、梯度、优化器状态、激活值。",
    ),
    summary=Both(
        "A trained number costs 8 or 16 bytes, a frozen one 2, in four bits about half a byte. "
        "LoRA all but removes gradients and optimizer state. Frozen weights stay, and so do most "
        "activations, which grow with the text.",
        "一个可训练的数要 8 或 16 字节，冻结的要 2 字节，四位量化后约半个字节。"
        "LoRA 几乎去掉了梯度和优化器状态；冻结的权重还在，大部分激活值也还在，并且随文本增长。",
    ),
    not_shown=Both(
        "fragmentation, workspace and what a GPU keeps for itself; the time that offloading and a "
        "network take; computing blocks again in backward, which trades time for activations.",
        "显存碎片、工作区和 GPU 自己占用的部分；卸载和网络传输花费的时间；"
        "在反向时重新计算各层，用时间换激活值。",
    ),
    next=Both(
        "the bill has a row of gradients: what *is* a gradient, and how does it find its way back?",
        "账单里有一项是梯度：梯度究竟*是*什么，它怎样找到回去的路？",
    ),
    predictions=(LEFT, FITS),
    exercises=(COUNT, STEP, CONTEXT),
    quiz=QUIZ,
    seconds=10,
    catches=("M1", "M2", "M32"),
)
