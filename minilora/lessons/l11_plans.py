"""Exercises of lesson 11 about a run: plan it, and write what it gave for PEFT."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora.accounting.budget import Plan, budget
from minilora.accounting.presets import preset
from minilora.lessons.content import Both, Exercise, Wrong
from minilora.methods import Method

Case = tuple[Any, ...]

METHODS = ("full", "lora", "qlora")
OLD = ("not needed", "apart", "together")
GIB = 2**30


def needs(model: str, length: int) -> dict[str, int]:
    """Bytes at the peak of each method's step with one row of that length, mixed precision."""
    config = preset(model)
    return {m: budget(Plan(config, Method(m), length=length)).needed for m in METHODS}


def _plan_cases(rng: np.random.Generator) -> list[Case]:
    """Cards that just take a method, and one that takes none; each wish about old skills."""
    bills = [needs("llama-3-8b", int(rng.integers(600, 2000))), needs("smollm2-135m", 1024)]
    cases = []
    for bill in bills:
        sizes = [bill[m] / GIB for m in METHODS]
        # The least card is counted so closely that GB and GiB would not agree.
        for card in (sizes[0] * 1.3, sizes[1] * 1.02, sizes[2] * 1.02, sizes[2] * 0.5):
            for old in OLD:
                rate = float(rng.choice([1e-5, 2e-5, 1e-4]))
                cases.append(({"needs": bill, "card": card, "lr_full": rate, "old": old},))
    return cases


def judged(chosen: Any, case: dict[str, Any]) -> Any:
    """What becomes of a plan: whether it fits, whether its rate is of the right size, whether old
    skills stay as they are wanted. A plan that there should not be is one that does not fit.
    """
    if chosen is None or chosen is ...:
        return chosen
    method, rate = chosen["method"], chosen["lr"] / case["lr_full"]
    low, high = (1 / 3, 3) if method == "full" else (3, 30)
    off = bool(chosen["off_for_old"]) and case["old"] == "apart" and method != "full"
    return {
        "fits": bool(case["needs"][method] <= case["card"] * GIB),
        "rate": bool(low <= rate <= high),
        "old skills": case["old"] == "not needed" or chosen["replay"] > 0 or off,
    }


def _good(case: dict[str, Any]) -> Any:
    if min(case["needs"].values()) > case["card"] * GIB:
        return None
    return {"fits": True, "rate": True, "old skills": True}


def _planning(
    fitting: str = '[m for m, n in case["needs"].items() if n <= case["card"] * 2**30]',
    none: str = "return None",
    factor: str = '1 if method == "full" else 10',
    replay: str = "0.05",
) -> str:
    return f"""
def plan(case):
    fitting = {fitting}
    if not fitting:
        {none}
    method = fitting[0]
    lr = case["lr_full"] * ({factor})
    return {{"method": method, "lr": lr, "replay": {replay}, "off_for_old": False}}
"""


