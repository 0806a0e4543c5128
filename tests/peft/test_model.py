"""A whole model with its adapters: freezing, naming, switching."""

import numpy as np
import pytest

from minilora.errors import AdapterError, ConfigError
from minilora.optim import AdamW
from minilora.peft import LoraConfig, get_peft_model
from minilora.training import loss_and_gradients, train_step

QV = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
ALL = LoraConfig(r=3, lora_alpha=6, target_modules="all-linear")


@pytest.mark.parametrize("config", [QV, ALL])
@pytest.mark.parametrize("tied", [False, True])
def test_a_fresh_adapter_changes_no_bit_of_the_output(tiny, tiny_batch, config, tied, logits):
    ids, labels = tiny_batch
    base = tiny(tied=tied)
    before = logits(base, ids), base.loss(ids, labels).item()
    model = get_peft_model(base, config)
    assert np.array_equal(logits(model, ids), before[0])
    assert model.loss(ids, labels).item() == before[1]


def test_only_the_adapter_is_trainable(tiny):
    model = get_peft_model(tiny(), QV)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {
        f"base_model.model.model.layers.{i}.self_attn.{m}_proj.lora_{part}.default.weight"
        for i in range(2)
        for m in "qv"
        for part in "AB"
    }


def test_after_20_steps_the_base_is_the_same_and_every_pair_another(tiny, tiny_batch, fingerprint):
    model = get_peft_model(tiny(), ALL)
    before = fingerprint(model.state_dict())
    optimizer = AdamW(model.parameters(), lr=1e-3)
    for _ in range(20):
        train_step(model, optimizer, *tiny_batch)
    after = fingerprint(model.state_dict())
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if "lora_" in name}
    assert len(changed) == 2 * 7 * 2
    frozen = [p for name, p in model.named_parameters() if "lora_" not in name]
    assert all(p.grad is None for p in frozen)
    assert not any(p in optimizer.m or p in optimizer.v for p in frozen)
    assert set(optimizer.m) == set(optimizer.v) == set(model.trainable_parameters())


def test_no_gradient_is_handed_back_for_a_frozen_weight(tiny, tiny_batch):
    model = get_peft_model(tiny(), QV)
    _, gradients = loss_and_gradients(model, *tiny_batch)
    assert set(gradients) == set(model.trainable_parameters())
    assert all(g.shape == p.shape and g.dtype == p.dtype for p, g in gradients.items())
    model.loss(*tiny_batch).backward()
    for p in model.parameters():
        assert (p.grad is not None) == p.requires_grad


def test_the_first_step_moves_every_b_by_the_rate_and_no_a(tiny, tiny_batch, fingerprint, tune):
    model = get_peft_model(tiny(), QV)
    before = fingerprint(model.state_dict())
    _, gradients = loss_and_gradients(model, *tiny_batch)
    tune(model, tiny_batch, steps=1, lr=1e-2)
    for name, p in model.named_parameters():
        if "lora_A" in name:
            assert not gradients[p].any()
            assert fingerprint({name: p.data})[name] == before[name]
        elif "lora_B" in name:
            assert gradients[p].any()
            large = np.abs(gradients[p]) > 1e-5
            np.testing.assert_allclose(
                p.data[large], -1e-2 * np.sign(gradients[p][large]), rtol=2e-3
            )


def test_what_was_learnt_has_no_higher_rank_than_the_adapter(tiny, tiny_batch, tune):
    base = tiny(dtype=np.float64)
    before = {name: array.copy() for name, array in base.state_dict().items()}
    model = get_peft_model(base, ALL)
    tune(model, tiny_batch, steps=20)
    targets = {f"{path}.weight" for path in model.layers()}
    merged = model.merge_and_unload().state_dict()
    assert len(targets) == 14
    for name in before:
        if name not in targets:
            assert np.array_equal(merged[name], before[name])
            continue
        sigma = np.linalg.svd(merged[name] - before[name], compute_uv=False)
        assert sigma[ALL.r - 1] / sigma[0] > 1e-6
        assert sigma[ALL.r] / sigma[0] <= 1e-12


