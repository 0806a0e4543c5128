"""Folders in the layout of bitsandbytes: read, written, and damaged."""

import json

import numpy as np
import pytest

from minilora.bases import load_base, quantize_base, save_base
from minilora.errors import ConfigError, FormatError
from minilora.files.json_files import read_json, write_json
from minilora.files.safetensors import read_tensors, write_tensors
from minilora.model import ModelConfig, Transformer
from minilora.quant.linear import packed_weights

SIZES = ModelConfig(120, 64, 192, 2, 4, n_kv_heads=2, max_positions=128)
IDS = np.random.default_rng(0).integers(0, 120, (2, 10))
NAME = "model.layers.0.self_attn.k_proj.weight"
STATE = f"{NAME}.quant_state.bitsandbytes__nf4"


@pytest.fixture
def folder(tmp_path):
    """A base in NF4 that was written here."""
    save_base(quantize_base(Transformer(SIZES, seed=1), "nf4"), tmp_path / "packed")
    return tmp_path / "packed"


@pytest.mark.parametrize("data_type", ["nf4", "fp4"])
@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("block_size", [64, 40])
def test_what_is_written_is_read(tmp_path, data_type, double_quant, block_size):
    model = quantize_base(
        Transformer(SIZES, seed=1), data_type, block_size=block_size, double_quant=double_quant
    )
    save_base(model, tmp_path / "packed")
    loaded = load_base(tmp_path / "packed")
    assert packed_weights(loaded).keys() == packed_weights(model).keys()
    assert not any(p.requires_grad for p in loaded.parameters())
    for name, W in packed_weights(loaded).items():
        expected = packed_weights(model)[name].blocks.arrays()
        found = W.blocks.arrays()
        assert found.keys() == expected.keys()
        for part, array in expected.items():
            np.testing.assert_array_equal(found[part], array, err_msg=f"{name} {part}")
    np.testing.assert_array_equal(loaded(IDS).data, model(IDS).data)


def damaged(folder, **changes):
    """The folder with other arrays; None takes one away."""
    arrays = read_tensors(folder / "model.safetensors") | changes
    arrays = {name: array for name, array in arrays.items() if array is not None}
    write_tensors(folder / "model.safetensors", arrays)


def state(folder, **changes):
    said = json.loads(read_tensors(folder / "model.safetensors")[STATE].tobytes())
    return np.frombuffer(json.dumps(said | changes).encode(), np.uint8)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("", lambda a: a[:-1]),
        ("", lambda a: a.astype(np.int32)),
        (".absmax", lambda a: a[:-1]),
        (".absmax", lambda a: a.astype(np.float32)),
        (".absmax", lambda a: a[None]),
        (".nested_absmax", lambda a: np.append(a, a)),
        (".quant_map", lambda a: a[::-1].copy()),
        (".nested_quant_map", lambda a: a[:255]),
        (".nested_quant_map", lambda a: a**3),
        ("", lambda a: None),
        (".absmax", lambda a: None),
        (".nested_absmax", lambda a: None),
        (".quant_map", lambda a: None),
    ],
)
def test_arrays_that_are_cut_off_missing_or_others_are_named(folder, part, change):
    array = read_tensors(folder / "model.safetensors")[NAME + part]
    damaged(folder, **{NAME + part: change(array)})
    with pytest.raises(FormatError, match=NAME.replace(".", r"\.")):
        load_base(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [32, 64, 1]},
        {"shape": [64, 32]},
        {"shape": [32, 63]},
        {"shape": "32"},
        {"blocksize": 0},
        {"blocksize": 32},
        {"nested_blocksize": 128},
        {"nested_offset": "much"},
        {"nested_offset": float("nan")},
        {"nested_offset": 1e300},  # which float32 has not
        {"nested_offset": 10**400},
    ],
)
def test_a_matrix_that_says_of_itself_what_is_not_so(folder, changes):
    damaged(folder, **{STATE: state(folder, **changes)})
    with pytest.raises(FormatError, match=NAME.replace(".", r"\.")):
        load_base(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("double_quant", "part", "place", "block"),
    [
        (True, "nested_absmax", 0, "the blocks from 0 on"),
        (True, "nested_absmax", 1, "the blocks from 256 on"),
        (False, "absmax", 7, "block 7"),
    ],
)
def test_constants_that_are_no_numbers_are_named(tmp_path, double_quant, part, place, block, value):
    name = "model.layers.1.mlp.up_proj.weight"
    model = quantize_base(Transformer(SIZES, seed=1), block_size=32, double_quant=double_quant)
    save_base(model, tmp_path / "packed")
    array = read_tensors(tmp_path / "packed/model.safetensors")[f"{name}.{part}"].copy()
    array[place] = value
    damaged(tmp_path / "packed", **{f"{name}.{part}": array})
    with pytest.raises(FormatError) as raised:
        load_base(tmp_path / "packed")
    said = f"packed: {name} has {value} as {part}[{place}], so the numbers of {block} would be lost"
    assert said in str(raised.value)


