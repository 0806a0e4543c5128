"""Lesson 04: what full fine-tuning costs, and what it forgets."""

from __future__ import annotations

from minilora.lessons.content import Both, Lesson, Option, Prediction, Question
from minilora.lessons.l04_exercises import MIX, OLD_AT, STEP

_KEPT = Prediction(
    "kept",
    Both(
        "The base has eight skills, each at nearly 100 %. All its weights are trained on a ninth "
        "alone, up to the moment at which that one is at 90 %. How many percent of the answers of "
        "the eight, on average, are then still exactly right?",
        "基础模型有八种技能，每一种都接近 100 %。只用第九种技能的数据训练它的全部权重，"
        "直到第九种达到 90 % 的那一刻。此时八种旧技能平均还有百分之几的答案完全正确？",
    ),
    Both(
        "90 % tempts: learning seems to add to what is there. But the weights are shared, and no "
        "term of the new loss knows of the old skills. Whatever helps the new one is written over "
        "them.",
        "容易答 90 %：学习似乎是在已有的东西上添加。但权重是共用的，而新的损失里没有任何一项"
        "知道旧技能。凡是对新技能有利的，都直接写在它们上面。",
    ),
    unit=" %",
    catches=("M12",),
)
_REPLAY = Prediction(
    "replay",
    Both(
        "The same, but 5 % of the rows of every batch are of the eight old skills. How many "
        "percent of their answers are now right, again where the new skill is at 90 %?",
        "同样的训练，但每个批次里有 5 % 的行来自八种旧技能。同样在新技能达到 90 % 时，"
        "旧技能现在有百分之几的答案正确？",
    ),
    Both(
        "5 points more than without tempts. But a share of the rows is no share of the answers: "
        "the old rows pull the weights back at every step, the harder the more has been lost. How "
        "far that reaches depends on the skill: the figure has an easy one and a hard one.",
        "容易答“比没有时多 5 个百分点”。但行数的比例不是答案的比例：旧数据在每一步都把权重往回拉，"
        "丢得越多拉得越用力。能拉回多少取决于新技能：图中有一个容易的和一个难的。",
    ),
    unit=" %",
    catches=("M13",),
)

_BACK = Question(
    Both(
        "After fine-tuning a skill is at 0 %. Ten steps on its old data bring most of it back. "
        "What had happened to it?",
        "微调之后，某个技能是 0 %。用它的旧数据训练十步，大部分又回来了。它之前发生了什么？",
    ),
    (
        Option(
            Both("it had been erased", "它被抹掉了"),
            Both(
                "Then it would have to be learnt anew, as from random weights, which takes far "
                "more than ten steps.",
                "那就得像从随机权重开始一样重新学，远远不止十步。",
            ),
        ),
        Option(
            Both("nothing, the test was too strict", "什么也没发生，只是测试太严"),
            Both(
                "The answers were wrong. Who uses the model as it is gets those answers.",
                "答案确实是错的。直接使用这个模型的人得到的就是这些答案。",
            ),
        ),
        Option(
            Both(
                "it was overwritten where it shows, but much that it needs was still there",
                "表现出来的部分被覆盖了，但它所需要的许多东西还在",
            ),
            Both(
                "Both are true at once: the behaviour was gone, and most of the parts that it is "
                "made of were not.",
                "两者同时成立：行为没有了，但构成它的大部分零件还在。",
            ),
            True,
        ),
    ),
    catches=("M12",),
)
_FAIR = Question(
    Both(
        "Two ways of tuning are compared at one learning rate, after the same number of steps. Is "
        "that fair?",
        "用同一个学习率、走同样多的步数来比较两种微调方法。这公平吗？",
    ),
    (
        Option(
            Both("yes: everything is the same for both", "公平：两者的条件完全相同"),
            Both(
                "The rate suits one of them, and at the last step one has learnt more. Both decide "
                "what is forgotten.",
                "这个学习率只适合其中一个，而且到最后一步两者学到的不一样多。"
                "这两点都会影响忘掉多少。",
            ),
        ),
        Option(
            Both(
                "no: each needs its own rate, and both are asked at equal new ability",
                "不公平：各用各的学习率，并且在新技能相同时比较",
            ),
            Both(
                "Rates are chosen on validation data, with seeds that are not reported; and 90 % "
                "is the same ability for both.",
                "学习率用验证集和不列入报告的种子来选；而 90 % 对两者是同样的能力。",
            ),
            True,
        ),
        Option(
            Both("yes, if there are enough seeds", "公平，只要种子够多"),
            Both(
                "Seeds show how much chance there is. A rate that is wrong stays so for each.",
                "种子只能说明偶然性有多大。不合适的学习率对每个种子都不合适。",
            ),
        ),
    ),
    catches=("M14",),
)
_TEN = Question(
    Both(
        "All gradients become ten times larger. What becomes of AdamW's first step (no weight "
        "decay)?",
        "所有梯度都变成原来的十倍。AdamW（不带权重衰减）的第一步会怎样？",
    ),
    (
        Option(
            Both("it stays as it is", "保持不变"),
            Both(
                "m̂ = g and √v̂ = |g|: the quotient is the sign of g, its size cancels.",
                "m̂ = g，√v̂ = |g|：商就是 g 的符号，大小约掉了。",
            ),
            True,
        ),
        Option(
            Both("ten times longer", "长十倍"),
            Both(
                "So it is for SGD. Here the root of the mean square is divided by.",
                "SGD 是这样。这里要除以均方的平方根。",
            ),
        ),
        Option(
            Both("a hundred times shorter, as v has g²", "短一百倍，因为 v 里有 g²"),
            Both(
                "v has g², but it is √v̂ that is divided by, and m̂ grows as well.",
                "v 里有 g²，但除的是 √v̂，而且 m̂ 也在变大。",
            ),
        ),
    ),
    catches=("M15",),
)

