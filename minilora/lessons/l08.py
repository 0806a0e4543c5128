"""Lesson 08: the verdict, full fine-tuning or LoRA."""

from __future__ import annotations

from minilora.lessons.content import Both, Lesson, Option, Prediction, Question
from minilora.lessons.l08_exercises import HELD, MERGE, RATIO

_ON = Prediction(
    "on",
    Both(
        "LoRA on q and v teaches the base a ninth skill, without old data; W is frozen. Where the "
        "new skill is at 90 %, how many percent of the answers of the eight old skills are right, "
        "with the adapter switched *on*?",
        "用 q、v 上的 LoRA 教基础模型第九种技能，不掺旧数据；W 是冻结的。在新技能达到 90 % 时，"
        "适配器*开着*，八种旧技能有百分之几的答案正确？",
    ),
    Both(
        "100 % tempts: W is frozen, so nothing is lost. Nothing is lost *from W*. But with the "
        "adapter on every input, old or new, goes through W + s·B·A.",
        "容易答 100 %：W 冻结了，什么也没丢。*W 里*确实什么也没丢。"
        "但适配器开着时，每个输入，无论新旧，都经过 W + s·B·A。",
    ),
    unit=" %",
    catches=("M29",),
)
_ACTIVATIONS = Prediction(
    "activations",
    Both(
        "LoRA with r = 8 on all seven matrices of every block. In a training step, how many "
        "percent of the activations of full fine-tuning does it hold?",
        "对每个块的全部七个矩阵用 r = 8 的 LoRA。训练一步时，"
        "它所持有的激活值是全量微调的百分之几？",
    ),
    Both(
        "Few numbers are trained, so few percent tempt. But dA is made from x, and x is just as "
        "large as it was for dW: each input is held, and x·Aᵀ besides.",
        "训练的数很少，所以容易答百分之几。但 dA 由 x 得到，而 x 和求 dW 时一样大："
        "每个输入都要保留，外加 x·Aᵀ。",
    ),
    high=150.0,
    unit=" %",
    catches=("M30",),
)

_WHEN = Question(
    Both(
        "When exactly does LoRA keep everything that the base could do?",
        "究竟在什么时候，LoRA 能保住基础模型会的一切？",
    ),
    (
        Option(
            Both("always: the base is frozen", "总是：基础模型是冻结的"),
            Both(
                "Frozen weights are no frozen function. Look where ● runs in the figure.",
                "权重冻结不等于函数冻结。看看图上 ● 走到了哪里。",
            ),
        ),
        Option(
            Both("whenever the adapter is switched off", "只要把适配器关掉"),
            Both(
                "Then it is the base, bit for bit; and then the new skill is gone, too.",
                "那时它就是基础模型，每一位都相同；但新技能也同样不在了。",
            ),
            True,
        ),
        Option(
            Both("if the rank is small enough", "只要秩足够小"),
            Both(
                "A thin bypass can turn every output, too. What decides is what the data ask for.",
                "再瘦的旁路也能改变每一个输出。起决定作用的是数据要求什么。",
            ),
        ),
    ),
    catches=("M29",),
)
_UNMERGE = Question(
    Both(
        "ΔW was merged into W in float32. To get W back, ΔW is subtracted. Is that W, bit for bit?",
        "在 float32 中把 ΔW 合并进了 W。为了取回 W，再减去 ΔW。这和原来的 W 每一位都相同吗？",
    ),
    (
        Option(
            Both("yes: what was added is taken away", "相同：加上的又减掉了"),
            Both(
                "So it is for real numbers. The sum was rounded, and that is not undone.",
                "对实数是这样。但求和时做了舍入，舍掉的回不来。",
            ),
        ),
        Option(
            Both("no: keep a copy of W", "不同：要保留一份 W"),
            Both(
                "The library does so: it costs those matrices once more, for as long as they are "
                "merged.",
                "本库就是这样做的：只要处于合并状态，这些矩阵就要多存一份。",
            ),
            True,
        ),
        Option(
            Both("yes, if ΔW is small", "相同，只要 ΔW 很小"),
            Both(
                "That helps, and does not save it: the sum is rounded all the same, and some "
                "entries come back as others.",
                "小一些有帮助，但救不了：求和照样要舍入，总有一些元素变成别的数。",
            ),
        ),
    ),
    catches=("M31",),
)
_FEWER = Question(
    Both(
        "LoRA with r = 8 on all linear layers. Does it hold fewer activations than full "
        "fine-tuning?",
        "对所有线性层用 r = 8 的 LoRA。它持有的激活值比全量微调少吗？",
    ),
    (
        Option(
            Both("far fewer: hardly anything is trained", "少得多：几乎没训练什么"),
            Both(
                "What is trained decides gradients and moments. Activations are decided by whose "
                "gradient needs x.",
                "训练多少决定的是梯度和优化器状态。激活值取决于谁的梯度需要 x。",
            ),
        ),
        Option(
            Both("none at all: W has no gradient", "根本没有：W 没有梯度"),
            Both(
                "A has one, and it is made from the same x.",
                "A 有梯度，而且由同一个 x 得到。",
            ),
        ),
        Option(
            Both("no, a few more", "不，还多一点"),
            Both(
                "Each x for dA, as for dW, and x·Aᵀ for dB. On q and v alone it holds fewer.",
                "求 dA 要每个 x（和求 dW 一样），求 dB 还要 x·Aᵀ。只用在 q、v 上时才会少。",
            ),
            True,
        ),
    ),
    catches=("M30",),
)

