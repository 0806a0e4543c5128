"""A run here and the script that it is written as: the same batches, the same losses."""

import ast
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from minilora.autograd import no_grad
from minilora.bases import load_base, save_base
from minilora.data import skills
from minilora.errors import ConfigError, DataError, FormatError
from minilora.exporting.peft_script import export_peft_script
from minilora.finetuning import finetune
from minilora.peft import LoraConfig, PeftModel

STEPS = 20
LORA = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])
needs_engine = pytest.mark.skipif(
    not all(map(find_spec, ("torch", "transformers", "peft", "accelerate"))),
    reason="needs torch, transformers, peft and accelerate",
)


@pytest.fixture
def data(tmp_path):
    """Forty questions of three lengths, so that batches are padded and cut by epochs."""
    rows = skills.rows(skills.skill("sort-descending"), "train", 40)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def tuned(tmp_path, data):
    """tuned(lora=LORA, base="skills", **settings): the losses of a run in tmp_path/here."""

    def tune(lora=LORA, base="skills", **settings):
        settings = {"steps": STEPS, "batch_size": 6, "seed": 3, "progress": False} | settings
        history, _ = finetune(base, data, tmp_path / "here", lora=lora, **settings)
        return history.losses

    return tune


@pytest.fixture
def export(tmp_path):
    return lambda **options: export_peft_script(tmp_path / "here", tmp_path / "go on.py", **options)


@pytest.fixture
def go_on(tmp_path):
    """go_on(*options, processes=1): the losses of the script."""

    def run(*options, processes=1):
        launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
        program = [sys.executable, *(launcher if processes > 1 else [])]
        argv = ["go on.py", "--cpu", "--losses", "losses.json", "--out", "there", *options]
        env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [*program, *argv], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / "losses.json").read_text())

    return run


def logits(model):
    ids = load_base("skills").tokenizer.encode("des:gacb=")
    with no_grad():
        return model(np.array([ids])).data


def test_what_is_written(tmp_path, tuned, export, data):
    tuned(accumulate=2)
    written = export()
    beside = tmp_path / "go on-files"
    assert written == ("lora", STEPS, 40, str(beside / "base"), str(beside))
    names = ["adapter", "base", "examples.jsonl", "order.jsonl"]
    assert sorted(path.name for path in beside.iterdir()) == names
    rows = [json.loads(line) for line in (beside / "examples.jsonl").read_text().splitlines()]
    asked = [json.loads(line) for line in data.read_text().splitlines()]
    tokenizer = load_base("skills").tokenizer
    assert [tokenizer.decode(row["ids"]) for row in rows] == [
        tokenizer.decode(tokenizer.encode(row["prompt"] + row["completion"])) for row in asked
    ]
    order = [json.loads(line) for line in (beside / "order.jsonl").read_text().splitlines()]
    assert [len(step) for step in order] == [6] * STEPS
    seen = [i for step in order[:6] for i in step]
    assert len(set(seen)) == 36  # within an epoch no example comes twice
    B = PeftModel.from_pretrained(load_base("skills"), beside / "adapter").adapter_weights()
    assert all(not array.any() for name, array in B.items() if "lora_B" in name)


def test_the_script_is_short_and_needs_nothing_of_ours(tmp_path, tuned, export):
    tuned()
    export()
    text = (tmp_path / "go on.py").read_text()
    assert len(text.splitlines()) < 180 and max(map(len, text.splitlines())) <= 100
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported - set(sys.stdlib_module_names) == {
        "torch",
        "transformers",
        "peft",
        "accelerate",
    }
    assert '"lr": 0.005,' in text and '"batch_size": 6,' in text


def test_a_base_that_is_a_folder_is_named(tmp_path, tuned, export):
    save_base(load_base("skills"), tmp_path / "base")
    tuned(base=str(tmp_path / "base"))
    assert export().base == str(tmp_path / "base")
    assert not (tmp_path / "go on-files" / "base").exists()
    assert str(tmp_path / "base") in (tmp_path / "go on.py").read_text()


def test_what_is_refused_leaves_nothing(tmp_path, tuned, export, data):
    left = {tmp_path / name for name in ("here", "rows.jsonl", "elsewhere.jsonl", "base")}
    with pytest.raises(FormatError, match=r"run\.json"):
        export()
    tuned(lora=LoraConfig(init_lora_weights="pissa"), steps=1)
    with pytest.raises(ConfigError, match="PiSSA"):
        export()
    tuned(steps=1)
    data.rename(tmp_path / "elsewhere.jsonl")
    with pytest.raises(DataError, match="--data"):
        export()
    assert set(tmp_path.iterdir()) <= left
    export(data=tmp_path / "elsewhere.jsonl")
    assert (tmp_path / "go on.py").is_file()


@pytest.mark.slow
@needs_engine
def test_the_losses_are_the_same(tmp_path, tuned, export, go_on):
    """To the last bits: the two engines add up in another order, and 20 updates pass that on."""
    ours = tuned(lr=2e-3)
    export()
    theirs = go_on()
    assert len(theirs) == STEPS and ours[-1] < 0.7 * ours[0]
    assert np.abs(np.subtract(ours, theirs)).max() < 1e-4
    here, there = (
        PeftModel.from_pretrained(load_base("skills"), tmp_path / name)
        for name in ("here", "there")
    )
    assert there.peft_config["default"].base_model_name_or_path == "skills"
    assert np.abs(logits(there) - logits(load_base("skills"))).max() > 0.1
    assert logits(there) == pytest.approx(logits(here), abs=1e-3)


@needs_engine
@pytest.mark.slow
def test_they_are_the_same_on_two_processes(tuned, export, go_on):
    """Of five rows one has two and the other three, with other numbers of targets."""
    ours = tuned(batch_size=5, lr=2e-3)
    export()
    theirs = go_on("--rows-at-once", "2", processes=2)
    assert np.abs(np.subtract(ours, theirs)).max() < 1e-4


@needs_engine
@pytest.mark.slow
def test_full_fine_tuning_is_the_same(tmp_path, tuned, export, go_on):
    ours = tuned(lora=None, accumulate=2, checkpointing=True)
    export()
    theirs = go_on()
    assert np.abs(np.subtract(ours, theirs)).max() < 1e-3
    here, there = (load_base(tmp_path / name) for name in ("here", "there"))
    assert logits(there) == pytest.approx(logits(here), abs=1e-2)
    assert there.tokenizer.encode("des:ab=") == here.tokenizer.encode("des:ab=")


@needs_engine
@pytest.mark.slow
def test_it_stops_earlier_and_says_what_it_does_not_have(tmp_path, tuned, export, go_on):
    ours = tuned()
    export()
    assert go_on("--steps", "2") == pytest.approx(ours[:2], abs=1e-4)
    argv = [sys.executable, "go on.py", "--steps", str(STEPS + 1)]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and f"1 to {STEPS}" in done.stderr
    assert not Path(tmp_path / "tuned").exists()
