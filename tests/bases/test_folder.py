"""Folders in Hugging Face layout: those that transformers writes, and those that are damaged."""

import json

import numpy as np
import pytest

from minilora.bases import load_base
from minilora.errors import ConfigError, FormatError
from minilora.files.json_files import read_json, write_json
from minilora.files.safetensors import read_tensors, write_tensors
from minilora.model import ModelConfig, Transformer

SIZES = ModelConfig(24, 16, 32, 2, 4, n_kv_heads=2, max_positions=64)


@pytest.fixture
def folder(tmp_path):
    model = Transformer(SIZES, seed=1)
    write_json(tmp_path / "config.json", SIZES.to_hf())
    arrays = {name: p.data for name, p in model.named_parameters()}
    write_tensors(tmp_path / "model.safetensors", arrays)
    return tmp_path


def change(path, **changes):
    write_json(path, {**read_json(path), **changes})


def test_no_model_in_a_folder_says_what_was_looked_for(tmp_path):
    said = r"looked for config\.json with model\.safetensors or model\.safetensors\.index\.json"
    with pytest.raises(FormatError, match=said):
        load_base(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(FormatError, match="holds an adapter"):
        load_base(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SIZES.to_hf()))
    with pytest.raises(FormatError, match="no weights"):
        load_base(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocab_size": 10**8}, r"embed_tokens.* \(24, 16\) .* \(100000000, 16\)"),
        ({"hidden_size": 10**6}, r"embed_tokens"),
        ({"intermediate_size": 10**8}, r"gate_proj"),
        ({"num_attention_heads": 8}, r"q_proj"),
        ({"num_key_value_heads": 4}, r"k_proj"),
        ({"num_hidden_layers": 10**6}, r"2 layers, .* says 1000000"),
    ],
)
def test_sizes_that_do_not_fit_the_weights(folder, changes, said):
    change(folder / "config.json", **changes)
    with pytest.raises(FormatError, match=said):
        load_base(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "gpt2"},
        {"hidden_size": "wide"},
        {"num_hidden_layers": -1},
        {"rope_theta": "x", "rope_parameters": None},
        {"rms_norm_eps": None},
        {"rope_scaling": 3, "rope_parameters": None},
        {"sliding_window": "x"},
        {"quantization_config": {"load_in_4bit": True}},
    ],
)
def test_settings_that_cannot_be(folder, changes):
    change(folder / "config.json", **changes)
    with pytest.raises((ConfigError, FormatError)):
        load_base(folder)


def test_arrays_that_are_missing_or_too_many(folder):
    path = folder / "model.safetensors"
    arrays = read_tensors(path)
    write_tensors(path, {**arrays, "model.extra.weight": np.zeros(3, "f4")})
    with pytest.raises(FormatError, match=r"model\.extra\.weight"):
        load_base(folder)
    for name in ("model.norm.weight", "model.embed_tokens.weight"):
        write_tensors(path, {k: v for k, v in arrays.items() if k != name})
        with pytest.raises(FormatError, match=name):
            load_base(folder)


def test_a_truncated_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        load_base(folder)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_logits_as_transformers_computes_them(tmp_path, dtype, tied, shard):
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    transformers = pytest.importorskip("transformers", reason="needs the extra parity")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=120,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    saved = transformers.LlamaForCausalLM(config).to(getattr(torch, dtype))
    saved.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "20KB")
    # Computed in float32, as here; only the weights were rounded.
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = np.random.default_rng(0).integers(0, 120, (2, 40))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)).logits.numpy()
    ours = load_base(tmp_path)(ids).data
    assert np.abs(ours - expected).max() < 1e-4
    assert np.abs(expected).max() > 1
