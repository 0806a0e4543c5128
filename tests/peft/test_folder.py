"""Adapters as folders: written, read back, and refused when they are not what they should be."""

import json
import shutil
import warnings

import numpy as np
import pytest

from minilora.errors import AdapterError, FormatError, MiniloraError
from minilora.files.json_files import read_json, write_json
from minilora.files.safetensors import read_tensors, write_tensors
from minilora.optim import AdamW
from minilora.peft import LoraConfig, PeftModel, get_peft_model
from minilora.training import train_step

QV = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FIRST_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def folder(tuned, tmp_path):
    """The folder of an adapter that has learnt something."""
    tuned().save_pretrained(tmp_path)
    return tmp_path


def change(folder, **settings):
    write_json(folder / CONFIG, {**read_json(folder / CONFIG), **settings})


def change_arrays(folder, edit):
    arrays = read_tensors(folder / WEIGHTS)
    edit(arrays)
    write_tensors(folder / WEIGHTS, arrays)


@pytest.mark.parametrize(
    "config",
    [
        QV,
        LoraConfig(r=3, target_modules="all-linear", use_rslora=True, lora_dropout=0.25),
        LoraConfig(r=2, target_modules=r".*layers\.1\..*_proj", init_lora_weights="gaussian"),
        LoraConfig(r=2, target_modules=["lm_head"]),
        LoraConfig(r=2, layers_to_transform=[1]),
        LoraConfig(r=2, target_modules=["o_proj"], layers_to_transform=0),
    ],
)
def test_what_is_saved_comes_back_bit_for_bit(
    tuned, tiny, tiny_batch, tmp_path, config, fingerprint, logits
):
    ids, _ = tiny_batch
    model = tuned(config)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny(), tmp_path)
    assert fingerprint(again.adapter_weights()) == fingerprint(model.adapter_weights())
    assert np.array_equal(logits(again, ids), logits(model, ids))
    ours, theirs = again.peft_config["default"], model.peft_config["default"]
    assert ours == theirs or set(ours.target_modules) == set(theirs.target_modules)
    assert ours.scaling == config.scaling
    assert ours.lora_dropout == config.lora_dropout


def test_the_files_are_those_of_peft_and_hold_the_adapter_alone(folder):
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, WEIGHTS]
    said = read_json(folder / CONFIG)
    assert said["peft_type"] == "LORA"
    assert said["task_type"] == "CAUSAL_LM"
    assert (said["r"], said["lora_alpha"], said["bias"]) == (4, 8, "none")
    assert said["target_modules"] == ["q_proj", "v_proj"]
    shapes = {name: array.shape for name, array in read_tensors(folder / WEIGHTS).items()}
    expected = {}
    for layer in range(2):
        for name, n_out in (("q_proj", 24), ("v_proj", 12)):
            path = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            expected[f"{path}.lora_A.weight"] = (4, 24)
            expected[f"{path}.lora_B.weight"] = (n_out, 4)
    assert shapes == expected
    assert (folder / WEIGHTS).stat().st_size < sum(4 * a * b for a, b in shapes.values()) + 2000


def test_saving_twice_gives_the_same_bytes(tuned, tmp_path):
    for name in "ab":
        tuned().save_pretrained(tmp_path / name)
    for file in (CONFIG, WEIGHTS):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_other_adapters_are_saved_into_folders_of_their_names(
    tuned, tiny, tiny_batch, tmp_path, fingerprint
):
    model = tuned()
    model.add_adapter("second", LoraConfig(r=2, target_modules=["o_proj"]), seed=1)
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [CONFIG, WEIGHTS, "second"]
    again = PeftModel.from_pretrained(tiny(), tmp_path)
    again.load_adapter(tmp_path / "second", "second")
    assert again.active_adapter == "default"
    for name in ("default", "second"):
        ours, theirs = again.adapter_weights(name), model.adapter_weights(name)
        assert fingerprint(ours) == fingerprint(theirs)


def test_saving_a_merged_adapter_saves_the_adapter(tuned, tmp_path, fingerprint):
    model = tuned()
    before = fingerprint(model.adapter_weights())
    model.merge_adapter()
    model.save_pretrained(tmp_path)
    stored = read_tensors(tmp_path / WEIGHTS)
    assert fingerprint(stored) == before


@pytest.mark.parametrize("is_trainable", [False, True])
def test_it_is_frozen_for_use_and_trainable_if_asked(
    folder, tiny, tiny_batch, is_trainable, fingerprint
):
    model = PeftModel.from_pretrained(tiny(), folder, is_trainable=is_trainable)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == ({n for n in model.state_dict() if "lora_" in n} if is_trainable else set())
    if is_trainable:
        before = fingerprint(model.adapter_weights())
        train_step(model, AdamW(model.parameters()), *tiny_batch)
        after = fingerprint(model.adapter_weights())
        assert all(before[name] != after[name] for name in before)


