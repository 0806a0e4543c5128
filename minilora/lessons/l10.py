"""Lesson 10: LoRA's relatives, and what one budget of trained numbers buys."""

from __future__ import annotations

from minilora.lessons.content import Both, Lesson, Option, Prediction, Question
from minilora.lessons.l10_exercises import BOTTLENECK, COUNT, PREFIX

_BEST = Prediction(
    "best",
    Both(
        "Prompt, prefix, adapter and LoRA each train about 16,000 numbers beside one base, for the "
        "same new skill, each at its own best learning rate. Which one answers best? (If the "
        "seeds do not tell the first from the second, it is a tie.)",
        "提示、前缀、瓶颈适配器和 LoRA 在同一个基础模型旁各训练约 16,000 个数，学同一种新技能，"
        "各用自己最好的学习率。哪一个答得最好？（如果随机种子分不出第一和第二，就算平手。）",
    ),
    Both(
        "Most people say LoRA, because most people use it. That proves nothing: it is also used "
        "because it merges, starts at the base and takes no context. What equal numbers can do "
        "depends on where they stand; by how much, the rows above have said.",
        "多数人答 LoRA，因为多数人用它。这说明不了什么：大家用它，也因为它能合并、"
        "起点就是基础模型、不占上下文。同样多的数能做到什么，取决于它们放在哪里；"
        "差多少，上面的数据已经说了。",
    ),
    options=("LoRA", "prompt", "prefix", "adapter", "a tie"),
    catches=("M36",),
)
_STEP = Prediction(
    "step",
    Both(
        "Prompt tuning and LoRA with 16,384 trained numbers each (128 virtual tokens; r = 8 on q "
        "and v). The texts have some 20 tokens. How many times the multiplications and additions "
        "of LoRA's step does prompt tuning's take?",
        "提示微调和 LoRA 各训练 16,384 个数（128 个虚拟词元；q、v 上 r = 8）。"
        "文本约有 20 个词元。提示微调一步的乘加次数是 LoRA 一步的多少倍？",
    ),
    Both(
        "1 tempts: as many numbers, as much work. But nearly all work is done with the frozen "
        "matrices, once for each place, and the prompt has made far more places of a short text.",
        "容易答 1：一样多的数，一样多的工作。但几乎所有的工作都花在冻结的矩阵上，"
        "每个位置一次；而提示让一段短文本变成了多得多的位置。",
    ),
    low=0.0,
    high=100.0,
    unit="×",
    catches=("M36",),
)

_START = Question(
    Both(
        "Which of the four give exactly the base's answers before the first step, and which can "
        "be merged into the weights afterwards?",
        "四种方法中，哪些在第一步之前给出的答案与基础模型完全相同？哪些之后可以合并进权重？",
    ),
    (
        Option(
            Both("all start there, all merge", "都从那里开始，都能合并"),
            Both(
                "So it is with LoRA, and what one knows best is taken for the rule.",
                "LoRA 是这样，人们容易把最熟悉的当成规律。",
            ),
        ),
        Option(
            Both(
                "LoRA and adapter start there; of the four only LoRA merges",
                "LoRA 和适配器从那里开始；四种中只有 LoRA 能合并",
            ),
            Both(
                "B = 0 and W₂ = 0 see to the start; σ stands in the way of a merge, and a prompt "
                "or a prefix belongs to no weight.",
                "B = 0 和 W₂ = 0 保证了起点；σ 挡住了合并，而提示和前缀不属于任何权重。",
            ),
            True,
        ),
        Option(
            Both(
                "LoRA and prefix start there; adapter and LoRA merge",
                "LoRA 和前缀从那里开始；适配器和 LoRA 能合并",
            ),
            Both(
                "Softmax gives the prefix a share, even of nothing; and W₂ σ(W₁ x) is no matrix "
                "times x.",
                "softmax 总要分给前缀一份，哪怕它的值是零；而 W₂ σ(W₁ x) 不是一个矩阵乘 x。",
            ),
        ),
    ),
    catches=("M37",),
)
_EQUAL = Question(
    Both(
        "Two methods train equally many numbers. Which of these is then equal as well?",
        "两种方法训练同样多的数。下面哪一项也因此相同？",
    ),
    (
        Option(
            Both("the time of a step", "一步的时间"),
            Both(
                "It goes by the places of the text and by what is frozen. See the second guess.",
                "它取决于文本的位置数和被冻结的部分。看看第二个猜测。",
            ),
        ),
        Option(
            Both("the activations that are held", "所保留的激活值"),
            Both(
                "They go by how many places there are, and by which gradient needs which input.",
                "它们取决于有多少个位置，以及哪个梯度需要哪个输入。",
            ),
        ),
        Option(
            Both(
                "bytes of gradients, moments, and of what is saved",
                "梯度、优化器状态和所保存文件的字节数",
            ),
            Both(
                "These go with trained numbers, and with nothing else.",
                "这些只跟着训练的数走，与其他无关。",
            ),
            True,
        ),
    ),
    catches=("M36",),
)
_SHARE = Question(
    Both(
        "Parameter-efficient methods train 'under 1 %'. With r = p = m = 128, too?",
        "参数高效的方法“只训练不到 1 %”。r = p = m = 128 时也这样吗？",
    ),
    (
        Option(
            Both("always: that is what the name says", "总是：名字就是这个意思"),
            Both(
                "Look at the small base in the cell: LoRA and adapter are far beyond.",
                "看看单元格里的小模型：LoRA 和适配器远远超过了。",
            ),
        ),
        Option(
            Both(
                "it depends on the model: these grow with C, its matrices with C²",
                "取决于模型：这些随 C 增长，模型的矩阵随 C² 增长",
            ),
            Both(
                "The wider the base, the smaller the share of the same n.",
                "基础模型越宽，同样的 n 所占的份额越小。",
            ),
            True,
        ),
        Option(
            Both("never: 128 is too much for any model", "从不：128 对任何模型都太多"),
            Both(
                "For the 8B model it was under 1 % with all four.",
                "对 8B 的模型，四种方法都不到 1 %。",
            ),
        ),
    ),
    catches=("M24",),
)

