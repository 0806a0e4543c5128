"""What holds for every kind of adapter: the base behind it, its file, its switch, its merge."""

import numpy as np
import pytest

from minilora.accounting import ledger, predict
from minilora.accounting.counts import Method, arrays
from minilora.accounting.presets import Gpt
from minilora.autograd import tape
from minilora.config import ModelConfig
from minilora.errors import AdapterError, ConfigError, NonFiniteError
from minilora.model import Transformer
from minilora.optim import AdamW
from minilora.peft import LoraConfig, PeftModel, get_peft_model
from minilora.training import loss_and_gradients, train_step

KINDS = {
    "patterns": LoraConfig(
        r=2,
        target_modules="all-linear",
        exclude_modules=r".*layers\.0\.mlp.*",
        rank_pattern={"q_proj": 3},
        alpha_pattern={"(k|v)_proj": 5},
    ),
    "dora": LoraConfig(r=2, use_dora=True, target_modules="all-linear"),
    "dora with dropout": LoraConfig(r=2, use_dora=True, lora_dropout=0.3),
    "embedding": LoraConfig(r=2, target_modules=["embed_tokens", "v_proj"]),
    "embedding with dora": LoraConfig(r=2, target_modules=["embed_tokens"], use_dora=True),
    "saved head": LoraConfig(r=2, modules_to_save=["lm_head", "norm"]),
    "saved embedding": LoraConfig(r=2, modules_to_save=["embed_tokens", "layers.0.mlp"]),
    "saved attention": LoraConfig(r=2, target_modules=["up_proj"], modules_to_save=["self_attn"]),
    "tokens": LoraConfig(r=2, trainable_token_indices=[15, 2]),
    "tokens of both": LoraConfig(
        r=2, trainable_token_indices={"embed_tokens": [15], "lm_head": [4, 5]}
    ),
    "biases beside pairs": LoraConfig(r=2, bias="lora_only"),
    "all biases": LoraConfig(r=2, bias="all", target_modules=["k_proj"]),
    "all at once": LoraConfig(
        r=2,
        target_modules=["k_proj", "down_proj"],
        use_dora=True,
        use_rslora=True,
        bias="all",
        modules_to_save=["norm", "lm_head"],
        trainable_token_indices=[15],
    ),
}
kinds = pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)


@pytest.fixture
def model(biased, tiny_batch, tune):
    """model(config): a model with biases, tuned a little."""

    def make(config, steps=3, **options):
        made = get_peft_model(biased(**options), config)
        tune(made, tiny_batch, steps)
        return made

    return make


@kinds
def test_a_fresh_one_is_the_base(biased, tiny_batch, config, logits):
    ids, _ = tiny_batch
    before = logits(biased(), ids)
    fresh = logits(get_peft_model(biased(), config), ids)
    if "lm_head" in (config.trainable_token_indices or ()):  # a product of its own: rounding
        np.testing.assert_allclose(fresh, before, rtol=0, atol=1e-6)
    else:
        assert np.array_equal(fresh, before)


@kinds
def test_tuning_moves_all_of_it_and_no_bit_of_the_base(
    biased, tiny_batch, config, fingerprint, frozen, logits, tune
):
    ids, labels = tiny_batch
    model = get_peft_model(biased(), config)
    before = fingerprint(model.adapter_weights())
    losses = tune(model, tiny_batch, 10)
    after = fingerprint(model.adapter_weights())
    assert losses[-1] < losses[0]
    assert {name for name in before if before[name] == after[name]} == set()
    base = biased()
    assert fingerprint(frozen(model.get_base_model())) == fingerprint(base.state_dict())
    on = logits(model, ids)
    with model.disable_adapter():
        assert np.array_equal(logits(model, ids), logits(base, ids))
        assert model.loss(ids, labels).item() == base.loss(ids, labels).item()
    assert np.array_equal(logits(model, ids), on)
    assert np.abs(on - logits(base, ids)).max() > 1e-3


@kinds
def test_only_what_is_in_the_file_is_trainable(biased, tiny_batch, config):
    model = get_peft_model(biased(), config)
    mine = {id(array) for array in model.adapter_weights().values()}
    assert {id(p.data) for p in model.trainable_parameters()} == mine
    _, gradients = loss_and_gradients(model, *tiny_batch)
    assert set(gradients) == set(model.trainable_parameters())
    assert all(g.shape == p.shape and g.dtype == p.dtype for p, g in gradients.items())


