"""Lesson 07: what r, α, the targets and the learning rate do."""

from __future__ import annotations

from minilora.lessons.content import Both, Lesson, Option, Prediction, Question
from minilora.lessons.l07_exercises import EQUIVALENT, FIRST_STEP, SWAP

_LR = Prediction(
    "lr",
    Both(
        "r goes from 4 to 64; α = 16 stays, and the bypass is scaled by α/r. Beside the best "
        "learning rate of r = 4, is that of r = 64 the same, lower, or higher?",
        "r 从 4 变到 64；α = 16 不变，旁路乘以 α/r。和 r = 4 的最佳学习率相比，"
        "r = 64 的最佳学习率相同（same）、更低（lower）还是更高（higher）？",
    ),
    Both(
        "Two answers tempt: the same, for α/r is said to divide the rank out; and lower, for 16 "
        "times as many numbers move. The first step under Adam speaks for the same. But a first "
        "step is no training: A moves as well, and directions begin to overlap. So it has to be "
        "measured, and is known to a rung of the ladder of rates only.",
        "有两种容易的答案：相同，因为据说 α/r 把秩除掉了；更低，因为动的数多了 16 倍。"
        "Adam 下的第一步支持“相同”。但第一步不是训练：A 也会动，各个方向开始重叠。"
        "所以必须测量，而且只能精确到学习率阶梯的一级。",
    ),
    options=("same", "lower", "higher"),
    catches=("M26", "M14"),
)
_RANK = Prediction(
    "rank",
    Both(
        "q and v of each block get an adapter of rank r, each rank trained at its own best "
        "learning rate. r = 1, 4, 16, 64 were tried. Which is the smallest with which the base "
        "learns to sort letters in descending order (at least 90 % of new strings right)?",
        "每个块的 q 和 v 都加上秩为 r 的适配器，每个秩用自己的最佳学习率训练。"
        "试过 r = 1、4、16、64。最小要多大的 r，"
        "基础模型才能学会把字母按降序排列（新字符串至少 90 % 正确）？",
    ),
    Both(
        "A large one tempts: a new skill, so much to be learnt. But r counts directions of one "
        "matrix, and every adapted matrix has a pair of its own. How many a task needs cannot be "
        "read off its name; the planted rank is the case in which it is known.",
        "容易选大的：一项新技能，要学的很多。但 r 数的是一个矩阵里的方向，"
        "而每个被适配的矩阵都有自己的一对。任务需要多少个方向，从名字上看不出来；"
        "“埋入的秩”是我们事先知道答案的例子。",
    ),
    low=1,
    high=64,
    catches=("M28",),
)
_SWAP = Prediction(
    "swap",
    Both(
        "The skill is learnt. Now the pairs A, B of the first and the last block change places; "
        "nothing else is touched. How many percent of new strings are still right?",
        "技能已经学会。现在把第一个块和最后一个块的 A、B 互换，别的都不动。"
        "新字符串还有百分之几正确？",
    ),
    Both(
        "Much tempts if one thinks of the adapter as one patch that holds the new knowledge. But "
        "each pair has learnt to change what its own matrix makes of its own input. In another "
        "block it reads another language.",
        "如果把适配器想成一块装着新知识的补丁，就容易答得很高。"
        "但每一对学到的，是怎样改变自己那个矩阵对自己的输入的处理。换到另一个块里，"
        "它读到的就是另一种语言。",
    ),
    unit=" %",
    catches=("M25",),
)

