"""How can four bits be enough: what do they lose of the numbers, the base, a tuning, a merge?

Six kinds of points, each of which needs none of the others:

    error   a format, all block sizes, with and without double quantization, on numbers from N(0, 1)
            or on the base's matrices: how far the numbers are off, and how many bits they take
    base    the base in a format, nothing tuned: what it can still do
    step    a step of QLoRA beside one of LoRA: what it holds, and how long it takes
    merge   ΔW of a known size, merged into a matrix in few bits: what of it arrives
    tune    LoRA, and QLoRA on each format, at one learning rate: what is learnt and forgotten, and
            what is left of it after each of the three ways to merge
    small   the same at lower rates, which leave a small ΔW: too little to answer right, but the
            right answers become likelier, and one sees how much of that a merge keeps

Dettmers et al., "QLoRA", arXiv 2305.14314.
"""

from __future__ import annotations

from minilora.experiments.four_bits.answering import answer
from minilora.experiments.four_bits.figure import draw
from minilora.experiments.four_bits.measuring import measure
from minilora.experiments.lab.experiment import Experiment, Plan, Point, Row
from minilora.experiments.lab.tuning import Setup
from minilora.quant import DATA_TYPES

STEPS = 150
LR = 5e-3  # LoRA's in `compare`; no format has one of its own
BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
SIZES = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
NUMBERS = 2**20
STRINGS = 500  # of each skill
FOUR = ("nf4", "fp4", "int4", "int4-minmax")
SMALL = (5e-5, 1.6e-4, 5e-4)
TUNED = (None, "nf4", "fp4", "int4", "int8")
TURNS = 15  # of timing, after one that does not count


def points(rows: list[Row], plan: Plan) -> list[Point]:
    """All points; what the rows say decides none of them."""
    quick = plan.quick
    formats = ("nf4", "int8") if quick else tuple(DATA_TYPES)
    blocks = [64, 4096] if quick else list(BLOCKS)
    numbers = 2**14 if quick else NUMBERS
    error = [
        {"role": "error", "source": source, "data_type": f, "block_sizes": blocks}
        | ({"numbers": numbers} if source == "normal" else {})
        for source in ("normal", "skills")
        for f in formats
    ]
    coarse = () if quick else tuple((f, 4096) for f in FOUR)
    base = [
        {"role": "base", "data_type": f, "block_size": block, "strings": 10 if quick else STRINGS}
        for f, block in ((None, None), *((f, 64) for f in formats), *coarse)
    ]
    merge = [
        {"role": "merge", "data_type": f, "sizes": list(SIZES[:5] if quick else SIZES), "seed": s}
        for f in (("nf4",) if quick else ("nf4", "int4", "int8"))
        for s in list(plan.seeds)[: 1 if quick else None]
    ]
    step = [{"role": "step", "data_type": "nf4", "turns": 1 if quick else TURNS}]
    return error + base + merge + step + _tunings(plan)


def _tunings(plan: Plan) -> list[Point]:
    arms: list[tuple[str, str | None, float]] = [
        ("tune", f, LR) for f in (TUNED[:2] if plan.quick else TUNED)
    ]
    arms += [("small", "nf4", lr) for lr in (SMALL[:1] if plan.quick else SMALL)]
    steps = plan.steps or (4 if plan.quick else STEPS)
    return [
        Setup(
            method="qlora" if f else "lora",
            quantize=f,
            lr=lr,
            steps=steps,
            glances=1 if plan.quick or role == "small" else 5,
            seed=seed,
        ).point(
            role=role,
            arm=f"QLoRA {f}" if f else "LoRA",
            **({"strings": 20} if plan.quick else {}),
        )
        for role, f, lr in arms
        for seed in list(plan.seeds)[: 1 if plan.quick else None]
    ]


EXPERIMENT = Experiment(
    name="four_bits",
    question="How can four bits be enough, and what is lost when an adapter is merged into them?",
    points=points,
    measure=measure,
    draw=draw,
    answer=answer,
)