@kinds
def test_its_gradients_are_those_of_small_differences(biased, tiny_batch, config):
    """In float64, for one number of each array; DoRA's norm is a constant there, by definition."""
    if config.use_dora or config.lora_dropout:
        pytest.skip("test_dora.py holds DoRA's gradients against autograd's and PEFT's")
    model = get_peft_model(biased(np.float64), config)
    rng = np.random.default_rng(0)
    for array in model.adapter_weights().values():
        array += rng.normal(0, 0.1, array.shape)
    _, gradients = loss_and_gradients(model, *tiny_batch)
    for p, g in gradients.items():
        at = np.unravel_index(np.abs(g).argmax(), g.shape)
        value, h = p.data[at], 1e-5
        ends = []
        for step in (h, -h):
            p.data[at] = value + step
            ends.append(model.loss(*tiny_batch).item())
        p.data[at] = value
        assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(g[at], rel=1e-5, abs=1e-9)


@kinds
def test_saved_and_opened_it_is_the_same_to_the_bit(
    model, biased, tiny_batch, tmp_path, config, fingerprint, logits, tune
):
    ids, _ = tiny_batch
    one = model(config)
    one.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(biased(), tmp_path, is_trainable=True)
    assert fingerprint(again.adapter_weights()) == fingerprint(one.adapter_weights())
    assert np.array_equal(logits(again, ids), logits(one, ids))
    assert tune(one, tiny_batch) == tune(again, tiny_batch)
    assert fingerprint(again.adapter_weights()) == fingerprint(one.adapter_weights())


@kinds
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-5), (np.float64, 1e-12)])
def test_merged_it_is_the_same_and_the_base_comes_back(
    model, biased, tiny_batch, config, dtype, tolerance, fingerprint, logits, tmp_path
):
    ids, _ = tiny_batch
    one = model(config, dtype=dtype)
    before, apart = fingerprint(one.state_dict()), logits(one, ids)
    stored = fingerprint(one.adapter_weights())
    one.merge_adapter()
    np.testing.assert_allclose(logits(one, ids), apart, rtol=0, atol=tolerance)
    one.save_pretrained(tmp_path)  # the adapter, as if it were not merged
    assert fingerprint(one.adapter_weights()) == stored
    again = PeftModel.from_pretrained(biased(dtype), tmp_path)
    assert np.array_equal(logits(again, ids), apart)
    one.unmerge_adapter()
    assert fingerprint(one.state_dict()) == before
    assert np.array_equal(logits(one, ids), apart)
    plain = one.merge_and_unload()
    np.testing.assert_allclose(logits(plain, ids), apart, rtol=0, atol=tolerance)
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in biased().named_parameters()]


@kinds
def test_unloaded_it_is_the_base(model, biased, config, fingerprint):
    base = fingerprint(biased().state_dict())
    assert fingerprint(model(config).unload().state_dict()) == base
    merged = model(config)
    merged.merge_adapter()
    assert fingerprint(merged.unload().state_dict()) == base


@kinds
def test_one_bad_number_stops_the_merge_before_anything_is_changed(model, config, fingerprint):
    one = model(config)
    *_, last = one.adapter_weights().values()
    last.reshape(-1)[0] = np.nan
    before = fingerprint(one.state_dict())
    with pytest.raises(NonFiniteError, match="the base is untouched"):
        one.merge_adapter()
    assert fingerprint(one.state_dict()) == before


@kinds
def test_beside_another_adapter_each_is_as_if_alone(biased, tiny_batch, config, logits, tune):
    ids, _ = tiny_batch
    alone = get_peft_model(biased(), config, seed=5)
    tune(alone, tiny_batch)
    both = get_peft_model(biased(), KINDS["all at once"])
    tune(both, tiny_batch)
    first = logits(both, ids)
    both.add_adapter("second", config, seed=5)
    assert np.array_equal(logits(both, ids), first)
    both.set_adapter("second")
    tune(both, tiny_batch)
    assert np.array_equal(logits(both, ids), logits(alone, ids))
    both.set_adapter("default")
    assert np.array_equal(logits(both, ids), first)
    both.delete_adapter("default")
    assert both.active_adapter == "second"
    assert np.array_equal(logits(both, ids), logits(alone, ids))
    both.delete_adapter("second")
    assert np.array_equal(logits(both, ids), logits(biased(), ids))