PLAN = Exercise(
    number="11.3",
    name="plan",
    title=Both("a plan that can be defended", "一个站得住脚的计划"),
    task=Both(
        "`case` has 'needs' (a dict: 'full', 'lora', 'qlora' → bytes at the peak of a step), "
        "'card' (GiB), 'lr_full' (a rate that full fine-tuning does well with), and 'old': whether "
        "old skills are 'not needed', needed 'apart' (one knows which question is old), or "
        "'together' with the new one. Return {'method', 'lr', 'replay', 'off_for_old'}: replay is "
        "the share of old data, off_for_old whether the adapter is off for old questions. None if "
        "nothing fits.",
        "`case` 有 'needs'（dict：'full'、'lora'、'qlora' → 一步峰值的字节数）、'card'（GiB）、"
        "'lr_full'（全量微调表现好的学习率），以及 'old'：旧技能是“不需要”（'not needed'）、"
        "“分开用”（'apart'，知道哪个问题是旧的），还是和新技能“一起用”（'together'）。"
        "返回 {'method', 'lr', 'replay', 'off_for_old'}：replay 是旧数据的份额，off_for_old "
        "表示回答旧问题时是否关掉适配器。什么都放不下时返回 None。",
    ),
    pointer=Both(
        "Fits: needs[method] <= card · 2³⁰. Rate: lr_full for full, some 10 times that for LoRA. "
        "Old: replay > 0 serves every wish; an adapter that is off serves 'apart', full has none.",
        "放得下：needs[method] <= card · 2³⁰。学习率：全量用 lr_full，LoRA 大约是它的 10 倍。"
        "旧技能：replay > 0 满足任何要求；关掉适配器满足 'apart'，而全量微调没有适配器可关。",
    ),
    stub='''
def plan(case):
    """{"method", "lr", "replay", "off_for_old"}, or None"""
    return ...
''',
    solution='''
def plan(case):
    """{"method", "lr", "replay", "off_for_old"}, or None"""
    fitting = [m for m, n in case["needs"].items() if n <= case["card"] * 2**30]
    if not fitting:
        return None
    method = fitting[0]
    lr = case["lr_full"] * (1 if method == "full" else 10)
    off = case["old"] == "apart" and method != "full"
    replay = 0.0 if off or case["old"] == "not needed" else 0.05
    return {"method": method, "lr": lr, "replay": replay, "off_for_old": off}
''',
    another="""
def plan(case):
    method = min(case["needs"], key=case["needs"].get)
    if case["needs"][method] / 1024**3 > case["card"]:
        return None
    return {"method": method, "lr": 5 * case["lr_full"], "replay": 0.1, "off_for_old": False}
""",
    wrong=(
        Wrong(
            _planning(fitting='["lora"]'),
            Both(
                "A plan does not fit: LoRA's few numbers are not the bill. Which term of it is "
                "the largest, and which method shrinks that one?",
                "有一个计划放不下：LoRA 的那点参数不是全部账单。哪一项最大？哪种方法能缩小它？",
            ),
        ),
        Wrong(
            _planning(none='fitting = ["qlora"]'),
            Both(
                "On one card nothing fits, and there is a plan all the same. What happens at its "
                "first step?",
                "有一张卡什么都放不下，却仍然给出了计划。第一步会发生什么？",
            ),
        ),
        Wrong(
            _planning(fitting='[m for m, n in case["needs"].items() if n <= case["card"] * 10**9]'),
            Both(
                "A card is turned away that would do. In what unit are cards sold, and how many "
                "bytes is it?",
                "一张够用的卡被拒绝了。显卡按什么单位卖？它是多少字节？",
            ),
        ),
        Wrong(
            _planning(factor="1"),
            Both(
                "LoRA with full fine-tuning's rate. B begins at 0 and few numbers have to move "
                "the function: which rates were best in lesson 07?",
                "LoRA 用了全量微调的学习率。B 从 0 开始，很少的数要推动整个函数："
                "第 07 课里最好的学习率是多少？",
            ),
        ),
        Wrong(
            _planning(replay="0.0"),
            Both(
                "Old skills are wanted, there is no old data and the adapter stays on. What was "
                "left of them in lesson 08, frozen W or not?",
                "需要旧技能，却没有旧数据，适配器也一直开着。第 08 课里，不管 W 是否冻结，"
                "旧技能还剩多少？",
            ),
        ),
    ),
    cases=_plan_cases,
    reference=_good,
    observe=lambda f, case: judged(f(*case), *case),
    tolerance=0,
    difficulty=3,
    minutes=12,
    core=True,
    catches=("M29", "M42"),
)


def _file_cases(rng: np.random.Generator) -> list[Case]:
    """Matrices that are not square, one that is; a rank of 1; an α that is not r."""

    def adapter(r: int, alpha: int, sizes: dict[str, tuple[int, int]]) -> dict[str, Any]:
        pairs = {
            f"model.layers.{i}.{name}": (rng.normal(size=(r, n_in)), rng.normal(size=(n_out, r)))
            for i in range(2)
            for name, (n_out, n_in) in sizes.items()
        }
        return {"r": r, "alpha": alpha, "pairs": pairs}

    one = {"self_attn.q_proj": (5, 4), "self_attn.v_proj": (3, 4)}
    return [
        (adapter(2, 16, one),),
        (adapter(4, 12, {"mlp.up_proj": (4, 4)}),),
        (adapter(1, 3, one),),
    ]


def _files(adapter: dict[str, Any]) -> Any:
    """Entry by entry."""
    weights = {}
    for path, (A, B) in adapter["pairs"].items():
        for name, array in (("lora_A", A), ("lora_B", B)):
            made = np.empty(array.shape)
            for at in np.ndindex(array.shape):
                made[at] = array[at]
            weights[".".join(("base_model", "model", path, name, "weight"))] = made
    targets = sorted({path.rpartition(".")[2] for path in adapter["pairs"]})
    settings = {"peft_type": "LORA", "r": adapter["r"], "lora_alpha": adapter["alpha"]}
    return weights, settings | {"target_modules": targets}


