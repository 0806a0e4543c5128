"""`minilora export`: files for other tools, or one line about why not."""

import json
import shutil
import sys

import numpy as np
import pytest

import minilora
from minilora.files.gguf import GGUFFile
from minilora.peft import LoraConfig, get_peft_model

EXPORT = ("export", "adapter", "--format", "gguf")


def save_adapter(folder, **settings):
    model = get_peft_model(minilora.load_base("skills"), LoraConfig(r=2, lora_alpha=6, **settings))
    rng = np.random.default_rng(0)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data[:] = rng.normal(0, 0.05, p.shape)
    model.save_pretrained(folder)


@pytest.fixture
def adapter(here):
    pytest.importorskip("gguf", reason="needs the extra llm")
    save_adapter(here / "adapter")
    return here / "adapter"


def test_an_adapter(run, here, adapter):
    outcome = run(*EXPORT, "--out", "a b.gguf")
    size = (here / "a b.gguf").stat().st_size
    assert outcome.status == 0
    assert outcome.out == f"a LoRA for a llama, rank 2, alpha 6: 16 arrays, {size:,} bytes\n"
    (hint,) = outcome.said
    assert "-m BASE.gguf --lora 'a b.gguf'" in hint
    metadata = GGUFFile(here / "a b.gguf").metadata
    assert (metadata["general.type"], metadata["adapter.lora.alpha"]) == ("adapter", 6)


def test_a_whole_model(run, here, adapter):
    outcome = run(*EXPORT, "--merged", "--out", "m.gguf")
    assert outcome.status == 0
    assert outcome.out.startswith("a llama in float32: 38 arrays, 3,")
    assert "-m m.gguf" in outcome.said[0]
    file = GGUFFile(here / "m.gguf")
    merged = run("merge", "--adapter", "adapter", "--out", "merged")
    assert merged.status == 0
    v = minilora.load_base("merged").state_dict()["model.layers.3.self_attn.v_proj.weight"]
    assert np.array_equal(file.read("blk.3.attn_v.weight"), v)
    half = run(*EXPORT, "--merged", "--dtype", "float16", "--out", "h.gguf", "--json").json()
    assert half["file_bytes"] < 0.6 * (here / "m.gguf").stat().st_size


def test_json(run, adapter):
    outcome = run(*EXPORT, "--out", "a.gguf", "--json")
    assert (outcome.status, outcome.err) == (0, "")
    said = outcome.json()
    assert said.pop("file_bytes") > 16_000
    assert said == {
        "format": "gguf",
        "out": "a.gguf",
        "kind": "adapter",
        "architecture": "llama",
        "tensors": 16,
        "alpha": 6.0,
        "ranks": [2],
    }
    said = run(*EXPORT, "--merged", "--out", "m.gguf", "--json").json()
    assert (said["kind"], said["alpha"], said["ranks"]) == ("model", None, [])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--format", "ggml", "--out", "a.gguf"), ["'ggml'", "gguf"]),
        (("--out", "a.gguf"), ["--format"]),
        (("--format", "gguf"), ["--out"]),
        (("--format", "gguf", "--out", "a.bin"), ["'a.bin'", ".gguf"]),
        (("--format", "gguf", "--out", "x/.gguf"), ["'x/.gguf'", ".gguf"]),
        (("--format", "gguf", "--out", "a.gguf", "--dtype", "float16"), ["--merged", "float32"]),
        (("--format", "gguf", "--out", "a.gguf", "--base", "nix"), ["'nix'", "skills"]),
    ],
)
def test_what_cannot_be_exported(mistake, adapter, argv, said):
    line = mistake("export", "adapter", *argv)
    assert all(each in line for each in said), line


def test_no_adapter_in_a_folder(mistake, adapter):
    line = mistake("export", "nowhere", "--format", "gguf", "--out", "a.gguf")
    assert "nowhere" in line and "adapter_config.json" in line


def test_kinds_that_llama_cpp_cannot_hold(mistake, run, here, adapter):
    shutil.rmtree(adapter)
    save_adapter(here / "adapter", use_dora=True)
    line = mistake(*EXPORT, "--out", "a.gguf")
    assert "lora_magnitude_vector" in line and "DoRA" in line and "--merged" in line
    assert run(*EXPORT, "--merged", "--out", "a.gguf").status == 0


