"""What holds for every relative of LoRA: attach, count, save; and one base behind all of them."""

import numpy as np
import pytest

from minilora.accounting import ledger, predict
from minilora.accounting.counts import Method, arrays
from minilora.autograd import gradcheck, no_grad
from minilora.config import ModelConfig
from minilora.diagnosing.examining import examine_folder
from minilora.errors import AdapterError, ConfigError, FormatError, NonFiniteError, ShapeError
from minilora.generation import generate, stream
from minilora.inspecting import inspect_adapter
from minilora.model import KVCache, Transformer
from minilora.optim import AdamW
from minilora.peft import (
    BitFitConfig,
    BottleneckConfig,
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    bitfit,
    bottleneck,
    get_peft_model,
    ia3,
    prefix,
    prompt,
)
from minilora.training import loss_and_gradients, train, train_step

RELATIVES = {
    "prompt": PromptTuningConfig(3),
    "prompt of tokens": PromptTuningConfig(4, prompt_tuning_init="SAMPLE_VOCAB"),
    "prefix": PrefixTuningConfig(3),
    "prefix through an MLP": PrefixTuningConfig(3, prefix_projection=True, encoder_hidden_size=5),
    "houlsby": BottleneckConfig(5, nonlinearity="silu"),
    "pfeiffer": BottleneckConfig(5, kind="pfeiffer", nonlinearity="tanh"),
    "parallel": BottleneckConfig(5, kind="parallel", nonlinearity="tanh", scaling=2.0),
    "ia3": IA3Config(),
    "ia3 of outputs": IA3Config(target_modules="all-linear", feedforward_modules=[]),
    "bitfit": BitFitConfig(),
    "bitfit and norms": BitFitConfig(norms=True),
    "norms alone": BitFitConfig(biases=False, norms=True),
}
COUNTS = {
    "prompt": prompt.count, "prefix": prefix.count, "houlsby": bottleneck.count,
    "pfeiffer": bottleneck.count, "parallel": bottleneck.count, "ia3": ia3.count,
    "bitfit": bitfit.count, "norms": bitfit.count,
}  # fmt: skip
VIRTUAL = [name for name in RELATIVES if name.startswith("pr")]
UNMERGEABLE = [*VIRTUAL, "houlsby", "pfeiffer", "parallel"]
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 1], [5]]

relatives = pytest.mark.parametrize("name", RELATIVES)


@pytest.fixture
def fresh(biased):
    """fresh(name): a model with biases, and a fresh adapter."""

    def make(name, **options):
        return get_peft_model(biased(**options), RELATIVES[name])

    return make


@pytest.fixture
def learnt(fresh):
    """learnt(name): the same, and every number of the adapter has moved."""

    def make(name, **options):
        model = fresh(name, **options)
        rng = np.random.default_rng(7)
        for array in model.adapter_weights().values():
            array += rng.normal(0, 0.3, array.shape).astype(array.dtype)
        return model

    return make


@relatives
def test_it_starts_where_its_page_says(fresh, biased, tiny_batch, name, logits):
    ids, _ = tiny_batch
    same = np.array_equal(logits(fresh(name), ids), logits(biased(), ids))
    assert same == (name not in VIRTUAL)


@relatives
def test_tuning_moves_it_and_no_bit_of_the_base(
    fresh, biased, tiny_batch, name, fingerprint, logits, tune
):
    ids, labels = tiny_batch
    model, base = fresh(name), biased()
    before = fingerprint(model.adapter_weights())
    losses = tune(model, tiny_batch, 10)
    after = fingerprint(model.adapter_weights())
    assert losses[-1] < losses[0]
    assert {n for n in before if before[n] == after[n]} == set()
    on = logits(model, ids)
    with model.disable_adapter():
        assert np.array_equal(logits(model, ids), logits(base, ids))
        assert model.loss(ids, labels).item() == base.loss(ids, labels).item()
        assert generate(model, PROMPTS, 5) == generate(base, PROMPTS, 5)
    assert np.array_equal(logits(model, ids), on)
    assert np.abs(on - logits(base, ids)).max() > 1e-3
    assert on.shape == (*ids.shape, 31)
    assert fingerprint(model.unload().state_dict()) == fingerprint(base.state_dict())