LESSON = Lesson(
    number="04",
    slug="full_finetuning",
    title=Both("Full fine-tuning", "全量微调"),
    question=Both(
        "What does full fine-tuning cost, and what does it forget?",
        "全量微调的代价是什么，又会忘记什么？",
    ),
    claim=Both(
        "To specialise a generalist, go on training all its weights on the new data. It may forget "
        "what it could do; mixing in 5 to 10 % of general data keeps that alive.",
        "要让通才变成专才，就用新数据继续训练它的全部权重。它可能会忘掉原来会的；"
        "掺入 5 到 10 % 的通用数据就能保住这些能力。",
    ),
    knows=Both(
        "what a loss and its gradient are (lessons 02 and 03).",
        "什么是损失和它的梯度（第 02、03 课）。",
    ),
    can=Both(
        "write AdamW and say what its two arrays are for; measure forgetting where it can be "
        "compared: at equal ability on the new skill.",
        "写出 AdamW，并说明它的两个数组有什么用；"
        "在可以比较的地方，也就是新技能水平相同时，测量遗忘。",
    ),
    summary=Both(
        "AdamW moves every weight by about the learning rate, whatever the size of its gradient, "
        "and holds two more arrays as large as the weights. Nothing in the loss of new data holds "
        "the old skills in place; old data in the batch does, as far as its share reaches. Compare "
        "two runs where they can the same, each at its own learning rate.",
        "无论梯度大小，AdamW 让每个权重移动大约一个学习率，为此要多存两个和权重一样大的数组。"
        "新数据的损失里没有任何东西守住旧技能；批次中的旧数据可以，但只到它的比例所能及的程度。"
        "比较两次训练，要在两者会的一样多的地方比，并且各用各的学习率。",
    ),
    not_shown=Both(
        "other ways to hold on: a penalty on the distance from the base (EWC), or on how far its "
        "answers move (KL); benchmarks on text. Each skill here is called by its name, which may "
        "lessen the interference between them.",
        "其他守住旧能力的办法：惩罚权重离基础模型的距离（EWC），或惩罚输出分布的偏移（KL）；"
        "文本上的基准测试。这里每种技能都有自己的名字，这也许减轻了它们之间的干扰。",
    ),
    next=Both(
        "all weights have moved. How much is really in that change ΔW?",
        "所有权重都动了。这个改变量 ΔW 里到底有多少东西？",
    ),
    predictions=(_KEPT, _REPLAY),
    exercises=(STEP, MIX, OLD_AT),
    quiz=(_BACK, _FAIR, _TEN),
    seconds=45,
    catches=("M12", "M13"),
)