_SCALE = Question(
    Both(
        "α = 16 is kept, r goes from 8 to 32. What is the factor s = α/r that the bypass is "
        "multiplied by?",
        "α = 16 不变，r 从 8 变到 32。旁路所乘的因子 s = α/r 是多少？",
    ),
    (
        Option(
            Both("it stays at 16: α is the scale", "仍是 16：α 就是缩放系数"),
            Both("α alone multiplies nothing; α/r does.", "单独的 α 不乘在任何地方；乘的是 α/r。"),
        ),
        Option(
            Both("it falls from 2 to 0.5", "从 2 降到 0.5"),
            Both(
                "Who changes r and leaves α alone has turned two knobs.",
                "只改 r 而不动 α，其实转动了两个旋钮。",
            ),
            True,
        ),
        Option(
            Both("it rises from 2 to 8", "从 2 升到 8"),
            Both("r stands below the line.", "r 在分母上。"),
        ),
    ),
    catches=("M22",),
)
_WORSE = Question(
    Both(
        "With r = 64 the test is worse than with r = 8, at one learning rate for both. What do you "
        "say?",
        "r = 64 的测试结果比 r = 8 差，两者用同一个学习率。你怎么说？",
    ),
    (
        Option(
            Both("it overfits: too many parameters", "过拟合：参数太多"),
            Both(
                "Then the training examples would be right and the test wrong. Nobody has looked.",
                "那应当是训练样本对、测试错。还没有人看过训练样本。",
            ),
        ),
        Option(
            Both("r = 8 is enough for the task", "r = 8 对这个任务就够了"),
            Both(
                "Perhaps. But enough would make r = 64 as good, not worse.",
                "也许。但“够了”只会使 r = 64 一样好，而不是更差。",
            ),
        ),
        Option(
            Both(
                "tune the rate for each, then compare training and test",
                "各自调好学习率，再比较训练和测试",
            ),
            Both(
                "Two explanations are open, the rate and overfitting; this tells them apart.",
                "有两种解释，学习率和过拟合；这样才能分清。",
            ),
            True,
        ),
    ),
    catches=("M28", "M14"),
)
_HALVED = Question(
    Both(
        "α is halved, under Adam. What undoes it exactly (ε → 0, no weight decay)?",
        "用 Adam 时 α 减半。怎样才能精确地抵消（ε → 0，没有权重衰减）？",
    ),
    (
        Option(
            Both("B's learning rate × 2, A's kept", "B 的学习率 × 2，A 的不变"),
            Both(
                "B becomes twice as large, s·B is what it was, and so is A's gradient.",
                "B 变成两倍大，s·B 不变，A 的梯度也就不变。",
            ),
            True,
        ),
        Option(
            Both("both learning rates × 2", "两个学习率都 × 2"),
            Both(
                "Then A moves twice as far as before, too: another training. Whether it ends as "
                "well, only a measurement says.",
                "那样 A 也会比原来多走一倍：这是另一次训练。最后是否一样好，只有测量才知道。",
            ),
        ),
        Option(
            Both("B's learning rate × 4", "B 的学习率 × 4"),
            Both(
                "That is SGD's answer: its step has a factor s of its own. Adam's has none.",
                "这是 SGD 的答案：它的步子里还带一个 s。Adam 的没有。",
            ),
        ),
    ),
    catches=("M27",),
)

LESSON = Lesson(
    number="07",
    slug="knobs",
    title=Both("The knobs", "旋钮"),
    question=Both(
        "What do r, α, the targets and the learning rate do?",
        "r、α、目标模块和学习率各有什么作用？",
    ),
    claim=Both(
        "r is what the adapter can hold: a larger one learns more, costs more, and overfits "
        "sooner. α/r keeps the bypass at one loudness whatever r; α = r or α = 2r is usual. The "
        "best learning rate is about ten times that of full fine-tuning.",
        "r 是适配器的容量：r 越大，学得越多，花费越多，也越容易过拟合。"
        "α/r 让旁路的大小与 r 无关；通常取 α = r 或 α = 2r。最佳学习率大约是全量微调的十倍。",
    ),
    knows=Both(
        "the gradients of LoRA (lesson 06). Lessons 04 and 05 help.",
        "LoRA 的梯度（第 06 课）。学过第 04、05 课会有帮助。",
    ),
    can=Both(
        "choose r, α, learning rate and targets with a reason, and show which two of them are "
        "nearly one knob.",
        "有理由地选择 r、α、学习率和目标模块，并证明其中哪两个几乎是同一个旋钮。",
    ),
    summary=Both(
        "r is a number of directions: below what a task needs, a part is out of reach; above it, "
        "they are paid for and tuned anew. α and the learning rate of B are one knob "
        "under Adam, exactly. α/r keeps the first step of Adam level over ranks, and α/√r that of "
        "SGD; which rate a whole training wants has to be measured. So tune it for each rank, α "
        "and set of targets before two of them are compared.",
        "r 是方向的个数：少于任务所需，就有一部分够不着；多于所需，就要多付代价、重新调参。"
        "在 Adam 下，α 和 B 的学习率精确地是同一个旋钮。α/r 使 Adam 的第一步与秩无关，"
        "α/√r 使 SGD 的第一步与秩无关；整个训练需要多大的学习率，只能测量。"
        "所以要对每个秩、每个 α、每组目标模块各自调好学习率，再作比较。",
    ),
    not_shown=Both(
        "data that hold more than any adapter can (Thinking Machines: LoRA Without Regret); a "
        "theory of both regimes of the learning rate (arXiv 2602.06204). Our base is small, and "
        "one checkpoint: seeds change the order of the data and the start of A.",
        "信息量超过任何适配器容量的数据（Thinking Machines: LoRA Without Regret）；"
        "解释学习率两种情形的理论（arXiv 2602.06204）。我们的基础模型很小，而且只有一个检查点："
        "随机种子改变的是数据顺序和 A 的初值。",
    ),
    next=Both(
        "the verdict: full or LoRA, each well tuned.",
        "结论：全量微调还是 LoRA，各自调到最好。",
    ),
    predictions=(_LR, _RANK, _SWAP),
    exercises=(FIRST_STEP, EQUIVALENT, SWAP),
    quiz=(_SCALE, _WORSE, _HALVED),
    seconds=40,
    catches=("M14", "M25", "M26", "M27", "M28"),
)