def test_training_can_go_on_where_it_was_saved(folder, tiny, tiny_batch, tuned, tune, fingerprint):
    went_on = tuned()
    reopened = PeftModel.from_pretrained(tiny(), folder, is_trainable=True)
    assert tune(went_on, tiny_batch) == tune(reopened, tiny_batch)
    assert fingerprint(went_on.adapter_weights()) == fingerprint(reopened.adapter_weights())


def test_an_adapter_of_half_precision_opens(folder, tiny):
    def halve(arrays):
        arrays.update({name: array.astype(np.float16) for name, array in arrays.items()})

    change_arrays(folder, halve)
    model = PeftModel.from_pretrained(tiny(), folder)
    stored = read_tensors(folder / WEIGHTS)
    for name, array in model.adapter_weights().items():
        assert array.dtype == np.float32
        assert np.array_equal(array, stored[name].astype(np.float32))


def test_an_adapter_opens_on_a_base_in_float64(folder, tiny, tiny_batch, logits):
    ids, _ = tiny_batch
    narrow = PeftModel.from_pretrained(tiny(), folder)
    wide = PeftModel.from_pretrained(tiny(dtype=np.float64), folder)
    assert logits(wide, ids).dtype == np.float64
    np.testing.assert_allclose(logits(wide, ids), logits(narrow, ids), rtol=0, atol=1e-5)


def test_an_adapter_for_another_base_is_opened_with_a_warning(folder, tiny):
    change(folder, base_model_name_or_path="someone/another-model")
    base = tiny()
    base.base_name = "bases/tiny"
    with pytest.warns(UserWarning, match=r"another-model.*bases/tiny"):
        PeftModel.from_pretrained(base, folder)
    change(folder, base_model_name_or_path="elsewhere/tiny")
    base = tiny()
    base.base_name = "bases/tiny"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PeftModel.from_pretrained(base, folder)


# -- refusals: each names what is wrong, and the base is as it was


def refused(base, folder, error, *said):
    """Opening fails with `error`, which says all of `said`; the base is untouched and usable."""
    before = {name: (p.data.tobytes(), p.requires_grad) for name, p in base.named_parameters()}
    with pytest.raises(error) as raised:
        PeftModel.from_pretrained(base, folder)
    for words in said:
        assert words in str(raised.value)
    after = {name: (p.data.tobytes(), p.requires_grad) for name, p in base.named_parameters()}
    assert after == before
    assert get_peft_model(base, QV).active_adapter == "default"


def test_an_empty_or_missing_folder(tiny, tmp_path):
    refused(tiny(), tmp_path, FormatError, str(tmp_path), CONFIG, WEIGHTS)
    refused(tiny(), tmp_path / "nowhere", FormatError, "nowhere", CONFIG, WEIGHTS)


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS])
def test_a_folder_with_one_of_the_files_missing(folder, tiny, missing):
    (folder / missing).unlink()
    refused(tiny(), folder, FormatError, str(folder), f"no {missing}")


def test_a_pickle_is_not_opened_and_the_way_out_is_named(folder, tiny):
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'false'\ntR.")
    refused(tiny(), folder, FormatError, "adapter_model.bin", "pickle", "safe_serialization=True")


@pytest.mark.parametrize("kind", ["P_TUNING", "LOHA", "lora", None, ["LORA"], 1])
def test_another_method(folder, tiny, kind):
    change(folder, peft_type=kind)
    refused(tiny(), folder, FormatError, CONFIG, repr(kind), "LORA")


@pytest.mark.parametrize("missing", ["r", "lora_alpha", "target_modules", "peft_type"])
def test_a_setting_that_is_not_there(folder, tiny, missing):
    settings = read_json(folder / CONFIG)
    del settings[missing]
    write_json(folder / CONFIG, settings)
    refused(tiny(), folder, FormatError, CONFIG, missing)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fan_in_fan_out", True),
        ("layers_to_transform", "0"),
        ("lora_bias", True),
        ("layer_replication", [[0, 2]]),
        ("target_parameters", ["experts.weight"]),
        ("alora_invocation_tokens", [1]),
        ("something_of_next_year", 3),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
    ],
)
def test_a_setting_that_changes_the_result_and_is_not_computed_here(folder, tiny, name, value):
    change(folder, **{name: value})
    refused(tiny(), folder, FormatError, CONFIG, name, repr(value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("r", 0),
        ("r", -8),
        ("r", 2.5),
        ("r", "8"),
        ("r", None),
        ("lora_alpha", 0),
        ("lora_alpha", "loud"),
        ("lora_alpha", None),
        ("lora_dropout", 1),
        ("lora_dropout", None),
        ("bias", "some"),
        ("use_rslora", "no"),
        ("use_dora", "yes"),
        ("rank_pattern", {"q_proj": 0}),
        ("alpha_pattern", {"q_proj": "loud"}),
        ("exclude_modules", 3),
        ("modules_to_save", {"lm_head": 1}),
        ("modules_to_save", ["("]),
        ("trainable_token_indices", "all"),
        ("trainable_token_indices", [31]),
        ("trainable_token_indices", {"q_proj": [1]}),
        ("target_modules", []),
        ("target_modules", [3]),
        ("target_modules", 3),
        ("target_modules", {"q_proj": 1}),
        ("target_modules", ["nonsense"]),
        ("base_model_name_or_path", 5),
    ],
)
def test_a_value_that_no_adapter_has(folder, tiny, name, value):
    change(folder, **{name: value})
    base = tiny()
    base.base_name = "bases/tiny"
    shown = {
        "[]": "target_modules",
        "['(']": "adapter_config.json: modules_to_save: '(' is no regular expression",
        "['nonsense']": "'nonsense'",
        "{'q_proj': 0}": "rank_pattern['q_proj'] = 0",
        "{'q_proj': 'loud'}": "alpha_pattern['q_proj'] = 'loud'",
        "[31]": "no token 31 in a vocabulary of 31",
        "{'q_proj': [1]}": "'q_proj' is neither embed_tokens nor lm_head",
    }.get(repr(value), repr(value))
    refused(base, folder, MiniloraError, shown)


