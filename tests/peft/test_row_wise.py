"""One batch, and for each of its rows an adapter of its own: each as if it were alone."""

import itertools

import numpy as np
import pytest

from minilora.autograd import Tensor, grad_enabled, no_grad
from minilora.bases import load_base, save_base
from minilora.errors import AdapterError, ConfigError
from minilora.generation import generate
from minilora.nn import Linear
from minilora.optim import AdamW
from minilora.peft import LoraConfig, LoraLinear, PeftModel, get_peft_model
from minilora.peft.adapted import Switch
from minilora.peft.row_wise import Rows, using_rows
from minilora.runtime import parallel
from minilora.training import train_step

ALL = "all-linear"
KINDS = {
    "qv": LoraConfig(r=4, lora_alpha=8),
    "all, of another rank and loudness": LoraConfig(r=3, lora_alpha=15, target_modules=ALL),
    "beside other matrices": LoraConfig(r=2, target_modules=["down_proj", "lm_head"]),
    "dora": LoraConfig(r=2, use_dora=True),
    "pissa": LoraConfig(r=2, init_lora_weights="pissa"),
    "biases": LoraConfig(r=2, bias="all", target_modules=["k_proj", "up_proj"]),
    "embeddings": LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"]),
    "tokens": LoraConfig(r=2, trainable_token_indices={"embed_tokens": [15, 2], "lm_head": [4]}),
    "saved head, norm and mlp": LoraConfig(
        r=2, modules_to_save=["lm_head", "norm", "layers.0.mlp"]
    ),
}
SAVED_ATTENTION = LoraConfig(r=2, target_modules=["up_proj"], modules_to_save=["self_attn"])
NAMES = [*(f"a{i}" for i in range(len(KINDS))), "__base__"]


@pytest.fixture
def several(biased):
    """several(configs): a model with an adapter a0, a1, … for each, none of them fresh."""

    def make(configs=None, **options):
        configs = list(configs or KINDS.values())
        model = get_peft_model(biased(**options), configs[0], "a0")
        for i, config in enumerate(configs[1:], 1):
            model.add_adapter(f"a{i}", config, seed=i)
        rng = np.random.default_rng(5)
        for name in model.peft_config:
            for _, layer in model.adapted(name):
                for p in layer.parts(name).values():
                    p.data += rng.normal(0, 0.1, p.shape).astype(p.dtype)
        return model

    return make


@pytest.fixture
def alone(logits):
    """alone(model, ids, name): logits (B, T, V) of a whole batch with one adapter."""

    def compute(model, ids, name):
        if name == "__base__":
            with model.disable_adapter():
                return logits(model, ids)
        model.set_adapter(name, inference_mode=True)
        return logits(model, ids)

    return compute


def ids_for(names, length=7, seed=0):
    return np.random.default_rng(seed).integers(0, 31, (len(names), length))


def mixed(model, ids, names):
    with no_grad():
        return model(ids, adapter_names=names).data


@pytest.mark.parametrize("seed", range(3))
def test_each_row_is_as_if_alone_whatever_the_kinds_beside_it(several, alone, seed):
    model, names = several(), 2 * NAMES
    np.random.default_rng(seed).shuffle(names)
    ids = ids_for(names, seed=seed)
    together = mixed(model, ids, names)
    for row, name in enumerate(names):
        one = alone(model, ids[row : row + 1], name)[0]
        np.testing.assert_allclose(together[row], one, rtol=0, atol=1e-5, err_msg=name)
        if name != "__base__":
            assert np.abs(one - alone(model, ids[row : row + 1], "__base__")[0]).max() > 1e-3