def test_a_base_with_adapters_takes_no_second_peft_model(tiny):
    base = tiny()
    get_peft_model(base, QV)
    with pytest.raises(AdapterError, match=r"add_adapter\(\).*unload\(\)"):
        get_peft_model(base, QV)


def test_it_speaks_for_the_base(tiny, tiny_batch):
    base = tiny()
    base.base_name = "somewhere/tiny"
    model = get_peft_model(base, QV)
    assert model.config is base.config
    assert model.get_base_model() is base
    assert model.dtype == np.float32
    assert model.active_adapter == "default"
    assert model.peft_config["default"].base_model_name_or_path == "somewhere/tiny"
    with pytest.raises(AttributeError, match="no_such_thing"):
        model.no_such_thing  # noqa: B018


def test_a_step_with_no_adapter_in_the_optimizer_is_refused(tiny, tiny_batch, fingerprint):
    model = get_peft_model(tiny(), QV)
    optimizer = AdamW(model.parameters())
    model.add_adapter("other", QV)
    model.set_adapter("other")
    before = fingerprint(model.state_dict())
    with pytest.raises(ConfigError, match="optimizer"):
        train_step(model, optimizer, *tiny_batch)
    assert fingerprint(model.state_dict()) == before


def test_adding_training_and_deleting_one_leaves_every_other_bit_equal(
    tiny, tiny_batch, fingerprint, tune, logits, frozen
):
    model = get_peft_model(tiny(), QV)
    tune(model, tiny_batch)
    first = fingerprint(model.adapter_weights("default"))
    base = fingerprint(frozen(model))
    before = logits(model, tiny_batch[0])

    model.add_adapter("second", ALL, seed=7)
    assert fingerprint(model.adapter_weights("default")) == first
    assert model.active_adapter == "default"
    assert np.array_equal(logits(model, tiny_batch[0]), before)
    fresh = fingerprint(model.adapter_weights("second"))

    tune(model, tiny_batch)  # the first goes on being the one that is trained
    assert fingerprint(model.adapter_weights("second")) == fresh
    assert fingerprint(model.adapter_weights("default")) != first
    first = fingerprint(model.adapter_weights("default"))
    before = logits(model, tiny_batch[0])

    model.set_adapter("second")
    tune(model, tiny_batch)
    assert fingerprint(model.adapter_weights("default")) == first
    second = fingerprint(model.adapter_weights("second"))
    assert all(second[name] != fresh[name] for name in fresh)

    model.set_adapter("default")
    assert np.array_equal(logits(model, tiny_batch[0]), before)
    model.delete_adapter("second")
    assert fingerprint(model.adapter_weights("default")) == first
    assert np.array_equal(logits(model, tiny_batch[0]), before)
    assert fingerprint(frozen(model)) == base
    assert not any("second" in name for name in model.state_dict())


def test_set_adapter_says_which_is_used_and_trained(tiny, tiny_batch, tune, logits):
    ids, _ = tiny_batch
    model = get_peft_model(tiny(), QV)
    tune(model, tiny_batch)
    one = logits(model, ids)
    model.add_adapter("other", QV, seed=3)
    model.set_adapter("other")
    assert model.active_adapter == "other"
    assert all("other" in n for n, p in model.named_parameters() if p.requires_grad)
    assert np.abs(logits(model, ids) - one).max() > 1e-3
    model.set_adapter("default", inference_mode=True)
    assert not model.trainable_parameters()
    assert np.array_equal(logits(model, ids), one)


def test_deleting_the_active_one_uses_the_first_that_is_left_and_then_the_base(
    tiny, tiny_batch, tune, logits
):
    ids, _ = tiny_batch
    base = logits(tiny(), ids)
    model = get_peft_model(tiny(), QV, "a")
    tune(model, tiny_batch)
    a = logits(model, ids)
    model.add_adapter("b", QV, seed=3)
    model.set_adapter("b")
    tune(model, tiny_batch)
    model.delete_adapter("b")
    assert model.active_adapter == "a"
    assert np.array_equal(logits(model, ids), a)
    model.delete_adapter("a")
    assert model.active_adapter is None
    assert np.array_equal(logits(model, ids), base)
    with pytest.raises(AdapterError, match="set_adapter"):
        model.merge_adapter()
    model.add_adapter("a", QV, seed=9)  # the name is free again
    model.set_adapter("a")
    tune(model, tiny_batch, steps=1)


