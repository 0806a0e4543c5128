"""GGUF: read back by our own reader and by the gguf package; what cannot be held is named."""

import numpy as np
import pytest

from minilora.bases import smollm2
from minilora.data import skills
from minilora.data.bpe import BPETokenizer
from minilora.data.tokenizers import CharTokenizer
from minilora.errors import AdapterError, ConfigError
from minilora.exporting import export_adapter, export_model, merge
from minilora.exporting.vocabulary import vocabulary
from minilora.files.gguf import GGUFFile
from minilora.files.narrow import rounded
from minilora.files.safetensors import read_tensors, write_tensors
from minilora.model import ModelConfig, Transformer
from minilora.peft import (
    BottleneckConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)

gguf = pytest.importorskip("gguf", reason="needs the extra llm")
tokenizers = pytest.importorskip("tokenizers", reason="needs the extra llm")

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@pytest.fixture
def words():
    """A tokenizer of SmolLM2's kind, with a few merges."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet, "ca", "cab"]
    return BPETokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "smollm",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 3),
            "tokenizer.ggml.merges": ["c a", "ca b"],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.padding_token_id": 2,
            "tokenizer.chat_template": "{{ messages[0]['content'] }}",
        }
    )


@pytest.mark.parametrize("tied", [False, True])
def test_our_own_reader_gets_every_array_back(tmp_path, words, tied, adapted):
    config = ModelConfig(265, 32, 48, 2, 4, n_kv_heads=2, tie_word_embeddings=tied)
    model = Transformer(config, seed=3)
    model.tokenizer = words
    merged, _ = merge(adapted(model, target_modules=SEVEN))
    written = export_model(merged, tmp_path / "tiny.gguf")
    assert (written.architecture, written.tensors) == ("llama", 20 + (not tied))
    found = smollm2.from_gguf(tmp_path / "tiny.gguf")
    assert found.config == config
    for name, array in merged.state_dict().items():
        assert np.array_equal(found.state_dict()[name], array), name
    tokens = GGUFFile(tmp_path / "tiny.gguf").metadata["tokenizer.ggml.tokens"]
    assert tokens[259:] == ["ca", "cab", "[PAD261]", "[PAD262]", "[PAD263]", "[PAD264]"]
    assert found.tokenizer.encode("cab 12") == words.encode("cab 12")
    assert found.tokenizer.chat_template == words.chat_template


def test_half_of_the_bits(tmp_path, model_of):
    model = model_of(n_kv_heads=2)
    export_model(model, tmp_path / "half.gguf", "float16")
    file = GGUFFile(tmp_path / "half.gguf")
    assert file.metadata["general.file_type"] == 1
    v, norm = (model.model.layers[0].self_attn.v_proj, model.model.layers[0].input_layernorm)
    np.testing.assert_array_equal(
        file.read("blk.0.attn_v.weight"), rounded(v.weight.data, "float16")
    )
    np.testing.assert_array_equal(file.read("blk.0.attn_norm.weight"), norm.weight.data)
    with pytest.raises(ConfigError, match=r"'bfloat16'.*float32, float16"):
        export_model(model, tmp_path / "half.gguf", "bfloat16")


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": SEVEN},
        {"target_modules": ["q_proj", "k_proj"], "use_rslora": True},
        {"target_modules": ["k_proj", "lm_head"], "lora_alpha": 7},
        {"target_modules": ["q_proj", "up_proj"], "init_lora_weights": "pissa"},
    ],
)
def test_an_adapter_as_the_gguf_package_reads_it(tmp_path, settings, model_of, adapted):
    """alpha / rank · P⁻¹ B A is what the adapter adds to W, under llama.cpp's names."""
    peft = adapted(model_of(n_kv_heads=2), **settings)
    deltas = {path: layer.delta("default") for path, layer in peft.layers().items()}
    peft.save_pretrained(tmp_path / "adapter")
    plain = read_tensors(tmp_path / "adapter/adapter_model.safetensors")
    written = export_adapter(tmp_path / "adapter", peft.unload(), tmp_path / "adapter.gguf")
    reader = gguf.GGUFReader(tmp_path / "adapter.gguf")
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["general.architecture"] == "llama"
    assert (said["general.type"], said["adapter.type"]) == ("adapter", "lora")
    rank = len(next(iter(plain.values())))
    if settings.get("use_rslora"):
        assert said["adapter.lora.alpha"] == pytest.approx(5 * 3**0.5)
    elif settings.get("init_lora_weights") is None:
        assert said["adapter.lora.alpha"] == settings.get("lora_alpha", 5)
    assert (list(written.ranks), written.alpha) == (
        [rank],
        pytest.approx(said["adapter.lora.alpha"]),
    )
    # The package gives an array's shape with its rows last, and its data as NumPy has it.
    arrays = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    assert len(arrays) == 2 * len(deltas) == written.tensors
    heads = {"q_proj": 4, "k_proj": 2}
    names = {name: theirs for theirs, name in smollm2._NAMES.items()}
    for path, delta in deltas.items():
        layer, _, end = path.removeprefix("model.layers.").partition(".")
        name = f"blk.{layer}.{names[end]}.weight" if end else "output.weight"
        A, B = arrays[f"{name}.lora_a"], arrays[f"{name}.lora_b"]
        if path.rpartition(".")[2] in heads:
            B = smollm2.unpermuted(B, heads[path.rpartition(".")[2]])
        np.testing.assert_array_equal(A, plain[f"base_model.model.{path}.lora_A.weight"])
        np.testing.assert_array_equal(B, plain[f"base_model.model.{path}.lora_B.weight"])
        product = said["adapter.lora.alpha"] / len(A) * (B.astype(np.float64) @ A)
        np.testing.assert_allclose(product, delta, rtol=0, atol=2e-6)


