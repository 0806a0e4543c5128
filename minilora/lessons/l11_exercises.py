"""Exercises of lesson 11 about rows: format and mask one, clean many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minilora.lessons.content import Both, Exercise, Wrong

Case = tuple[Any, ...]
LETTERS = "abcdefgh"


class Letters:
    """A tokenizer of letters. `marked`: it begins every text with a token, as many do."""

    end_id = 0

    def __init__(self, marked: bool):
        self.marked = marked

    def encode(self, text: str) -> list[int]:
        return [1] * self.marked + [ord(c) for c in text]


def plain(row: dict[str, str]) -> str:
    return row["prompt"]


def headed(row: dict[str, str]) -> str:
    return f"Question: {row['prompt']}\nAnswer: "


def _word(rng: np.random.Generator) -> str:
    return "".join(rng.choice(list(LETTERS), int(rng.integers(2, 7))))


def _format_cases(rng: np.random.Generator) -> list[Case]:
    """Two templates, two tokenizers; a question that is empty, an answer that is blank."""
    cases: list[Case] = [
        ({"prompt": _word(rng), "completion": _word(rng)}, template, Letters(marked))
        for template in (plain, headed)
        for marked in (True, False)
    ]
    cases.append(({"prompt": _word(rng), "completion": "  "}, headed, Letters(False)))
    return cases


def _formatted(row: dict[str, str], template: Callable[..., str], tok: Letters) -> Any:
    """Letter by letter."""
    if not row["completion"].split():
        return "refused"
    pairs = [(1, -100)] * tok.marked + [(ord(c), -100) for c in template(row)]
    pairs += [(ord(c), ord(c)) for c in row["completion"]] + [(tok.end_id, tok.end_id)]
    return [i for i, _ in pairs], [label for _, label in pairs]


def _or_refused(f: Callable[..., Any], case: Case) -> Any:
    try:
        found = f(*case)
    except ValueError:
        return "refused"
    return tuple(found) if isinstance(found, list) else found


_REFUSE = """
    if not row["completion"].strip():
        raise ValueError(f"nothing is answered in {row}")"""


def _formatting(
    ids: str = 'tok.encode(template(row) + row["completion"]) + [tok.end_id]',
    labels: str = "[-100] * given + ids[given:]",
    refuse: str = _REFUSE,
) -> str:
    return f"""
def format_and_mask(row, template, tok):{refuse}
    given = len(tok.encode(template(row)))
    ids = {ids}
    return ids, {labels}
"""


FORMAT = Exercise(
    number="11.1",
    name="format_and_mask",
    title=Both("from a row to ids and labels", "从一行数据到 ids 和 labels"),
    task=Both(
        "`row` has a 'prompt' and a 'completion'. `template(row)` gives the text up to the answer; "
        "`tok.encode(text)` gives a list of ids, `tok.end_id` closes the answer. Return `ids` and "
        "`labels`, two lists of T: what is given has the label −100, the answer and the end have "
        "their own id. Labels are not shifted. If nothing is answered, raise a ValueError.",
        "`row` 有 'prompt' 和 'completion'。`template(row)` 给出回答之前的文本；"
        "`tok.encode(text)` 给出 id 列表，`tok.end_id` 结束回答。返回 `ids` 和 `labels` "
        "两个长为 T 的列表：给定的部分标签为 −100，回答和结束符的标签是它们自己的 id。"
        "标签不移位。如果没有回答任何内容，抛出 ValueError。",
    ),
    pointer=Both(
        "Encode the whole text once, and the part up to the answer once to know how many tokens "
        "are given: ids = encode(whole) + [end], labels = [−100] · given + ids[given:].",
        "把整段文本编码一次；再把回答之前的部分编码一次，以知道给定了多少个词元："
        "ids = encode(whole) + [end]，labels = [−100] · given + ids[given:]。",
    ),
    stub='''
def format_and_mask(row, template, tok):
    """ids, labels: two lists of T"""
    return ...
''',
    solution='''
def format_and_mask(row, template, tok):
    """ids, labels: two lists of T"""
    if not row["completion"].strip():
        raise ValueError(f"nothing is answered in {row}")
    given = len(tok.encode(template(row)))
    ids = tok.encode(template(row) + row["completion"]) + [tok.end_id]  # (T,)
    return ids, [-100] * given + ids[given:]  # (T,) each
''',
    another="""
