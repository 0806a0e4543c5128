"""An adapter added into the weights, and taken out again."""

import contextlib
import warnings

import numpy as np
import pytest

from minilora.bases import load_base, quantize_base, save_base
from minilora.errors import AdapterError, NonFiniteError
from minilora.optim import AdamW
from minilora.peft import LoraConfig, get_peft_model
from minilora.training import train_step

QV = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
ALL = LoraConfig(r=3, lora_alpha=6, target_modules="all-linear")


@pytest.mark.parametrize("config", [QV, ALL, LoraConfig(r=4, use_rslora=True)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_merged_equals_unmerged(
    tuned, tiny, tiny_batch, config, dtype, tolerance, fingerprint, logits
):
    ids, _ = tiny_batch
    model = tuned(config, dtype=dtype)
    before, apart = fingerprint(model.state_dict()), logits(model, ids)
    model.merge_adapter()
    np.testing.assert_allclose(logits(model, ids), apart, rtol=0, atol=tolerance)
    assert np.abs(logits(tiny(dtype=dtype), ids) - apart).max() > 100 * tolerance
    assert logits(model, ids).dtype == dtype
    model.unmerge_adapter()
    assert fingerprint(model.state_dict()) == before
    assert np.array_equal(logits(model, ids), apart)


def test_a_hundred_merges_wear_nothing_out(tuned, fingerprint):
    model = tuned()
    before = fingerprint(model.state_dict())
    for _ in range(100):
        model.merge_adapter()
        model.unmerge_adapter()
    assert fingerprint(model.state_dict()) == before


def test_a_second_merge_warns_and_changes_nothing(tuned, fingerprint):
    model = tuned()
    model.merge_adapter()
    once = fingerprint(model.state_dict())
    with pytest.warns(UserWarning, match=r"'default' is merged already.*unmerge_adapter\(\)"):
        model.merge_adapter()
    assert fingerprint(model.state_dict()) == once
    model.unmerge_adapter()
    with pytest.warns(UserWarning, match="no adapter is merged"):
        model.unmerge_adapter()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_number_stops_the_merge_before_any_matrix_is_touched(
    tuned, tiny_batch, value, fingerprint
):
    model = tuned(ALL)
    last = list(model.layers().values())[-1]
    last.lora_B["default"].weight.data[0, 0] = value
    before = fingerprint(model.state_dict())
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(NonFiniteError, match=r"'default'.*the base is untouched"):
            merge()
        assert fingerprint(model.state_dict()) == before
        assert len(model.layers()) == 14
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AdapterError, match="no adapter 'x'"):
            model.set_adapter("x")
        model.set_adapter("default")  # nothing counts as merged


def test_merge_and_unload_gives_a_plain_model(tuned, tiny, tiny_batch, logits):
    ids, _ = tiny_batch
    model = tuned(ALL)
    apart = logits(model, ids)
    plain = model.merge_and_unload()
    assert type(plain) is type(tiny())
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in tiny().named_parameters()]
    assert plain.n_parameters() == tiny().n_parameters()
    np.testing.assert_allclose(logits(plain, ids), apart, rtol=0, atol=1e-5)
    again = get_peft_model(plain, QV)
    assert np.array_equal(logits(again, ids), logits(plain, ids))


def test_merge_and_unload_into_another_type(tuned, tiny_batch, logits):
    ids, _ = tiny_batch
    wide, narrow = tuned(), tuned()
    wide, narrow = wide.merge_and_unload(), narrow.merge_and_unload(dtype=np.float16)
    assert {p.dtype for p in narrow.parameters()} == {np.dtype(np.float16)}
    for name, array in wide.state_dict().items():
        assert np.array_equal(narrow.state_dict()[name], array.astype(np.float16))
    np.testing.assert_allclose(logits(narrow, ids), logits(wide, ids), rtol=0, atol=1e-2)


@pytest.mark.parametrize("first", ["apart", "merged"])
@pytest.mark.parametrize("dtype", [np.float16, "float16"])
def test_a_weight_too_large_for_another_type_is_named_and_nothing_changed(
    tuned, fingerprint, first, dtype
):
    model = tuned()
    name = "model.layers.1.self_attn.v_proj"
    model.layers()[name].lora_B["default"].weight.data[3, 1] = 1e6
    before = fingerprint(model.state_dict())
    if first == "merged":
        model.merge_adapter()
    there = fingerprint(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NonFiniteError, match=rf"{name}\.weight .*float16 ends at 6.55e\+04"):
            model.merge_and_unload(dtype)
    assert fingerprint(model.state_dict()) == there
    assert model.active_adapter == "default"
    if first == "merged":
        model.unmerge_adapter()
    assert fingerprint(model.state_dict()) == before
    model.merge_adapter()  # nothing counted as merged, which would only warn
    assert np.isfinite(model.merge_and_unload(np.float32).state_dict()[f"{name}.weight"]).all()


def test_what_stands_beside_bits_is_not_made_floats_if_the_type_is_too_narrow(tiny):
    model = get_peft_model(quantize_base(tiny(), "nf4", block_size=24), QV)
    name = "model.layers.0.self_attn.q_proj"
    layer = model.layers()[name]
    layer.lora_B["default"].weight.data[:] = 1e6
    bits = layer.base_layer.weight.data
    with pytest.raises(NonFiniteError, match=name):
        model.merge_and_unload(np.float16, dequantize=True)
    assert layer.base_layer.weight.data is bits
    assert model.layers()[name] is layer


