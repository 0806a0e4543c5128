"""What is timed: the jobs by name, and the data that both sides get."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from minilora.bases import load_base, save_base
from minilora.peft import LoraConfig, get_peft_model


@dataclass(frozen=True)
class Job:
    """One thing to time.

    kind      what is done: "step", "generate", "prefill", "load-adapter", "merge", "sweep-point"
    base      skills, smollm2 or a folder
    method    lora or full
    batch     rows and tokens of a batch
    target    the ratio, ours to the rival's, that we mean to stay below; None: none is set
    compiled  whether the rival compiles its model first
    repeat    how often the thing is done in one timing
    weighed   whether the rival says how many bytes a step of it holds at once
    """

    name: str
    kind: str
    base: str
    method: str
    batch: tuple[int, int]
    target: float | None
    compiled: bool = False
    repeat: int = 1
    weighed: bool = False


_STEPS = [
    Job("skills-lora-step", "step", "skills", "lora", (32, 64), 0.65, repeat=10),
    Job("skills-full-step", "step", "skills", "full", (32, 64), 0.75, repeat=10),
    Job("smollm2-lora-step", "step", "smollm2", "lora", (4, 64), 0.75),
    Job("smollm2-full-step", "step", "smollm2", "full", (4, 64), 0.85),
]
_COMPILED = [
    replace(_STEPS[0], name="skills-lora-step-compiled", compiled=True, target=0.85),
    replace(_STEPS[1], name="skills-full-step-compiled", compiled=True, target=0.90),
]
_OTHERS = [
    Job("smollm2-generate", "generate", "smollm2", "base", (1, 16), 0.80),
    Job("smollm2-prefill", "prefill", "smollm2", "base", (1, 512), None),
    Job("load-adapter", "load-adapter", "smollm2", "lora", (1, 16), None),
    Job("merge", "merge", "smollm2", "lora", (1, 16), None, repeat=3),
    Job("sweep-point", "sweep-point", "skills", "lora", (32, 24), None),
]
JOBS = {job.name: job for job in _STEPS + _COMPILED + _OTHERS}

LORA = LoraConfig(r=8, lora_alpha=16, target_modules=("q_proj", "v_proj"))
NEW_TOKENS = 128
SWEEP_STEPS = 60


def prepare(job: Job, folder: Path) -> None:
    """Write what both sides start from: base, adapter, token ids, in Hugging Face's formats."""
    base = load_base(job.base)
    base.tokenizer = None
    write_start(base, LORA, job, folder)


def write_start(base: Any, lora: LoraConfig, job: Job, folder: Path) -> None:
    """The same for a base that is at hand. It has the adapter afterwards."""
    save_base(base, folder / "base")
    model: Any = get_peft_model(base, lora, seed=1)
    if job.kind != "step":
        _wake(model)
    model.save_pretrained(folder / "adapter")
    ids = np.random.default_rng(0).integers(0, base.config.vocab_size, job.batch)
    np.save(folder / "ids.npy", ids)


def _wake(model: Any) -> None:
    """A B that is not zero, as after training: merging and loading must have something to do."""
    rng = np.random.default_rng(2)
    for layer in model.layers().values():
        B = layer.lora_B["default"].weight.data
        B[:] = rng.normal(0, 0.01, B.shape)
