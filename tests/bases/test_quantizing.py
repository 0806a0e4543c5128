"""Bases whose matrices are held in few bits, quantized while they are loaded."""

import tracemalloc

import numpy as np
import pytest

from minilora.bases import load_base, quantize_base, save_base
from minilora.errors import ConfigError, NonFiniteError
from minilora.model import ModelConfig, Transformer
from minilora.quant import DATA_TYPES, dequantize, quantize
from minilora.quant.linear import PackedMatrix, packed_weights, unpack_weights

SIZES = ModelConfig(24, 16, 32, 2, 4, n_kv_heads=2, max_positions=64)
IDS = np.random.default_rng(0).integers(0, 24, (2, 12))


def saved(folder, config=SIZES, seed=1):
    model = Transformer(config, seed=seed)
    save_base(model, folder)
    return model


@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_matrices_of_layers_are_packed_and_nothing_else(tmp_path, data_type):
    model = saved(tmp_path / "base")
    options = {"block_size": 32, "double_quant": False}
    loaded = load_base(tmp_path / "base", quantize=data_type, **options)
    floats, weights = model.state_dict(), loaded.state_dict()
    packed = packed_weights(loaded)
    assert set(packed) == {n for n in floats if "_proj." in n}
    assert len(packed) == 2 * 7
    for name, W in floats.items():
        expected = dequantize(quantize(W, data_type, **options)) if name in packed else W
        np.testing.assert_array_equal(np.asarray(weights[name]), expected)
    unpack_weights(loaded)
    assert not packed_weights(loaded)
    assert all(isinstance(W, np.ndarray) for W in loaded.state_dict().values())


def test_it_computes_what_its_dequantized_weights_compute(tmp_path):
    saved(tmp_path / "base")
    loaded = load_base(tmp_path / "base", quantize="nf4")
    logits = loaded(IDS).data
    unpack_weights(loaded)
    np.testing.assert_allclose(logits, loaded(IDS).data, rtol=0, atol=1e-6)
    assert np.abs(logits - load_base(tmp_path / "base")(IDS).data).max() > 1e-3


def test_it_is_counted_in_full_and_says_what_it_is(tmp_path):
    model = saved(tmp_path / "base")
    loaded = load_base(tmp_path / "base", quantize="fp4")
    assert loaded.n_parameters() == model.n_parameters()
    assert loaded.n_parameters(trainable=True) == 0
    assert "14 matrices in fp4" in repr(loaded)
    assert "matrices in" not in repr(load_base(tmp_path / "base"))
    assert loaded.dtype == np.float32


def test_for_checks_of_gradients_it_stands_for_float64(tmp_path):
    saved(tmp_path / "base")
    single = load_base(tmp_path / "base", quantize="nf4")
    double = load_base(tmp_path / "base", quantize="nf4", dtype="float64")
    assert double(IDS).dtype == np.float64
    for name, W in packed_weights(double).items():
        assert W.dtype == np.float64
        np.testing.assert_array_equal(W.whole(), packed_weights(single)[name].whole())


def test_quantizing_a_model_at_hand_is_the_same(tmp_path):
    model = saved(tmp_path / "base")
    loaded = load_base(tmp_path / "base", quantize="nf4", block_size=48)
    assert quantize_base(model, "nf4", block_size=48) is model
    assert not any(p.requires_grad for p in model.parameters())
    for (name, W), (_, V) in zip(
        packed_weights(loaded).items(), packed_weights(model).items(), strict=True
    ):
        np.testing.assert_array_equal(W.blocks.codes, V.blocks.codes, err_msg=name)
        np.testing.assert_array_equal(W.origin, V.origin)


@pytest.mark.parametrize("quantize_to", [None, "nf4"])
def test_one_matrix_at_a_time_is_in_floats_while_loading(tmp_path, quantize_to):
    config = ModelConfig(64, 128, 344, 12, 4, max_positions=64)
    size = 4 * saved(tmp_path / "base", config).n_parameters()
    tracemalloc.start()
    try:
        model = load_base(tmp_path / "base", quantize=quantize_to)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    held = sum(p.data.nbytes for p in model.parameters())
    assert held < (0.2 if quantize_to else 1.01) * size
    assert peak < held + 0.15 * size


