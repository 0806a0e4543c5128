"""`minilora compare`: a table for people, one object for programs, and three things in a folder."""

import json

import pytest

from minilora.bases import load_base, save_base
from minilora.data import skills

TINY = ("--steps", "2", "--batch-size", "4")


@pytest.mark.usefixtures("few_examples")
class TestSmall:
    """On 16 examples a skill instead of 500."""

    def test_the_table_and_the_files(self, run, here):
        outcome = run("compare", *TINY)
        assert outcome.status == 0
        table = {line[:28].strip(): line[28:].split() for line in outcome.out.splitlines()}
        assert table[""] == ["full", "LoRA"]
        assert table["parameters trained"] == ["795,520", "16,384"]
        assert table["parameters in all"] == ["795,520", "811,904"]
        assert table["base back, bit for bit"] == ["-", "yes"]
        assert table["old skills before"] == ["100.0", "%", "100.0", "%"]
        assert table["adapter off"] == ["-", "100.0", "%"]
        assert {p.name for p in (here / "compare").iterdir()} == {
            "adapter",
            "compare.json",
            "compare.png",
        }
        assert (here / "compare/compare.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert "compare/compare.png" in outcome.said[-1]

    def test_json_is_one_object_the_same_as_in_the_file(self, run, here):
        outcome = run("compare", *TINY, "--json", "--out", "there")
        assert outcome.status == 0
        report = outcome.json()
        assert report == json.loads((here / "there/compare.json").read_text())
        full, lora = report["methods"]
        assert (full["method"], lora["method"]) == ("full", "lora")
        for method in (full, lora):
            kinds = {"weights", "gradients", "optimizer", "activations", "peak"}
            assert method["bytes"].keys() == kinds | {"buffers"}
            assert all(method["bytes"][kind] > 0 for kind in kinds)
            assert len(method["losses"]) == 2
            assert method["step_seconds"] > 0
            assert 0 <= method["new_before"] <= 1
            assert 0 <= method["new_after"] <= 1
            assert method["old_before"] == 1
        assert full["losses"][0] == lora["losses"][0]
        assert full["losses"][1] != lora["losses"][1]
        assert (full["trainable_parameters"], full["total_parameters"]) == (795_520, 795_520)
        assert (lora["trainable_parameters"], lora["total_parameters"]) == (16_384, 811_904)
        assert lora["file_bytes"] < full["file_bytes"] / 10
        assert (full["old_adapter_off"], lora["old_adapter_off"]) == (None, 1)
        assert (full["base_restored"], lora["base_restored"]) == (None, True)

    @pytest.mark.slow
    def test_every_option_arrives(self, run, here):
        save_base(load_base("skills"), here / "mine")
        chosen = {
            "base": "./mine",
            "task": "mirror",
            "rank": 4,
            "alpha": 6.0,
            "target_modules": "all-linear",
            "steps": 3,
            "batch_size": 5,
            "lr": 1e-3,
            "lr_full": 1e-4,
            "replay": 0.4,
            "seed": 7,
            "methods": ["full", "lora", "ia3"],
            "tokens": 20,
            "bottleneck": 64,
            "lr_of": {"ia3": 0.03},
        }
        given = chosen | {"methods": "full,lora,ia3", "lr_of": "ia3=0.03"}
        del given["tokens"], given["bottleneck"]
        argv = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        report = run("compare", *argv, "--json").json()
        assert report["settings"] == chosen
        full, lora, ia3 = report["methods"]
        assert [len(m["losses"]) for m in (full, lora, ia3)] == [3, 3, 3]
        assert (full["lr"], lora["lr"], ia3["lr"]) == (1e-4, 1e-3, 0.03)
        attention, mlp = 4 * 4 * (128 + 128), 3 * 4 * (128 + 344)
        assert lora["trainable_parameters"] == 4 * (attention + mlp)
        settings = json.loads((here / "compare/adapter/lora/adapter_config.json").read_text())
        assert (settings["r"], settings["lora_alpha"]) == (4, 6)
        assert settings["base_model_name_or_path"] == "./mine"

    @pytest.mark.slow
    def test_the_adapter_that_is_left_can_be_used(self, run):
        run("compare", "--steps=4", "--batch-size=8", "--task=rotate-right", "--lr=0.05")
        (row,) = skills.rows(skills.skill("rotate-right"), "train", 1)
        plain = run("generate", "--prompt", row["prompt"])
        tuned = run("generate", "--prompt", row["prompt"], "--adapter", "compare/adapter")
        assert (plain.status, tuned.status) == (0, 0)
        assert plain.out != tuned.out

    def test_ctrl_c_keeps_what_there_is_and_claims_no_more(self, run, here, ctrl_c_at):
        ctrl_c_at(2)
        outcome = run("compare", "--steps=50", "--batch-size=4", "--json", "--out=there")
        assert outcome.status == 130
        (full,) = outcome.json()["methods"]
        assert (full["interrupted"], len(full["losses"])) == (True, 2)
        named = [word.strip(",") for word in outcome.said[-1].split() if "there/" in word]
        assert named, outcome.said[-1]
        assert [name for name in named if not (here / name).exists()] == []


@pytest.mark.parametrize(
    ("argv", "named", "allowed"),
    [
        (("--task", "fly", "--json"), "'fly'", [s.name for s in skills.OLD + skills.NEW]),
        (("--task", "orders"), "'orders'", ["smollm2", *(s.name for s in skills.NEW)]),
        (("--base", "Skills"), "'Skills'", ["skills", "smollm2", "folders"]),
        (("--base", "./empty"), "empty", ["config.json", "model.safetensors"]),
        (("--base", "a-file"), "'a-file'", ["skills", "smollm2", "folders"]),
        (("--base", "HuggingFaceTB/SmolLM2-135M"), "'HuggingFaceTB/", ["hf download"]),
    ],
)
def test_a_task_or_a_base_that_there_is_not(mistake, here, argv, named, allowed):
    (here / "empty").mkdir()
    (here / "a-file").touch()
    line = mistake("compare", *argv)
    assert named in line
    assert all(each in line for each in allowed)


@pytest.mark.parametrize("out", ["a-file", "a-file/below", "/proc/minilora"])
def test_an_output_folder_that_cannot_be_written(mistake, here, out):
    (here / "a-file").write_text("precious")
    line = mistake("compare", "--steps=1", "--out", out)
    assert out in line
    assert "another" in line


@pytest.mark.slow
def test_the_real_thing(script, here):
    outcome = script("compare", "--steps", "2", "--json")
    assert outcome.status == 0
    methods = outcome.json()["methods"]
    assert [m["new_before"] for m in methods] == [0, 0]
    assert all(m["old_before"] > 0.98 for m in methods)
    assert {p.name for p in (here / "compare/adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
