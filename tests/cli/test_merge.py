"""`minilora merge`: a folder that others open, and what rounding took from the adapter."""

import numpy as np
import pytest

import minilora
from minilora.files.safetensors import read_tensors, write_tensors
from minilora.peft import LoraConfig, PeftModel, get_peft_model

PROMPT = "rev:abcdefgh="


def adapter_of(base, folder, loud=0.3, **settings):
    """A folder with an adapter that changes what the base says."""
    model = get_peft_model(minilora.load_base(base), LoraConfig(r=2, **settings))
    rng = np.random.default_rng(0)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data[:] = rng.normal(0, loud, p.shape)
    model.save_pretrained(folder)


@pytest.fixture
def adapter(here):
    adapter_of("skills", here / "adapter")
    return here / "adapter"


def test_the_folder_answers_as_the_adapter_does(run, here, adapter):
    outcome = run("merge", "--adapter", "adapter", "--out", "merged")
    assert outcome.status == 0
    *rows, total = outcome.out.splitlines()[1:]
    assert len(rows) == 8  # q and v of four layers
    assert all(row.split()[0].endswith("_proj.weight") and row.endswith(" 0.0%") for row in rows)
    assert total == "merged 8 matrices into float32: " + (
        f"{(here / 'merged/model.safetensors').stat().st_size:,} bytes of weights"
    )
    (hint,) = outcome.said
    assert "minilora generate --base merged" in hint
    answers = [
        run("generate", "--prompt", PROMPT, *where).out
        for where in (("--base", "merged"), ("--adapter", "adapter"), ())
    ]
    assert answers[0] == answers[1] != answers[2]


def test_transformers_has_the_same_logits(run, adapter):
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    transformers = pytest.importorskip("transformers", reason="needs the extra parity")
    assert run("merge", "--adapter", adapter, "--out", "merged").status == 0
    base = minilora.load_base("skills")
    ids = [base.tokenizer.encode(PROMPT)]
    theirs = transformers.AutoModelForCausalLM.from_pretrained("merged").eval()
    with torch.no_grad():
        logits = theirs(torch.tensor(ids)).logits.numpy()
    plain = base(np.array(ids)).data
    ours = PeftModel.from_pretrained(base, adapter)(np.array(ids)).data
    np.testing.assert_allclose(logits, ours, rtol=0, atol=1e-4)
    assert np.abs(ours - plain).max() > 0.1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_json_says_what_rounding_did(run, here, adapter, dtype):
    outcome = run("merge", "--adapter", adapter, "--out", "merged", "--dtype", dtype, "--json")
    assert (outcome.status, outcome.err) == (0, "")
    said = outcome.json()
    assert said.keys() == {"out", "dtype", "file_bytes", "parameters", "matrices"}
    assert (said["out"], said["dtype"], said["parameters"]) == ("merged", dtype, 795_520)
    assert said["file_bytes"] < 2 * 795_520 + 10_000
    assert len(said["matrices"]) == 8
    for matrix in said["matrices"]:
        assert matrix.keys() == {"name", "change", "error", "unmoved"}
        assert matrix["change"] > 0
        assert 0 < matrix["error"] < 0.2
        assert 0 <= matrix["unmoved"] < 0.5


def test_a_swallowed_adapter_is_said_aloud(run, here):
    adapter_of("skills", here / "adapter", loud=1e-5)
    outcome = run("merge", "--adapter", "adapter", "--out", "merged", "--dtype", "bfloat16")
    assert outcome.status == 0
    warned, _ = outcome.said
    assert warned.startswith("minilora: bfloat16 swallows the adapter: in 8 of 8 matrices")
    assert "merge into float32" in warned


def test_an_adapter_that_float32_swallows(run, here):
    adapter_of("skills", here / "adapter", loud=1e-9)
    outcome = run("merge", "--adapter", "adapter", "--out", "merged")
    assert outcome.status == 0
    warned, _ = outcome.said
    assert warned.startswith("minilora: float32 swallows the adapter: in 8 of 8 matrices")
    assert "merge into float32" not in warned
    assert not any(row.endswith(" 0.0%") for row in outcome.out.splitlines())


def test_an_adapter_that_has_learnt_nothing(run, here):
    adapter_of("skills", here / "adapter", loud=0)
    outcome = run("merge", "--adapter", "adapter", "--out", "merged", "--json")
    assert {(m["change"], m["error"]) for m in outcome.json()["matrices"]} == {(0, None)}
    assert run("merge", "--adapter", "adapter", "--out", "merged").out.count(" - ") == 8


def test_numbers_that_are_none_and_numbers_too_large(mistake, here, adapter):
    weights = adapter / "adapter_model.safetensors"
    arrays = read_tensors(weights)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    for value, dtype in ((np.nan, "float32"), (1e6, "float16")):
        arrays[name][0, 0] = value
        write_tensors(weights, arrays)
        line = mistake("merge", "--adapter", "adapter", "--out", "merged", "--dtype", dtype)
        assert ("q_proj" in line and "finite" in line) or "65,504" in line


def test_a_tied_head_is_refused(mistake, here):
    adapter_of("skills", here / "adapter", target_modules=["lm_head"])
    line = mistake("merge", "--adapter", "adapter", "--out", "merged")
    assert "lm_head" in line and "one array" in line and "unmerged" in line


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--adapter", "adapter", "--out", "adapter"), ["'adapter'", "merged from"]),
        (("--adapter", "adapter", "--base", "./x", "--out", "x"), ["'x'", "merged from"]),
        (("--adapter", "nowhere", "--out", "merged"), ["nowhere", "adapter_config.json"]),
        (("--adapter", "adapter", "--out", "m", "--base", "nix"), ["'nix'", "skills", "smollm2"]),
        (("--adapter", "adapter", "--out", "m", "--dtype", "int8"), ["'int8'", "bfloat16"]),
        (("--adapter", "adapter"), ["--out"]),
        (("--adapter", "adapter", "--out", ""), ["''", "give a folder"]),
        (("--adapter", "adapter", "--out", "", "--dtype", "nf4"), ["''", "give a folder"]),
        (("--out", "merged"), ["--adapter"]),
        (("--adapter", "adapter", "--out", "adapter/adapter_config.json"), ["adapter_config.json"]),
    ],
)
def test_what_cannot_be_merged(mistake, adapter, argv, said):
    line = mistake("merge", *argv)
    assert all(each in line for each in said), line
