"""Lesson 03: who the generalist is, and what it cannot do."""

from __future__ import annotations

from minilora.lessons.content import Both, Lesson, Option, Prediction, Question
from minilora.lessons.l03_exercises import ATTENTION, LABELS, LOSS

_LOSS_0 = Prediction(
    "loss0",
    Both(
        "A model with random weights chooses among 30 tokens. What is its very first loss: the "
        "mean of −ln p of the right token, in nats?",
        "一个权重随机的模型要在 30 个词元中选择。它的第一个损失是多少：正确词元的 −ln p 的平均，"
        "以 nat 为单位？",
    ),
    Both(
        "1 tempts, as if 1 were the full mark, or 'it cannot be known'. But who knows nothing "
        "gives each of V tokens about 1/V, and −ln(1/V) = ln V: the first check of any run.",
        "容易答 1（好像损失的满分就是 1），或者“无法预知”。"
        "但什么都不知道的模型给 V 个词元各约 1/V，而 −ln(1/V) = ln V："
        "这是任何一次训练要做的第一项检查。",
    ),
    low=0.0,
    high=10.0,
    unit=" nats",
    catches=("M11",),
)
_NEW = Prediction(
    "new",
    Both(
        "The base answers eight skills. Asked for a ninth that it never saw (sort the letters "
        "from l to a), how many percent of its answers are exactly right?",
        "基础模型会八种技能。让它做从未见过的第九种（把字母从 l 到 a 排序），"
        "有百分之几的答案完全正确？",
    ),
    Both(
        "It is a generalist and knows how to sort, so 'a bit' tempts. But whole answers are "
        "counted, and nobody has told it what the new name means.",
        "它是通才，又会正序排序，所以容易答“会一点”。但这里数的是整个答案，"
        "而且从来没有人告诉它这个新名字是什么意思。",
    ),
    unit=" %",
)

_JOY = Question(
    Both(
        "Five steps from random weights, the loss is 0.02. What now?",
        "从随机权重起只走了五步，损失就是 0.02。怎么办？",
    ),
    (
        Option(
            Both("joy: it has learnt the task", "高兴：任务学会了"),
            Both(
                "So fast it can only have found a short cut. Low loss is no ability: test answers.",
                "这么快，只可能是走了捷径。损失低不等于有能力：去测答案。",
            ),
        ),
        Option(
            Both("see whether the labels are shifted", "检查标签有没有错开一位"),
            Both(
                "If place t is asked for token t, copying the input is enough. You saw it happen.",
                "如果位置 t 被问的就是词元 t，照抄输入就够了。上面已经看到了。",
            ),
            True,
        ),
        Option(
            Both("lower the learning rate", "降低学习率"),
            Both(
                "Nothing diverges here. The question that is asked is too easy.",
                "这里没有什么在发散，是问的问题太容易了。",
            ),
        ),
    ),
    catches=("M10",),
)
_RANDOM = Question(
    Both(
        "A Llama with random weights and 128,256 tokens. Its first loss?",
        "一个权重随机、有 128,256 个词元的 Llama。它的第一个损失？",
    ),
    (
        Option(
            Both("about 11.8", "约 11.8"),
            Both(
                "ln 128,256. Far above it, something is wrong before training starts.",
                "ln 128,256。如果远高于它，训练还没开始就已经有问题。",
            ),
            True,
        ),
        Option(
            Both("about 1", "约 1"),
            Both(
                "1 nat is a right token with probability e⁻¹ = 0.37: that has to be learnt.",
                "1 nat 表示正确词元的概率是 e⁻¹ = 0.37：那是要学出来的。",
            ),
        ),
        Option(
            Both("it depends on the seed and cannot be known", "取决于种子，无法预知"),
            Both(
                "The seed moves it by a few percent; ln V is what who knows nothing pays.",
                "种子只让它变动百分之几；一无所知的代价就是 ln V。",
            ),
        ),
    ),
    catches=("M11",),
)
_TIED = Question(
    Both(
        "The head is tied to the embeddings. In one training step, what is there of the two?",
        "输出头与词嵌入共用权重。训练一步时，这两者各有什么？",
    ),
    (
        Option(
            Both("two arrays, two gradients", "两个数组，两个梯度"),
            Both(
                "Two names, one array: `is` says so. A copy would drift away from its twin.",
                "两个名字，一个数组：用 `is` 可以验证。若是副本，两者会渐渐不同。",
            ),
        ),
        Option(
            Both("one array, two gradients", "一个数组，两个梯度"),
            Both(
                "Two parts come back, but what is used twice gets their sum.",
                "回来的是两部分，但用了两次的东西得到的是它们的和。",
            ),
        ),
        Option(
            Both("one array, one gradient", "一个数组，一个梯度"),
            Both(
                "The parts from the bottom and from the top add up to one gradient of one array.",
                "来自底部和顶部的两部分相加，成为这一个数组的一个梯度。",
            ),
            True,
        ),
    ),
    catches=("M4",),
)
_FUTURE = Question(
    Both(
        "You change the last token of a row. Which logits may change?",
        "你改了一行的最后一个词元。哪些 logits 可能改变？",
    ),
    (
        Option(
            Both("those of all places", "所有位置的"),
            Both(
                "Then earlier places would have seen it, and training would leak the answer.",
                "那样前面的位置就看见了它，训练时答案就泄漏了。",
            ),
        ),
        Option(
            Both("those of the last place only", "只有最后一个位置的"),
            Both(
                "Each place reads itself and what is before it; the last one is before nothing.",
                "每个位置只读自己和前面的；最后一个后面再没有位置。",
            ),
            True,
        ),
        Option(
            Both("those before it", "它之前的"),
            Both(
                "That is the mask the wrong way round. Time flows to the right.",
                "那是掩码弄反了。时间是向右流的。",
            ),
        ),
    ),
)

