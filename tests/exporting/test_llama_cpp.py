"""llama.cpp itself: it computes what we compute, with the models and adapters that we write."""

import numpy as np
import pytest

from minilora.bases import load_base, smollm2
from minilora.data import skills
from minilora.data.batches import Batches
from minilora.data.instructions import to_examples
from minilora.data.orders import orders
from minilora.exporting import export_adapter, export_model, merge
from minilora.files.gguf import GGUFFile
from minilora.generation import generate
from minilora.optim import AdamW
from minilora.peft import LoraConfig, PeftModel, get_peft_model
from minilora.training import train_step

pytest.importorskip("gguf", reason="needs the extra llm")
xllamacpp = pytest.importorskip("xllamacpp", reason="needs the extra llamacpp")

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
KINDS = {
    "few key heads": {"n_kv_heads": 2},
    "tied": {"n_kv_heads": 2, "tie_word_embeddings": True},
    "wide heads": {"n_kv_heads": 2, "head_dim": 16},
    "mistral": {"model_type": "mistral"},
    "biases": {"attention_bias": True, "attention_out_bias": True, "mlp_bias": True},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama3": {"rope_scaling": LLAMA3},
    "qwen2": {"n_kv_heads": 2, "attention_bias": True, "model_type": "qwen2"},
}
TEXT = "abcxyz=:hello"
ORDERS = orders("test", 32)


class LlamaCpp:
    """llama.cpp with a model and perhaps an adapter, on one thread, in float32 throughout."""

    def __init__(self, model, lora=None):
        x = xllamacpp
        p = x.CommonParams()
        p.model.path, p.n_ctx, p.n_parallel = str(model), 128, 1
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
        p.cache_type_k = p.cache_type_v = x.ggml_type.GGML_TYPE_F32
        p.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        p.verbosity, p.warmup = -1, False
        if lora:
            p.lora_adapters = [x.CommonAdapterLoraInfo(str(lora), 1.0)]
        self.server = x.Server(p)

    def _complete(self, prompt, n, **options):
        asked = {"prompt": prompt, "n_predict": n, "temperature": 0, "cache_prompt": False}
        return self.server.handle_completions({**asked, **options})["choices"][0]

    def answer(self, prompt, n=60):
        """Always the likeliest token, until the model ends its answer."""
        return self._complete(prompt, n)["text"]

    def log_probabilities(self, text, vocab_size):
        """Of each token to be the next one (V,)."""
        said = self._complete(text, 1, logprobs=vocab_size)["logprobs"]["content"][0]
        found = {each["id"]: each["logprob"] for each in said["top_logprobs"]}
        return np.array([found[i] for i in range(vocab_size)])


def log_softmax(z):
    z = z.astype(np.float64)
    return z - z.max() - np.log(np.exp(z - z.max()).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_computes_the_same(tmp_path, kind, model_of, adapted, scores):
    """A whole model, and an adapter on every matrix beside it; rsLoRA, so that scaling counts."""
    model = model_of(**KINDS[kind])
    ids = [model.tokenizer.encode(TEXT)]
    export_model(model, tmp_path / "base.gguf")
    plain = log_softmax(scores(model, ids)[0, -1])
    theirs = LlamaCpp(tmp_path / "base.gguf").log_probabilities(TEXT, 32)
    np.testing.assert_allclose(theirs, plain, rtol=0, atol=1e-4)

    targets = SEVEN if kind == "tied" else [*SEVEN, "lm_head"]
    peft = adapted(model, target_modules=targets, use_rslora=True)
    peft.save_pretrained(tmp_path / "adapter")
    ours = log_softmax(scores(peft, ids)[0, -1])
    export_adapter(tmp_path / "adapter", peft.unload(), tmp_path / "adapter.gguf")
    tuned = LlamaCpp(tmp_path / "base.gguf", tmp_path / "adapter.gguf")
    np.testing.assert_allclose(tuned.log_probabilities(TEXT, 32), ours, rtol=0, atol=1e-4)
    assert np.abs(ours - plain).max() > 0.5


def test_llama_cpp_answers_as_skills_does(tmp_path):
    base = load_base("skills")
    export_model(base, tmp_path / "skills.gguf", "float16")
    engine = LlamaCpp(tmp_path / "skills.gguf")
    for skill in skills.OLD:
        for row in skills.rows(skill, "test", 3):
            assert engine.answer(row["prompt"]) == row["completion"]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """smollm2 with an adapter that has learnt the orders, its folder, and 32 answers; a minute."""
    if reason := smollm2.fault(smollm2.cached_file()):
        pytest.skip(f"smollm2: {reason}; minilora fetch smollm2")
    base = load_base("smollm2")
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16))
    tokenizer = base.tokenizer
    batches = Batches(to_examples(orders("train", 240), tokenizer, 200), 4)
    optimizer = AdamW(model.parameters(), lr=2e-3)
    for step in range(60):
        train_step(model, optimizer, *batches[step])
    folder = tmp_path_factory.mktemp("orders") / "adapter"
    model.save_pretrained(folder)
    prompts = [tokenizer.encode(row["prompt"]) for row in ORDERS]
    answers = generate(model, prompts, 60, stop=tokenizer.stop_ids)
    return model.unload(), folder, [tokenizer.decode(answer) for answer in answers]


@pytest.mark.slow
def test_llama_cpp_answers_as_smollm2_tuned_here(tuned, tmp_path):
    """Beside llama.cpp's own 4-bit base, at least 30 of 32 to the letter.

    Not always all: llama.cpp rounds what goes into a product with 4-bit weights to 8 bits, and
    where two tokens are almost as likely that decides. With the same adapter in a base of 32 bits,
    below, nothing is rounded, and there is no such answer.
    """
    base, folder, ours = tuned
    assert sum(a == row["completion"] for a, row in zip(ours, ORDERS, strict=True)) >= 20
    export_adapter(folder, base, tmp_path / "adapter.gguf")
    beside = LlamaCpp(smollm2.cached_file(), tmp_path / "adapter.gguf")
    assert same(ours, [beside.answer(row["prompt"]) for row in ORDERS]) >= 30
    without = LlamaCpp(smollm2.cached_file())
    assert same(ours[:8], [without.answer(row["prompt"]) for row in ORDERS[:8]]) == 0


@pytest.mark.slow
def test_llama_cpp_answers_alike_with_the_whole_model(tuned, tmp_path):
    _, folder, ours = tuned
    merged, _ = merge(PeftModel.from_pretrained(load_base("smollm2"), folder))
    export_model(merged, tmp_path / "merged.gguf")
    engine = LlamaCpp(tmp_path / "merged.gguf")
    assert same(ours, [engine.answer(row["prompt"]) for row in ORDERS]) >= 31
    # What it says of the tokenizer is what SmolLM2's own GGUF says.
    said, theirs = (GGUFFile(p).metadata for p in (tmp_path / "merged.gguf", smollm2.cached_file()))
    keys = {key for key in said | theirs if key.startswith("tokenizer.")}
    assert len(keys) > 8
    assert {key: said.get(key) for key in keys} == {key: theirs.get(key) for key in keys}


def same(answers, others):
    return sum(a == b for a, b in zip(answers, others, strict=True))