def test_ranks_and_alphas_of_their_own(tmp_path, model_of, adapted):
    """llama.cpp has one alpha for all; what a matrix has besides goes into its B."""
    settings = {"rank_pattern": {"k_proj": 2}, "alpha_pattern": {"v_proj": 9}, "use_rslora": True}
    peft = adapted(model_of(), target_modules=["q_proj", "k_proj", "v_proj"], **settings)
    deltas = {path: layer.delta("default") for path, layer in peft.layers().items()}
    peft.save_pretrained(tmp_path / "adapter")
    written = export_adapter(tmp_path / "adapter", peft.unload(), tmp_path / "adapter.gguf")
    assert (written.alpha, written.ranks) == (pytest.approx(5 * 3**0.5), [2, 3])
    file = GGUFFile(tmp_path / "adapter.gguf")
    for path, delta in deltas.items():
        layer, end = path.split(".")[2], path[-6]
        A, B = (file.read(f"blk.{layer}.attn_{end}.weight.lora_{part}") for part in "ab")
        B = B if end == "v" else smollm2.unpermuted(B, 4)
        np.testing.assert_allclose(written.alpha / len(A) * B @ A, delta, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("settings", "name", "said"),
    [
        ({"use_dora": True}, "q_proj.lora_magnitude_vector", "DoRA"),
        ({"target_modules": ["embed_tokens"]}, "lora_embedding_A", "LoRA on embeddings"),
        ({"trainable_token_indices": [3]}, "trainable_tokens_delta", "trained rows"),
        ({"bias": "all"}, "bias", "trained biases"),
        ({"modules_to_save": ["lm_head"]}, "lm_head.weight", "modules_to_save"),
    ],
)
def test_what_llama_cpp_cannot_hold_is_named(tmp_path, settings, name, said, model_of, adapted):
    sizes = {"attention_bias": True, "attention_out_bias": True}
    peft = adapted(model_of(**sizes), **settings)
    peft.save_pretrained(tmp_path / "adapter")
    with pytest.raises(AdapterError, match=rf"{name}.* is .*{said}.* --merged"):
        export_adapter(tmp_path / "adapter", model_of(**sizes), tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()
    merged, _ = merge(PeftModel.from_pretrained(model_of(**sizes), tmp_path / "adapter"))
    assert export_model(merged, tmp_path / "x.gguf").tensors == len(merged.state_dict())


def test_an_adapter_on_a_tied_head(tmp_path, model_of, adapted):
    tied = model_of(tie_word_embeddings=True)
    adapted(tied, target_modules=["lm_head"]).save_pretrained(tmp_path / "adapter")
    with pytest.raises(AdapterError, match="adapts lm_head, in this base the same array"):
        export_adapter(
            tmp_path / "adapter", model_of(tie_word_embeddings=True), tmp_path / "x.gguf"
        )


@pytest.mark.filterwarnings("ignore:.*adapter's own is used")
def test_an_adapter_that_brings_its_own_matrix_along(tmp_path, model_of, adapted):
    peft = adapted(model_of(), target_modules=["lm_head", "q_proj"])
    delta = peft.layers()["lm_head"].delta("default")
    peft.save_pretrained(tmp_path / "adapter")
    path, name = tmp_path / "adapter/adapter_model.safetensors", "lm_head.base_layer.weight"
    head = model_of().lm_head.weight.data
    for own in (head.copy(), head + np.float32(0.5)):
        write_tensors(path, read_tensors(path) | {f"base_model.model.{name}": own})
        if np.array_equal(own, head):  # the base's once more, as PEFT writes it
            assert (
                export_adapter(tmp_path / "adapter", model_of(), tmp_path / "x.gguf").tensors == 6
            )
            (tmp_path / "x.gguf").unlink()
            continue
        with pytest.raises(AdapterError, match=r"its own lm_head along.* give --merged"):
            export_adapter(tmp_path / "adapter", model_of(), tmp_path / "x.gguf")
        assert not (tmp_path / "x.gguf").exists()
        merged, _ = merge(PeftModel.from_pretrained(model_of(), tmp_path / "adapter"))
        export_model(merged, tmp_path / "x.gguf")
        found = GGUFFile(tmp_path / "x.gguf").read("output.weight")
        np.testing.assert_allclose(found, own + delta, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (PromptTuningConfig(num_virtual_tokens=3), "virtual tokens.*nor can it be merged into a"),
        (PrefixTuningConfig(num_virtual_tokens=3), "virtual tokens.*nor can it be merged into a"),
        (BottleneckConfig(bottleneck_size=3), "bottleneck.*nor can it be merged into a"),
        (LoraConfig(modules_to_save=["lm_head"]), "modules_to_save.*into this base.*lm_head"),
        (LoraConfig(target_modules=["embed_tokens"]), "on embeddings.*into this base.*lm_head"),
        (LoraConfig(target_modules=["lm_head"], use_dora=True), "DoRA.*into this base.*lm_head"),
        (LoraConfig(trainable_token_indices={"embed_tokens": [3], "lm_head": [4]}), "this base"),
    ],
)
def test_what_cannot_be_merged_either_is_not_sent_to_that(tmp_path, config, said, model_of):
    tied = {"tie_word_embeddings": True}
    get_peft_model(model_of(**tied), config).save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match=rf"{said}.*use it unmerged, with minilora") as error:
        export_adapter(tmp_path, model_of(**tied), tmp_path / "x.gguf")
    assert "--merged" not in str(error.value)
    with pytest.raises(AdapterError, match="unmerged"):
        merge(PeftModel.from_pretrained(model_of(**tied), tmp_path))


