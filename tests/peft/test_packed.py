"""Adapters beside a base in few bits: QLoRA, and what else does not mind."""

import warnings
from copy import deepcopy

import numpy as np
import pytest

import minilora
from minilora.autograd import backward, gradcheck, no_grad
from minilora.bases import load_base, quantize_base
from minilora.errors import AdapterError, ConfigError, NonFiniteError
from minilora.exporting.gguf import export_model
from minilora.exporting.merging import save_merged
from minilora.generation import generate
from minilora.model import ModelConfig, Transformer
from minilora.optim import AdamW
from minilora.peft import (
    BitFitConfig,
    BottleneckConfig,
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from minilora.peft.folder import read_fingerprint, read_packing
from minilora.quant.linear import PackedMatrix, packed_weights, unpack_weights
from minilora.quant.stored_gguf import StoredBlocks
from minilora.training import loss_and_gradients, train, train_step

SIZES = ModelConfig(30, 32, 64, 2, 4, n_kv_heads=2, max_positions=64)
LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
IDS = np.random.default_rng(0).integers(0, 30, (4, 12))


def base(dtype=np.float32, data_type="nf4", **changes):
    config = ModelConfig(**{**vars(SIZES), **changes})
    return quantize_base(Transformer(config, seed=1, dtype=dtype), data_type, block_size=24)


def in_blocks(tied=True):
    """A base whose embeddings and head are packed as well, as a GGUF has them."""
    config = ModelConfig(**{**vars(SIZES), "tie_word_embeddings": tied})
    model = Transformer(config, seed=1)
    rng = np.random.default_rng(2)
    for p in model.parameters():
        p.requires_grad = False
        if p.ndim == 2:
            raw = rng.integers(0, 256, (p.shape[0], p.shape[1] // 32, 34), np.uint8)
            raw[..., :2] = np.array([0.002], np.float16).view(np.uint8)
            p.data = PackedMatrix(StoredBlocks.from_bytes("Q8_0", raw.reshape(len(raw), -1)))
    return model


def in_floats(model):
    """The same model with floats in the place of bits."""
    twin = deepcopy(model)
    unpack_weights(twin)
    return twin


def woken(model, seed=3):
    """With a B that is not zero."""
    rng = np.random.default_rng(seed)
    for p in model.trainable_parameters():
        p.data[:] = rng.normal(0, 0.1, p.shape)
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("config", [LORA, LoraConfig(r=2, use_dora=True)])
def test_loss_and_gradients_are_those_beside_its_floats(config, tied):
    packed = in_blocks(tied)
    floats = in_floats(packed)
    ours, theirs = (woken(get_peft_model(m, config)) for m in (packed, floats))
    mine, found = loss_and_gradients(ours, IDS, IDS)
    loss, expected = loss_and_gradients(theirs, IDS, IDS)
    assert mine == pytest.approx(loss, rel=1e-6)
    expected = {name: expected[p] for name, p in theirs.named_parameters() if p in expected}
    assert len(found) == len(expected) > 0
    for name, p in ours.named_parameters():
        if p in found:
            scale = np.abs(expected[name]).max()
            np.testing.assert_allclose(found[p], expected[name], rtol=0, atol=1e-5 * scale)


def test_gradients_of_the_whole_model():
    model = woken(get_peft_model(base(np.float64, tie_word_embeddings=True), LORA))
    names = [name for name, p in model.named_parameters() if p.requires_grad]

    def loss(*leaves):
        for name, leaf in zip(names, leaves, strict=True):
            path, _, part = name.rpartition(".")
            setattr(model.get_submodule(path), part, leaf)
        return model.loss(IDS[:2], IDS[:2])

    arrays = [p.data for p in model.trainable_parameters()]
    report = gradcheck(loss, *arrays, names=names, samples=4, tolerance=1e-5, h=3e-5)
    assert report.ok, f"\n{report}"
    assert len(report.inputs) == 2 * 7 * 2


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_checkpointing_and_threads_change_nothing(threads):
    model = woken(get_peft_model(base(), LORA))
    expected, one = loss_and_gradients(model, IDS, IDS, threads=threads)
    model.gradient_checkpointing_enable()
    loss, again = loss_and_gradients(model, IDS, IDS, threads=threads)
    assert loss == expected
    for p, gradient in one.items():
        np.testing.assert_array_equal(again[p], gradient)
    _, alone = loss_and_gradients(model, IDS, IDS, threads=1)
    for p, gradient in one.items():
        np.testing.assert_allclose(alone[p], gradient, rtol=1e-3, atol=1e-6)


def test_a_training_run_learns_and_leaves_the_bits_alone(tmp_path):
    model = get_peft_model(base(), LORA)
    before = {n: {k: a.copy() for k, a in W.blocks.arrays().items()} for n, W in _packed(model)}
    batches = dict.fromkeys(range(41), (IDS, IDS))
    history = train(
        model, AdamW(model.parameters(), lr=3e-2), batches, steps=40, progress=None,
        checkpoint=tmp_path / "state", log=tmp_path / "log.jsonl",
    )  # fmt: skip
    assert history.losses[-1] < 0.9 * history.losses[0]
    for name, W in _packed(model):
        for part, array in W.blocks.arrays().items():
            np.testing.assert_array_equal(array, before[name][part])
    again = get_peft_model(base(), LORA)
    resumed = train(
        again, AdamW(again.parameters(), lr=3e-2), batches, steps=41, progress=None, resume=True,
        checkpoint=tmp_path / "state",
    )  # fmt: skip
    assert resumed.losses[:40] == history.losses
    assert resumed.losses[40] < history.losses[39] * 1.05


def _packed(model):
    return packed_weights(model).items()


RELATIVES = [
    LoraConfig(r=2, use_rslora=True),
    LoraConfig(r=2, use_dora=True, target_modules=["q_proj", "down_proj"]),
    LoraConfig(r=2, target_modules=["embed_tokens", "v_proj"]),
    LoraConfig(r=2, modules_to_save=["layers.1.mlp.down_proj"]),
    LoraConfig(r=2, trainable_token_indices=[3, 5]),
    LoraConfig(r=2, lora_dropout=0.1),
    PromptTuningConfig(num_virtual_tokens=3),
    PromptTuningConfig(num_virtual_tokens=3, prompt_tuning_init="SAMPLE_VOCAB"),
    PrefixTuningConfig(num_virtual_tokens=3),
    BottleneckConfig(bottleneck_size=4),
    IA3Config(),
    BitFitConfig(norms=True),
]


@pytest.mark.parametrize("make", [base, in_blocks])
@pytest.mark.parametrize("config", RELATIVES, ids=lambda c: type(c).__name__)
def test_every_method_trains_beside_it_as_beside_its_floats(make, config):
    packed = make()
    floats = in_floats(packed)
    losses = []
    for model in (packed, floats):
        model = get_peft_model(model, config, seed=5)
        optimizer = AdamW(model.parameters(), lr=5e-3)
        losses.append([train_step(model, optimizer, IDS, IDS, seed=7) for _ in range(3)])
    assert losses[0][2] < losses[0][0]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_pissa_is_refused_and_why():
    model = base()
    with pytest.raises(ConfigError, match=r"pissa.*residual in floats.*q_proj.*nf4"):
        get_peft_model(model, LoraConfig(r=2, init_lora_weights="pissa"))
    assert packed_weights(model)


@pytest.mark.parametrize("config", [LORA, LoraConfig(r=2, use_dora=True), IA3Config()])
def test_merging_into_bits_is_refused_and_into_floats_is_exact(config):
    model = woken(get_peft_model(base(), config))
    with no_grad():
        expected = model(IDS).data
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(AdapterError, match=r"packed as nf4.*beside the base.*dequantize=True"):
            merge()
    assert len(packed_weights(model)) == 14
    np.testing.assert_array_equal(model(IDS).data, expected)
    with pytest.raises(AdapterError, match=r"float16.*packed; give dequantize=True"):
        model.merge_and_unload(np.float16)
    plain = model.merge_and_unload(dequantize=True)
    assert not packed_weights(plain)
    np.testing.assert_allclose(plain(IDS).data, expected, rtol=0, atol=1e-4)
    assert type(plain) is Transformer


def test_merging_into_sixteen_bits():
    model = woken(get_peft_model(base(), LORA))
    plain = model.merge_and_unload(np.float16, dequantize=True)
    assert {p.dtype for p in plain.parameters()} == {np.dtype(np.float16)}


def test_a_merge_that_fails_leaves_the_bits():
    model = woken(get_peft_model(base(), LORA))
    next(iter(model.layers().values())).lora_B["default"].weight.data[0, 0] = np.nan
    with pytest.raises(NonFiniteError):
        model.merge_and_unload(dequantize=True)
    assert len(packed_weights(model)) == 14


def test_taking_the_adapter_off_gives_the_base_back():
    model = base()
    expected = model(IDS).data
    tuned = woken(get_peft_model(model, LORA))
    with tuned.disable_adapter():
        np.testing.assert_array_equal(tuned(IDS).data, expected)
    np.testing.assert_array_equal(tuned.unload()(IDS).data, expected)


def test_full_fine_tuning_is_refused():
    model = base()
    with pytest.raises(ConfigError, match="cannot be trained"):
        model.requires_grad_(True)
    assert not any(p.requires_grad for p in model.parameters() if isinstance(p.data, PackedMatrix))


def test_its_adapter_opens_beside_the_float_base_and_says_what_it_was_made_beside(tmp_path):
    tuned = woken(get_peft_model(load_base("skills", quantize="nf4"), LoraConfig(r=2)))
    tuned.save_pretrained(tmp_path / "nf4")
    plain = get_peft_model(load_base("skills"), LoraConfig(r=2))
    plain.save_pretrained(tmp_path / "plain")
    assert read_packing(tmp_path / "nf4") == "nf4"
    assert read_packing(tmp_path / "plain") is None
    assert read_fingerprint(tmp_path / "nf4") == read_fingerprint(tmp_path / "plain")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PeftModel.from_pretrained(load_base("skills", quantize="nf4"), tmp_path / "nf4")
        for options in ({}, {"quantize": "nf4"}):
            PeftModel.from_pretrained(load_base("skills", **options), tmp_path / "plain")
    for options, here in (({}, "floats"), ({"quantize": "fp4"}, "rounded to fp4")):
        with pytest.warns(UserWarning, match="trained beside") as warned:
            PeftModel.from_pretrained(load_base("skills", **options), tmp_path / "nf4")
        (said,) = (str(w.message) for w in warned)
        assert f"nf4 was trained beside weights rounded to nf4, and this base's are {here}" in said
        assert said.endswith("load_base(..., quantize='nf4')")
        assert warned[0].filename == __file__
    for how in (lambda model: model, quantize_base):
        another = load_base("skills")
        another.model.layers[0].mlp.up_proj.weight.data *= 1.01
        with pytest.warns(UserWarning, match="other weights"):
            PeftModel.from_pretrained(how(another), tmp_path / "nf4")


def test_a_base_is_quantized_before_it_has_adapters():
    model = Transformer(SIZES, seed=1)
    get_peft_model(model, LORA)
    with pytest.raises(ConfigError, match="quantize the base first"):
        quantize_base(model)
    assert not packed_weights(model)


def test_blocks_that_were_kept_are_recognized_by_their_floats(tmp_path):
    packed = in_blocks()
    get_peft_model(deepcopy(packed), LORA).save_pretrained(tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PeftModel.from_pretrained(in_floats(packed), tmp_path / "adapter")


def test_what_else_one_does_with_a_model(tmp_path):
    model = woken(get_peft_model(in_blocks(), LORA))
    assert model.get_nb_trainable_parameters()[1] == in_floats(model).n_parameters()
    assert len(generate(model, [[1, 2, 3], [4]], 5)[0]) <= 5
    optimizer = AdamW(model.parameters())
    found = minilora.doctor(model, optimizer, (IDS, IDS))
    assert not any("NaN" in str(f) for f in found)
    with minilora.ledger(model, optimizer) as books:
        train_step(model, optimizer, IDS, IDS, threads=1)
    weights = [e for e in books.entries if e.kind == "weights"]
    assert sum(e.nbytes for e in weights) == sum(p.data.nbytes for p in model.parameters())
    assert {e.dtype for e in weights} == {"Q8_0", "float32"}
    assert not any(e.kind == "activations" and e.dtype == "Q8_0" for e in books.entries)


def test_nan_goes_through():
    model = get_peft_model(base(), LORA)
    model.get_submodule("base_model.model.model.norm").weight.data[0] = np.nan
    with np.errstate(invalid="ignore"):
        assert np.isnan(model(IDS).data).all()
    gradients = backward(get_peft_model(base(), LORA).loss(IDS, IDS))
    assert all(np.isfinite(g).all() for g in gradients.values())


def test_a_base_in_few_bits_is_written_for_other_programs_in_floats(tmp_path):
    gguf = pytest.importorskip("gguf", reason="needs the extra llm")
    model = load_base("skills", quantize="nf4")
    save_merged(model, tmp_path / "plain", "float32")
    expected = in_floats(model).state_dict()
    for name, W in load_base(tmp_path / "plain").state_dict().items():
        np.testing.assert_array_equal(W, expected[name])
    pytest.importorskip("tokenizers", reason="needs the extra llm")
    export_model(model, tmp_path / "plain.gguf")
    up = "model.layers.0.mlp.up_proj.weight"
    (found,) = (
        t
        for t in gguf.GGUFReader(tmp_path / "plain.gguf").tensors
        if t.name == "blk.0.ffn_up.weight"
    )
    np.testing.assert_array_equal(found.data, expected[up])


def test_bits_given_to_a_model_of_floats_freeze_what_they_replace():
    model, packed = load_base("skills"), load_base("skills", quantize="nf4")
    model.load_state_dict(packed.state_dict())
    in_bits = [p for p in model.parameters() if isinstance(p.data, PackedMatrix)]
    assert len(in_bits) == 28
    assert not any(p.requires_grad for p in in_bits)