def format_and_mask(row, template, tok):
    before = tok.encode(template(row))
    whole = tok.encode(template(row) + row["completion"])
    if not row["completion"].split():
        raise ValueError("no answer")
    labels = [-100 if t < len(before) else i for t, i in enumerate(whole)]
    return whole + [tok.end_id], labels + [tok.end_id]
""",
    wrong=(
        Wrong(
            _formatting('tok.encode(template(row)) + tok.encode(row["completion"]) + [tok.end_id]'),
            Both(
                "Question and answer were tokenized apart. Compare with tok.encode of the whole "
                "text: what does this tokenizer put at the beginning of a text, and where is it "
                "now?",
                "问题和回答是分开编码的。和整段文本的 tok.encode 比一比："
                "这个分词器在文本开头放了什么？它现在出现在哪里？",
            ),
        ),
        Wrong(
            _formatting(labels="[-100] * (given - 1) + ids[given - 1:]"),
            Both(
                "The mask is one off. Decode the targets alone: is the first of them the answer's? "
                "The shift by one is the loss's business.",
                "掩码差了一位。单独解码目标：第一个目标属于回答吗？移一位是损失函数的事。",
            ),
        ),
        Wrong(
            _formatting(refuse=""),
            Both(
                "A row without an answer went through. How many targets has it, and what is the "
                "mean over them?",
                "一行没有回答的数据通过了。它有几个目标？对它们求平均会怎样？",
            ),
        ),
        Wrong(
            _formatting(labels="list(ids)"),
            Both(
                "The question counts in the loss. Who writes it later, the model or the user?",
                "问题也进了损失。以后由谁来写问题：模型还是用户？",
            ),
        ),
        Wrong(
            _formatting(ids='tok.encode(template(row) + row["completion"])'),
            Both(
                "After the last letter nothing more is learnt. How will the model know when to "
                "stop?",
                "最后一个字母之后就不再学了。模型怎么知道何时停下？",
            ),
        ),
    ),
    cases=_format_cases,
    reference=_formatted,
    observe=_or_refused,
    tolerance=0,
    difficulty=2,
    minutes=10,
    core=True,
    catches=("M9", "M39"),
)


def _row(prompt: str, completion: str) -> dict[str, str]:
    return {"prompt": prompt, "completion": completion}


def _clean_cases(rng: np.random.Generator) -> list[Case]:
    """Rows that are said again in other letters and spaces, tested, blank; and a clean file."""
    names = [f"{_word(rng)} {_word(rng)} {i}" for i in range(9)]
    rows = [_row(f"What is {name}?", name[:2]) for name in names]
    test = [_row(f"what  IS {names[0]}?", "x"), _row(f"What is {names[1]}?", "y")]
    dirty = [
        *rows,
        _row(f" what is  {names[2].upper()}? ", names[2][:2]),
        _row(rows[3]["prompt"], "another answer"),
        _row("Who answers nothing?", "  "),
        _row("Who answers nothing?", "I do"),
        _row(rows[1]["prompt"], ""),
    ]
    order = [*rng.permutation(9), *range(9, len(dirty))]
    return [([dirty[i] for i in order], test), (rows[2:], test), (rows, [])]


def _cleaned(rows: Any, test: Any) -> Any:
    """Row against row, without sets."""

    def alike(a: str, b: str) -> bool:
        return a.casefold().split() == b.casefold().split()

    kept: list[Any] = []
    report = {"empty": 0, "leaked": 0, "repeated": 0}
    for r in rows:
        if not r["completion"].split():
            report["empty"] += 1
        elif any(alike(r["prompt"], t["prompt"]) for t in test):
            report["leaked"] += 1
        elif any(alike(r["prompt"], k["prompt"]) for k in kept):
            report["repeated"] += 1
        else:
            kept.append(r)
    return kept, report


def _cleaning(
    key: str = '" ".join(text.lower().split())',
    leaked: str = "q in asked",
    count: str = "report[reason] += 1",
    remember: str = "",
) -> str:
    return f"""
