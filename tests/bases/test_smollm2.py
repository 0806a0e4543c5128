"""SmolLM2: names, settings and rotary rows on a small file; then the real model."""

import numpy as np
import pytest

from minilora.autograd import no_grad
from minilora.bases import load_base, smollm2
from minilora.errors import ConfigError, FormatError
from minilora.files.gguf import GGUFFile
from minilora.generation import generate
from minilora.model import ModelConfig, Transformer

gguf = pytest.importorskip("gguf", reason="needs the extra llm")
tokenizers = pytest.importorskip("tokenizers", reason="needs the extra llm")

real = pytest.mark.skipif(
    smollm2.fault(smollm2.cached_file()) is not None,
    reason="smollm2 is not in the cache: minilora fetch smollm2",
)
GGUF_NAMES = {name: gguf_name for gguf_name, name in smollm2._NAMES.items()}


def permuted(weight, n_heads):
    """Rows as llama.cpp's converter puts them: channel i of a head beside channel i + half."""
    half = len(weight) // n_heads // 2
    order = [
        head * 2 * half + side * half + i
        for head in range(n_heads)
        for i in range(half)
        for side in (0, 1)
    ]
    return weight[order]


def gguf_name(name):
    parts = name.removeprefix("model.").removesuffix(".weight").split(".")
    if parts[0] == "layers":
        return f"blk.{parts[1]}.{GGUF_NAMES['.'.join(parts[2:])]}.weight"
    return f"{GGUF_NAMES[name.removesuffix('.weight')]}.weight"


def write(path, model, **changes):
    c = model.config
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet, "ca"]
    writer = gguf.GGUFWriter(path, changes.get("architecture", "llama"))
    for key, value in {
        "embedding_length": c.hidden_size,
        "feed_forward_length": c.intermediate_size,
        "block_count": c.n_layers,
        "attention.head_count": c.n_heads,
        "attention.head_count_kv": c.K,
        "rope.dimension_count": c.D,
        "context_length": c.max_positions,
    }.items():
        if key != changes.get("without"):
            writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.rope.freq_base", c.rope_theta)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", c.rms_norm_eps)
    if changes.get("scaled"):
        writer.add_string("llama.rope.scaling.type", "yarn")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["c a"])
    for key, i in {"bos": 1, "eos": 2, "unknown": 0, "padding": 2}.items():
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", i)
    for name, p in model.named_parameters():
        heads = {"q_proj": c.n_heads, "k_proj": c.K}.get(name.split(".")[-2])
        writer.add_tensor(gguf_name(name), permuted(p.data, heads) if heads else p.data)
    if changes.get("extra"):
        writer.add_tensor(changes["extra"], np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def small(tied):
    sizes = ModelConfig(
        260, 32, 64, 2, 4, n_kv_heads=2, max_positions=64, rope_theta=1e5, tie_word_embeddings=tied
    )
    return Transformer(sizes, seed=3)


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_comes_back_from_a_gguf(tmp_path, tied):
    model = small(tied)
    write(tmp_path / "small.gguf", model)
    loaded = smollm2.from_gguf(tmp_path / "small.gguf")
    assert loaded.config == model.config
    ids = np.random.default_rng(0).integers(0, 260, (2, 20))
    assert np.array_equal(loaded(ids).data, model(ids).data)
    assert loaded.tokenizer.encode("cab 12") == [259, *loaded.tokenizer.encode("b 12")]


def test_rows_of_a_head_come_back_into_order():
    weight = np.arange(12.0)[:, None] * np.ones((1, 3))
    assert np.array_equal(smollm2.unpermuted(permuted(weight, 2), 2), weight)
    assert np.array_equal(permuted(weight, 2)[:4, 0], [0, 3, 1, 4])
    with pytest.raises(FormatError, match="10 rows"):
        smollm2.unpermuted(np.zeros((10, 3)), 4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "gpt2"}, "'gpt2', not a 'llama'"),
        ({"without": "block_count"}, r"says nothing of 'llama\.block_count'"),
        ({"scaled": True}, "scaled"),
        ({"extra": "blk.0.attn_q.bias"}, r"blk\.0\.attn_q\.bias"),
    ],
)
def test_what_is_no_such_model_is_refused(tmp_path, changes, said):
    write(tmp_path / "small.gguf", small(True), **changes)
    with pytest.raises(FormatError, match=said):
        smollm2.from_gguf(tmp_path / "small.gguf")


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MINILORA_CACHE", str(tmp_path / "a"))
    assert smollm2.cache_folder() == tmp_path / "a"
    monkeypatch.delenv("MINILORA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert smollm2.cache_folder() == tmp_path / "minilora"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert smollm2.cache_folder() == tmp_path / ".cache" / "minilora"


def test_a_missing_and_a_broken_file_are_never_used(monkeypatch, tmp_path):
    monkeypatch.setenv("MINILORA_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"not in the cache .*minilora fetch smollm2"):
        load_base("smollm2")
    path = smollm2.cached_file()
    path.parent.mkdir()
    path.write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"4 bytes instead of 98,362,432.*minilora fetch"):
        load_base("smollm2")
    with open(path, "r+b") as file:
        file.truncate(smollm2.FILE_BYTES)
    with pytest.raises(ConfigError, match="SHA-256"):
        load_base("smollm2")


@pytest.fixture(scope="module")
def model():
    return load_base("smollm2")


@real
@pytest.mark.slow
def test_the_capital_of_france(model):
    ids = model.tokenizer.encode("The capital of France is", start=True)
    (new,) = generate(model, [ids], max_new_tokens=4)
    assert model.tokenizer.decode(new).startswith(" Paris")


@real
@pytest.mark.slow
def test_an_answer_in_a_conversation(model):
    chat = model.tokenizer.chat([{"role": "user", "content": "What is the capital of France?"}])
    assert chat.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert chat.endswith("<|im_end|>\n<|im_start|>assistant\n")
    ids = model.tokenizer.encode(chat)
    assert ids.count(1) == 3
    (new,) = generate(model, [ids], max_new_tokens=40, stop=model.tokenizer.stop_ids)
    assert model.tokenizer.decode(new) == "The capital of France is Paris."


@real
@pytest.mark.slow
def test_sizes(model):
    assert sum(p.data.size for p in model.parameters()) == 134_515_008
    c = model.config
    assert (c.n_layers, c.hidden_size, c.n_heads, c.n_kv_heads) == (30, 576, 9, 3)
    assert (c.vocab_size, c.max_positions, c.rope_theta) == (49_152, 8192, 1e5)
    assert c.rms_norm_eps == 1e-5
    assert c.tie_word_embeddings
    assert model.base_name == "smollm2"


@real
@pytest.mark.slow
def test_logits_as_transformers_computes_them_from_the_same_weights(model):
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    transformers = pytest.importorskip("transformers", reason="needs the extra parity")
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**model.config.to_hf()))
    weights = {name: torch.from_numpy(p.data) for name, p in model.named_parameters()}
    unfit = theirs.load_state_dict(weights, strict=False)
    assert unfit.missing_keys == ["lm_head.weight"]
    assert not unfit.unexpected_keys
    theirs.tie_weights()
    text = "The capital of France is Paris. 12345 bottles of beer on the wall, naïve 東京.\n" * 3
    ids = np.array([model.tokenizer.encode(text)])
    with torch.no_grad(), no_grad():
        expected = theirs.eval()(torch.from_numpy(ids)).logits.numpy()
        ours = model(ids).data
    # The logits reach 30, so this is a hundred-thousandth of them.
    assert np.abs(ours - expected).max() < 2e-4
    assert np.array_equal(ours.argmax(-1), expected.argmax(-1))