@kinds
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_ledger_of_a_step_is_foretold(config, checkpointing):
    base = ModelConfig(31, 24, 40, 2, 4, 2, attention_bias=True, mlp_bias=True, max_positions=64)
    model = get_peft_model(Transformer(base), config)
    model.gradient_checkpointing_enable(checkpointing)
    optimizer = AdamW(model.parameters())
    ids = np.random.default_rng(0).integers(0, 31, (3, 9))
    with ledger(model, optimizer) as real:
        train_step(model, optimizer, ids, ids, threads=1)
    foretold = predict(base, lora=config, batch_size=3, length=9, checkpointing=checkpointing)
    assert foretold.ledger.totals == real.totals
    assert sorted(foretold.ledger.entries) == sorted(real.entries)


def test_the_peak_of_dora_and_of_a_saved_head_is_foretold():
    """Within 2 % of tracemalloc's."""
    base = ModelConfig(61, 64, 172, 3, 4, 2, tie_word_embeddings=True)
    lora = LoraConfig(r=4, target_modules="all-linear", use_dora=True, modules_to_save=["lm_head"])
    model = get_peft_model(Transformer(base), lora)
    optimizer = AdamW(model.parameters())
    ids = np.random.default_rng(0).integers(0, 61, (16, 96))
    train_step(model, optimizer, ids, ids, threads=1)
    with ledger(model, optimizer) as real:
        train_step(model, optimizer, ids, ids, threads=1)
    foretold = predict(base, lora=lora, batch_size=16, length=96)
    assert foretold.ledger.totals == real.totals
    assert foretold.ledger.peak == pytest.approx(real.peak, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"modules_to_save": ["nonsense"]}, "modules_to_save: 'nonsense' matches no module"),
        ({"modules_to_save": ["layers"]}, "nothing is left to be adapted"),
        ({"modules_to_save": ["layers.0"]}, "layers.0 is a Block"),
        ({"modules_to_save": ["ayers"]}, "layers is a ModuleList"),
        ({"modules_to_save": ["mlp", "up_proj"]}, "mlp.up_proj is meant twice"),
        ({"modules_to_save": ["_proj"]}, "q_proj is meant twice"),  # ends so, with no dot before
        (
            {"modules_to_save": ["embed_tokens"], "trainable_token_indices": [1]},
            "embed_tokens is meant twice",
        ),
        (
            {"target_modules": ["embed_tokens"], "trainable_token_indices": [1]},
            "embed_tokens is meant twice",
        ),
        (
            {"target_modules": ["lm_head"], "modules_to_save": ["lm_head"]},
            "nothing is left to be adapted",
        ),
        ({"trainable_token_indices": [31]}, "no token 31 in a vocabulary of 31"),
        ({"trainable_token_indices": {"norm": [3]}}, "'norm' is neither embed_tokens nor lm_head"),
        (
            {"target_modules": ["embed_tokens"], "init_lora_weights": "pissa"},
            "for matrices, not for model.embed_tokens",
        ),
        ({"r": 25, "target_modules": ["embed_tokens"]}, "rank 25 is above"),
    ],
)
def test_settings_that_collide_or_are_not_there_are_refused_in_words(
    tiny, settings, said, fingerprint
):
    base = tiny()
    with pytest.raises(ConfigError) as error:
        get_peft_model(base, LoraConfig(**{"r": 2, **settings}))
    assert said in str(error.value)
    assert fingerprint(base.state_dict()) == fingerprint(tiny().state_dict())
    assert all(p.requires_grad for p in base.parameters())


def test_a_head_whose_tokens_are_trained_by_the_embeddings_setting_is_told_so(tiny):
    config = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], trainable_token_indices=[3])
    base = tiny(tied=True)
    with pytest.raises(ConfigError, match=r"lm_head is meant by .*one array is the embeddings and"):
        get_peft_model(base, config)
    assert all(p.requires_grad for p in base.parameters())
    assert get_peft_model(tiny(), config).layers()