def test_a_state_that_is_no_text(folder):
    damaged(folder, **{STATE: np.full(20, 255, np.uint8)})
    with pytest.raises(FormatError, match="does not say what it is"):
        load_base(folder)


def test_a_matrix_without_a_state(folder):
    damaged(folder, **{STATE: None})
    with pytest.raises(FormatError, match=NAME.replace(".", r"\.")):
        load_base(folder)


@pytest.mark.parametrize(
    ("said", "how"),
    [
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes in 8 bits"),
        ({"quant_method": "gptq", "bits": 4}, "'gptq'"),
        ("nf4", "None"),
    ],
)
def test_other_ways_of_quantizing_are_refused_by_name(folder, said, how):
    write_json(
        folder / "config.json", read_json(folder / "config.json") | {"quantization_config": said}
    )
    with pytest.raises(ConfigError, match=rf"quantized by {how}, which is not read"):
        load_base(folder)


def quantized_by_transformers(folder, **settings):
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    transformers = pytest.importorskip("transformers", reason="needs the extra parity")
    pytest.importorskip("bitsandbytes", reason="needs the extra parity")
    how = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32, **settings
    )
    model = transformers.LlamaForCausalLM.from_pretrained(
        folder, quantization_config=how, dtype=torch.float32, device_map="cpu"
    )
    return torch, transformers, model


def floats_of(model):
    """The matrices of one of their models, dequantized by bitsandbytes."""
    from bitsandbytes.functional import dequantize_4bit

    return {
        name: dequantize_4bit(p.data, p.quant_state).numpy()
        for name, p in model.named_parameters()
        if getattr(p, "quant_state", None) is not None
    }


@pytest.mark.parametrize("data_type", ["nf4", "fp4"])
@pytest.mark.parametrize("double_quant", [True, False])
def test_folders_of_transformers_are_read_bit_for_bit(tmp_path, data_type, double_quant):
    save_base(Transformer(SIZES, seed=1), tmp_path / "base")
    torch, transformers, theirs = quantized_by_transformers(
        tmp_path / "base",
        bnb_4bit_quant_type=data_type,
        bnb_4bit_use_double_quant=double_quant,
    )
    theirs.save_pretrained(tmp_path / "packed")
    ours = load_base(tmp_path / "packed")
    expected = floats_of(theirs)
    found = packed_weights(ours)
    assert found.keys() == expected.keys()
    for name, W in expected.items():
        np.testing.assert_array_equal(found[name].whole(), W, err_msg=name)

    # On these weights transformers' logits are ours. bitsandbytes' own product on a CPU rounds to
    # bfloat16 on its way.
    plain = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    weights = {n: torch.from_numpy(np.asarray(p.data)) for n, p in ours.named_parameters()}
    plain.load_state_dict(weights, strict=False)
    with torch.no_grad():
        logits = plain(torch.from_numpy(IDS)).logits.numpy()
    assert np.abs(ours(IDS).data - logits).max() < 1e-5


@pytest.mark.parametrize("data_type", ["nf4", "fp4"])
@pytest.mark.parametrize("double_quant", [True, False])
def test_transformers_opens_what_is_written_here(tmp_path, data_type, double_quant):
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    transformers = pytest.importorskip("transformers", reason="needs the extra parity")
    pytest.importorskip("bitsandbytes", reason="needs the extra parity")
    model = quantize_base(Transformer(SIZES, seed=1), data_type, double_quant=double_quant)
    save_base(model, tmp_path / "packed")
    theirs = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "packed", dtype=torch.float32, device_map="cpu"
    )
    found = floats_of(theirs)
    assert found.keys() == packed_weights(model).keys()
    for name, W in packed_weights(model).items():
        np.testing.assert_allclose(found[name], W.whole(), rtol=0, atol=1e-7, err_msg=name)
    with torch.no_grad():
        logits = theirs(torch.from_numpy(IDS)).logits.numpy()
    ours = model(IDS).data
    assert np.abs(ours - logits).max() < 0.02 * np.abs(ours).max()