@relatives
def test_only_the_adapter_has_gradients(fresh, tiny_batch, name):
    model = fresh(name)
    mine = {id(array) for array in model.adapter_weights().values()}
    assert {id(p.data) for p in model.trainable_parameters()} == mine
    _, gradients = loss_and_gradients(model, *tiny_batch)
    assert set(gradients) == set(model.trainable_parameters())
    assert all(g.shape == p.shape and g.dtype == p.dtype for p, g in gradients.items())


@relatives
def test_its_gradients_are_those_of_small_differences(learnt, tiny_batch, name):
    """The whole model in float64, ten numbers of each array: within 1e-5."""
    model = learnt(name, dtype=np.float64)
    rng = np.random.default_rng(3)
    for p in model.parameters():  # as a fresh base is, some gradients are as small as rounding
        p.data += rng.normal(0, 0.15, p.shape)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}

    def loss(*tensors):
        for path, leaf in zip(trained, tensors, strict=True):
            above, _, part = path.rpartition(".")
            setattr(model.get_submodule(above), part, leaf)
        return model.loss(*tiny_batch)

    report = gradcheck(
        loss, *(p.data.copy() for p in trained.values()), names=list(trained),
        samples=10, tolerance=1e-5, h=3e-5,
    )  # fmt: skip
    assert report.ok, f"\n{report}"
    assert len(report.inputs) == len(trained)


@relatives
def test_how_many_numbers_are_trained_is_what_the_formula_says(biased, tiny, name):
    config = RELATIVES[name]
    count = COUNTS[name.split()[0]]
    model = get_peft_model(biased(), config)
    assert model.n_parameters(trainable=True) == count(config, model.config)
    if name != "bitfit":
        model = get_peft_model(tiny(), config)
        assert model.n_parameters(trainable=True) == count(config, model.config)


@pytest.mark.parametrize(
    ("config", "method"),
    [
        (PromptTuningConfig(7), Method("prompt", tokens=7)),
        (PrefixTuningConfig(7), Method("prefix", tokens=7)),
        (BottleneckConfig(6), Method("adapter", bottleneck=6)),
    ],
)
def test_the_budget_counts_the_same(tiny, config, method):
    model = get_peft_model(tiny(), config)
    counted = sum(a.size for a in arrays(model.config, method) if a.trained)
    assert counted == model.n_parameters(trainable=True)


@relatives
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_ledger_of_a_step_is_foretold(name, checkpointing):
    base = ModelConfig(31, 24, 40, 2, 4, 2, attention_bias=True, mlp_bias=True, max_positions=64)
    model = get_peft_model(Transformer(base), RELATIVES[name])
    model.gradient_checkpointing_enable(checkpointing)
    optimizer = AdamW(model.parameters())
    ids = np.random.default_rng(0).integers(0, 31, (3, 9))
    with ledger(model, optimizer) as real:
        train_step(model, optimizer, ids, ids, threads=1)
    foretold = predict(
        base, peft=RELATIVES[name], batch_size=3, length=9, checkpointing=checkpointing
    )
    assert foretold.ledger.totals == real.totals
    assert sorted(foretold.ledger.entries) == sorted(real.entries)
    assert foretold.trainable_parameters == model.n_parameters(trainable=True)


@relatives
def test_computed_again_in_backward_the_gradients_are_the_same_to_the_bit(learnt, tiny_batch, name):
    model = learnt(name)
    loss, kept = loss_and_gradients(model, *tiny_batch, threads=1)
    model.gradient_checkpointing_enable()
    again, computed = loss_and_gradients(model, *tiny_batch, threads=1)
    assert loss == again
    assert set(kept) == set(computed)
    assert all(np.array_equal(kept[p], computed[p]) for p in kept)


