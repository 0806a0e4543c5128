"""Is the prediction true? Take the step that was predicted, on random weights, and look."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minilora.accounting.budget import Plan, budget
from minilora.accounting.ledger import ledger
from minilora.bases.quantizing import quantize_base
from minilora.config import ModelConfig
from minilora.errors import ConfigError
from minilora.model import Transformer
from minilora.optim import make
from minilora.peft import get_peft_model
from minilora.training import train_step

# Of the machine's memory, what a step may take.
SHARE = 0.75


@dataclass(frozen=True)
class Check:
    """Bytes by kind, predicted and measured; the peaks are close, not equal: Python's own objects
    are in the measured one."""

    predicted: dict[str, int]
    measured: dict[str, int]
    predicted_peak: int
    measured_peak: int

    @property
    def equal(self) -> bool:
        return self.predicted == self.measured


def check(plan: Plan) -> Check:
    """Really take one step of a plan, with one thread.

    Raises ConfigError if the plan is not exact, or would not fit into this machine's memory.
    """
    if plan.accounting != "exact" or not isinstance(plan.config, ModelConfig):
        raise ConfigError("only minilora's own step can be taken: choose accounting exact")
    bill = budget(plan)
    memory = machine_memory()
    if memory is not None and bill.needed > SHARE * memory:
        raise ConfigError(
            f"a step of it holds {bill.needed / 1e9:.1f} GB, more than three quarters of this "
            f"machine's {memory / 1e9:.1f} GB; give a smaller model, batch_size or length"
        )
    model: Any = Transformer(plan.config, dtype=np.dtype(plan.dtype))
    if plan.method.quantize:
        quantize_base(model, plan.method.quantize)
    if plan.method.config is not None:
        model = get_peft_model(model, plan.method.config)
    model.gradient_checkpointing_enable(plan.checkpointing)
    optimizer = make(plan.optimizer, model.parameters())
    rng = np.random.default_rng(0)
    ids = rng.integers(0, plan.config.vocab_size, (plan.batch_size, plan.tokens))
    with ledger(model, optimizer) as kept:
        train_step(model, optimizer, ids, ids, threads=1)
    return Check(bill.bytes.as_dict(), _with_total(kept.totals), bill.needed, kept.peak)


def _with_total(totals: dict[str, int]) -> dict[str, int]:
    return {**totals, "total": sum(totals.values())}


def machine_memory() -> int | None:
    """Bytes that this process may use at most, None where the system does not say."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(memory, int(text)) if text.isdecimal() else memory
