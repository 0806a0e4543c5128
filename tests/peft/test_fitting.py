"""Files from elsewhere: other versions and bases, links that lead away, half of a write."""

import os
import shutil
import warnings

import numpy as np
import pytest

from minilora.errors import AdapterError, FormatError, MiniloraError
from minilora.files.json_files import read_json, write_json
from minilora.files.safetensors import read_metadata, read_tensors, write_tensors
from minilora.peft import LoraConfig, PeftModel, get_peft_model

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
HEAD = f"{PREFIX}lm_head"
EMBED = f"{PREFIX}model.embed_tokens"
DORA = LoraConfig(r=2, use_dora=True)


@pytest.fixture
def saved(tuned, tmp_path):
    """saved(config): the folder of an adapter that has learnt something."""

    def make(config=DORA, **options):
        folder = tmp_path / "adapter"
        tuned(config, **options).save_pretrained(folder)
        return folder

    return make


def change(folder, remove=(), **settings):
    said = {**read_json(folder / CONFIG), **settings}
    write_json(folder / CONFIG, {k: v for k, v in said.items() if k not in remove})


def change_arrays(folder, edit):
    arrays, metadata = read_tensors(folder / WEIGHTS), read_metadata(folder / WEIGHTS)
    edit(arrays)
    write_tensors(folder / WEIGHTS, arrays, metadata)


def refused(base, folder, error, *said):
    """Opening fails with `error`, which says all of `said`; the base is untouched."""
    before = {name: (p.data.tobytes(), p.requires_grad) for name, p in base.named_parameters()}
    with pytest.raises(error) as raised:
        PeftModel.from_pretrained(base, folder)
    for words in said:
        assert words in str(raised.value)
    after = {name: (p.data.tobytes(), p.requires_grad) for name, p in base.named_parameters()}
    assert after == before


# Other versions


def test_fields_that_old_versions_do_not_have_are_at_their_defaults(saved, tiny, fingerprint):
    folder = saved(LoraConfig(r=2))
    kept = {"peft_type", "r", "lora_alpha", "target_modules", "base_model_name_or_path"}
    change(folder, remove=set(read_json(folder / CONFIG)) - kept)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = PeftModel.from_pretrained(tiny(), folder)
    assert fingerprint(model.adapter_weights()) == fingerprint(read_tensors(folder / WEIGHTS))


def test_unknown_fields_that_are_empty_are_named_in_one_warning(saved, tiny):
    folder = saved()
    change(folder, enable_lora=None, merge_weights=False, of_next_year={}, use_qalora=False)
    with pytest.warns(
        UserWarning, match=r"enable_lora, merge_weights, of_next_year of another"
    ) as w:
        PeftModel.from_pretrained(tiny(), folder)
    assert len(w) == 1
    for value in (3, 0, 0.0):  # 0 equals False, but is not empty
        change(folder, of_next_year=value)
        refused(tiny(), folder, FormatError, CONFIG, f"of_next_year = {value}")


@pytest.mark.filterwarnings("error")
def test_a_choice_among_adapters_for_each_token_is_not_idle(saved, tiny):
    folder = saved()
    change(folder, arrow_config={"top_k": 2})
    refused(tiny(), folder, FormatError, CONFIG, "arrow_config = {'top_k': 2} is not computed")
    change(folder, arrow_config=None)
    assert PeftModel.from_pretrained(tiny(), folder).layers()


@pytest.mark.parametrize("start", ["eva", "orthogonal", "mica", "pissa_niter_4", "olora", "loftq"])
def test_starts_that_leave_the_base_alone_open_and_others_do_not(saved, tiny, start):
    folder = saved(LoraConfig(r=2))
    change(folder, init_lora_weights=start)
    if start in ("eva", "orthogonal", "mica"):
        PeftModel.from_pretrained(tiny(), folder)
    else:
        refused(tiny(), folder, FormatError, CONFIG, repr(start))


def test_tying_what_is_trained_is_refused_in_words_where_it_would_matter(saved, tiny):
    config = LoraConfig(r=2, modules_to_save=["embed_tokens"])
    folder = saved(config, tied=True)
    change(folder, ensure_weight_tying=True)
    refused(tiny(tied=True), folder, AdapterError, str(folder), "ensure_weight_tying")
    shutil.rmtree(folder)
    folder = saved(config)  # beside a base of two arrays there is nothing to be tied
    change(folder, ensure_weight_tying=True)
    assert PeftModel.from_pretrained(tiny(), folder).layers()
    shutil.rmtree(folder)
    folder = saved(LoraConfig(r=2), tied=True)
    change(folder, ensure_weight_tying=True)
    assert PeftModel.from_pretrained(tiny(tied=True), folder).layers()