@pytest.mark.parametrize("pair", list(itertools.combinations(range(len(KINDS)), 2)))
def test_any_two_kinds_share_a_batch(several, alone, pair):
    configs = list(KINDS.values())
    model = several([configs[i] for i in pair], dtype=np.float64)
    names = ["a1", "__base__", "a0", "a1", "a0"]
    ids = ids_for(names)
    together = mixed(model, ids, names)
    for row, name in enumerate(names):
        np.testing.assert_allclose(together[row], alone(model, ids, name)[row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_where_all_rows_agree_it_is_the_active_adapter_to_the_bit(several, alone, name):
    model = several()
    ids = ids_for("12345")
    assert np.array_equal(mixed(model, ids, [name] * 5), alone(model, ids, name))


def test_rows_of_the_base_are_its_own_to_the_bit(several, alone):
    # W x has the same shape as without adapters, and what is added to it is zero.
    model = several(list(KINDS.values())[:3])
    names = ["a0", "__base__", "a1", "__base__", "a2"]
    ids = ids_for(names)
    together, base = mixed(model, ids, names), alone(model, ids, "__base__")
    assert np.array_equal(together[[1, 3]], base[[1, 3]])
    assert (np.abs(together - base).max(axis=(1, 2)) > 1e-3).tolist() == [1, 0, 1, 0, 1]


def test_where_no_product_is_rounded_every_row_is_equal_to_the_bit():
    rng = np.random.default_rng(0)
    switch = Switch()
    layer = LoraLinear(Linear(12, 20), switch)
    layer.base_layer.weight.data[:] = rng.integers(-4, 5, (20, 12))
    for name, r, alpha in (("a", 4, 8), ("b", 2, 1), ("c", 7, 14)):
        layer.add(name, LoraConfig(r=r, lora_alpha=alpha), rng)
        for part in (layer.lora_A, layer.lora_B):
            part[name].weight.data[:] = rng.integers(-4, 5, part[name].weight.shape)
    layer.requires_grad_(False)
    names = ["b", None, "c", "a", "b"]
    x = Tensor(rng.integers(-4, 5, (5, 6, 12)).astype(np.float32))
    with using_rows(Rows(switch, names)):
        together = layer(x).data
    for row, name in enumerate(names):
        switch.active = name
        assert np.array_equal(together[row], layer(x).data[row])
    assert together.dtype == np.float32


def test_the_base_multiplies_once_for_the_whole_batch(several, monkeypatch):
    model = several([LoraConfig(r=4, target_modules=ALL)] * 3)
    shapes = []
    plain = Linear.forward
    monkeypatch.setattr(Linear, "forward", lambda m, x: shapes.append(x.shape[0]) or plain(m, x))
    mixed(model, ids_for("123456"), ["a0", "a1", "a2", "a0", "a1", "__base__"])
    assert shapes == [6] * (2 * 7 + 1)  # every matrix of two layers, and the head


def test_loss_and_hidden_take_names_as_well(several, tiny_batch):
    ids, labels = tiny_batch
    model = several(dtype=np.float64)
    names = ["a3", "a0", "__base__", "a7", "a0"]
    loss = model.loss(ids, labels, adapter_names=names).item()
    vectors = model.hidden(ids, adapter_names=names).data
    counts, total = [], 0.0
    for row, name in enumerate(names):
        model.set_adapter(name if name != "__base__" else "a0", inference_mode=True)
        one = slice(row, row + 1)
        with model.using([name], 1):
            np.testing.assert_allclose(vectors[one], model.hidden(ids[one]).data, atol=1e-12)
            counts.append((labels[one, 1:] != -100).sum())
            total += counts[-1] * model.loss(ids[one], labels[one]).item()
    assert abs(loss - total / sum(counts)) < 1e-12


def test_the_gradient_of_an_adapter_is_that_of_its_own_rows(several, tiny_batch):
    ids, labels = tiny_batch
    model = several(list(KINDS.values())[:3], dtype=np.float64)
    model.set_adapter("a1")
    names, mine = ["a1", "a0", "a1", "__base__", "a2"], [0, 2]
    n_targets = int((labels[:, 1:] != -100).sum())
    model.loss(ids, labels, adapter_names=names).backward()
    found = {name: p.grad.copy() for name, p in model.named_parameters() if p.requires_grad}
    assert len(found) == 2 * 7 * 2
    for p in model.parameters():
        p.grad = None
    model.loss(ids[mine], labels[mine], n_targets=n_targets).backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            np.testing.assert_allclose(found[name], p.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("use_cache", [True, False])
def test_texts_are_those_that_each_adapter_writes_alone(several, use_cache):
    model = several()
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, 31, n).tolist() for n in (3, 6, 1, 4, 6, 2, 5, 3, 4, 2)]
    options = {"stop": [7], "use_cache": use_cache}
    together = generate(model, prompts, 12, adapter_names=NAMES, **options)
    for prompt, name, text in zip(prompts, NAMES, together, strict=True):
        model.set_adapter(name if name != "__base__" else "a0", inference_mode=True)
        if name == "__base__":
            with model.disable_adapter():
                assert generate(model, [prompt], 12, **options) == [text]
        else:
            assert generate(model, [prompt], 12, **options) == [text]
    assert len({tuple(text) for text in together}) > 5


def test_the_names_hold_for_the_call_alone_and_not_for_another_model(several, alone):
    model, other = several(), several()
    ids = ids_for("12")
    model.set_adapter("a0", inference_mode=True)
    before = alone(model, ids, "a0")
    with model.using(["a1", "a2"], 2):
        assert np.array_equal(alone(other, ids, "a0"), before)
        with pytest.raises(AdapterError, match="2 names and the batch 1 rows"):
            model.hidden(ids[:1])
    with pytest.raises(KeyError), model.using(["a1", "a2"], 2):
        raise KeyError
    assert np.array_equal(alone(model, ids, "a0"), before)


def test_switched_off_every_row_is_the_base(several, alone):
    model = several()
    ids = ids_for("12")
    base = alone(model, ids, "__base__")
    with model.disable_adapter():
        assert np.array_equal(mixed(model, ids, ["a1", "a2"]), base)


def test_a_copy_of_attention_is_refused_in_a_mixed_batch_and_used_in_one_of_its_own(several, alone):
    model = several([LoraConfig(r=2), SAVED_ATTENTION][::-1])
    ids = ids_for("12")
    with pytest.raises(AdapterError, match="'a0' has a SavedModule at model"):
        mixed(model, ids, ["a0", "a1"])
    assert np.array_equal(mixed(model, ids, ["a0", "a0"]), alone(model, ids, "a0"))
    assert np.array_equal(
        mixed(model, ids, ["a1", "__base__"])[1], alone(model, ids, "__base__")[1]
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a0"], "1 names and the batch 5 rows"),
        (["a0"] * 6, "6 names and the batch 5 rows"),
        ([], "0 names"),
        ("a0", "must be a list"),
        (["a0", "nobody", "a1", "a0", "a0"], "no adapter 'nobody'; there are: 'a0', 'a1'"),
        (["a0", None, "a1", "a0", "a0"], "no adapter None"),
        ([["a0"], "a1", "a1", "a0", "a0"], "no adapter ['a0']; there are: 'a0', 'a1'"),
        (5, "adapter_names 5 must be a list"),
        ({"a0"}, "adapter_names {'a0'} must be a list"),
    ],
)
def test_names_that_do_not_fit_are_refused_in_words(several, tiny_batch, names, said):
    ids, labels = tiny_batch
    model = several([LoraConfig(r=2)] * 2)
    calls = (
        lambda: model(ids, adapter_names=names),
        lambda: model.hidden(ids, adapter_names=names),
        lambda: model.loss(ids, labels, adapter_names=names),
        lambda: generate(model, ids.tolist(), 3, adapter_names=names),
    )
    for call in calls:
        with pytest.raises(AdapterError) as error:
            call()
        assert said in str(error.value)