def test_names_that_are_taken_unknown_or_impossible(tiny):
    model = get_peft_model(tiny(), QV, "mine")
    with pytest.raises(AdapterError, match=r"'mine' already.*delete_adapter\(\)"):
        model.add_adapter("mine", QV)
    for use in (model.set_adapter, model.delete_adapter, model.adapter_weights):
        with pytest.raises(AdapterError, match="no adapter 'yours'; there are: 'mine'"):
            use("yours")
        with pytest.raises(AdapterError, match=r"no adapter \['mine'\]; there are: 'mine'"):
            use(["mine"])
    for name in ("", "a.b", "a/b", "/tmp/elsewhere", ["mine"], None, 5):
        with pytest.raises(AdapterError, match=r"adapter name .* must be"):
            model.add_adapter(name, QV)
    assert list(model.peft_config) == ["mine"]


def test_a_name_is_no_longer_than_a_folders_can_be(tiny, tmp_path):
    model = get_peft_model(tiny(), QV, "ä" * 100)
    for name in ("a" * 201, "ä" * 101):
        with pytest.raises(AdapterError, match=r"has 20[12] bytes; at most 200.*a shorter one"):
            model.add_adapter(name, QV)
    model.save_pretrained(tmp_path)
    assert (tmp_path / ("ä" * 100)).is_dir()


@pytest.mark.parametrize("seed", [-1, 1.5, None, "1", True])
def test_a_seed_that_is_none_is_refused_before_the_base_is_frozen(tiny, seed):
    base = tiny()
    with pytest.raises(ConfigError, match=f"seed {seed!r} must be a whole number"):
        get_peft_model(base, QV, seed=seed)
    assert all(p.requires_grad for p in base.parameters())
    assert not any("lora" in name for name, _ in base.named_parameters())
    assert get_peft_model(base, QV, seed=np.int64(3)).layers()


def test_adapters_may_sit_beside_different_matrices(tiny, tiny_batch, tune, logits):
    ids, _ = tiny_batch
    model = get_peft_model(tiny(), QV)
    tune(model, tiny_batch)
    one = logits(model, ids)
    mlp = LoraConfig(r=2, target_modules=["down_proj"])
    model.add_adapter("mlp", mlp, seed=1)
    model.set_adapter("mlp")
    assert np.array_equal(
        logits(model, ids), logits(tiny(), ids)
    )  # fresh, and nothing of the other
    tune(model, tiny_batch)
    alone = get_peft_model(tiny(), mlp, seed=1)
    tune(alone, tiny_batch)
    assert np.array_equal(logits(model, ids), logits(alone, ids))
    model.set_adapter("default")
    assert np.array_equal(logits(model, ids), one)


def test_switched_off_it_is_the_base_bit_for_bit(tuned, tiny, tiny_batch, logits):
    ids, labels = tiny_batch
    base, model = tiny(), tuned(ALL)
    on = logits(model, ids)
    with model.disable_adapter():
        assert np.array_equal(logits(model, ids), logits(base, ids))
        assert model.loss(ids, labels).item() == base.loss(ids, labels).item()
    assert np.array_equal(logits(model, ids), on)
    assert np.abs(on - logits(base, ids)).max() > 1e-3


def test_an_exception_inside_switches_it_on_again(tuned, tiny, tiny_batch, logits):
    ids, _ = tiny_batch
    model = tuned()
    on, off = logits(model, ids), logits(tiny(), ids)
    with pytest.raises(KeyError), model.disable_adapter():
        raise KeyError
    assert np.array_equal(logits(model, ids), on)
    with model.disable_adapter():
        with pytest.raises(KeyError), model.disable_adapter():
            raise KeyError
        assert np.array_equal(logits(model, ids), off)
    assert np.array_equal(logits(model, ids), on)