TIED = [
    LoraConfig(r=2, target_modules=["embed_tokens"]),
    LoraConfig(r=2, target_modules=["lm_head", "v_proj"]),
    LoraConfig(r=2, modules_to_save=["lm_head"]),
    LoraConfig(r=2, modules_to_save=["embed_tokens", "lm_head"]),
    LoraConfig(r=2, trainable_token_indices={"lm_head": [1]}),
    LoraConfig(r=2, trainable_token_indices={"lm_head": [1], "embed_tokens": [2]}),
]


@pytest.mark.parametrize("config", TIED)
def test_one_end_of_a_tied_model_is_used_but_not_merged(tuned, tiny, tiny_batch, config, logits):
    ids, _ = tiny_batch
    model = tuned(config, tied=True)
    apart = logits(model, ids)
    assert np.abs(apart - logits(tiny(tied=True), ids)).max() > 1e-3
    with pytest.raises(AdapterError, match="one array is the embeddings and lm_head"):
        model.merge_adapter()
    assert np.array_equal(logits(model, ids), apart)
    plain = model.unload()
    assert plain.lm_head.weight is plain.model.embed_tokens.weight


def test_tokens_of_a_tied_model_are_one_table_for_both_ends(tuned, tiny, tiny_batch, logits):
    ids, _ = tiny_batch
    for indices in ([3, 9], {"embed_tokens": [3, 9], "lm_head": [3, 9]}):
        model = tuned(LoraConfig(r=2, trainable_token_indices=indices), tied=True)
        names = [n for n in model.adapter_weights() if "token_adapter" in n]
        assert names == ["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"]
        apart = logits(model, ids)
        plain = model.merge_and_unload()
        np.testing.assert_allclose(logits(plain, ids), apart, rtol=0, atol=1e-6)
        assert plain.lm_head.weight is plain.model.embed_tokens.weight
        changed = (plain.lm_head.weight.data != tiny(tied=True).lm_head.weight.data).any(axis=1)
        assert changed.nonzero()[0].tolist() == [3, 9]


def test_a_pair_beside_embeddings_starts_with_a_zero_and_b_normal():
    base = Transformer(ModelConfig(300, 400, 40, 1, 4, max_positions=64))
    config = LoraConfig(r=8, target_modules=["embed_tokens"])
    weights = get_peft_model(base, config, seed=3).adapter_weights()
    A, B = (weights[f"base_model.model.model.embed_tokens.lora_embedding_{x}"] for x in "AB")
    assert A.shape == (8, 300)
    assert B.shape == (400, 8)
    assert not A.any()
    assert np.std(B) == pytest.approx(1, rel=0.05)
    config = LoraConfig(r=8, target_modules=["embed_tokens"], init_lora_weights=False)
    (A, _) = get_peft_model(base.__class__(base.config), config).adapter_weights().values()
    assert np.std(A) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("name", ["dora", "saved head", "tokens of both", "all biases"])
def test_one_that_is_added_while_another_is_merged_starts_from_the_base(
    biased, tiny_batch, name, fingerprint, tune
):
    model = get_peft_model(biased(), KINDS["all at once"])
    tune(model, tiny_batch)
    model.merge_adapter()
    model.add_adapter("late", KINDS[name])
    fresh = get_peft_model(biased(), KINDS[name])
    assert fingerprint(model.adapter_weights("late")) == fingerprint(fresh.adapter_weights())
    model.unmerge_adapter()


def test_a_saved_head_makes_no_more_logits_at_once_than_a_plain_one(biased, tiny_batch):
    model = get_peft_model(biased(), KINDS["saved head"])
    assert "LinearCrossEntropy" in [type(op).__name__ for op in tape(model.loss(*tiny_batch))]


def test_of_another_family_the_kinds_that_can_be_are_counted():
    gpt = Gpt(vocab_size=50, hidden_size=16, n_layers=2, max_positions=8)
    every = LoraConfig(
        r=2, target_modules=["q_proj", "up_proj"], use_dora=True, bias="lora_only",
        rank_pattern={"up_proj": 3}, exclude_modules=["layers.1.self_attn.q_proj"],
    )  # fmt: skip
    trained = sum(a.size for a in arrays(gpt, Method("lora", every)) if a.trained)
    assert trained == (2 * 32 + 16 + 16) + 2 * (3 * 80 + 64 + 64)
    with pytest.raises(ConfigError, match="modules_to_save"):
        arrays(gpt, Method("lora", LoraConfig(r=2, modules_to_save=["lm_head"])))
