"""A model and its adapters: each fault is planted and found."""

from dataclasses import replace

import numpy as np
import pytest

import minilora
from minilora.diagnosing import doctor, examine_folder
from minilora.diagnosing.model import as_held, narrowest
from minilora.optim import AdamW
from minilora.peft import (
    BottleneckConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)


def test_nan_in_the_base(tuned, base, folder, names):
    model = tuned()
    model.layers()["model.layers.0.self_attn.q_proj"].base_layer.weight.data[0, 0] = np.nan
    assert names(doctor(model)) == ["weights_not_finite"]
    bad = base()
    bad.model.norm.weight.data[3] = np.inf
    found = examine_folder(folder(), bad)
    assert "weights_not_finite" in names(found)
    assert "model.norm.weight" in found[0].reason


def test_an_adapter_that_was_loaded_and_not_set(base, folder, names):
    model = PeftModel(base())
    model.load_adapter(folder(), "a")
    assert names(doctor(model)) == ["none_in_use"]
    model.set_adapter("a")
    assert doctor(model) == []


def test_the_wrong_adapter_after_loading_a_second(base, folder):
    place = folder()
    model = PeftModel.from_pretrained(base(), place, "first")
    model.load_adapter(place, "second", is_trainable=True)
    (one,) = doctor(model)
    assert one.diagnosis == "wrong_one_trainable"
    assert "'second' is trainable" in one.reason and "'first' is in use" in one.reason
    model.set_adapter("second")
    assert doctor(model) == []


def test_an_optimizer_of_the_first_adapter_after_setting_a_second(tuned, names):
    model = tuned()
    optimizer = AdamW(model.parameters())
    model.add_adapter("second", LoraConfig(r=2))
    model.set_adapter("second")
    said = names(doctor(model, optimizer))
    assert said == ["optimizer_without_adapter", "frozen_in_optimizer"]


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("factor", [4, 1 / 2])
def test_a_scaling_that_is_not_alpha_over_r(tuned, use_rslora, factor):
    model = tuned(use_rslora=use_rslora)
    for layer in model.layers().values():
        own = layer.configs["default"]
        layer.configs["default"] = replace(own, lora_alpha=own.lora_alpha * factor)
    (one,) = doctor(model)
    assert one.diagnosis == "scaled_wrongly"
    right = 4 if use_rslora else 2
    assert f"by {right * factor:g} in 4 of 4" in one.reason
    assert f"make {right}: {factor:g} times" in one.reason


def test_ends_that_were_untied(tuned):
    model = tuned(tied=True)
    embeddings = model.model.model.embed_tokens.weight
    model.model.lm_head.weight = minilora.Parameter(embeddings.data.copy())
    (one,) = doctor(model)
    assert one.diagnosis == "untied_unawares" and "alike so far" in one.reason
    model.model.lm_head.weight.data[0] += 1
    assert "differ" in doctor(model)[0].reason


def test_tied_ends_that_are_trained_beside_an_adapter(tuned, names):
    model = tuned(tied=True)
    model.model.model.embed_tokens.weight.requires_grad = True
    assert names(doctor(model)) == ["tied_and_trained"]


def test_a_merge_that_swallows_the_adapter(tuned, base, tmp_path, names):
    model = tuned()
    for layer in model.layers().values():
        layer.lora_B["default"].weight.data *= 1e-3
    assert doctor(model) == [] == doctor(model, merge_dtype="float32")
    (one,) = doctor(model, merge_dtype="bfloat16")
    assert one.diagnosis == "merge_swallowed"
    share = int(one.reason.split("%")[0].split()[-1])
    layers = model.layers().values()
    W = np.concatenate([m.base_layer.weight.data.ravel() for m in layers])
    delta = np.concatenate([m.delta("default").ravel() for m in layers])
    still = (as_held(W + delta, "bfloat16") == as_held(W, "bfloat16")).mean()
    assert 50 < share == round(100 * still) < 100
    model.save_pretrained(tmp_path / "adapter")
    found = examine_folder(tmp_path / "adapter", base(), merge_dtype="bfloat16")
    assert names(found) == ["merge_swallowed"]


def test_a_base_that_is_held_in_16_bits_is_merged_into_them(tuned):
    model = tuned()
    for layer in model.layers().values():
        layer.lora_B["default"].weight.data *= 1e-3
        layer.base_layer.weight.data = as_held(layer.base_layer.weight.data, "bfloat16")
    (one,) = doctor(model)
    assert one.diagnosis == "merge_swallowed" and "bfloat16" in one.reason


def test_rounding_to_bfloat16_is_that_of_torch():
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    x = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    theirs = torch.tensor(x).to(torch.bfloat16).float().numpy()
    assert np.array_equal(as_held(x, "bfloat16"), theirs)
    assert [narrowest([a]) for a in (x, theirs)] == ["float32", "bfloat16"]
    assert narrowest([x.astype(np.float16).astype(np.float32)]) == "float16"


@pytest.mark.parametrize(
    "config",
    [
        PrefixTuningConfig(num_virtual_tokens=4),
        PromptTuningConfig(num_virtual_tokens=4),
        BottleneckConfig(bottleneck_size=3),
    ],
)
def test_the_tied_ends_behind_other_kinds_of_adapters(base, config, learn, tmp_path, names):
    model = get_peft_model(base(tied=True), config)
    learn(model)
    assert doctor(model) == []
    model.save_pretrained(tmp_path)
    assert examine_folder(tmp_path, base(tied=True)) == []
    embeddings = model.model.model.embed_tokens.weight
    model.model.lm_head.weight = minilora.Parameter(embeddings.data.copy())
    assert names(doctor(model)) == ["untied_unawares"]


def test_a_merge_that_float32_swallows_has_a_way_out_that_is_another(tuned):
    model = tuned()
    for layer in model.layers().values():
        layer.lora_B["default"].weight.data *= 1e-8
    (one,) = doctor(model)
    assert one.reason.startswith("merged in float32, ")
    assert "unmerged" in one.way_out and "float32" not in one.way_out
    (one,) = doctor(model, merge_dtype="bfloat16")
    assert "Merge into float32" in one.way_out


def test_dora_that_bfloat16_swallows(base, names):
    """What lengths are rounded by is passed over; what has been learnt is not."""
    model = get_peft_model(base(), LoraConfig(use_dora=True))
    for layer in model.layers().values():
        B = layer.lora_B["default"].weight.data
        B[:] = np.random.default_rng(0).normal(0, 1e-4, B.shape)
    assert doctor(model) == []
    assert names(doctor(model, merge_dtype="bfloat16")) == ["merge_swallowed"]


def test_an_adapter_that_brought_its_own_matrix(folder, base, names):
    """There more is changed than the bypass says, and nothing is scaled wrongly."""
    own = base().lm_head.weight.data + np.float32(0.5)
    place = folder({"base_model.model.lm_head.base_layer.weight": own}, target_modules=["lm_head"])
    with pytest.warns(UserWarning, match="adapter's own is used"):
        model = PeftModel.from_pretrained(base(), place)
    assert doctor(model) == []
    assert examine_folder(place, base()) == []