@relatives
def test_threads_that_share_a_batch_get_the_same_gradients(learnt, tiny_batch, name):
    model = learnt(name, dtype=np.float64)
    loss, alone = loss_and_gradients(model, *tiny_batch, threads=1)
    shared_loss, shared = loss_and_gradients(model, *tiny_batch, threads=3)
    assert loss == pytest.approx(shared_loss, rel=1e-12)
    for p, g in alone.items():
        np.testing.assert_allclose(shared[p], g, rtol=1e-9, atol=1e-12)


@relatives
def test_saved_and_opened_it_is_the_same(learnt, biased, tiny_batch, tmp_path, name, logits):
    ids, _ = tiny_batch
    one = learnt(name)
    one.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(biased(), tmp_path, is_trainable=True)
    # Through its MLP a prefix is computed each time, and another product may round otherwise.
    tolerance = 1e-6 if name == "prefix through an MLP" else 0
    np.testing.assert_allclose(logits(again, ids), logits(one, ids), rtol=0, atol=tolerance)
    assert type(again.peft_config["default"]) is type(RELATIVES[name])
    again.save_pretrained(tmp_path / "again")
    third = PeftModel.from_pretrained(biased(), tmp_path / "again")
    assert np.array_equal(logits(third, ids), logits(again, ids))


@relatives
def test_stopped_and_resumed_it_ends_with_the_same_bits(
    fresh, tiny_batch, tmp_path, name, fingerprint
):
    ids, labels = tiny_batch
    batches = [(ids[i : i + 2], labels[i : i + 2]) for i in (0, 2, 3, 1, 0)]

    def run(steps, resume=False, file="checkpoint"):
        model = fresh(name)
        optimizer = AdamW(model.parameters(), lr=1e-2)
        train(
            model, optimizer, batches, steps=steps, progress=None,
            checkpoint=tmp_path / file, resume=resume,
        )  # fmt: skip
        return fingerprint(model.adapter_weights())

    whole = run(5, file="whole")
    run(2)
    assert run(5, resume=True) == whole


@relatives
def test_with_a_cache_and_in_one_batch_texts_go_on_as_alone(learnt, name):
    model = learnt(name)
    together = generate(model, PROMPTS, 6)
    assert together == generate(model, PROMPTS, 6, use_cache=False)
    assert together == [generate(model, [p], 6)[0] for p in PROMPTS]
    assert together[0] == list(stream(model, PROMPTS[0], 6))


@relatives
def test_a_text_may_come_in_pieces(learnt, name):
    model = learnt(name, dtype=np.float64)
    ids = np.random.default_rng(0).integers(0, 31, (2, 9))
    taken = model.virtual_tokens
    kv = KVCache(model.config, 2, 9 + taken, np.float64)
    with no_grad():
        pieces = [model.hidden(part, kv=kv).data for part in (ids[:, :4], ids[:, 4:5], ids[:, 5:])]
        whole = model.hidden(ids).data
    assert kv.length == 9 + taken
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=0, atol=1e-12)


@relatives
@pytest.mark.parametrize("cached", [False, True])
def test_beside_padding_the_numbers_are_those_of_the_row_alone(learnt, name, cached):
    model = learnt(name, dtype=np.float64)
    ids = np.zeros((3, 7), np.int64)
    for row, text in zip(ids, PROMPTS, strict=True):
        row[7 - len(text) :] = text
    start = np.array([7 - len(text) for text in PROMPTS])
    with no_grad():
        kv = KVCache(model.config, 3, 20, np.float64) if cached else None
        h = model.hidden(ids, kv=kv, start=start).data
        for row, text in enumerate(PROMPTS):
            alone = model.hidden(np.array([text])).data[0]
            np.testing.assert_allclose(h[row, 7 - len(text) :], alone, rtol=0, atol=1e-12)


