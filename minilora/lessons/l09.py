"""Lesson 09: a frozen base in four bits, and an adapter beside it."""

from __future__ import annotations

from minilora.lessons.content import Both, Lesson, Option, Prediction, Question
from minilora.lessons.l09_exercises import BITS, BLOCK, LEVELS

_BITS = Prediction(
    "bits",
    Both(
        "Each weight becomes a code of 4 bits, and each block of 64 weights shares one number of "
        "32 bits. How many bits does a weight take, everything counted?",
        "每个权重变成一个 4 位编码，每 64 个权重组成一块，共用一个 32 位的数。"
        "全部算上，一个权重占多少位？",
    ),
    Both(
        "4 tempts: it is in the name. But a code says only which share of its block's largest "
        "weight is meant, and that largest weight has to be kept.",
        "容易答 4：名字里就写着。但编码只说明它是块中最大权重的几分之几，"
        "而那个最大的权重也必须保存。",
    ),
    low=1,
    high=32,
    unit=" bits",
    catches=("M32",),
)
_LEFT = Prediction(
    "left",
    Both(
        "W is held in NF4. The ΔW of an adapter is 2 % as large as W. It is added, and the sum is "
        "quantized to NF4 again. How many percent of ΔW are left?",
        "W 用 NF4 保存。某个适配器的 ΔW 大小是 W 的 2 %。把它加上去，"
        "再把和量化成 NF4。ΔW 还剩百分之几？",
    ),
    Both(
        "Much tempts: rounding seems to go either way and to even out. It would if W lay anywhere. "
        "But W was rounded before, and so stands on a level, in the middle between two decisions: "
        "a small step leads nowhere.",
        "容易答得很高：四舍五入似乎有上有下，会互相抵消。如果 W 的位置是任意的，确实如此。"
        "但 W 已经舍入过，正好站在某个取值上，也就是两个判定点的中间：一小步哪里也到不了。",
    ),
    unit=" %",
    catches=("M34",),
)
_TIME = Prediction(
    "time",
    Both(
        "The base is in four bits, an adapter is trained beside it. Compared with LoRA beside the "
        "same base in floats, is a step faster, as long (same), or slower?",
        "基础模型占四位，旁边训练一个适配器。和旁边的基础模型是浮点数的 LoRA 相比，"
        "一步训练更快（faster）、一样（same）还是更慢（slower）？",
    ),
    Both(
        "Faster tempts: less is read. But nothing multiplies codes: each matrix is turned into "
        "floats for forward, and once more for backward, and then the same products are computed. "
        "What that costs beside them depends on model and batch. Four bits save memory.",
        "容易答更快：要读的更少。但没有任何东西直接用编码做乘法：每个矩阵在前向时要先变回浮点数，"
        "反向时再变一次，然后做的乘法和以前一样多。"
        "这比乘法贵多少，取决于模型和批次。四位节省的是内存。",
    ),
    options=("faster", "same", "slower"),
    catches=("M33",),
)