def _filing(
    a: str = "A", b: str = "B", name: str = "", alpha: str = '"lora_alpha": adapter["alpha"], '
) -> str:
    return f"""
def peft_files(adapter):
    weights, targets = {{}}, set()
    for path, (A, B) in adapter["pairs"].items():
        weights["base_model.model." + path + ".lora_A.{name}weight"] = {a}
        weights["base_model.model." + path + ".lora_B.{name}weight"] = {b}
        targets.add(path.split(".")[-1])
    s = adapter["alpha"] / adapter["r"]
    settings = {{"peft_type": "LORA", "r": adapter["r"], {alpha}}}
    return weights, settings | {{"target_modules": sorted(targets)}}
"""


FILES = Exercise(
    number="11.4",
    name="peft_files",
    title=Both("an adapter as PEFT reads it", "PEFT 能读的适配器"),
    task=Both(
        "`adapter` has 'r', 'alpha' and 'pairs': a dict, path of a matrix such as "
        "'model.layers.0.self_attn.q_proj' → (A (r, in), B (out, r)). Return what PEFT's two files "
        "hold: the arrays by name, 'base_model.model.PATH.lora_A.weight' and …lora_B.weight; and "
        "{'peft_type': 'LORA', 'r', 'lora_alpha', 'target_modules'}, the last a sorted list of the "
        "matrices' own names, each once.",
        "`adapter` 有 'r'、'alpha' 和 'pairs'：一个 dict，矩阵的路径（如 "
        "'model.layers.0.self_attn.q_proj'）→ (A (r, in), B (out, r))。返回 PEFT 两个文件的内容："
        "按名字存放的数组 'base_model.model.PATH.lora_A.weight' 和 …lora_B.weight；以及 "
        "{'peft_type': 'LORA', 'r', 'lora_alpha', 'target_modules'}，最后一项是矩阵自身名字"
        "的有序列表，每个只出现一次。",
    ),
    pointer=Both(
        "Two arrays a path, as they are: f'base_model.model.{path}.lora_A.weight'. The own name is "
        "the last part of the path. α goes into the settings, not into B.",
        "每个路径两个数组，原样保存：f'base_model.model.{path}.lora_A.weight'。"
        "矩阵自身的名字是路径的最后一段。α 写进设置，不乘进 B。",
    ),
    stub='''
def peft_files(adapter):
    """name → array; the settings"""
    return ...
''',
    solution='''
def peft_files(adapter):
    """name → array; the settings"""
    weights = {}
    for path, (A, B) in adapter["pairs"].items():
        weights[f"base_model.model.{path}.lora_A.weight"] = A  # (r, in)
        weights[f"base_model.model.{path}.lora_B.weight"] = B  # (out, r)
    targets = sorted({path.split(".")[-1] for path in adapter["pairs"]})
    settings = {"peft_type": "LORA", "r": adapter["r"], "lora_alpha": adapter["alpha"]}
    return weights, settings | {"target_modules": targets}
''',
    another=_filing(),
    wrong=(
        Wrong(
            _filing(a="A.T", b="B.T"),
            Both(
                "The arrays lie the other way round. Is A (r, in), as the bypass reads x?",
                "数组放反了。旁路读取 x 时，A 是不是 (r, in)？",
            ),
        ),
        Wrong(
            _filing(alpha=""),
            Both(
                "The settings say nothing of α. The file opens all the same: which α does PEFT "
                "take then?",
                "设置里没有 α。文件照样能打开：这时 PEFT 会用哪个 α？",
            ),
        ),
        Wrong(
            _filing(name="default."),
            Both(
                "The adapter's own name stands in the keys, as it does in a model. Compare one key "
                "with the task's.",
                "键里带上了适配器自己的名字，就像在模型里那样。拿一个键和题目里的比一比。",
            ),
        ),
        Wrong(
            _filing(b="s * B"),
            Both(
                "B carries the scale, and the settings have it as well. How often will h be "
                "scaled?",
                "B 里已经乘了缩放，设置里又有一次。h 会被缩放几次？",
            ),
        ),
    ),
    cases=_file_cases,
    reference=_files,
    difficulty=2,
    minutes=8,
    core=True,
    catches=("M41",),
)
