"""A real step beside its prediction, on models that were never seen before."""

import numpy as np
import pytest

from minilora.accounting import check as checking
from minilora.accounting.budget import Plan
from minilora.accounting.check import check, machine_memory
from minilora.accounting.counts import Method
from minilora.config import ModelConfig
from minilora.errors import ConfigError
from minilora.method_names import METHODS
from minilora.peft import LoraConfig

TINY = ModelConfig(31, 24, 40, 2, 4, n_kv_heads=2, max_positions=64)
QWEN = ModelConfig(
    50, 24, 40, 1, 4, n_kv_heads=2, attention_bias=True, tie_word_embeddings=True, max_positions=64
)


@pytest.mark.parametrize("config", [TINY, QWEN])
@pytest.mark.parametrize(
    "method",
    [Method(name, LoraConfig(3), tokens=5, bottleneck=4) for name in METHODS],
    ids=METHODS,
)
@pytest.mark.parametrize(
    "options", [{}, {"checkpointing": True}, {"dtype": "float64", "batch_size": 1}]
)
def test_equal_by_kind(config, method, options):
    plan = Plan(config, method, "exact", **{"batch_size": 3, "length": 17, **options})
    found = check(plan)
    assert found.equal
    assert found.predicted == found.measured
    kinds = ("weights", "gradients", "optimizer", "activations", "buffers")
    assert tuple(found.measured) == (*kinds, "total")
    assert found.measured["total"] == sum(found.measured[kind] for kind in kinds) > 0


def test_a_prediction_that_is_wrong_is_found_out(monkeypatch):
    right = checking.budget

    def wrong(plan):
        return right(Plan(plan.config, plan.method, "exact", batch_size=2, length=plan.length))

    monkeypatch.setattr(checking, "budget", wrong)
    assert not check(Plan(TINY, accounting="exact", batch_size=3, length=9)).equal


def test_only_a_step_of_minilora_can_be_taken():
    with pytest.raises(ConfigError, match="accounting exact"):
        check(Plan(TINY))


def test_what_would_not_fit_is_not_begun(monkeypatch):
    monkeypatch.setattr(checking, "machine_memory", lambda: 10**6)
    monkeypatch.setattr(checking, "Transformer", None)
    with pytest.raises(ConfigError, match=r"three quarters of this machine's 0\.0 GB"):
        check(Plan(TINY, accounting="exact", batch_size=64, length=64))


def test_the_machine_has_some_memory():
    memory = machine_memory()
    assert memory is None or memory > np.zeros(2**20).nbytes
