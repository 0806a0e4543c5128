"""Lesson 02: how a gradient finds its way back, and how one knows that it is right."""

from __future__ import annotations

from minilora.lessons.content import Both, Lesson, Option, Prediction, Question
from minilora.lessons.l02_exercises import EXERCISES

FROZEN = Prediction(
    "frozen",
    Both(
        "A layer y = x Wᵀ in the middle of a network is frozen; below it other layers are trained. "
        "Let dx and dW be the gradients of the loss by x and by W. Which of y, dx and dW need not "
        "be computed?",
        "网络中部有一层 y = x Wᵀ 被冻结，它下面还有别的层在训练。"
        "记损失对 x、对 W 的梯度为 dx、dW。y、dx、dW 之中，哪些可以不算？",
    ),
    Both(
        "'Backward skips what is frozen' makes one strike out dx as well. But dx is the only way "
        "by which the loss reaches the layers below, and it is made from the frozen W.",
        "“反向传播会跳过冻结的部分”让人把 dx 也划掉。但损失只有通过 dx 才能到达下面的层，"
        "而 dx 正是用冻结的 W 算出来的。",
    ),
    options=("dW", "dx and dW", "y, dx and dW", "none of them"),
    catches=("M5",),
)

NUDGE = Prediction(
    "nudge",
    Both(
        "A gradient is measured by nudging a number by ±h and looking at the loss, in float64. "
        "What does the error of the measurement do as h goes from 0.1 down to 10⁻¹²?",
        "用 float64 测量梯度：让一个数变动 ±h，看损失怎么变。"
        "当 h 从 0.1 一路减小到 10⁻¹² 时，测量误差会怎样？",
    ),
    Both(
        "A derivative is a limit h → 0, so 'falls all the way' tempts. But the two losses are "
        "rounded, and their tiny difference is divided by a tiny 2h: below the best h the rounding "
        "grows like 1/h.",
        "导数是 h → 0 的极限，所以容易答“一路下降”。但两个损失都有舍入误差，它们微小的差又要除以"
        "微小的 2h：h 小过最佳值之后，舍入误差按 1/h 增长。",
    ),
    options=("falls all the way", "falls, then rises", "stays the same"),
    catches=("M7",),
)