@pytest.mark.parametrize("use_cache", [True, False])
def test_texts_are_written_while_checkpointing_is_on_which_is_for_gradients(several, use_cache):
    model = several([LoraConfig(r=2)] * 2)
    prompts, names = [[3, 4], [5, 6, 7]], ["a0", "a1"]
    expected = generate(model, prompts, 4, adapter_names=names, use_cache=use_cache)
    model.gradient_checkpointing_enable()
    assert expected == generate(model, prompts, 4, adapter_names=names, use_cache=use_cache)
    assert grad_enabled()


def test_what_it_does_not_go_with_is_said(several, tiny_batch, biased):
    ids, labels = tiny_batch
    model = several([LoraConfig(r=2)] * 2)
    names = ["a0", "a1"] * 2 + ["__base__"]
    for call in (model, lambda *given, **more: model.loss(given[0], labels, **more)):
        with pytest.raises(AdapterError, match="for using adapters, not for training"):
            call(ids, adapter_names=names, training=True)
    model.gradient_checkpointing_enable()
    with pytest.raises(AdapterError, match="gradient checkpointing"):
        model.loss(ids, labels, adapter_names=names)
    with no_grad():
        model.loss(ids, labels, adapter_names=names)
    model.merge_adapter()
    with pytest.raises(AdapterError, match=r"'a0' is merged.*unmerge_adapter\(\)"):
        model(ids, adapter_names=names)
    with pytest.raises(ConfigError, match="adapter_names needs a model with adapters"):
        generate(biased(), ids.tolist(), 3, adapter_names=names)


@pytest.mark.parametrize("n", [1, 2])
def test_a_training_step_is_refused_however_many_threads_share_it(several, tiny_batch, threads, n):
    threads(n)
    model = several([LoraConfig(r=2)] * 2)
    optimizer = AdamW(model.parameters())
    names = ["a0", "a1", "a0", "a1", "a0"]
    with pytest.raises(AdapterError, match="not for training"), model.using(names, 5):
        train_step(model, optimizer, *tiny_batch)
    assert optimizer.t == 0


def test_threads_that_share_a_call_know_the_names(several, alone):
    model = several()
    ids, names = ids_for("12"), ["a0", "a2"]
    expected = mixed(model, ids, names)
    with model.using(names, 2):
        found = parallel(lambda _: alone(model, ids, "a1"), [0, 1])
    assert all(np.array_equal(each, expected) for each in found)


def test_the_rows_are_those_of_peft(several, tmp_path, tiny_batch):
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    transformers = pytest.importorskip("transformers", reason="needs the extra parity")
    peft = pytest.importorskip("peft", reason="needs the extra parity")
    model = several([LoraConfig(r=4, lora_alpha=8), LoraConfig(r=3, target_modules=ALL)])
    model.save_pretrained(tmp_path / "adapters")
    save_base(model.unload(), tmp_path / "base")
    base = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapters" / "a0", "a0")
    theirs.load_adapter(tmp_path / "adapters" / "a1", "a1")
    ours = PeftModel.from_pretrained(
        load_base(tmp_path / "base"), tmp_path / "adapters" / "a0", "a0"
    )
    ours.load_adapter(tmp_path / "adapters" / "a1", "a1")
    ids, names = tiny_batch[0], ["a1", "a0", "__base__", "a0", "a1"]
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(ids), adapter_names=names).logits.numpy()
    np.testing.assert_allclose(mixed(ours, ids, names), expected, rtol=0, atol=1e-4)
