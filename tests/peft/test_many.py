"""A hundred adapters on one base: it is held once, and choosing one copies nothing."""

import tracemalloc

import numpy as np
import pytest

import minilora
from minilora.errors import AdapterError
from minilora.optim import AdamW
from minilora.peft import LoraConfig, get_peft_model
from minilora.peft import adapters as adapters_file
from minilora.training import train_step

QV = LoraConfig(r=4, lora_alpha=8)
N = 100


@pytest.fixture
def hundred(tiny):
    """A model with adapters a0 … a99, each with numbers of its own."""
    model = get_peft_model(tiny(), QV, "a0")
    for i in range(1, N):
        model.add_adapter(f"a{i}", QV, seed=i)
    for i in range(N):
        rng = np.random.default_rng(i)
        for _, layer in model.adapted(f"a{i}"):
            B = layer.lora_B[f"a{i}"].weight
            B.data[:] = rng.normal(0, 0.1, B.shape)
    return model


def test_the_base_is_held_once_and_is_the_very_one(tiny, tiny_batch):
    base = tiny()
    arrays = {name: p.data for name, p in base.named_parameters()}
    size = sum(array.nbytes for array in arrays.values())
    model = get_peft_model(base, QV, "a0")
    for i in range(1, N):
        model.add_adapter(f"a{i}", QV, seed=i)
    one = sum(array.nbytes for array in model.adapter_weights("a0").values())
    optimizer = AdamW(model.parameters(), lr=1e-2)
    with minilora.ledger(model, optimizer) as books:
        train_step(model, optimizer, *tiny_batch, threads=1)
    totals = books.totals
    assert totals["weights"] == size + N * one
    assert totals["gradients"] == one
    assert totals["optimizer"] == 2 * one
    for name, p in model.unload().named_parameters():
        assert p.data is arrays[name]


def test_choosing_one_allocates_nothing_and_touches_no_array(hundred, fingerprint):
    base = {name: p.data for name, p in hundred.named_parameters()}
    bits = fingerprint(base)
    hundred.set_adapter("a1", inference_mode=True)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for i in range(N):
            hundred.set_adapter(f"a{i}", inference_mode=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 2000  # the smallest matrix of the base has 1152 numbers of 4 bytes
    assert all(p.data is base[name] for name, p in hundred.named_parameters())
    assert fingerprint(base) == bits


def test_choosing_one_does_not_look_through_the_model(hundred, monkeypatch):
    def never(*_):
        raise AssertionError("looked through the whole model")

    monkeypatch.setattr(adapters_file, "adapted_modules", never)
    monkeypatch.setattr(type(hundred), "named_modules", never)
    touched = []
    parts = adapters_file.LoraLinear.parts
    monkeypatch.setattr(
        adapters_file.LoraLinear, "parts", lambda m, name: touched.append(name) or parts(m, name)
    )
    hundred.set_adapter("a7", inference_mode=True)
    assert set(touched) == {"a0"}  # the one that was trained until now is frozen
    touched.clear()
    for name in "a8", "a9", "a50":
        hundred.set_adapter(name, inference_mode=True)
    assert not touched
    hundred.set_adapter("a9")
    assert set(touched) == {"a9"}


def test_each_of_them_is_what_it_is_alone(hundred, tiny, tiny_batch, logits):
    ids, _ = tiny_batch
    for i in (0, 41, 99):
        hundred.set_adapter(f"a{i}", inference_mode=True)
        alone = get_peft_model(tiny(), QV, seed=i)
        rng = np.random.default_rng(i)
        for _, layer in alone.adapted("default"):
            B = layer.lora_B["default"].weight
            B.data[:] = rng.normal(0, 0.1, B.shape)
        assert np.array_equal(logits(hundred, ids), logits(alone, ids))


def test_training_one_leaves_the_others_bit_equal(hundred, tiny_batch, fingerprint):
    before = {f"a{i}": fingerprint(hundred.adapter_weights(f"a{i}")) for i in range(N)}
    hundred.set_adapter("a41")
    optimizer = AdamW(hundred.parameters(), lr=1e-2)
    for _ in range(3):
        train_step(hundred, optimizer, *tiny_batch)
    for name, bits in before.items():
        after = fingerprint(hundred.adapter_weights(name))
        assert (after == bits) == (name != "a41")


def test_the_active_one_as_a_name_and_as_a_list(hundred):
    hundred.set_adapter("a3")
    assert (hundred.active_adapter, hundred.active_adapters) == ("a3", ["a3"])
    for i in range(N):
        hundred.delete_adapter(f"a{i}")
    assert (hundred.active_adapter, hundred.active_adapters) == (None, [])
    assert all("lora" not in name for name in hundred.state_dict())


def test_only_the_chosen_one_is_ever_trainable(hundred, tmp_path):
    def trainable():
        return {n.split(".")[-2] for n, p in hundred.named_parameters() if p.requires_grad}

    assert trainable() == {"a0"}
    hundred.save_pretrained(tmp_path)
    hundred.load_adapter(tmp_path / "a5", "opened", is_trainable=True)
    assert trainable() == {"a0", "opened"}  # as one that is loaded so is asked to be
    hundred.set_adapter("a1")
    assert trainable() == {"a1"}
    hundred.set_adapter("a1", inference_mode=True)
    assert trainable() == set()
    hundred.set_adapter("opened")
    hundred.delete_adapter("opened")
    assert trainable() == set()
    assert hundred.active_adapter == "a0"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "../up", "a b", "a\n", "__base__", None, 5, b"a"]
)
def test_a_name_that_is_no_name_of_a_folder_changes_nothing(tiny, tmp_path, fingerprint, name):
    model = get_peft_model(tiny(), QV, "mine")
    model.save_pretrained(tmp_path)
    before = fingerprint(model.state_dict())
    for add in (
        lambda: model.add_adapter(name, QV),
        lambda: model.load_adapter(tmp_path / "mine", name),
        lambda: model.add_weighted_adapter(["mine"], [1], name),
    ):
        with pytest.raises(AdapterError, match="must be of letters, digits, - and _"):
            add()
    assert fingerprint(model.state_dict()) == before
    assert list(model.peft_config) == model.active_adapters == ["mine"]