@relatives
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-5), (np.float64, 1e-12)])
def test_it_merges_or_says_why_not(
    learnt, biased, tiny_batch, name, dtype, tolerance, fingerprint, logits
):
    ids, _ = tiny_batch
    one = learnt(name, dtype=dtype)
    before, apart = fingerprint(one.state_dict()), logits(one, ids)
    if name in UNMERGEABLE:
        why = "stands before the text" if name in VIRTUAL else "nonlinearity"
        for merge in (one.merge_adapter, one.merge_and_unload):
            with pytest.raises(AdapterError, match=f"'default'.*{why}"):
                merge()
        assert fingerprint(one.state_dict()) == before
        return
    one.merge_adapter()
    np.testing.assert_allclose(logits(one, ids), apart, rtol=0, atol=tolerance)
    one.unmerge_adapter()
    assert fingerprint(one.state_dict()) == before
    plain = one.merge_and_unload()
    np.testing.assert_allclose(logits(plain, ids), apart, rtol=0, atol=tolerance)
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in biased().named_parameters()]


@pytest.mark.parametrize("name", [n for n in RELATIVES if n not in UNMERGEABLE])
def test_one_bad_number_stops_the_merge_before_anything_is_changed(learnt, name, fingerprint):
    one = learnt(name)
    *_, last = one.adapter_weights().values()
    last.reshape(-1)[0] = np.nan
    before = fingerprint(one.state_dict())
    with pytest.raises(NonFiniteError, match="the base is untouched"):
        one.merge_adapter()
    assert fingerprint(one.state_dict()) == before


@relatives
@pytest.mark.parametrize(
    "other", [LoraConfig(r=2, target_modules="all-linear", modules_to_save=["mlp", "norm"]),
              PromptTuningConfig(2), PrefixTuningConfig(2), BottleneckConfig(3), IA3Config()],
    ids=lambda config: config.peft_type,
)  # fmt: skip
def test_beside_an_adapter_of_another_kind_each_is_as_if_alone(
    biased, fresh, tiny_batch, name, other, logits, tune
):
    ids, _ = tiny_batch
    alone, first = fresh(name), get_peft_model(biased(), other)
    for model in (alone, first):
        tune(model, tiny_batch)
    for order in (0, 1):
        configs = [("a", RELATIVES[name]), ("b", other)][:: 1 - 2 * order]
        both = get_peft_model(biased(), configs[0][1], configs[0][0])
        both.add_adapter(*configs[1])
        for adapter, right in (("a", alone), ("b", first)):
            both.set_adapter(adapter)
            tune(both, tiny_batch)
            assert np.array_equal(logits(both, ids), logits(right, ids))
        both.set_adapter("a")
        assert np.array_equal(logits(both, ids), logits(alone, ids))
        assert generate(both, PROMPTS, 4) == generate(alone, PROMPTS, 4)
        both.delete_adapter("a")
        assert np.array_equal(logits(both, ids), logits(first, ids))
        with both.disable_adapter():
            assert np.array_equal(logits(both, ids), logits(biased(), ids))


