"""Lesson 11: what data decide, and the reader's own fine-tune."""

from __future__ import annotations

from minilora.lessons.content import Both, Lesson, Option, Prediction, Question
from minilora.lessons.l11_exercises import CLEAN, FORMAT
from minilora.lessons.l11_plans import FILES, PLAN

# As `dirty_data` names them; the last one is for kinds that the seeds do not tell apart.
KINDS = ("wrong", "duplicates", "template", "prompt", "end", "a tie")

_WORST = Prediction(
    "worst",
    Both(
        "LoRA learns a skill from 512 rows; 10 % of them are spoiled in one of five ways: a wrong "
        "answer, duplicates of a few rows, another template than the test's, a prompt that counts "
        "in the loss, no end token. Which costs most on a clean test? (If the seeds do not tell "
        "the first from the second, it is a tie.)",
        "LoRA 从 512 行数据学一种技能；其中 10 % 以五种方式之一被弄脏：错误的回答（wrong）、"
        "少数几行的副本（duplicates）、与测试不同的模板（template）、问题也计入损失（prompt）、"
        "没有结束符（end）。在干净的测试上，哪一种损失最大？"
        "（如果随机种子分不出第一和第二，就算平手，a tie。）",
    ),
    Both(
        "What looks like damage tempts: half a row missing, the form broken. But such rows teach "
        "less, or something else, and the others still say what is right. A wrong answer pulls at "
        "the very place that will be asked, the other way.",
        "容易选看上去像损坏的那种：缺了一截，形式乱了。但这样的行只是教得少一些，或者教了别的，"
        "其余的行仍然说明什么是对的。错误的回答却恰恰在将要被问到的位置上往反方向拉。",
    ),
    options=KINDS,
    catches=("M39",),
)
_TEMPLATE = Prediction(
    "template",
    Both(
        "Now all rows are right, but written in another template (gacb:des= and not des:gacb=). "
        "The test asks as always. How much of the test is right, in %?",
        "现在所有的行都对，只是用另一种模板写成（gacb:des= 而不是 des:gacb=）。"
        "测试仍照常提问。测试答对百分之几？",
    ),
    Both(
        "A template tempts as a matter of looks: a person would understand. But a skill is tied to "
        "the form that it was taught in, and the form of the test was never taught.",
        "人们容易把模板当成外表：人总看得懂。但技能是和教它时的形式绑在一起的，"
        "而测试的形式从来没有教过。",
    ),
    unit=" %",
    catches=("M39",),
)

_CHANGED = Question(
    Both(
        "A colleague tunes with one template and asks the model with another. A small matter?",
        "同事用一种模板微调，又用另一种模板提问。这是小事吗？",
    ),
    (
        Option(
            Both("yes: the words are the same", "是：词都一样"),
            Both(
                "To the model places count as well. Look at the share of 100 % in the figure.",
                "对模型来说位置也算数。看看图中份额为 100 % 的地方。",
            ),
        ),
        Option(
            Both(
                "no: it may answer as if it had never been tuned",
                "不是：它可能像从未微调过一样回答",
            ),
            Both(
                "So the template is saved beside the adapter, and used again at the test.",
                "所以模板要和适配器存在一起，测试时再用同一个。",
            ),
            True,
        ),
        Option(
            Both("only with few rows", "只有数据少时才是"),
            Both(
                "More rows of the same form teach that form better, and no other.",
                "同一形式的更多数据只会把这种形式教得更好，教不了别的形式。",
            ),
        ),
    ),
    catches=("M39",),
)
_MEANS = Question(
    Both(
        "A batch is taken in 8 parts with unequal numbers of targets. Each part's mean loss is "
        "divided by 8, and the gradients are added. Is that the batch's gradient?",
        "一个批次分成 8 份，每份的目标数不等。把每份的平均损失除以 8，再把梯度相加。"
        "这是整个批次的梯度吗？",
    ),
    (
        Option(
            Both("yes: a mean of means is the mean", "是：平均的平均就是平均"),
            Both(
                "Only if all parts have as many targets. See the cell: which rows weigh more?",
                "只有各份目标数相同时才对。看那个单元格：哪些行的分量更重？",
            ),
        ),
        Option(
            Both("nearly: it averages out over the steps", "差不多：多走几步就平均掉了"),
            Both(
                "Short answers weigh too much at every step, always on the same side.",
                "每一步都是短回答的权重过大，总偏向同一边，不会抵消。",
            ),
        ),
        Option(
            Both(
                "no: divide each part's sum by the targets of the whole batch",
                "不是：每份的总和要除以整个批次的目标数",
            ),
            Both(
                "Then each target counts once, however the batch is cut.",
                "这样不管怎么切，每个目标都只算一次。",
            ),
            True,
        ),
    ),
    catches=("M40",),
)
_OPENS = Question(
    Both(
        "PEFT opens your adapter without an error. Are you done?",
        "PEFT 打开你的适配器没有报错。这就完成了吗？",
    ),
    (
        Option(
            Both("yes: a wrong file would be refused", "是：错误的文件会被拒绝"),
            Both(
                "Without α, or on another base of the same shape, it opens all the same.",
                "没有 α，或者换了形状相同的另一个基础模型，它照样能打开。",
            ),
        ),
        Option(
            Both(
                "not until its logits on a few prompts equal ours",
                "还没有：要等几个提示上的 logits 与我们的相等",
            ),
            Both(
                "What a file means is what it computes. Compare that, before and after.",
                "文件的意义在于它算出什么。保存前后都要比较这一点。",
            ),
            True,
        ),
        Option(
            Both("yes, if the file has the right size", "是，只要文件大小对"),
            Both(
                "A scale counted twice, or A and B of another run, has the same size.",
                "缩放算了两遍，或者放了另一次运行的 A 和 B，大小都一样。",
            ),
        ),
    ),
    catches=("M41",),
)
_CARD = Question(
    Both(
        "LoRA trains 0.04 % of an 8B model. Does that alone tell you that your card suffices?",
        "LoRA 只训练 8B 模型的 0.04 %。仅凭这一点能说明你的显卡够用吗？",
    ),
    (
        Option(
            Both("yes", "能"),
            Both(
                "It tells what gradients and optimizer take. What else lies on the card?",
                "它只说明梯度和优化器占多少。卡上还有什么？",
            ),
        ),
        Option(
            Both(
                "no: frozen weights and activations are most of the bill",
                "不能：冻结的权重和激活值才是账单的大头",
            ),
            Both(
                "Both are in the budget that was asked above.",
                "上面问过的预算里两项都有。",
            ),
            True,
        ),
        Option(
            Both("yes, if rows are short", "能，只要每行够短"),
            Both(
                "Short rows shrink activations. The frozen weights stay.",
                "行短能减少激活值，但冻结的权重还在那里。",
            ),
        ),
    ),
    catches=("M42",),
)