# Pieces that the published tokenizer makes, worked out by its rules: every digit and what
# separates words before it are pieces of their own, a space belongs to the word behind it.
PIECES = {
    "The capital of France is": ["The", " capital", " of", " France", " is"],
    "It cost 12345 dollars": ["It", " cost", " ", "1", "2", "3", "4", "5", " dollars"],
    "x=3.14; y": ["x", "=", "3", ".", "1", "4", ";", " y"],
    "don't we'll": ["don", "'t", " we", "'ll"],
    "a\n\nb\tc": ["a", "\n", "\n", "b", "\t", "c"],
    "<|im_start|>user\nHi<|im_end|>\n": ["<|im_start|>", "user", "\n", "Hi", "<|im_end|>", "\n"],
}


@real
@pytest.mark.slow
def test_the_tokenizer_splits_by_its_rules(model):
    tokenizer = model.tokenizer
    assert (tokenizer.vocab_size, tokenizer.end_id, tokenizer.pad_id) == (49_152, 2, 2)
    assert (tokenizer.stop_ids, tokenizer.start_ids) == ((2, 0), ())
    for text, pieces in PIECES.items():
        ids = tokenizer.encode(text)
        assert [tokenizer.decode([i], skip_special=False) for i in ids] == pieces
    assert tokenizer.encode("The capital of France is") == [504, 3575, 282, 4649, 314]


@real
@pytest.mark.slow
def test_texts_come_back_and_hidden_markers_are_left_out(model):
    tokenizer = model.tokenizer
    for text in ("naïve café – 東京 🙂", "   leading\n\n\ttabs  ", "½ ² ٣ 2024-11-25", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode("<|im_start|>Hi<|im_end|>")) == "Hi"


@real
@pytest.mark.slow
def test_the_file_is_read_as_the_package_reads_it():
    path = smollm2.cached_file()
    ours, theirs = GGUFFile(path), gguf.GGUFReader(path)
    for name, field in theirs.fields.items():
        if not name.startswith("GGUF."):
            assert ours.metadata[name] == field.contents(), name
    for tensor in theirs.tensors[:12]:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(ours.read(tensor.name), expected)