@pytest.mark.parametrize("name", [n for n in RELATIVES if n not in VIRTUAL])
def test_in_a_batch_of_several_adapters_each_row_is_as_if_alone(learnt, biased, name, logits):
    model = learnt(name)
    model.add_adapter("other", LoraConfig(r=2, init_lora_weights=False))
    ids = np.random.default_rng(0).integers(0, 31, (4, 6))
    names = ["default", "__base__", "other", "default"]
    with no_grad():
        mixed = model(ids, adapter_names=names).data
    for row, each in enumerate(names):
        if each == "__base__":
            alone = logits(biased(), ids[row : row + 1])
        else:
            model.set_adapter(each)
            alone = logits(model, ids[row : row + 1])
        np.testing.assert_allclose(mixed[row], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", VIRTUAL)
def test_virtual_tokens_are_for_whole_batches(learnt, name, logits):
    model = learnt(name)
    ids = np.random.default_rng(0).integers(0, 31, (2, 6))
    with pytest.raises(AdapterError, match=r"'default'.*Decoder.*batch of their own"):
        model(ids, adapter_names=["default", "__base__"])
    on = logits(model, ids)
    with no_grad():
        assert np.array_equal(model(ids, adapter_names=["default"] * 2).data, on)
    whole = generate(model, PROMPTS, 4)
    assert generate(model, PROMPTS, 4, adapter_names=["default"] * 3) == whole
    with model.disable_adapter():
        off = generate(model, PROMPTS, 4)
    assert generate(model, PROMPTS, 4, adapter_names=["__base__"] * 3) == off


@pytest.mark.parametrize("name", VIRTUAL)
def test_a_text_that_is_too_long_beside_virtual_tokens_is_refused_naming_p(learnt, name):
    model = learnt(name)
    p, context = RELATIVES[name].num_virtual_tokens, model.config.max_positions
    fits = np.zeros((1, context - p), np.int64)
    with no_grad():
        assert model(fits).shape == (1, context - p, 31)
        with pytest.raises(ShapeError, match=rf"{context - p + 1} tokens.*{context}.*p = {p}"):
            model(np.zeros((1, context - p + 1), np.int64))
        with model.disable_adapter():
            assert model(np.zeros((1, context), np.int64)).shape[1] == context
    with pytest.raises(ValueError, match=rf"{context - p} tokens.*p = {p}"):
        generate(model, [[1] * (context - p)], 5)
    (new,) = generate(model, [[1] * (context - p - 2)], 5)
    assert len(new) == 2  # up to the end of the context, and no further
    assert new == generate(model, [[1] * (context - p - 2)], 5, use_cache=False)[0]
    with pytest.raises(ConfigError, match=rf"length {context - p + 1} is above"):
        predict(model.config, peft=RELATIVES[name], length=context - p + 1)


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
@pytest.mark.parametrize("p", [0, -1, 2.0, True, None, "3"])
def test_a_number_of_virtual_tokens_that_is_none(kind, p):
    with pytest.raises(ConfigError, match=rf"num_virtual_tokens = {p!r} must be a whole number"):
        kind(p)


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_virtual_tokens_that_fill_the_context(tiny, kind, fingerprint):
    base = tiny()
    with pytest.raises(ConfigError, match="64 leaves no place for a text"):
        get_peft_model(base, kind(64))
    assert fingerprint(base.state_dict()) == fingerprint(tiny().state_dict())
    assert all(p.requires_grad for p in base.parameters())


@relatives
def test_only_pairs_are_combined(learnt, name):
    model = learnt(name)
    model.add_adapter("lora", LoraConfig(r=2))
    with pytest.raises(AdapterError, match="default"):
        model.add_weighted_adapter(["default", "lora"], [1, 1], "both", "cat")
    assert set(model.peft_config) == {"default", "lora"}


def test_what_is_no_config(tiny):
    with pytest.raises(ConfigError, match="no method's settings"):
        get_peft_model(tiny(), {"r": 8})


@pytest.mark.parametrize("config", RELATIVES.values(), ids=RELATIVES)
def test_another_task(config):
    with pytest.raises(ConfigError, match="'SEQ_CLS': only 'CAUSAL_LM'"):
        type(config)(task_type="SEQ_CLS")


@relatives
def test_a_file_for_another_base_is_refused(learnt, tmp_path, name, fingerprint):
    learnt(name).save_pretrained(tmp_path)
    other = ModelConfig(31, 32, 48, 3, 4, n_kv_heads=2, max_positions=64, mlp_bias=True,
                        attention_bias=True, attention_out_bias=True)  # fmt: skip
    base = Transformer(other)
    before = fingerprint(base.state_dict())
    with pytest.raises(AdapterError, match=r"shape|missing"):
        PeftModel.from_pretrained(base, tmp_path)
    assert fingerprint(base.state_dict()) == before


@relatives
def test_the_doctor_opens_it_and_inspection_says_what_it_is(learnt, biased, tmp_path, name):
    learnt(name).save_pretrained(tmp_path)
    assert not list(examine_folder(tmp_path, biased()))
    with pytest.raises(FormatError, match=f"of the kind {RELATIVES[name].peft_type}"):
        inspect_adapter(tmp_path)
    broken = learnt(name)
    for array in broken.adapter_weights().values():
        array.reshape(-1)[0] = np.nan
    broken.save_pretrained(tmp_path)
    (finding,) = examine_folder(tmp_path, biased())
    assert "finite" in finding.reason
