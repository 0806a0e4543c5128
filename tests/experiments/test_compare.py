"""Full fine-tuning against LoRA: what is reported, and at the default size what is claimed."""

import json

import numpy as np
import pytest

from minilora.bases import load_base
from minilora.data import skills
from minilora.errors import ConfigError
from minilora.experiments import compare as experiment
from minilora.experiments.compare import Settings, check_settings, compare, weights_hash
from minilora.experiments.tasks import default_task, load_task
from minilora.methods import Method
from minilora.peft import PeftModel
from minilora.training import train_step

SHORT = Settings(steps=6, batch_size=8, replay=0.25, seed=1)
KINDS = ["weights", "gradients", "optimizer", "activations", "buffers", "peak"]


ALL_EXAMPLES = skills.examples


def few_examples(which, split, n, seed=0):
    return ALL_EXAMPLES(which, split, max(20, n // 20), seed)


@pytest.fixture(scope="module", autouse=True)
def _few_examples():
    """For all but the slow test the tasks are the same, with fewer examples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skills, "examples", few_examples)
        yield


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A run of a few steps, the folder of its adapter, and what was said meanwhile."""
    folder = tmp_path_factory.mktemp("adapter")
    said = []
    report = compare(SHORT, adapter_folder=folder, progress=False, say=said.append)
    return report, folder, said


def test_it_reports_both_methods_with_every_field(short):
    report, _, said = short
    assert [row["method"] for row in report["methods"]] == ["full", "lora"]
    for row in report["methods"]:
        assert {
            "trainable_parameters", "total_parameters", "new_before", "new_after", "old_before",
            "old_after", "old_adapter_off", "bytes", "step_seconds", "file_bytes", "losses",
        } <= set(row)  # fmt: skip
        assert list(row["bytes"]) == KINDS
        assert len(row["losses"]) == 6
        assert [point["step"] for point in row["curve"]] == [0, 1, 2, 3, 4, 5, 6]
        assert row["step_seconds"] > 0
        assert not row["interrupted"]
    assert report["threads"] >= 1
    assert len(said) == 3
    assert json.loads(json.dumps(report))["methods"] == report["methods"]


def test_shares_are_shares_and_both_start_from_the_same(short):
    full, lora = short[0]["methods"]
    for row in (full, lora):
        for name in ("new_before", "new_after", "old_before", "old_after"):
            assert 0 <= row[name] <= 1
        assert row["new_before"] <= 0.1
        assert row["old_before"] >= 0.95
        assert row["general_nll_before"] is row["general_nll_after"] is None
    for name in ("new_before", "old_before"):
        assert full[name] == lora[name]
    assert full["curve"][0] == lora["curve"][0]


def test_switching_the_adapter_off_gives_the_base_back(short):
    full, lora = short[0]["methods"]
    assert lora["base_restored"] is True
    assert lora["old_adapter_off"] == lora["old_before"]
    assert lora["new_adapter_off"] == lora["new_before"]
    assert full["base_restored"] is None
    assert full["old_adapter_off"] is None


def test_counts_and_bytes_are_those_of_the_models(short):
    report, folder, _ = short
    full, lora = report["methods"]
    base = load_base("skills")
    n, r = base.n_parameters(), 4 * 2 * 8 * (128 + 128)
    assert (full["trainable_parameters"], full["total_parameters"]) == (n, n)
    assert (lora["trainable_parameters"], lora["total_parameters"]) == (r, n + r)
    for row in (full, lora):
        assert row["bytes"]["weights"] == 4 * row["total_parameters"]
        assert row["bytes"]["gradients"] == 4 * row["trainable_parameters"]
        assert row["bytes"]["optimizer"] == 8 * row["trainable_parameters"]
        assert row["bytes"]["peak"] > sum(row["bytes"][k] for k in KINDS[:3])
    assert lora["bytes"]["peak"] < full["bytes"]["peak"]
    assert lora["bytes"]["activations"] < full["bytes"]["activations"]
    assert 4 * n < full["file_bytes"] < 4 * n + 10_000
    assert lora["file_bytes"] == sum(p.stat().st_size for p in folder.iterdir())
    assert 4 * r < lora["file_bytes"] < 4 * r + 10_000


def test_the_adapter_that_is_kept_is_the_one_that_was_measured(short):
    report, folder, _ = short
    base = load_base("skills")
    model = PeftModel.from_pretrained(base, folder)
    score = load_task("sort-descending", base, seed=1).score(model)
    lora = report["methods"][1]
    assert (score["new"], score["old"]) == (lora["new_after"], lora["old_after"])


def test_settings_are_filled_from_the_task_and_reported(short):
    said = short[0]["settings"]
    assert said["task"] == "sort-descending" == default_task(load_base("skills"))
    assert (said["steps"], said["batch_size"], said["replay"], said["seed"]) == (6, 8, 0.25, 1)
    assert (said["lr"], said["lr_full"]) == (5e-3, 1e-3)
    full, lora = short[0]["methods"]
    assert (full["lr"], lora["lr"]) == (said["lr_full"], said["lr"])


@pytest.mark.slow
def test_one_seed_gives_one_result(short):
    again = compare(SHORT, progress=False)
    for ours, theirs in zip(short[0]["methods"], again["methods"], strict=True):
        assert ours["losses"] == theirs["losses"]
        assert ours["curve"] == theirs["curve"]
        assert ours["new_after"] == theirs["new_after"]


def test_the_hash_sees_one_bit_of_one_weight():
    base = load_base("skills")
    before = weights_hash(base)
    assert weights_hash(load_base("skills")) == before
    weight = base.model.layers[2].mlp.up_proj.weight.data
    weight[5, 7] = np.nextafter(weight[5, 7], np.float32(9))
    assert weights_hash(base) != before


@pytest.mark.parametrize("when", ["while training", "afterwards"])
def test_a_base_that_is_not_restored_is_reported(monkeypatch, when):
    """A weight of the base that moves is seen, at whatever moment."""

    def leaky(method, model, **options):
        peft = attach(method, model, **options)
        model.model.norm.weight.requires_grad = True
        return peft

    attach = Method.attach

    def spoiling(model, *rest, **how):
        model.model.model.norm.weight.data[3] += 1
        return train_step(model, *rest, **how)

    if when == "while training":
        monkeypatch.setattr(Method, "attach", leaky)
    else:
        monkeypatch.setattr(experiment, "train_step", spoiling)
    settings = Settings(methods=("lora",), steps=1, batch_size=4)
    (row,) = compare(settings, progress=False)["methods"]
    assert row["base_restored"] is False


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rank": 0}, "rank r = 0"),
        ({"rank": 200}, "rank 200"),
        ({"alpha": -1}, "lora_alpha = -1"),
        ({"target_modules": ("nonsense",)}, "'nonsense'.*q_proj"),
        ({"task": "fly"}, "'fly'.*sort-descending"),
        ({"task": "orders"}, "'orders'.*sort-descending"),
        ({"base": "nowhere"}, "'nowhere'"),
        ({"replay": 1.0}, r"replay 1\.0 .*\[0, 1\)"),
        ({"steps": 0}, "0"),
        ({"batch_size": 0}, "0"),
        ({"lr": -1.0}, r"-1\.0"),
        ({"lr_full": 0.0}, r"0\.0"),
        ({"methods": ()}, "full, lora, qlora"),
        ({"methods": ("lora", "lora")}, "each once"),
        ({"methods": ("lora", "magic")}, "'magic' is not one of full, lora"),
        ({"lr_of": {"prompt": -1}}, "lr of prompt -1"),
    ],
)
def test_settings_that_no_run_has_are_refused_before_anything_is_tuned(settings, says, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a step was taken")

    monkeypatch.setattr("minilora.training.train_step", never)
    with pytest.raises(ConfigError, match=says):
        compare(Settings(**settings), progress=False)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"steps": -3}, "steps -3 must be 1 or more"),
        ({"batch_size": 0}, "batch_size 0 must be 1 or more"),
        ({"replay": -0.1}, r"replay -0\.1 must be a share in \[0, 1\)"),
    ],
)
def test_numbers_are_checked_before_a_base_is_loaded(setting, says):
    check_settings(Settings())
    with pytest.raises(ConfigError, match=says):
        check_settings(Settings(**setting))


@pytest.mark.slow
def test_by_default_both_learn_the_new_skill_and_lora_is_a_tenth_of_the_cost(monkeypatch):
    monkeypatch.setattr(skills, "examples", ALL_EXAMPLES)
    full, lora = compare(Settings(), progress=False)["methods"]
    for row in (full, lora):
        assert row["new_before"] <= 0.05
        assert row["old_before"] >= 0.98
        assert row["new_after"] >= 0.9
    assert lora["trainable_parameters"] < 0.1 * full["trainable_parameters"]
    assert lora["file_bytes"] < 0.1 * full["file_bytes"]
    for kind in ("gradients", "optimizer"):
        assert lora["bytes"][kind] < 0.1 * full["bytes"][kind]
    assert lora["bytes"]["peak"] < full["bytes"]["peak"]
    assert lora["base_restored"] is True
    assert lora["old_adapter_off"] == lora["old_before"]