QUIZ = (
    Question(
        Both(
            "All your test matrices are square. What can stay hidden?",
            "你用来测试的矩阵全是方阵。什么错误会被掩盖？",
        ),
        (
            Option(
                Both("a transposed W: nothing complains of shapes", "W 转置了：形状不会报错"),
                Both(
                    "dy Wᵀ then runs as well as dy W. Only the numbers are wrong, and somebody "
                    "must look at them.",
                    "这时 dy Wᵀ 和 dy W 一样能运行。错的只是数值，而且要有人去看才知道。",
                ),
                True,
            ),
            Option(
                Both("nothing, if the code runs", "只要能运行就没有错误"),
                Both(
                    "You have seen one that runs: all shapes right, the numbers of dx wrong.",
                    "你已经见过一个能运行、形状也对、数值却错的例子。",
                ),
            ),
            Option(
                Both("a missing sum over the tokens", "漏掉了对词元的求和"),
                Both(
                    "That leaves an axis too many, whatever shape W has.",
                    "那样会多出一个轴，与 W 是不是方阵无关。",
                ),
            ),
        ),
        catches=("M6",),
    ),
    Question(
        Both(
            "The matrix in the middle is frozen, the layer below it is trained. What comes down?",
            "中间的矩阵冻结，它下面的层要训练。传到下面的是什么？",
        ),
        (
            Option(
                Both("no gradient: backward ends there", "没有梯度：反向传播到此为止"),
                Both(
                    "Then the layer below could not learn. Backward ends where nothing trained is "
                    "left below.",
                    "那样下面的层就学不到东西了。只有再往下没有要训练的部分时，反向传播才结束。",
                ),
            ),
            Option(
                Both("the same gradient as if it were trained", "与它参与训练时相同的梯度"),
                Both(
                    "dx = dy W does not ask whether W is trained.",
                    "dx = dy W 并不问 W 是否在训练。",
                ),
                True,
            ),
            Option(
                Both("dy, unchanged", "原封不动的 dy"),
                Both(
                    "dy has as many numbers a token as y, dx as many as x: W turns one into the "
                    "other.",
                    "dy 每个词元的个数与 y 相同，dx 与 x 相同：要靠 W 把前者变成后者。",
                ),
            ),
        ),
        catches=("M5",),
    ),
    Question(
        Both("gradcheck passes. What may still be wrong?", "gradcheck 通过了。还可能有什么错？"),
        (
            Option(
                Both("backward, at the inputs that were tried", "在试过的输入上，反向传播有错"),
                Both(
                    "That is the one thing that has been measured.",
                    "这恰恰是已经测过的那一件事。",
                ),
            ),
            Option(
                Both("nothing: the operation is proved", "没有：这个运算已被证明正确"),
                Both(
                    "Backward fits forward. Whether forward is what you meant, nobody asked.",
                    "它只说明反向与前向相符。前向是不是你想要的，谁也没有问。",
                ),
            ),
            Option(
                Both("forward itself, or inputs never tried", "前向本身，或没有试过的输入"),
                Both(
                    "A loss divided by the wrong count passes; so does a softmax that overflows at "
                    "large logits, if only small ones are tried.",
                    "除错了个数的损失能通过；遇到大 logits 会溢出的 softmax，"
                    "如果只用小的去试，也能通过。",
                ),
                True,
            ),
        ),
        catches=("M8",),
    ),
    Question(
        Both(
            "In float32 a check fails at every h. What do you conclude?",
            "用 float32 做检验，无论 h 取多少都不通过。你的结论是？",
        ),
        (
            Option(
                Both("backward is wrong", "反向传播写错了"),
                Both(
                    "A right one would fail as well: the measurement is coarser than the demand.",
                    "写对了也会不通过：测量的精度达不到要求。",
                ),
            ),
            Option(
                Both("nothing yet: repeat it in float64", "还不能下结论：换成 float64 再做"),
                Both(
                    "In float64 the bottom of the V lies well below the line that is demanded.",
                    "在 float64 里，V 形的谷底远低于要求的那条线。",
                ),
                True,
            ),
            Option(
                Both("h must be smaller still", "h 还要再小"),
                Both(
                    "Left of the best h rounding grows like 1/h.",
                    "在最佳 h 的左边，舍入误差按 1/h 增长。",
                ),
            ),
        ),
        catches=("M7",),
    ),
)

LESSON = Lesson(
    number="02",
    slug="backward",
    title=Both("The way back", "梯度的回程"),
    question=Both(
        "How does a gradient find its way back, and how do we know that it is right?",
        "梯度怎样找到回来的路？我们又怎么知道它是对的？",
    ),
    claim=Both(
        "Mark a weight as not trainable, and backward skips it: its gradient, and so most of the "
        "work and memory of that layer, is saved.",
        "把权重标记为不可训练，反向传播就会跳过它：它的梯度不必算，"
        "这一层的大部分计算和内存也就省下了。",
    ),
    knows=Both(
        "matrix products with NumPy, and the chain rule.",
        "用 NumPy 做矩阵乘法，以及链式法则。",
    ),
    can=Both(
        "derive the backward of any operation and verify it; say from the flags what is saved and "
        "what is multiplied.",
        "推导并验证任何运算的反向传播；只看标志就能说出要保存什么、要做哪些乘法。",
    ),
    summary=Both(
        "A product costs three products a step: y, dx, dW. Freezing W spares dW and lets go of x; "
        "the signal still passes through W, down to the lowest trained weight and no further. "
        "A gradient is believed only after it was measured: central difference, float64, "
        "non-square shapes, an h that is neither large nor tiny.",
        "一个矩阵乘积每一步要算三个乘积：y、dx、dW。冻结 W 省下 dW，也不必再保存 x；"
        "信号仍然穿过 W，一直到最低的要训练的权重为止。梯度要测过才能信："
        "中心差分、float64、非方阵，h 既不太大也不太小。",
    ),
    not_shown=Both(
        "computing forward a second time so as to hold less (checkpointing); derivatives of "
        "derivatives.",
        "为了少占内存而把前向再算一遍（检查点重算）；以及导数的导数。",
    ),
    next=Both(
        "put the operations together: who is our generalist, and what can it not do?",
        "把这些运算拼起来：我们的通才模型是谁，它又不会做什么？",
    ),
    predictions=(FROZEN, NUDGE),
    exercises=EXERCISES,
    quiz=QUIZ,
    seconds=10,
    catches=("M5", "M7", "M8"),
)