def test_layers_that_are_called_something_else(folder, tiny):
    change(folder, layers_pattern="blocks", layers_to_transform=[0, 1])
    refused(tiny(), folder, AdapterError, str(folder), "layers_pattern", "'blocks'")
    change(folder, layers_pattern=["layers"])
    assert PeftModel.from_pretrained(tiny(), folder).peft_config["default"].layers_to_transform


@pytest.mark.parametrize("name", ["r", "lora_alpha", "lora_dropout"])
def test_a_value_that_no_adapter_has_is_said_of_the_file_it_stands_in(folder, tiny, name):
    change(folder, **{name: -1})
    refused(tiny(), folder, MiniloraError, str(folder), name, "-1")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"r": NaN}', '{"r": 1, "r": 2}', "\x00\x01", "[" * 100_000]
)
def test_settings_that_are_no_json_object(folder, tiny, text):
    (folder / CONFIG).write_text(text)
    refused(tiny(), folder, FormatError, CONFIG)


def test_arrays_that_are_cut_off_anywhere(folder, tiny):
    whole = (folder / WEIGHTS).read_bytes()
    for length in {*range(0, 200, 7), *range(200, len(whole), 97), len(whole) - 1}:
        (folder / WEIGHTS).write_bytes(whole[:length])
        with pytest.raises(FormatError, match=WEIGHTS):
            PeftModel.from_pretrained(tiny(), folder)


def test_an_array_of_another_shape_is_named_with_both_shapes(folder, tiny):
    change_arrays(folder, lambda arrays: arrays.update({FIRST_A: np.zeros((4, 25), np.float32)}))
    refused(tiny(), folder, AdapterError, FIRST_A, "(4, 25)", "(4, 24)")


def test_another_rank_in_the_settings_is_named_with_both_shapes(folder, tiny):
    change(folder, r=5)
    refused(tiny(), folder, AdapterError, "(4, 24)", "(5, 24)")
    change(folder, r=10**15)
    refused(tiny(), folder, AdapterError, "(4, 24)", f"({10**15}, 24)")


def test_an_array_too_many_or_too_few(folder, tiny):
    whole = folder.parent / "whole"
    shutil.copytree(folder, whole)
    change_arrays(folder, lambda arrays: arrays.pop(FIRST_A))
    refused(tiny(), folder, AdapterError, FIRST_A, "missing", "(4, 24)")
    extra = "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"
    change_arrays(whole, lambda arrays: arrays.update({extra: np.zeros((4, 24), np.float32)}))
    refused(tiny(), whole, AdapterError, extra, "no place")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none_is_named_by_its_array(folder, tiny, value):
    def spoil(arrays):
        arrays[FIRST_A][1, 2] = value

    change_arrays(folder, spoil)
    refused(tiny(), folder, MiniloraError, str(folder), FIRST_A, "finite")


@pytest.mark.parametrize("dtype", [np.int64, np.bool_])
def test_arrays_that_are_no_floats(folder, tiny, dtype):
    change_arrays(folder, lambda arrays: arrays.update({FIRST_A: arrays[FIRST_A].astype(dtype)}))
    refused(tiny(), folder, MiniloraError, str(folder), FIRST_A, np.dtype(dtype).name)


def test_a_name_that_is_taken(folder, tiny):
    model = PeftModel.from_pretrained(tiny(), folder)
    with pytest.raises(AdapterError, match="'default' already"):
        model.load_adapter(folder, "default")


def test_a_refused_second_adapter_leaves_the_first(folder, tiny, tiny_batch, logits, fingerprint):
    ids, _ = tiny_batch
    model = PeftModel.from_pretrained(tiny(), folder)
    before, weights = logits(model, ids), fingerprint(model.state_dict())
    change_arrays(folder, lambda arrays: arrays.update({FIRST_A: np.zeros((4, 25), np.float32)}))
    with pytest.raises(AdapterError, match=r"\(4, 25\)"):
        model.load_adapter(folder, "second")
    assert list(model.peft_config) == ["default"]
    assert fingerprint(model.state_dict()) == weights
    assert np.array_equal(logits(model, ids), before)


def test_settings_are_written_as_json_that_anyone_reads(folder):
    assert json.loads((folder / CONFIG).read_text())["r"] == 4
