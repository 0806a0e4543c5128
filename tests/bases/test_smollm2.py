"""SmolLM2: names, settings and rotary rows on a small file; then the real model."""

import numpy as np
import pytest

from minilora.autograd import no_grad
from minilora.bases import load_base, quantize_base, smollm2
from minilora.bases.quantizing import Quantization
from minilora.errors import ConfigError, FormatError
from minilora.files.gguf import GGUFFile
from minilora.generation import generate
from minilora.model import ModelConfig, Transformer
from minilora.quant.linear import packed_weights

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
        array = permuted(p.data, heads) if heads else p.data
        kind = changes.get("kinds", {}).get(name.split(".")[-2])
        if kind is None:
            writer.add_tensor(gguf_name(name), array)
        else:
            kind = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(array, kind), raw_dtype=kind)
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


KINDS = {
    "embed_tokens": "Q8_0", "lm_head": "Q8_0", "q_proj": "Q4_1", "k_proj": "Q4_0", "v_proj": "Q4_1",
    "o_proj": "F16", "gate_proj": "Q8_0", "up_proj": "BF16", "down_proj": "Q4_0",
}  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_the_blocks_of_a_gguf_can_be_kept(tmp_path, tied):
    write(tmp_path / "small.gguf", small(tied), kinds=KINDS)
    floats = smollm2.from_gguf(tmp_path / "small.gguf")
    kept = smollm2.from_gguf(tmp_path / "small.gguf", keep_quantized=True)
    packed = packed_weights(kept)
    in_blocks = {part for part, kind in KINDS.items() if kind.startswith("Q")}
    assert {name.split(".")[-2] for name in packed} == in_blocks - ({"lm_head"} if tied else set())
    assert {W.data_type for W in packed.values()} == {"Q4_0", "Q4_1", "Q8_0"}
    for name, W in floats.state_dict().items():
        np.testing.assert_array_equal(np.asarray(kept.state_dict()[name]), W, err_msg=name)
    assert (kept.lm_head.weight is kept.model.embed_tokens.weight) == tied
    assert not any(p.requires_grad for p in kept.parameters())
    ids = np.random.default_rng(0).integers(0, 260, (2, 20))
    np.testing.assert_allclose(kept(ids).data, floats(ids).data, rtol=0, atol=1e-6)
    assert kept.loss(ids, ids).item() == pytest.approx(floats.loss(ids, ids).item(), abs=1e-6)
    assert kept(ids).dtype == np.float32


def test_kept_blocks_stand_for_float64_in_checks(tmp_path):
    write(tmp_path / "small.gguf", small(True), kinds=KINDS)
    kept = smollm2.from_gguf(tmp_path / "small.gguf", "float64", keep_quantized=True)
    assert kept(np.array([[1, 2, 3]])).dtype == np.float64


def test_blocks_that_are_not_known_are_named(tmp_path):
    write(tmp_path / "small.gguf", small(True), kinds={"up_proj": "Q5_0"})
    said = r"blk\.0\.ffn_up\.weight is quantized as Q5_0.*Q4_0, Q4_1, Q8_0 are"
    with pytest.raises(FormatError, match=said):
        smollm2.from_gguf(tmp_path / "small.gguf", keep_quantized=True)
    assert smollm2.from_gguf(tmp_path / "small.gguf").n_parameters() == small(True).n_parameters()


@pytest.mark.parametrize(
    ("part", "at", "what"),
    [("attn_q", 0, "scale"), ("attn_q", 2, "minimum"), ("ffn_gate", 0, "scale")],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_blocks_whose_constant_is_no_number_are_named(tmp_path, part, at, what, value):
    path = tmp_path / "small.gguf"
    write(path, small(True), kinds={"q_proj": "Q4_1", "gate_proj": "Q8_0"})
    entry = GGUFFile(path)._entries[f"blk.1.{part}.weight"]
    row_bytes = entry.n_bytes // entry.shape[0]  # a row is one block
    with open(path, "r+b") as file:
        file.seek(entry.start + 5 * row_bytes + at)
        file.write(np.array(value, "<f2").tobytes())
    said = rf"small\.gguf: blk\.1\.{part}\.weight: in row 5 the {what} of block 0 is {value}"
    with pytest.raises(FormatError, match=said):
        smollm2.from_gguf(path, keep_quantized=True)


def test_a_file_that_became_shorter_is_said_to_be_damaged(tmp_path):
    write(tmp_path / "small.gguf", small(True), kinds=KINDS)
    file = GGUFFile(tmp_path / "small.gguf")
    with open(tmp_path / "small.gguf", "r+b") as short:
        short.truncate((tmp_path / "small.gguf").stat().st_size - 5000)
    with pytest.raises(FormatError, match=r"small\.gguf.*it ends inside of '"):
        [file.raw(name) for name in file.shapes]
    with pytest.raises(FormatError, match="holds no array 'nothing'"):
        file.raw("nothing")


def test_a_gguf_is_quantized_to_another_format_while_it_is_loaded(tmp_path):
    write(tmp_path / "small.gguf", small(True))
    loaded = smollm2.from_gguf(tmp_path / "small.gguf", quantization=Quantization("nf4"))
    expected = quantize_base(small(True), "nf4")
    ids = np.random.default_rng(0).integers(0, 260, (2, 20))
    np.testing.assert_array_equal(loaded(ids).data, expected(ids).data)


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
def test_its_blocks_kept_are_its_weights_to_the_bit_and_its_logits(model):
    kept = load_base("smollm2", keep_quantized=True)
    for name, W in model.state_dict().items():
        assert np.array_equal(np.asarray(kept.state_dict()[name]), W), name
    # 98 MB of file, less its vocabulary.
    assert sum(p.data.nbytes for p in kept.parameters()) == 96_576_768
    ids = np.random.default_rng(0).integers(0, 49_152, (2, 24))
    with no_grad():
        expected, ours = model(ids).data, kept(ids).data
    assert np.abs(ours - expected).max() < 1e-5 * np.abs(expected).max()
    assert kept.loss(ids, ids).item() == pytest.approx(model.loss(ids, ids).item(), abs=1e-5)


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