def test_where_the_model_has_to_be_the_base_nothing_is_merged(
    tuned, tiny, tiny_batch, logits, fingerprint
):
    ids, _ = tiny_batch
    model = tuned()
    before = fingerprint(model.state_dict())
    with model.disable_adapter():
        for merge in (model.merge_adapter, model.merge_and_unload):
            with pytest.raises(AdapterError, match=r"'default' is switched off by disable_adapter"):
                merge()
        assert np.array_equal(logits(model, ids), logits(tiny(), ids))
    assert fingerprint(model.state_dict()) == before
    model.merge_adapter()
    assert fingerprint(model.state_dict()) != before


def test_merge_and_unload_of_what_is_merged_already_adds_it_once(tuned, fingerprint):
    model, twice = tuned(), tuned()
    twice.merge_adapter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merged = twice.merge_and_unload()
    assert fingerprint(merged.state_dict()) == fingerprint(model.merge_and_unload().state_dict())


def test_unload_gives_the_base_back_bit_for_bit(tuned, tiny, fingerprint):
    before = fingerprint(tiny().state_dict())
    assert fingerprint(tuned(ALL).unload().state_dict()) == before
    merged = tuned(ALL)
    merged.merge_adapter()
    assert fingerprint(merged.unload().state_dict()) == before
    assert get_peft_model(merged.get_base_model(), QV).active_adapter == "default"


def test_while_merged_nothing_is_trained_switched_or_deleted(tuned, tiny_batch, fingerprint):
    model = tuned()
    optimizer = AdamW(model.parameters())
    model.add_adapter("other", QV)
    model.merge_adapter()
    before = fingerprint(model.state_dict())
    refused = r"'default' is merged.*unmerge_adapter\(\)"
    with pytest.raises(AdapterError, match=refused):
        train_step(model, optimizer, *tiny_batch)
    with pytest.raises(AdapterError, match=refused):
        model(tiny_batch[0], training=True)
    with pytest.raises(AdapterError, match=refused):
        model.set_adapter("other")
    with pytest.raises(AdapterError, match=refused):
        model.delete_adapter("default")
    with pytest.raises(AdapterError, match=refused), model.disable_adapter():
        pass
    assert fingerprint(model.state_dict()) == before
    assert optimizer.t == 0
    model.unmerge_adapter()
    train_step(model, optimizer, *tiny_batch)


def test_tied_embeddings_are_counted_once(tiny):
    one, two = tiny(tied=True), tiny()
    assert two.n_parameters() - one.n_parameters() == 31 * 24
    assert "lm_head.weight" not in one.state_dict()
    model = get_peft_model(one, QV)
    assert model.n_parameters() == one.n_parameters()
    assert model.get_nb_trainable_parameters()[1] == tiny(tied=True).n_parameters() + 2 * 4 * (
        24 + 24 + 24 + 12
    )


@pytest.mark.parametrize("dtype", [None, np.float16])
def test_tied_embeddings_survive_merge_and_save(tuned, tiny_batch, tmp_path, dtype, logits):
    ids, _ = tiny_batch
    merged = tuned(ALL, tied=True).merge_and_unload(dtype)
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    save_base(merged, tmp_path)
    loaded = load_base(tmp_path)
    assert loaded.config.tie_word_embeddings
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert loaded.n_parameters() == merged.n_parameters()
    if dtype is None:
        assert np.array_equal(logits(loaded, ids), logits(merged, ids))
    else:
        for name, array in merged.state_dict().items():
            assert np.array_equal(loaded.state_dict()[name], array.astype(np.float32))


def test_tied_embeddings_move_together_in_full_fine_tuning(tiny, tiny_batch):
    model = tiny(tied=True)
    before = model.lm_head.weight.data.copy()
    optimizer = AdamW(model.parameters(), lr=1e-2)
    train_step(model, optimizer, *tiny_batch)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not np.array_equal(model.lm_head.weight.data, before)
    assert len(optimizer.m) == len(list(model.parameters()))


def test_an_adapter_on_a_tied_head_is_refused_or_merged_rightly(tiny, tiny_batch, tune, logits):
    """The head's matrix reads the tokens in, too: adding to it would change that as well."""
    ids, _ = tiny_batch
    model = get_peft_model(tiny(tied=True), LoraConfig(r=4, target_modules=["lm_head"]))
    tune(model, tiny_batch)
    apart, embedding = logits(model, ids), model.model.model.embed_tokens.weight
    before = embedding.data.tobytes()
    with contextlib.suppress(AdapterError):
        model.merge_adapter()
    assert embedding.data.tobytes() == before
    np.testing.assert_allclose(logits(model, ids), apart, rtol=0, atol=1e-5)


def test_an_adapter_on_the_head_is_trained_and_merged(tuned, tiny_batch, logits):
    ids, labels = tiny_batch
    model = tuned(LoraConfig(r=4, target_modules=["lm_head", "q_proj"]))
    apart = logits(model, ids)
    loss = model.loss(ids, labels).item()
    model.merge_adapter()
    np.testing.assert_allclose(logits(model, ids), apart, rtol=0, atol=1e-5)
    assert model.merge_and_unload().loss(ids, labels).item() == pytest.approx(loss, abs=1e-5)
