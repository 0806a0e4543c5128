"""Merging: transformers has the same logits, and what rounding costs is told."""

import warnings

import numpy as np
import pytest

from minilora.bases import load_base
from minilora.errors import ConfigError, NonFiniteError
from minilora.exporting import merge, save_merged
from minilora.exporting.merging import compare
from minilora.files.narrow import rounded
from minilora.peft import IA3Config, LoraConfig, get_peft_model

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TEXT = "abcxyz=:hello"
IDS = np.random.default_rng(2).integers(2, 30, (3, 12))
KINDS = {
    "plain": {"n_kv_heads": 2},
    "tied": {"tie_word_embeddings": True},
    "qwen2": {"n_kv_heads": 2, "attention_bias": True, "model_type": "qwen2"},
    "mistral": {"model_type": "mistral"},
}


def test_transformers_opens_what_was_merged(tmp_path, model_of, adapted, scores):
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    transformers = pytest.importorskip("transformers", reason="needs the extra parity")
    for kind, settings in KINDS.items():
        peft = adapted(model_of(**settings), target_modules=SEVEN)
        merged, _ = merge(peft)
        save_merged(merged, tmp_path / kind)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / kind)
        with torch.no_grad():
            logits = theirs.eval()(torch.tensor(IDS)).logits.numpy()
        np.testing.assert_allclose(logits, scores(merged, IDS), rtol=0, atol=1e-4)
        plain = scores(model_of(**settings), IDS)
        assert np.abs(logits - plain).max() > 0.1
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / kind)
        assert tokenizer(TEXT)["input_ids"] == merged.tokenizer.encode(TEXT)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_transformers_opens_it_in_16_bits(tmp_path, dtype, model_of, adapted):
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    transformers = pytest.importorskip("transformers", reason="needs the extra parity")
    merged, _ = merge(adapted(model_of(), target_modules=SEVEN), dtype)
    save_merged(merged, tmp_path, dtype)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.dtype == getattr(torch, dtype)
    for name, p in theirs.named_parameters():
        ours = merged.state_dict()[name]
        np.testing.assert_array_equal(p.detach().float().numpy(), rounded(ours, dtype))


def test_a_folder_comes_back_here(tmp_path, model_of, adapted, scores):
    merged, _ = merge(adapted(model_of(tie_word_embeddings=True)))
    save_merged(merged, tmp_path)
    found = load_base(tmp_path)
    assert found.config == merged.config
    assert np.array_equal(scores(found, IDS), scores(merged, IDS))
    assert found.tokenizer.encode(TEXT) == merged.tokenizer.encode(TEXT)


def test_what_rounding_does_is_told_in_numbers():
    W = np.array([[1, 1, 1, 1, 2]], np.float32)
    total = W + np.array([[2**-6, 2**-9, -(2**-9), 0, 2**-6]], np.float32)
    said = compare("w", W, total, "bfloat16")  # which counts in 2⁻⁷ above 1, in 2⁻⁸ below
    lost = np.sqrt(2**-18 + 2**-18)  # the second and third fall back to 1
    assert said.change == pytest.approx(np.sqrt(2 * 2**-12 + 2 * 2**-18))
    assert said.error == pytest.approx(lost / said.change)
    assert said.unmoved == 0.5
    assert compare("w", W, total, "float16")[2:] == (0, 0)
    assert compare("w", W, W, "bfloat16") == ("w", 0, None, 0)


def test_an_adapter_that_the_precision_swallows_is_named(model_of, adapted):
    peft = adapted(model_of(), loud=1e-6, target_modules=["q_proj", "up_proj"])
    with pytest.warns(UserWarning, match="bfloat16 swallows the adapter: in 4 of 4 .* float32"):
        _, report = merge(peft, "bfloat16")
    assert [array.name for array in report] == [
        f"model.layers.{i}.{name}.weight"
        for i in (0, 1)
        for name in ("self_attn.q_proj", "mlp.up_proj")
    ]
    assert all(array.unmoved > 0.9 and array.error > 1 for array in report)