def test_older_names_of_the_lengths_open(saved, tiny, tiny_batch, logits):
    folder = saved()
    expected = logits(PeftModel.from_pretrained(tiny(), folder), tiny_batch[0])

    def rename(arrays):
        for name in [n for n in arrays if n.endswith("magnitude_vector")]:
            arrays[f"{name}.weight"] = arrays.pop(name)

    change_arrays(folder, rename)
    again = PeftModel.from_pretrained(tiny(), folder)
    assert np.array_equal(logits(again, tiny_batch[0]), expected)


def test_targets_that_only_other_models_have_do_no_harm_in_a_file(saved, tiny):
    folder = saved(LoraConfig(r=2))
    change(folder, target_modules=["q_proj", "v_proj", "W_pack"], modules_to_save=["classifier"])
    assert PeftModel.from_pretrained(tiny(), folder).layers()


def test_a_rank_above_the_sides_opens_though_it_could_not_be_made(saved, tiny):
    folder = saved(LoraConfig(r=2, target_modules=["k_proj"]))
    change(folder, r=20)

    def widen(arrays):
        for name, array in arrays.items():
            wide = np.zeros((20, 24) if "lora_A" in name else (12, 20), np.float32)
            wide[tuple(map(slice, array.shape))] = array
            arrays[name] = wide

    change_arrays(folder, widen)
    model = PeftModel.from_pretrained(tiny(), folder)
    assert model.layers()["model.layers.0.self_attn.k_proj"].lora_A["default"].weight.shape[0] == 20


# Settings and arrays that contradict each other


@pytest.mark.parametrize(
    ("config", "settings", "said"),
    [
        (DORA, {"use_dora": False}, "lora_magnitude_vector (24,) has no place"),
        (LoraConfig(r=2), {"use_dora": True}, "lora_magnitude_vector is missing"),
        (DORA, {"rank_pattern": {"q_proj": 3}}, "(3, 24)"),
        (LoraConfig(r=2, modules_to_save=["norm"]), {"modules_to_save": None}, "norm"),
        (LoraConfig(r=2), {"modules_to_save": ["lm_head"]}, "lm_head.weight is missing"),
        (LoraConfig(r=2), {"exclude_modules": ["q_proj"]}, "q_proj.lora_A.weight (2, 24) has no"),
        (
            LoraConfig(r=2, trainable_token_indices=[1, 2]),
            {"trainable_token_indices": [1, 2, 3]},
            "(3, 24)",
        ),
        (
            LoraConfig(r=2, target_modules=["embed_tokens"]),
            {"target_modules": ["lm_head"]},
            "lm_head.lora_A.weight is missing",
        ),
    ],
)
def test_the_first_array_that_contradicts_the_settings_is_named(
    saved, tiny, config, settings, said
):
    folder = saved(config)
    change(folder, **settings)
    refused(tiny(), folder, AdapterError, str(folder), said)


def test_biases_in_a_file_for_a_base_without_any(biased, tiny, tmp_path):
    model = get_peft_model(biased(), LoraConfig(r=2, bias="all"))
    model.save_pretrained(tmp_path)
    refused(tiny(), tmp_path, AdapterError, str(tmp_path), "bias", "no place")


def test_one_array_under_two_names(biased, tmp_path):
    get_peft_model(biased(), LoraConfig(r=2, bias="lora_only")).save_pretrained(tmp_path)

    def double(arrays):
        (name, *_) = [n for n in arrays if n.endswith("base_layer.bias")]
        arrays[name.replace(".base_layer", "")] = arrays[name]

    change_arrays(tmp_path, double)
    refused(biased(), tmp_path, AdapterError, "two names")


# The base


def test_the_name_and_the_fingerprint_of_the_base_are_noted_where_peft_asks_nothing(saved, tiny):
    folder = saved()
    noted = read_metadata(folder / WEIGHTS)
    assert noted["format"] == "pt"
    assert len(noted["minilora_base"]) == 64
    assert "minilora_base" not in read_json(folder / CONFIG)
    peft = pytest.importorskip("peft", reason="needs the extra parity")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a field it does not know, PEFT warns
        peft.PeftConfig.from_pretrained(folder)