LESSON = Lesson(
    number="11",
    slug="data_and_your_own",
    title=Both("Data, and your own fine-tune", "数据，以及你自己的微调"),
    question=Both(
        "Does data decide, and can you do it alone?",
        "数据起决定作用吗？你能独立完成吗？",
    ),
    claim=Both(
        "Data are king: garbage in, garbage out. How examples are cleaned, built and formatted "
        "decides more than anything else whether a fine-tune succeeds.",
        "数据为王：进去的是垃圾，出来的也是垃圾。样本如何清洗、构建和套用格式，"
        "比什么都更能决定微调的成败。",
    ),
    knows=Both(
        "what a step costs (lesson 01), learning rate and rank (07), replay, on and off (08).",
        "一步的开销（第 01 课），学习率和秩（07），回放、开与关（08）。",
    ),
    can=Both(
        "clean, format and mask data and prove it; plan, run, save and defend a fine-tune.",
        "清洗数据、套用模板、设好掩码并加以验证；规划、运行、保存一次微调，并说出理由。",
    ),
    summary=Both(
        "A row is a template, an answer and an end; only the last two are learnt. Every target of "
        "a batch counts once. Some dirt is outvoted by clean rows, some is not, and what a whole "
        "file has in common (its template, a missing end) is outvoted by nobody. Cleaning sees "
        "what text can show, and no more. A run is a plan with reasons; it is done when the file, "
        "opened again, computes the same.",
        "一行数据是模板、回答和结束符；只学后两样。批次里的每个目标算一次。"
        "有的脏数据会被干净的行压过，有的不会；而整个文件共有的毛病（模板、缺少结束符）"
        "没有谁能压过。清洗只看得见文本能显示的东西。一次运行就是一个有理由的计划；"
        "保存的文件重新打开后算出同样的结果，才算完成。",
    ),
    not_shown=Both(
        "preferences (which of two answers is better), safety, and whether one may use the data: "
        "licences and consent.",
        "偏好（两个回答哪个更好）、安全，以及数据能不能用：许可证与同意。",
    ),
    next=Both(
        "the same run with PEFT and accelerate: `minilora export RUN --format peft-script` writes "
        "it as one script. And the questions above, asked of your own run.",
        "用 PEFT 和 accelerate 做同一次运行：`minilora export RUN --format peft-script` "
        "把它写成一个脚本。还有上面那些问题，对着你自己的运行回答一遍。",
    ),
    predictions=(_WORST, _TEMPLATE),
    exercises=(FORMAT, CLEAN, PLAN, FILES),
    quiz=(_CHANGED, _MEANS, _OPENS, _CARD),
    seconds=60,
    catches=("M9", "M29", "M39", "M40", "M41", "M42"),
)
