"""All diagnoses together: silent on the healthy, and on which folders they look at."""

import numpy as np
import pytest

from minilora.bases import save_base
from minilora.diagnosing import Findings, doctor, examine_folder
from minilora.diagnosing.model import as_held
from minilora.errors import ConfigError, FormatError
from minilora.nn import Linear
from minilora.optim import AdamW
from minilora.peft import BottleneckConfig, LoraConfig, PrefixTuningConfig, get_peft_model
from minilora.training import train_step


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tied": True},
        {"target_modules": "all-linear", "use_rslora": True},
        {"init_lora_weights": "pissa"},
        {"use_dora": True},
        {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 4}},
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "tied": True},
        {"modules_to_save": ["norm"], "layers_to_transform": 1},
        {"trainable_token_indices": [3, 5]},
    ],
)
def test_a_healthy_model_and_its_folder(tuned, tiny_batch, base, tmp_path, options):
    model = tuned(**options)
    optimizer = AdamW(model.parameters())
    train_step(model, optimizer, *tiny_batch)
    before = {n: a.copy() for n, a in model.state_dict().items()}
    found = doctor(model, optimizer, tiny_batch)
    assert (found, str(found), repr(found)) == ([], "nothing found", "nothing found")
    assert all(np.array_equal(a, before[n]) for n, a in model.state_dict().items())
    model.save_pretrained(tmp_path / "adapter")
    assert examine_folder(tmp_path / "adapter") == []
    assert examine_folder(tmp_path / "adapter", base(tied=options.get("tied", False))) == []


def test_a_plain_model_in_full_fine_tuning(base, tiny_batch):
    for tied in (False, True):
        model = base(tied=tied)
        assert doctor(model, AdamW(model.parameters()), tiny_batch) == []


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(),
        LoraConfig(use_dora=True, target_modules="all-linear"),
        LoraConfig(init_lora_weights="pissa", r=4),
        LoraConfig(target_modules=["embed_tokens"]),
        BottleneckConfig(bottleneck_size=3),
        BottleneckConfig(bottleneck_size=3, kind="parallel", nonlinearity="tanh"),
        PrefixTuningConfig(num_virtual_tokens=3, prefix_projection=True, init_weights="zero"),
    ],
)
def test_before_its_first_step_an_adapter_may_change_nothing(base, tiny_batch, config):
    model = get_peft_model(base(), config)
    assert doctor(model, AdamW(model.parameters()), tiny_batch) == []


def test_the_base_is_given_back(folder, base):
    given = base()
    before = {n: a.copy() for n, a in given.state_dict().items()}
    examine_folder(folder(), given)
    assert type(given.model.layers[0].self_attn.q_proj) is Linear
    assert all(np.array_equal(a, before[n]) for n, a in given.state_dict().items())


def test_a_whole_model(base, tmp_path, names):
    model = base()
    save_base(model, tmp_path)
    assert examine_folder(tmp_path) == []
    assert names(examine_folder(tmp_path, base())) == ["merge_moved_little"]
    for p in model.parameters():
        p.data += 0.01
    save_base(model, tmp_path)
    assert examine_folder(tmp_path, base()) == []
    model.model.norm.weight.data[0] = np.nan
    save_base(model, tmp_path)
    assert names(examine_folder(tmp_path)) == ["model_not_finite"]


def test_a_merged_model_of_which_most_did_not_move(base, tuned, tmp_path, names):
    for loud, said in ((1.0, []), (1e-3, ["merge_moved_little"])):
        model = tuned()
        for layer in model.layers().values():
            layer.lora_B["default"].weight.data *= loud
        merged = model.merge_and_unload()
        for p in merged.parameters():
            p.data = as_held(p.data, "bfloat16")
        save_base(merged, tmp_path)
        assert names(examine_folder(tmp_path, base())) == said


def test_no_folder(tmp_path):
    with pytest.raises(FormatError, match=r"nowhere.*adapter_config\.json"):
        examine_folder(tmp_path / "nowhere")


def test_findings_are_a_line_each(folder):
    found = examine_folder(folder(lora_alpha=4 * 40, log=[{"loss": 3.0}] * 20))
    assert isinstance(found, Findings)
    assert len(str(found).splitlines()) == len(found) == 2
    assert repr(found) == str(found)


def test_a_type_that_is_not_merged_into(tuned):
    with pytest.raises(ConfigError, match="int8"):
        doctor(tuned(), merge_dtype="int8")


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (np.ones((2, 5), int), r"ndarray.* holds \(5,\) and \(5,\)"),
        ((np.ones((2, 5), int),), r"tuple.* holds \(2, 5\);"),
        ((np.ones((2, 5), int), None), r"holds \(2, 5\);"),
        ((np.ones((2, 5), int), np.ones((2, 3), int)), r"holds \(2, 5\) and \(2, 3\)"),
        ((np.ones(5, int), np.ones(5, int)), r"holds \(5,\) and \(5,\)"),
        ([[1], [2, 3], [4], [5]], "list.* something else"),
        (5, "int.* something else"),
    ],
)
def test_a_batch_that_is_none(tuned, batch, said):
    with pytest.raises(ConfigError, match=rf"{said}.* give batch=\(ids, labels\)"):
        doctor(tuned(), batch=batch)


def test_a_batch_of_packed_rows(tuned, tiny_batch):
    ids, labels = tiny_batch
    for start in (None, np.zeros_like(ids)):
        assert doctor(tuned(), batch=(ids, labels, start)) == []