@pytest.mark.filterwarnings("error")
def test_the_same_base_is_known_again_tied_merged_or_in_float64(saved, tiny, tuned):
    for tied in (False, True):
        folder = saved(tied=tied)
        PeftModel.from_pretrained(tiny(tied=tied), folder)
        PeftModel.from_pretrained(tiny(tied=tied, dtype=np.float64), folder)
        shutil.rmtree(folder)
    merged = tuned(DORA)
    merged.merge_adapter()
    merged.save_pretrained(folder)
    model = PeftModel.from_pretrained(tiny(), folder)
    model.merge_adapter()
    model.load_adapter(folder, "second")


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_another_base_is_noticed_by_its_weights(saved, tiny, name):
    folder = saved()
    base = tiny()
    dict(base.named_parameters())[name].data[:] *= 1.01
    with pytest.warns(UserWarning, match="other weights than this base's"):
        PeftModel.from_pretrained(base, folder)


def test_a_file_that_notes_no_fingerprint_opens_without_a_word(saved, tiny):
    folder = saved()
    write_tensors(folder / WEIGHTS, read_tensors(folder / WEIGHTS), {"format": "pt"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PeftModel.from_pretrained(tiny(seed=2), folder)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("tied", [False, True])
def test_the_bases_own_embeddings_beside_a_pair_are_accepted(saved, tiny, dtype, tied, fingerprint):
    config = LoraConfig(r=2, target_modules=["embed_tokens", "lm_head"])
    folder = saved(config, tied=tied)
    expected = fingerprint(read_tensors(folder / WEIGHTS))
    base = tiny(tied=tied)

    def add(arrays):
        arrays[f"{EMBED}.base_layer.weight"] = base.model.embed_tokens.weight.data.astype(dtype)
        arrays[f"{HEAD}.base_layer.weight"] = base.lm_head.weight.data.astype(dtype)

    change_arrays(folder, add)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = PeftModel.from_pretrained(base, folder)
    assert fingerprint(model.adapter_weights()) == expected


def as_bfloat16(array):
    """What is read of an array that was written in bfloat16: float32 with 16 bits."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize(
    "written", [as_bfloat16, lambda array: array.astype(np.float16).astype(np.float32)]
)
def test_the_bases_own_embeddings_are_known_rounded_to_16_bits_of_any_kind(saved, tiny, written):
    folder = saved(LoraConfig(r=2, target_modules=["lm_head"]))
    base = tiny()
    head = base.lm_head.weight.data
    assert not np.array_equal(written(head), head)
    change_arrays(folder, lambda a: a.update({f"{HEAD}.base_layer.weight": written(head)}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PeftModel.from_pretrained(base, folder)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_head_that_differs_by_less_than_bfloat16_would_is_another_one(
    saved, tiny, tiny_batch, dtype, logits
):
    ids, _ = tiny_batch
    folder = saved(LoraConfig(r=2, target_modules=["lm_head"]))
    head = (tiny().lm_head.weight.data * np.float32(1.0035)).astype(dtype)
    changed = tiny()
    changed.lm_head.weight.data[:] = head
    with pytest.warns(UserWarning, match="other weights"):
        expected = logits(PeftModel.from_pretrained(changed, folder), ids)
    change_arrays(folder, lambda arrays: arrays.update({f"{HEAD}.base_layer.weight": head}))
    with pytest.warns(UserWarning, match="lm_head.weight is not this base's; the adapter's own"):
        model = PeftModel.from_pretrained(tiny(), folder)
    assert np.array_equal(logits(model, ids), expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["lora_A", "base_layer"])
def test_numbers_beyond_the_type_of_the_base_are_named(saved, tiny, name):
    folder = saved(LoraConfig(r=2, target_modules=["lm_head"]))
    head = np.float64(tiny().lm_head.weight.data)

    def widen(arrays):
        arrays[f"{HEAD}.base_layer.weight"] = head
        arrays[f"{HEAD}.lora_A.weight"] = np.float64(arrays[f"{HEAD}.lora_A.weight"])
        arrays[f"{HEAD}.{name}.weight"][0, 1] = -1e39

    change_arrays(folder, widen)
    said = f"{HEAD}.{name}.weight".replace(".base_layer", "")
    refused(tiny(), folder, AdapterError, str(folder), said, "1e+39", "float32", "3.4e+38")


@pytest.mark.parametrize("dora", [False, True])
def test_embeddings_of_the_files_own_are_used_with_it_alone(
    saved, tiny, tiny_batch, tmp_path, dora, logits
):
    """As in PEFT, but for the base: there it is written over."""
    ids, _ = tiny_batch
    config = LoraConfig(r=2, target_modules=["embed_tokens", "lm_head"], use_dora=dora)
    folder = saved(config)
    other = tiny(seed=9)

    def add(arrays):
        arrays[f"{EMBED}.base_layer.weight"] = other.model.embed_tokens.weight.data
        arrays[f"{HEAD}.base_layer.weight"] = other.lm_head.weight.data

    changed = tiny()
    changed.model.embed_tokens.weight.data[:] = other.model.embed_tokens.weight.data
    changed.lm_head.weight.data[:] = other.lm_head.weight.data
    with pytest.warns(UserWarning, match="other weights"):
        expected = logits(PeftModel.from_pretrained(changed, folder), ids)
    change_arrays(folder, add)
    with pytest.warns(UserWarning, match="the adapter's own is used") as said:
        model = PeftModel.from_pretrained(tiny(), folder)
    assert len(said) == 2
    assert np.array_equal(logits(model, ids), expected)
    with model.disable_adapter():
        assert np.array_equal(logits(model, ids), logits(tiny(), ids))
    model.save_pretrained(tmp_path / "again")
    with pytest.warns(UserWarning, match="the adapter's own is used"):
        again = PeftModel.from_pretrained(tiny(), tmp_path / "again")
    assert np.array_equal(logits(again, ids), expected)
    np.testing.assert_allclose(logits(again.merge_and_unload(), ids), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(31, 24), (40, 24)])
def test_weights_of_another_base_that_no_pair_stands_beside_are_refused(saved, tiny, shape):
    folder = saved()
    other = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    change_arrays(folder, lambda arrays: arrays.update({f"{EMBED}.weight": other}))
    said = ["embed_tokens.weight", "made for another"]
    refused(tiny(), folder, AdapterError, *said, *([] if shape[0] == 31 else ["(40, 24)"]))


# Files that lie elsewhere, or are not whole


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_link_that_leads_out_of_the_folder_is_not_followed(saved, tiny, tmp_path, name):
    folder = saved()
    elsewhere = tmp_path / "elsewhere"
    shutil.move(folder / name, elsewhere)
    (folder / name).symlink_to(elsewhere)
    refused(tiny(), folder, FormatError, str(folder), name, "leads out", str(elsewhere))
    (folder / name).unlink()
    (folder / "kept").mkdir()
    shutil.move(elsewhere, folder / "kept" / name)
    (folder / name).symlink_to(folder / "kept" / name)  # a link within is the folder's own
    assert PeftModel.from_pretrained(tiny(), folder).layers()


def test_a_folder_of_the_hubs_cache_opens_though_it_is_made_of_links(saved, tiny, tmp_path):
    folder = saved()
    cache = tmp_path / "models--someone--adapter"
    snapshot = cache / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for name in (CONFIG, WEIGHTS):
        shutil.copy(folder / name, cache / "blobs" / f"hash-of-{name}")
        (snapshot / name).symlink_to(f"../../blobs/hash-of-{name}")
    assert PeftModel.from_pretrained(tiny(), snapshot).layers()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files here")
@pytest.mark.parametrize("kind", ["folder", "pipe", "broken link", "link to itself"])
def test_what_is_no_file_at_all(saved, tiny, kind):
    folder = saved()
    place = folder / WEIGHTS
    place.unlink()
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(place if kind == "link to itself" else "/nowhere/at/all")
    refused(tiny(), folder, MiniloraError, str(folder), WEIGHTS)


def test_a_write_that_was_killed_before_it_counted_leaves_the_old_adapter(saved, tiny, fingerprint):
    folder = saved()
    before = fingerprint(read_tensors(folder / WEIGHTS))
    (folder / ".writing").mkdir()
    (folder / ".writing" / CONFIG).write_text('{"r": 1')
    model = PeftModel.from_pretrained(tiny(), folder)
    assert fingerprint(model.adapter_weights()) == before


def test_a_write_that_was_killed_while_its_files_were_moving_is_the_new_adapter(
    saved, tiny, tuned, tmp_path, fingerprint
):
    folder = saved()
    new = tuned(LoraConfig(r=3))
    new.save_pretrained(tmp_path / "new")
    (folder / ".ready").mkdir()
    shutil.move(tmp_path / "new" / CONFIG, folder / CONFIG)  # this one had got there
    shutil.move(tmp_path / "new" / WEIGHTS, folder / ".ready" / WEIGHTS)
    model = PeftModel.from_pretrained(tiny(), folder)
    assert fingerprint(model.adapter_weights()) == fingerprint(new.adapter_weights())


def test_files_of_two_adapters_in_one_folder_are_named_by_what_contradicts(
    saved, tiny, tuned, tmp_path
):
    folder = saved()
    tuned(LoraConfig(r=3, target_modules=["o_proj"])).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / CONFIG, folder / CONFIG)
    refused(tiny(), folder, AdapterError, "o_proj.lora_A.weight is missing", "(3, 24)")
