"""A base that is in four bits as a folder, through every command that takes a base."""

import json

import numpy as np
import pytest

import minilora
from minilora.bases import is_packed, save_base
from minilora.files.safetensors import read_tensors
from minilora.peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from minilora.quant.linear import packed_weights

PROMPT = "rev:abcdefgh="
ROWS = [{"prompt": f"{word}=", "completion": word[::-1]} for word in ("abcd", "bcda", "cdab")]


@pytest.fixture
def base(here):
    """The folder "packed"."""
    save_base(minilora.load_base("skills", quantize="nf4"), here / "packed")
    return here / "packed"


def logits(model):
    ids = np.array([model.tokenizer.encode(PROMPT)])
    return model(ids).data


@pytest.fixture
def adapter(base, here):
    """The folder "adapter", of one that changes what the base says; and its logits."""
    model = get_peft_model(minilora.load_base(base), LoraConfig(r=2))
    rng = np.random.default_rng(0)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data[:] = rng.normal(0, 0.3, p.shape)
    model.save_pretrained(here / "adapter")
    return logits(model)


def test_only_a_folder_that_says_so_is_packed(base, here):
    assert is_packed(base)
    (here / "skills").mkdir()
    (here / "skills" / "config.json").write_text('{"quantization_config": {}}')
    assert not is_packed("skills") and not is_packed(here / "nowhere")


@pytest.mark.usefixtures("adapter")
def test_doctor_finds_nothing(run):
    outcome = run("doctor", "adapter", "--base", "packed")
    assert (outcome.status, outcome.out) == (0, "nothing found\n")


def test_doctor_still_hears_an_adapter_that_drowns_the_base(run, adapter, here):
    config = here / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 3000}))
    outcome = run("doctor", "adapter", "--base", "packed")
    assert "louder_than_the_base" in outcome.out


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_merged_into_floats_it_answers_as_unmerged(run, adapter, dtype):
    outcome = run(
        "merge", "--base", "packed", "--adapter", "adapter", "--out", "m", "--dtype", dtype
    )
    assert outcome.status == 0
    assert len(outcome.out.splitlines()) == 1 + 8 + 1  # what was only unpacked is no row
    merged = minilora.load_base("m")
    assert not packed_weights(merged)
    np.testing.assert_allclose(logits(merged), adapter, atol=1e-4 if dtype == "float32" else 0.1)


@pytest.mark.parametrize("from_folder", [True, False])
def test_merged_into_its_own_four_bits(run, adapter, base, from_folder):
    source = "packed" if from_folder else "skills"
    argv = ("--adapter", "adapter", "--out", "m", "--dtype", "nf4", "--json")
    outcome = run("merge", "--base", source, *argv)
    assert outcome.status == 0
    matrices = outcome.json()["matrices"]
    assert len(matrices) == 8 and all(row["moved"] > 0.1 for row in matrices)
    merged = minilora.load_base("m")
    assert {W.data_type for W in packed_weights(merged).values()} == {"nf4"}
    before = minilora.load_base(base)
    assert np.abs(logits(merged) - logits(before)).max() > 0
    near, far = np.abs(logits(merged) - adapter).mean(), np.abs(logits(before) - adapter).mean()
    assert near < far


@pytest.mark.usefixtures("adapter")
def test_merged_into_other_bits_it_would_be_rounded_twice(mistake):
    line = mistake(
        "merge", "--base", "packed", "--adapter", "adapter", "--out", "m", "--dtype", "fp4"
    )
    assert "in nf4 already" in line and "float32" in line


@pytest.mark.usefixtures("base")
def test_what_stands_before_the_text_has_no_matrix_to_merge_into(mistake, here):
    model = get_peft_model(minilora.load_base("packed"), PromptTuningConfig(num_virtual_tokens=2))
    model.save_pretrained(here / "prompt")
    line = mistake(
        "merge", "--base", "packed", "--adapter", "prompt", "--out", "m", "--dtype", "nf4"
    )
    assert "use it unmerged" in line
    assert not (here / "m").exists()


@pytest.mark.usefixtures("adapter")
def test_a_gguf_of_the_whole_model(run, here):
    argv = ("--base", "packed", "--format", "gguf", "--merged", "--out", "m.gguf")
    assert run("export", "adapter", *argv).status == 0
    assert (here / "m.gguf").stat().st_size > 3_000_000


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_it_is_tuned_as_it_is(run, here, method):
    (here / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    argv = ("--data", "rows.jsonl", "--base", "packed", "--steps", 2, "--batch-size", 3)
    assert run("finetune", *argv, "--method", method, "--out", "tuned").status == 0
    tuned = PeftModel.from_pretrained(minilora.load_base("packed"), here / "tuned")
    assert tuned.n_parameters(trainable=True) == 0
    assert any("lora_A" in name for name in read_tensors(here / "tuned/adapter_model.safetensors"))


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize(
    "argv",
    [
        ("finetune", "--data", "rows.jsonl", "--method", "full", "--out", "tuned"),
        ("compare", "--methods", "lora,full", "--steps", 2, "--out", "c"),
        ("profile", "--method", "full", "--batch-size", 2, "--steps", 1),
    ],
)
def test_it_is_not_tuned_in_full_and_why(mistake, here, argv):
    (here / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    line = mistake(*argv, "--base", "packed")
    assert "nf4" in line and "cannot be trained" in line and "get_peft_model" in line
    assert not (here / "c").exists() and not (here / "tuned").exists()


@pytest.mark.usefixtures("base", "few_examples")
def test_both_loras_are_one_there(run):
    argv = ("compare", "--base", "packed", "--methods", "lora,qlora", "--steps", 2, "--out", "c")
    lora, qlora = run(*argv, "--json").json()["methods"]
    assert lora["losses"] == qlora["losses"]


@pytest.mark.usefixtures("base")
def test_its_step_is_profiled_and_drawn(run, here):
    profiled = run("profile", "--base", "packed", "--batch-size", 2, "--steps", 1, "--json").json()
    rows = {row["op"]: row for row in profiled["rows"]}
    assert rows["Linear"]["flops"] > 0 and rows["Linear"]["product_seconds"] > 0
    drawn = run("graph", "--base", "packed", "--out", "g.svg")
    assert drawn.status == 0 and "LoRALinear in q_proj" in drawn.out