def test_what_cannot_be_merged_is_not_sent_to_merging(mistake, adapter):
    shutil.rmtree(adapter)
    save_adapter(adapter, modules_to_save=["lm_head"])
    line = mistake(*EXPORT, "--out", "a.gguf")
    assert "--merged" not in line and "use it unmerged, with minilora" in line
    assert "unmerged" in mistake(*EXPORT, "--merged", "--out", "a.gguf")


def test_a_base_of_another_family(mistake, here, adapter):
    minilora.save_base(minilora.load_base("skills"), here / "base")
    settings = json.loads((here / "base/config.json").read_text()) | {"model_type": "gpt2"}
    (here / "base/config.json").write_text(json.dumps(settings))
    line = mistake(*EXPORT, "--base", "base", "--out", "a.gguf")
    assert "'gpt2'" in line and "Llama family" in line


def test_a_whole_model_needs_a_tokenizer(mistake, run, here, adapter):
    minilora.save_base(minilora.load_base("skills"), here / "skills")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (here / "skills" / name).unlink()
    line = mistake(*EXPORT, "--merged", "--base", "./skills", "--out", "a.gguf")
    assert "tokenizer.json" in line and "without --merged" in line
    assert run(*EXPORT, "--base", "./skills", "--out", "a.gguf").status == 0


def test_no_gguf_names_the_pip_command(mistake, adapter, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    for merged in ((), ("--merged",)):
        line = mistake(*EXPORT, *merged, "--out", "a.gguf")
        assert "'gguf'" in line and "pip install 'minilora[llm]'" in line


@pytest.fixture
def run_folder(run, rows):
    """A run of two steps, in `tuned`, on rows.jsonl."""
    assert run("finetune", "--data=rows.jsonl", "--steps=2", "--batch-size=4", "--out=tuned")


SCRIPT = ("export", "tuned", "--format", "peft-script")


@pytest.mark.usefixtures("run_folder")
def test_a_script_of_a_run(run, here):
    for _ in range(2):  # the second takes the place of the first
        outcome = run(*SCRIPT, "--out", "go on.py")
        assert outcome.status == 0
        assert outcome.out.startswith("lora, 2 steps on 8 examples; needs go on-files/ beside it")
        assert outcome.said == ["use it:  python 'go on.py' --out tuned"]
    said = run(*SCRIPT, "--out", "b.py", "--json").json()
    assert said == {
        "format": "peft-script",
        "out": "b.py",
        "method": "lora",
        "steps": 2,
        "examples": 8,
        "base": "b-files/base",
        "files": "b-files",
    }
    assert (here / "b-files/adapter/adapter_model.safetensors").is_file()


def test_a_script_of_a_run_with_dropout_says_what_will_differ(run, rows):
    run("finetune", "--data=rows.jsonl", "--steps=1", "--dropout=0.1", "--out=tuned")
    assert "dropout" in run(*SCRIPT, "--out", "b.py").said[0]


@pytest.mark.usefixtures("run_folder")
def test_what_has_no_script(mistake, run, here):
    assert "--base is for --format gguf" in mistake(*SCRIPT, "--out=b.py", "--base=skills")
    assert "--merged" in mistake(*SCRIPT, "--out=b.py", "--merged")
    assert ".py" in mistake(*SCRIPT, "--out=b.txt")
    (here / "rows.jsonl").rename(here / "moved.jsonl")
    line = mistake(*SCRIPT, "--out=b.py")
    assert "'rows.jsonl'" in line and "--data" in line
    assert run(*SCRIPT, "--out=b.py", "--data=moved.jsonl").status == 0
    (here / "moved.jsonl").write_text((here / "moved.jsonl").read_text() + "\n")
    assert "SHA-256" in mistake(*SCRIPT, "--out=c.py", "--data=moved.jsonl")
    (here / "tuned/run.json").unlink()
    assert "no run.json" in mistake(*SCRIPT, "--out=c.py")


def test_data_is_for_scripts(mistake, adapter):
    assert "--format peft-script" in mistake(*EXPORT, "--out=a.gguf", "--data=rows.jsonl")
