"""`minilora inspect`: a table, a figure, JSON, or one line about what is wrong with the folder."""

import json

import numpy as np
import pytest

import minilora
from minilora.files.safetensors import read_tensors, write_tensors


@pytest.fixture
def adapter(here):
    """A folder `adapter` of which every B is other than zero."""
    model = minilora.get_peft_model(minilora.load_base("skills"), minilora.LoraConfig(r=2))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data[...] = 0.25
    model.save_pretrained(here / "adapter")
    return here / "adapter"


def change(adapter, **arrays):
    path = adapter / "adapter_model.safetensors"
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    given = {f"{prefix}.{side}.weight": array for side, array in arrays.items()}
    write_tensors(path, read_tensors(path) | given)


def test_the_table(run, adapter):
    outcome = run("inspect", "adapter")
    assert (outcome.status, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["rank", "2"]
    assert lines[1].split("  ")[-1].strip() == "8, scaling 4 = α/r"
    assert lines[3].split() == ["base", "skills"]
    assert lines[4] == "parameters  4,096 beside 8 matrices"
    rows = [line.split() for line in lines[7:]]
    assert len(rows) == 8
    assert rows[0][:7] == ["model.layers.0.self_attn.q_proj", "128", "×", "128", "2", "4", "512"]
    # B is 0.25 everywhere: ‖B‖ = 0.25 √256, and ΔW has one direction only.
    assert rows[0][8] == "4.000" and rows[0][10:] == ["1.000", "1"]
    assert len({len(line) for line in lines[6:]}) == 1


def test_it_needs_no_base(run, adapter, monkeypatch):
    def no_base(*args, **options):
        raise AssertionError("a base was loaded")

    monkeypatch.setattr("minilora.bases.load_base", no_base)
    assert run("inspect", "adapter").status == 0


def test_json(run, adapter):
    said = run("inspect", "adapter", "--json").json()
    assert said.keys() == {"folder", "config", "parameters", "matrices", "others"}
    assert (said["folder"], said["parameters"], said["config"]["r"]) == ("adapter", 4096, 2)
    assert len(said["matrices"]) == 8 and said["others"] == []
    one = said["matrices"][0]
    assert one["norm_delta"] == pytest.approx(np.linalg.norm(one["singular_values"]))
    assert one["still_zero"] is False


def test_what_is_out_of_the_ordinary_is_said(run, adapter):
    change(adapter, lora_A=np.full((2, 128), np.nan, np.float32))
    outcome = run("inspect", "adapter")
    assert outcome.status == 0
    assert "NaN or infinite in 1 of 8 matrices, first model.layers.0" in outcome.out
    assert run("inspect", "adapter", "--json").json()["matrices"][0]["norm_a"] is None
    change(adapter, lora_A=np.ones((2, 128), np.float32), lora_B=np.zeros((128, 2), np.float32))
    assert "ΔW is zero in 1 of 8 matrices" in run("inspect", "adapter").out


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_figure(run, adapter, here, ending):
    outcome = run("inspect", "adapter", "--figure", f"seen.{ending}")
    assert outcome.status == 0
    assert outcome.said == [f"wrote seen.{ending}"]
    assert (here / f"seen.{ending}").is_file()
    assert "v_proj: ‖ΔW‖" in (here / "seen.txt").read_text()


@pytest.mark.parametrize(
    ("start", "said"),
    [({"use_dora": True}, "DoRA"), ({"init_lora_weights": "pissa"}, "PiSSA"), ({}, None)],
)
def test_where_the_product_is_not_all_that_is_added(run, adapter, start, said):
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | start))
    outcome = run("inspect", "adapter")
    assert outcome.status == 0
    assert ("ΔW here is s B A" in outcome.out) == (said is not None)
    assert said is None or f"with {said}" in outcome.out.splitlines()[-1]


def test_an_adapter_without_pairs(run, mistake, adapter):
    weights = adapter / "adapter_model.safetensors"
    write_tensors(weights, {"base_model.model.model.norm.weight": np.ones(128, np.float32)})
    assert "model.norm.weight" in run("inspect", "adapter").out
    for json_too in ((), ("--json",)):
        line = mistake("inspect", "adapter", "--figure", "seen.png", *json_too)
        assert "no pairs A, B" in line and "--figure" in line


def test_mistakes(mistake, adapter, here):
    assert "adapter_config.json" in mistake("inspect", "nowhere")
    assert ".gif" in mistake("inspect", "adapter", "--figure", "seen.gif")
    assert "required: DIR" in mistake("inspect")
    change(adapter, lora_A=np.ones((128, 2), np.float32))
    line = mistake("inspect", "adapter")
    assert "q_proj" in line and "(128, 2)" in line and "doctor" in line
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "damaged" in mistake("inspect", "adapter")
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "IA3"}))
    assert "'IA3'" in mistake("inspect", "adapter")