def clean(rows, test):
    def key(text):
        return {key}
    asked = {{key(r["prompt"]) for r in test}}
    kept, seen, report = [], set(), {{"empty": 0, "leaked": 0, "repeated": 0}}
    for r in rows:
        q = key(r["prompt"])
        reason = "repeated" if q in seen else None
        reason = "leaked" if {leaked} else reason
        reason = reason if r["completion"].strip() else "empty"
        {remember or "pass"}
        if reason:
            {count}
        else:
            kept.append(r)
            seen.add(q)
    return kept, report
"""


CLEAN = Exercise(
    number="11.2",
    name="clean",
    title=Both("clean rows, and say what was dropped", "清洗数据，并说明丢掉了什么"),
    task=Both(
        "`rows` and `test` are lists of {'prompt', 'completion'}. Return the rows to keep, in "
        "their order, and a report: a dict that counts the dropped ones by the first reason that "
        "applies. 'empty': the completion is blank; 'leaked': the question is one of the test; "
        "'repeated': it is the question of a row kept before. Two questions are the same if they "
        "differ in case and spaces only.",
        "`rows` 和 `test` 是 {'prompt', 'completion'} 的列表。按原顺序返回要保留的行，以及一份"
        "报告：一个 dict，按第一个适用的原因统计丢掉的行。'empty'：completion 为空白；"
        "'leaked'：问题在测试集里；'repeated'：与之前保留的某行问题相同。"
        "两个问题如果只有大小写和空格不同，就算相同。",
    ),
    pointer=Both(
        'One key for each question, " ".join(text.lower().split()); a set of the test\'s keys, a '
        "set of the kept rows' keys. Ask in the order empty, leaked, repeated; count, or keep and "
        "remember.",
        '每个问题一个键：" ".join(text.lower().split())；测试集的键放进一个集合，'
        "保留行的键放进另一个。按 empty、leaked、repeated 的顺序问；要么计数，要么保留并记住。",
    ),
    stub='''
def clean(rows, test):
    """The rows to keep; {"empty": n, "leaked": n, "repeated": n}"""
    return ...
''',
    solution='''
def clean(rows, test):
    """The rows to keep; {"empty": n, "leaked": n, "repeated": n}"""
    key = lambda r: " ".join(r["prompt"].lower().split())
    asked, seen, kept = {key(r) for r in test}, set(), []
    report = {"empty": 0, "leaked": 0, "repeated": 0}
    for r in rows:
        reasons = (not r["completion"].strip(), key(r) in asked, key(r) in seen)
        if any(reasons):
            report[list(report)[reasons.index(True)]] += 1
        else:
            kept.append(r)
            seen.add(key(r))
    return kept, report
''',
    another=_cleaning(key="tuple(text.casefold().split())"),
    wrong=(
        Wrong(
            _cleaning(key="text"),
            Both(
                "Some questions differ in case and spaces only, and stayed. Are 'What is it?' and "
                "' what  is IT? ' two questions?",
                "有些问题只差大小写和空格，却都留下了。'What is it?' 和 ' what  is IT? ' "
                "是两个问题吗？",
            ),
        ),
        Wrong(
            _cleaning(leaked="False"),
            Both(
                "Rows of the test are still there to be trained on. What will 100 % on that test "
                "say: ability, or memory?",
                "测试集里的行还留在训练数据里。这样得到的 100 % 说明的是能力还是记忆？",
            ),
        ),
        Wrong(
            _cleaning(count="pass"),
            Both(
                "Rows vanish, and the report counts none. Do kept and dropped add up to all?",
                "有些行消失了，报告却没有统计。保留的加上丢掉的等于全部吗？",
            ),
        ),
        Wrong(
            _cleaning(remember="seen.add(q) if reason else None"),
            Both(
                "A good row was dropped as the repetition of one that was itself dropped. Which "
                "rows are to be remembered?",
                "一行好数据被当作重复丢掉了，而它所“重复”的那行自己已被丢掉。该记住哪些行？",
            ),
        ),
    ),
    cases=_clean_cases,
    reference=_cleaned,
    tolerance=0,
    difficulty=2,
    minutes=10,
    core=True,
    catches=("M39",),
)
