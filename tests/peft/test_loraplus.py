"""LoRA+: which parameters learn how fast, against PEFT's own grouping."""

import math

import numpy as np
import pytest

from minilora.errors import ConfigError
from minilora.experiments.lab.tuning import Setup, optimizer_for
from minilora.optim import AdamW, Schedule
from minilora.peft import LoraConfig, get_peft_model, loraplus_groups
from minilora.training import train_step

QV = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])


def rates(model, groups):
    """name → learning rate."""
    names = {p: n for n, p in model.named_parameters()}
    return {names[p]: group["lr"] for group in groups for p in group["params"]}


def test_b_has_the_ratio_times_the_rate_of_a_and_nothing_is_left_out(tiny):
    model = get_peft_model(tiny(), QV)
    found = rates(model, loraplus_groups(model, 1e-3, 16))
    assert found == {
        n: 1.6e-2 if ".lora_B." in n else 1e-3
        for n, p in model.named_parameters()
        if p.requires_grad
    }
    assert len(found) == 8


def test_the_first_step_moves_b_that_many_times_as_far(tiny, tiny_batch):
    """AdamW's first step is the rate itself. While B is zero, A's gradient is, too: B is not."""
    model = get_peft_model(tiny(), LoraConfig(r=4, init_lora_weights=False))
    before = {n: p.data.copy() for n, p in model.named_parameters() if p.requires_grad}
    train_step(model, AdamW(loraplus_groups(model, 1e-4, 16), eps=1e-30), *tiny_batch)
    for name, p in model.named_parameters():
        if p.requires_grad:
            far = np.abs(p.data - before[name])
            expected = 1.6e-3 if ".lora_B." in name else 1e-4
            np.testing.assert_allclose(far, expected, rtol=1e-2)


def test_a_ratio_of_1_is_plain_lora_to_the_bit_and_the_schedule_scales_both(
    tiny, tiny_batch, fingerprint
):
    weights = []
    for plus in (False, True):
        model = get_peft_model(tiny(), QV)
        groups = loraplus_groups(model, 1e-2, 1) if plus else list(model.parameters())
        optimizer = AdamW(groups, lr=1e-2)
        for _ in range(3):
            train_step(model, optimizer, *tiny_batch)
        weights.append(fingerprint(model.adapter_weights()))
    assert weights[0] == weights[1]
    optimizer = AdamW(loraplus_groups(model, 1e-2, 4))
    Schedule("linear", 10).apply(optimizer, 5)
    assert [g["lr"] for g in optimizer.groups] == pytest.approx([5e-3, 2e-2])


@pytest.mark.parametrize("ratio", [0, -1, math.inf, math.nan, None, "16", True])
def test_a_ratio_is_a_number_above_0(tiny, ratio):
    with pytest.raises(ConfigError, match=r"ratio .* must be above 0") as said:
        loraplus_groups(get_peft_model(tiny(), QV), 1e-3, ratio)
    assert repr(ratio) in str(said.value)


def test_it_needs_an_adapter_that_is_trained(tiny):
    frozen = get_peft_model(tiny(), QV)
    frozen.set_adapter("default", inference_mode=True)
    for model in (tiny(), frozen):
        with pytest.raises(ConfigError, match=r"LoRA\+ needs an adapter"):
            loraplus_groups(model, 1e-3, 16)


def test_the_laboratory_uses_it(tiny):
    model = get_peft_model(tiny(), QV)
    setup = Setup(lr=1e-3, lr_ratio=8.0)
    found = rates(model, optimizer_for(model, setup).groups)
    assert found == rates(model, loraplus_groups(model, 1e-3, 8.0))
    assert set(rates(model, optimizer_for(model, Setup(lr=1e-3)).groups).values()) == {1e-3}


def test_the_groups_are_those_of_peft(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    transformers = pytest.importorskip("transformers", reason="needs the extra parity")
    peft = pytest.importorskip("peft", reason="needs the extra parity")
    from peft.optimizers import create_loraplus_optimizer

    from minilora.bases import save_base

    save_base(tiny(), tmp_path)
    theirs = peft.get_peft_model(
        transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32),
        peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
    )
    ours = get_peft_model(tiny(), QV)
    for model in (ours, theirs):  # a norm that is trained, too
        dict(model.named_parameters())["base_model.model.model.norm.weight"].requires_grad = True
    optimizer = create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    assert rates(ours, loraplus_groups(ours, 1e-3, 16)) == rates(theirs, optimizer.param_groups)