LESSON = Lesson(
    number="10",
    slug="relatives",
    title=Both("The relatives", "亲戚们"),
    question=Both(
        "Prompt, prefix, adapter or LoRA: what does one budget buy?",
        "提示、前缀、适配器还是 LoRA：同样的预算能买到什么？",
    ),
    claim=Both(
        "Besides LoRA there are other ways to train a small part: prompt tuning (virtual tokens at "
        "the input), prefix tuning, adapters (small modules between the layers). They make the "
        "toolbox richer, for different situations.",
        "除了 LoRA，还有别的办法只训练一小部分：提示微调（Prompt Tuning，输入端的虚拟词元）、"
        "前缀微调（Prefix Tuning）、适配器（Adapter，层与层之间的小模块）。"
        "它们让工具箱更丰富，适合不同的场景。",
    ),
    knows=Both(
        "LoRA's two matrices (lesson 06), what a step holds and multiplies (lesson 08).",
        "LoRA 的两个矩阵（第 06 课），一步训练保留什么、乘什么（第 08 课）。",
    ),
    can=Both(
        "count and write each of the relatives, and choose between them by merging, time, context "
        "and quality.",
        "数清并写出每一种亲戚方法，并按能否合并、时间、上下文和质量来选择。",
    ),
    summary=Both(
        "A budget of trained numbers fixes gradients, optimizer state and file, and nothing else. "
        "Prompt pays with places in every layer, prefix with places in attention, an adapter with "
        "a network that never merges; only LoRA's bypass is gone when it is merged. Compare "
        "methods each at its own learning rate, and call a tie a tie.",
        "训练多少个数，只决定梯度、优化器状态和文件的大小，别的都不决定。"
        "提示用每一层的位置来付账，前缀用注意力里的位置，适配器用一个永远不能合并的网络；"
        "只有 LoRA 的旁路在合并之后就消失了。每种方法用自己的学习率来比较；平手就说平手。",
    ),
    not_shown=Both(
        "how IA³ and DoRA are made (their modules say it), a prefix learnt through an MLP, a "
        "prompt that begins as words, and large models: there prompt tuning is said to come near "
        "full fine-tuning (arXiv 2104.08691), and long texts make virtual tokens cheap.",
        "IA³ 和 DoRA 的做法（见它们的模块说明），通过 MLP 学习的前缀，从真实的词开始的提示，"
        "以及大模型：据说在那里提示微调接近全量微调（arXiv 2104.08691），"
        "而且长文本让虚拟词元变得便宜。",
    ),
    next=Both(
        "all of them eat data. What do data decide?",
        "它们都要吃数据。数据决定什么？",
    ),
    predictions=(_BEST, _STEP),
    exercises=(COUNT, BOTTLENECK, PREFIX),
    quiz=(_START, _EQUAL, _SHARE),
    seconds=50,
    catches=("M24", "M36", "M37"),
)