def test_full_fine_tuning_is_refused_and_an_adapter_named(tmp_path):
    saved(tmp_path / "base")
    loaded = load_base(tmp_path / "base", quantize="nf4")
    with pytest.raises(ConfigError, match=r"packed as nf4 cannot be trained.*get_peft_model"):
        loaded.requires_grad_(True)
    # Not even what comes before the first packed matrix: an optimizer would train it.
    assert loaded.trainable_parameters() == []
    loaded.model.norm.requires_grad_(True)  # what is in floats can still be trained
    with pytest.raises(ConfigError, match="packed as nf4"):
        loaded.requires_grad_(True)
    assert loaded.trainable_parameters() == [loaded.model.norm.weight]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quantize": "nf3"}, r"'nf3'.*nf4, fp4, int4, int4-minmax, int8, int8-dynamic"),
        ({"quantize": "nf4", "block_size": 0}, "block_size 0 must be a whole number from 1"),
        ({"quantize": "nf4", "block_size": -64}, "block_size -64"),
        ({"quantize": "nf4", "block_size": 2.5}, r"block_size 2\.5"),
        ({"quantize": "nf4", "block_size": True}, "block_size True"),
        ({"quantize": "nf4", "block_size": 10**20}, "from 1 to 2,147,483,648"),
        ({"quantize": ["nf4"]}, r"\['nf4'\] is none of nf4, fp4"),
        ({"keep_quantized": True}, "keep_quantized holds the blocks .* not for 'skills'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_loaded(monkeypatch, options, said):
    monkeypatch.setattr("minilora.bases.folder.load", None)
    with pytest.raises(ConfigError, match=said):
        load_base("skills", **options)


def test_a_block_size_of_numpy_is_taken(tmp_path):
    model = saved(tmp_path / "base")
    loaded = load_base(tmp_path / "base", quantize="nf4", block_size=np.int64(32))
    quantize_base(model, block_size=np.uint8(32))
    for W in (*packed_weights(loaded).values(), *packed_weights(model).values()):
        assert W.blocks.block_size == 32 and type(W.blocks.block_size) is int
    save_base(loaded, tmp_path / "packed")  # where it is written as JSON


def test_two_ways_at_once_are_refused():
    with pytest.raises(ConfigError, match="two ways; give one"):
        load_base("smollm2", quantize="nf4", keep_quantized=True)


def test_what_is_quantized_is_not_quantized_again(tmp_path):
    model = quantize_base(saved(tmp_path / "base"))
    before = packed_weights(model)
    with pytest.raises(ConfigError, match=r"int8: this base is quantized already \(.* is nf4\)"):
        quantize_base(model, "int8")
    assert packed_weights(model) == before
    save_base(model, tmp_path / "packed")
    with pytest.raises(ConfigError, match=r"quantized already.*leave quantize 'int8' out"):
        load_base(tmp_path / "packed", quantize="int8")


def test_a_weight_that_is_no_number_is_named(tmp_path):
    model = Transformer(SIZES, seed=1)
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] = np.nan
    save_base(model, tmp_path / "base")
    with pytest.raises(NonFiniteError, match=r"model\.layers\.1\.mlp\.up_proj\.weight.*3, 5"):
        load_base(tmp_path / "base", quantize="nf4")


def test_a_model_with_a_weight_that_is_no_number_stays_as_it_was():
    model = Transformer(SIZES, seed=1)
    W = model.model.layers[1].self_attn.v_proj.weight.data
    was, W[2, 3] = W[2, 3], np.inf
    before = dict(model.state_dict())
    with pytest.raises(NonFiniteError, match=r"layers\.1\.self_attn\.v_proj\.weight\[2, 3\]"):
        quantize_base(model)
    assert all(array is before[name] for name, array in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    W[2, 3] = was
    assert len(packed_weights(quantize_base(model))) == 14


@pytest.mark.parametrize("data_type", ["int8", "int4-minmax"])
def test_a_format_that_no_folder_has_is_not_written(tmp_path, data_type):
    model = quantize_base(saved(tmp_path / "base"), data_type)
    with pytest.raises(ConfigError, match=rf"{data_type}.*nf4 or fp4.*unpack_weights"):
        save_base(model, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
    unpack_weights(model)
    save_base(model, tmp_path / "packed")
    np.testing.assert_array_equal(load_base(tmp_path / "packed")(IDS).data, model(IDS).data)


def test_a_packed_matrix_is_what_the_model_holds(tmp_path):
    saved(tmp_path / "base")
    model = load_base(tmp_path / "base", quantize="nf4")
    q_proj = model.model.layers[0].self_attn.q_proj
    assert isinstance(q_proj.weight.data, PackedMatrix)
    assert isinstance(model.model.embed_tokens.weight.data, np.ndarray)
    assert isinstance(model.lm_head.weight.data, np.ndarray)