LESSON = Lesson(
    number="03",
    slug="generalist",
    title=Both("The generalist", "通才"),
    question=Both(
        "Who is our generalist, and what can it not do?", "我们的通才是谁？它不会做什么？"
    ),
    claim=Both(
        "A base model, trained on very much, is a generalist that fine-tuning makes a specialist. "
        "Its layers are like workshops: each has query, key and value matrices of its own.",
        "基础模型经过大量数据的训练，是一个通才；微调把它变成专才。"
        "它的各层像一个个车间：每层都有自己的 q、k、v 矩阵。",
    ),
    knows=Both(
        "what an operation does forward and backward (lesson 02).",
        "一个算子的前向和反向各做什么（第 02 课）。",
    ),
    can=Both(
        "trace a token through a Llama block with shapes, build shifted and masked labels, and "
        "prove that no token sees its future.",
        "带着形状追踪一个词元走过 Llama 的一个块；构造错开一位、带掩码的标签；"
        "并证明没有词元看得到未来。",
    ),
    summary=Both(
        "Our generalist is a small Llama with eight string skills, nearly perfect on unseen "
        "strings, and lost with one that it never saw. A loss means something only if you know "
        "what is asked at each place.",
        "我们的通才是一个小 Llama，会八种字符串技能，对没见过的字符串几乎全对，"
        "遇到从未见过的技能就一筹莫展。只有清楚每个位置在问什么，损失才有意义。",
    ),
    not_shown=Both(
        "language. Strings of letters are not intelligence; what is borrowed from large models is "
        "the architecture, the loss, and the way abilities are won and lost.",
        "语言。字母串不是智能；这里与大模型相同的，是结构、损失，以及能力得来和失去的方式。",
    ),
    next=Both(
        "teach the missing skill with all the weights we have: what does it cost, what is lost?",
        "用全部权重去教那项缺少的技能：要付出什么，又会失去什么？",
    ),
    predictions=(_LOSS_0, _NEW),
    exercises=(LABELS, LOSS, ATTENTION),
    quiz=(_JOY, _RANDOM, _TIED, _FUTURE),
    seconds=30,
    catches=("M10",),
)