@pytest.mark.parametrize(
    "settings", [{"trainable_token_indices": [3]}, {"modules_to_save": ["norm"]}]
)
def test_what_can_be_merged_into_a_tied_base(tmp_path, settings, model_of, adapted):
    tied = {"tie_word_embeddings": True}
    adapted(model_of(**tied), **settings).save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="give --merged"):
        export_adapter(tmp_path, model_of(**tied), tmp_path / "x.gguf")
    assert merge(PeftModel.from_pretrained(model_of(**tied), tmp_path))[1]


def test_a_qwen_with_the_angles_of_llama_3(tmp_path, model_of):
    with pytest.raises(ConfigError, match="qwen2 with rotary positions scaled"):
        export_model(model_of(model_type="qwen2", rope_scaling=LLAMA3), tmp_path / "x.gguf")


def test_a_tokenizer_that_llama_cpp_would_split_otherwise():
    with pytest.raises(ConfigError, match=r"no tokenizer\.json.*without --merged"):
        vocabulary(None, 32)
    with pytest.raises(ConfigError, match="up to token 29, but the base has 29 rows"):
        vocabulary(skills.tokenizer(), 29)
    with pytest.raises(ConfigError, match="'é ' of this base's alphabet"):
        vocabulary(CharTokenizer.from_alphabet("aé b"), 32)
    other = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0}, merges=[]))
    other.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    with pytest.raises(ConfigError, match=r"SmolLM2's is.*convert_hf_to_gguf\.py"):
        vocabulary(BPETokenizer(other), 32)