@pytest.mark.filterwarnings("error")
def test_a_loud_adapter_survives(model_of, adapted):
    _, report = merge(adapted(model_of(), loud=0.3), "bfloat16")
    assert all(array.unmoved < 0.1 and array.error < 0.1 for array in report)
    _, report = merge(adapted(model_of(), loud=0.3))
    assert all(array.unmoved < 1e-3 and 0 < array.error < 1e-5 for array in report)


def test_weights_that_are_not_finite_are_refused(tmp_path, model_of, adapted):
    peft = adapted(model_of())
    next(p for name, p in peft.named_parameters() if "lora_B" in name).data[:] = np.nan
    with pytest.raises(NonFiniteError):
        merge(peft)
    merged, _ = merge(adapted(model_of(), loud=1e5), "float16")
    with pytest.raises(NonFiniteError, match=r"_proj\.weight goes up to .* float16 ends at 65,504"):
        save_merged(merged, tmp_path / "new", "float16")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match=r"'float64'.* float32, float16, bfloat16"):
        merge(adapted(model_of()), "float64")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("loud", [1e-9, 1e-6, 0.1])
def test_the_loss_is_that_of_the_type_and_of_the_weights_own(model_of, adapted, loud, dtype):
    """Also into float32, which W and W + ΔW are held in here."""
    peft = adapted(model_of(), loud=loud)
    deltas = {f"{path}.weight": layer.delta("default") for path, layer in peft.layers().items()}
    base = model_of().state_dict()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        merged, report = merge(peft, dtype)
    assert [array.name for array in report] == list(deltas)
    for name, change, error, unmoved in report:
        delta, W, written = deltas[name], base[name], rounded(merged.state_dict()[name], dtype)
        assert change == pytest.approx(np.linalg.norm(delta), rel=1e-6)
        assert error == pytest.approx(np.linalg.norm(written - (W + delta)) / change, rel=1e-6)
        assert unmoved == (written == rounded(W, dtype))[delta != 0].mean()
    swallowed = sum(array.unmoved > 0.5 for array in report)
    assert len(warned) == bool(swallowed)
    if loud == 1e-9:
        assert swallowed == 4 and report[0].unmoved > 0.5 and report[0].error > 0.3
        said = str(warned[0].message)
        assert said.startswith(f"{dtype} swallows the adapter: in 4 of 4")
        assert ("merge into float32" in said) == (dtype != "float32")
        assert said.endswith("use the adapter unmerged")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(use_dora=True, target_modules=["embed_tokens", "q_proj"]),
        LoraConfig(init_lora_weights="pissa", r=3),
        LoraConfig(modules_to_save=["norm", "lm_head"], bias="all"),
        LoraConfig(trainable_token_indices=[3, 5]),
        IA3Config(),
    ],
)
def test_every_kind_that_merges_is_told(model_of, config):
    peft = get_peft_model(model_of(attention_bias=True), config)
    rng = np.random.default_rng(0)
    for p in peft.trainable_parameters():
        p.data += rng.normal(0, 0.1, p.shape).astype(p.dtype)
    base = model_of(attention_bias=True).state_dict()
    merged, report = merge(peft)
    found = merged.state_dict()
    moved = {name for name in found if not np.array_equal(found[name], base[name])}
    assert {array.name for array in report} == moved
    for name, change, error, _ in report:
        delta = found[name].astype(np.float64) - base[name]
        assert change == pytest.approx(np.linalg.norm(delta), rel=1e-4)
        assert error < 1e-4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [{"use_dora": True}, {"init_lora_weights": "pissa"}])
def test_what_lengths_and_residuals_are_rounded_by_is_not_warned_of(model_of, kind):
    _, report = merge(get_peft_model(model_of(), LoraConfig(r=3, **kind)))
    assert all(array.change < 1e-5 for array in report) and len(report) == 4


def test_beside_few_bits_and_after_merging(adapted):
    peft = adapted(load_base("skills", quantize="nf4"))
    sizes = [np.linalg.norm(layer.delta("default")) for layer in peft.layers().values()]
    _, report = merge(peft)
    assert [array.change for array in report] == pytest.approx(sizes, rel=1e-6)
    peft = adapted(load_base("skills"))
    peft.merge_adapter()
    _, report = merge(peft)
    assert [array.change for array in report] == pytest.approx(sizes, rel=1e-6)