LESSON = Lesson(
    number="08",
    slug="verdict",
    title=Both("The verdict", "结论"),
    question=Both(
        "Full or LoRA: what is won, and is anything forgotten?",
        "全量微调还是 LoRA：赢得了什么，又忘了什么？",
    ),
    claim=Both(
        "LoRA makes training cheap, leaves a file of a few megabytes for each task, to be loaded "
        "when it is asked for, and, as the base is frozen, largely avoids catastrophic forgetting.",
        "LoRA 让训练很便宜，每个任务只留下几 MB 的文件，需要时再加载；"
        "而且由于基础模型是冻结的，基本避免了灾难性遗忘。",
    ),
    knows=Both(
        "forgetting at equal ability (lesson 04) and the gradients of LoRA (lesson 06).",
        "在能力相同处测量遗忘（第 04 课）和 LoRA 的梯度（第 06 课）。",
    ),
    can=Both(
        "explain the bytes and multiplications of a step line by line, and say exactly when 'LoRA "
        "does not forget' is true.",
        "逐项解释一步训练的字节数和乘法次数，并准确说出“LoRA 不会遗忘”在什么时候成立。",
    ),
    summary=Both(
        "What shrinks is what goes with trained numbers: gradients, moments, the file. Activations "
        "shrink only where no gradient needs x; multiplications by at most a third. Switched off, "
        "an adapter leaves the base, bit for bit. Switched on, it is another function, for old "
        "inputs as well. Keep W beside a merge, and look what a low precision swallows.",
        "变小的是跟着训练的数走的东西：梯度、优化器状态、文件。"
        "激活值只有在没有梯度需要 x 的地方才变少；乘法最多少三分之一。"
        "关掉适配器，剩下的就是基础模型，每一位都相同。"
        "打开它，就是另一个函数，对旧的输入也一样。合并时要留一份 W，并看看低精度吞掉了什么。",
    ),
    not_shown=Both(
        "text. The same question for a real language model is asked by `minilora experiment "
        "forgetting`, once SmolLM2 is fetched; which of the two forgets more turns on their "
        "learning rates there, too. And serving: many adapters in one batch.",
        "文本。取得 SmolLM2 之后，`minilora experiment forgetting` 会对真实的语言模型问同样的问题；"
        "那里谁忘得更多，同样取决于各自的学习率。还有部署：一个批次里用许多适配器。",
    ),
    next=Both(
        "the grey bar: can the frozen weights themselves be made smaller?",
        "灰色的那一段：冻结的权重本身能不能变小？",
    ),
    predictions=(_ON, _ACTIVATIONS),
    exercises=(MERGE, HELD, RATIO),
    quiz=(_WHEN, _UNMERGE, _FEWER),
    seconds=45,
    catches=("M29", "M30", "M31", "M38"),
)