_WHICH = Question(
    Both(
        "Which numbers of a QLoRA model are not held in 4 bits?",
        "一个 QLoRA 模型里，哪些数不是用 4 位保存的？",
    ),
    (
        Option(
            Both("none: it is a 4-bit model", "没有：它是 4 位模型"),
            Both(
                "Then nothing could be trained: a step is far smaller than the gap of two levels.",
                "那样就什么也训练不了：一步远小于两个取值的间隔。",
            ),
        ),
        Option(
            Both("only A and B", "只有 A 和 B"),
            Both(
                "They are in floats. So are embeddings, head and norms, and what blocks share.",
                "它们是浮点数。但词嵌入、输出头、归一化，以及块共用的常数也是。",
            ),
        ),
        Option(
            Both(
                "A and B, embeddings, head, norms, the constants of the blocks",
                "A 和 B、词嵌入、输出头、归一化、各块的常数",
            ),
            Both(
                "And activations and gradients, which are no weights. In codes are the matrices "
                "of the layers.",
                "还有激活值和梯度，它们不是权重。变成编码的是各层里的矩阵。",
            ),
            True,
        ),
    ),
    catches=("M32",),
)
_WHY = Question(
    Both(
        "A step with the base in 4 bits, against one with it in 16. What do you expect?",
        "基础模型用 4 位，和用 16 位相比，一步训练会怎样？",
    ),
    (
        Option(
            Both("faster: a quarter of the bytes", "更快：字节只有四分之一"),
            Both(
                "Fewer bytes are read, but the products are the same, and codes have to be turned "
                "into floats first.",
                "读的字节更少，但乘法一样多，而且编码要先变成浮点数。",
            ),
        ),
        Option(
            Both("somewhat slower, with far smaller weights", "慢一些，但权重小得多"),
            Both(
                "Memory is bought with time. If it makes the job fit at all, that is a good price.",
                "用时间换内存。如果没有它就装不下，这个价钱很划算。",
            ),
            True,
        ),
        Option(
            Both("slower, since W has a gradient in 4 bits", "更慢，因为 W 要算 4 位的梯度"),
            Both(
                "W is frozen: dx = dy·deq(W) is needed, dW is not.",
                "W 是冻结的：需要 dx = dy·deq(W)，不需要 dW。",
            ),
        ),
    ),
    catches=("M33",),
)
_BEST = Question(
    Both(
        "NF4 has the least mean error on normal weights. Is it the best format?",
        "NF4 在正态分布的权重上平均误差最小。它就是最好的格式吗？",
    ),
    (
        Option(
            Both("yes, in every measure", "是，按任何指标都是"),
            Both(
                "Look at the signal to noise of the min-max format: squares weigh the ends.",
                "看看 min-max 格式的信噪比：平方误差更看重两端。",
            ),
        ),
        Option(
            Both("yes, whatever the weights are like", "是，不论权重怎样分布"),
            Both(
                "Its levels are quantiles of one distribution. Try other numbers in the widget.",
                "它的取值是某一种分布的分位数。在交互图里换一种数试试。",
            ),
        ),
        Option(
            Both(
                "by that measure; what counts is the model, and that is measured",
                "按这个指标是；真正要看的是模型，而那要测量",
            ),
            Both(
                "An error of weights is not yet one of answers.",
                "权重的误差还不是答案的误差。",
            ),
            True,
        ),
    ),
    catches=("M35",),
)
_DEPLOY = Question(
    Both(
        "A small adapter was trained beside an NF4 base. How do you hand it over?",
        "在 NF4 的基础模型旁边训练出了一个小的适配器。怎样交付？",
    ),
    (
        Option(
            Both("merged and quantized to NF4 again", "合并后再量化成 NF4"),
            Both(
                "As small as can be, and the adapter may be gone: codes move only if ΔW passes "
                "half a gap.",
                "最小，但适配器可能就没了：ΔW 要超过半个间隔，编码才会变。",
            ),
        ),
        Option(
            Both(
                "apart, beside NF4; or merged into 16 bits",
                "与 NF4 分开放；或者合并成 16 位",
            ),
            Both(
                "Apart is exact, and 4 bits stay. Into 16 bits costs four times the bytes.",
                "分开放是精确的，而且仍是 4 位。合并成 16 位要四倍的字节。",
            ),
            True,
        ),
        Option(
            Both(
                "merged into the base of before it was quantized",
                "合并到量化之前的基础模型里",
            ),
            Both(
                "It was trained beside another W: it has learnt to make up for that one's errors, "
                "too. Often it works; it has to be measured.",
                "它是在另一个 W 旁边训练的，也学会了弥补那个 W 的误差。常常也行，但必须测量。",
            ),
        ),
    ),
    catches=("M34",),
)

LESSON = Lesson(
    number="09",
    slug="four_bits",
    title=Both("Four bits", "四位"),
    question=Both("How can four bits be enough?", "四位怎么会够用？"),
    claim=Both(
        "QLoRA keeps the base in 4 bits, in the NF4 format, which is optimal for normal weights. "
        "That is a quarter of the memory at the same quality. Afterwards the adapter is merged "
        "into the base, and nothing of it is seen any more.",
        "QLoRA 把基础模型用 4 位的 NF4 格式保存，这种格式对正态分布的权重是最优的。"
        "内存只要四分之一，质量不变。之后把适配器合并进基础模型，就看不出它了。",
    ),
    knows=Both(
        "where the bytes of a step are (lesson 01) and the gradients of LoRA (lesson 06).",
        "一步训练的字节在哪里（第 01 课）和 LoRA 的梯度（第 06 课）。",
    ),
    can=Both(
        "build NF4, count its true bits, and choose how to merge an adapter that was trained "
        "beside it.",
        "自己构造 NF4，算出它真正的位数，并选择怎样合并在它旁边训练的适配器。",
    ),
    summary=Both(
        "Sixteen levels suffice since they stand where the weights are, and since every 64 weights "
        "have a scale of their own. Constants count: 4.5 bits, or 4.127 if they are quantized in "
        "turn. The base is only read, y = x·deq(W)ᵀ and dx = dy·deq(W); what is trained stays in "
        "floats. It saves memory, not time. A small ΔW, merged back, vanishes: keep it apart, or "
        "merge it into 16 bits.",
        "十六个取值够用，因为它们就站在权重密集的地方，也因为每 64 个权重有自己的尺度。"
        "常数也要算：4.5 位，若常数再量化则是 4.127 位。基础模型只被读取，"
        "y = x·deq(W)ᵀ，dx = dy·deq(W)；训练的部分仍是浮点数。省的是内存，不是时间。"
        "小的 ΔW 合并回去就消失了：要么分开放，要么合并成 16 位。",
    ),
    not_shown=Both(
        "paged optimizers, GPU kernels, formats that look at data to choose codes. And a large "
        "model: there weights have more outliers, and an adapter moves them far less than ours.",
        "分页优化器、GPU 核函数、根据数据来选编码的格式。还有大模型："
        "那里权重的离群值更多，而适配器移动权重的幅度远小于这里。",
    ),
    next=Both(
        "other small patches: prompts, prefixes, bottlenecks. What does one budget buy?",
        "别的小补丁：提示、前缀、瓶颈适配器。同样的预算能买到什么？",
    ),
    predictions=(_BITS, _LEFT, _TIME),
    exercises=(LEVELS, BLOCK, BITS),
    quiz=(_WHICH, _WHY, _BEST, _DEPLOY),
    seconds=50,
    catches=("M32", "M33", "M34", "M35"),
)
