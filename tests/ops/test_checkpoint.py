"""Computed again in backward, a block gives the gradients it would have given, to the bit."""

import numpy as np
import pytest

from minilora import ops
from minilora.autograd import Tensor, backward, no_grad, tape
from minilora.peft import LoraConfig, get_peft_model
from minilora.training import loss_and_gradients


def gradients(model, batch, **how):
    _, found = loss_and_gradients(model, *batch, seed=3, **how)
    names = {p: name for name, p in model.named_parameters()}
    return {names[p]: g for p, g in found.items()}


@pytest.mark.parametrize(
    "lora",
    [
        None,
        LoraConfig(r=4),
        LoraConfig(r=4, lora_dropout=0.3, init_lora_weights=False),
        LoraConfig(r=4, target_modules=r"model\.layers\.1\..*q_proj"),
    ],
    ids=["full", "lora", "dropout", "only the last layer"],
)
@pytest.mark.parametrize("n", [1, 2])
def test_a_models_gradients_are_the_same_to_the_bit(tiny, tiny_batch, threads, lora, n):
    threads(n)
    model = tiny() if lora is None else get_peft_model(tiny(), lora)
    plain = gradients(model, tiny_batch)
    model.gradient_checkpointing_enable()
    again = gradients(model, tiny_batch)
    assert plain.keys() == again.keys()
    assert all(np.array_equal(plain[name], again[name]) for name in plain)
    if lora is not None and lora.lora_dropout:
        other = loss_and_gradients(model, *tiny_batch, seed=4)[0]
        assert other != loss_and_gradients(model, *tiny_batch, seed=3)[0]


def test_only_what_goes_in_is_kept():
    rng = np.random.default_rng(0)
    x, W = Tensor(rng.standard_normal((3, 4))), Tensor(rng.standard_normal((5, 4)), True)
    calls = []

    def f(t):
        calls.append(t)
        return ops.tanh(ops.linear(t, W))

    y = ops.checkpoint(f, x, [W])
    (op,) = tape(y)
    assert {name: a is x.data for name, a in vars(op.saved).items()} == {"x": True}
    assert len(calls) == 1
    v = rng.standard_normal(y.shape)
    found = backward(y, v)
    assert len(calls) == 2
    assert set(found) == {W}  # x is frozen: its gradient is not computed
    assert np.array_equal(found[W], backward(f(x), v)[W])


def test_where_nothing_is_trained_nothing_is_recorded(tiny, tiny_batch):
    x = Tensor(np.ones((2, 3)))
    assert ops.checkpoint(ops.tanh, x, []).node is None
    with no_grad():
        assert ops.checkpoint(ops.tanh, Tensor(np.ones(3), True), []).node is None
    model = get_peft_model(tiny(), LoraConfig(r=4, target_modules=r".*layers\.1.*q_proj"))
    model.gradient_checkpointing_enable()
    recorded = [type(op).__name__ for op in tape(model.loss(*tiny_batch))]
    assert recorded.count("Checkpoint") == 1  # of two blocks


def test_generation_and_logits_are_as_without(tiny, tiny_batch):
    model = tiny()
    plain = model(tiny_batch[0]).data
    model.gradient_checkpointing_enable()
    assert np.array_equal(model(tiny_batch[0]).data, plain)
    model.gradient_checkpointing_enable(False)
    assert not any(type(op) is ops.Checkpoint for op in tape(model.loss(*tiny_batch)))
