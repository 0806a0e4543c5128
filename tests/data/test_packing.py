"""Packed rows: full, each example whole in one of them, and computed as if it were alone."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minilora.data.batches import Batches, collate
from minilora.data.instructions import Example
from minilora.data.packing import collate_packed, pack
from minilora.errors import ConfigError, DataError, ShapeError
from minilora.ops import IGNORE
from minilora.optim import AdamW
from minilora.peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from minilora.training import loss_and_gradients, train, train_step


def drawn(lengths, seed=0, given=2):
    """Examples of these lengths; the first `given` tokens of each are no targets, but the first
    has a label, which must be dropped where another text stands before it."""
    rng = np.random.default_rng(seed)
    made = []
    for n in lengths:
        ids = rng.integers(0, 30, n).tolist()
        labels = [ids[0], *[IGNORE] * (min(given, n) - 1), *ids[given:]]
        made.append(Example(ids, labels[:n]))
    return made


def usual_lengths(seed, n=1000, longest=512):
    """Log-normal, median 100, as answers of people are."""
    lengths = np.random.default_rng(seed).lognormal(np.log(100), 0.7, n).astype(int)
    return np.clip(lengths, 4, longest)


def texts_of(rows):
    """The examples in packed rows, found again by their starts."""
    found = []
    for row in rows:
        cuts = [*sorted(set(row.start)), len(row.ids)]
        found += [tuple(row.ids[a:b]) for a, b in pairwise(cuts)]
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("length", [512, 1024])
def test_a_usual_mix_of_lengths_fills_95_percent(seed, length):
    examples = drawn(usual_lengths(seed))
    rows = pack(examples, length)
    n_tokens = sum(len(e.ids) for e in examples)
    assert n_tokens / (len(rows) * length) >= 0.95
    assert sum(len(row.ids) for row in rows) == n_tokens


@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), st.integers(20, 50))
def test_every_example_is_whole_in_one_row(lengths, length):
    examples = drawn(lengths)
    rows = pack(examples, length)
    assert all(len(row.ids) <= length for row in rows)
    assert Counter(texts_of(rows)) == Counter(tuple(e.ids) for e in examples)
    assert sum(row.n_examples for row in rows) == len(examples)
    assert sum(row.n_targets for row in rows) == sum(e.n_targets for e in examples)
    for row in rows:
        firsts = sorted(set(row.start))
        assert [row.labels[t] for t in firsts] == [IGNORE] * len(firsts)
        assert [row.start[t] for t in firsts] == firsts


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.randoms())
def test_how_many_rows_there_are_depends_on_the_lengths_alone(lengths, random):
    shuffled = random.sample(lengths, len(lengths))
    sizes = [sorted(len(row.ids) for row in pack(drawn(each), 24)) for each in (lengths, shuffled)]
    assert sizes[0] == sizes[1]


def test_a_row_is_never_opened_while_an_example_fits_into_another():
    rows = pack(drawn([7, 6, 5, 4, 3, 2]), 9)
    assert sorted(len(row.ids) for row in rows) == [9, 9, 9]


@pytest.mark.parametrize("length", [0, 1, -3, 2.5, True, "9"])
def test_a_length_is_a_whole_number(length):
    with pytest.raises(ConfigError, match="must be a whole number >= 2") as said:
        pack(drawn([3]), length)
    assert repr(length) in str(said.value)


def test_an_example_that_is_too_long_is_named():
    with pytest.raises(DataError, match=r"^examples\[1\]: 9 tokens do not fit into .* of 8; take"):
        pack(drawn([3, 9]), 8)
    placed = Example([1] * 9, [1] * 9, where="rows.jsonl, line 7")
    with pytest.raises(DataError, match=r"^rows\.jsonl, line 7: 9 tokens do not fit"):
        Batches([placed], 2, pack=8)


def test_no_rows_are_an_error():
    with pytest.raises(DataError, match="batch is empty"):
        collate_packed([])
    assert pack([], 8) == []


def test_padding_is_a_text_of_its_own():
    ids, labels, start = collate_packed(pack(drawn([3, 2, 4]), 5), pad_id=30)
    assert ids.shape == labels.shape == start.shape == (2, 5)
    assert start.tolist() == [[0, 0, 0, 0, 4], [0, 0, 0, 3, 3]]
    assert ids[0, 4] == 30 and labels[0, 4] == IGNORE
    assert ids.dtype == labels.dtype == np.int64


def gradients_by_name(model, batch, **how):
    loss, gradients = loss_and_gradients(model, *batch, **how)
    return loss, {n: gradients[p] for n, p in model.named_parameters() if p in gradients}


def assert_equal_to_unpacked(model, examples, length, tolerance, **how):
    """The same loss and gradients from rows of several examples and from rows of one."""
    packed = collate_packed(pack(examples, length))
    loss, gradients = gradients_by_name(model, packed, **how)
    alone, expected = gradients_by_name(model, collate(examples))
    assert abs(loss - alone) <= tolerance
    assert gradients.keys() == expected.keys() and gradients
    for name, g in gradients.items():
        assert np.abs(g - expected[name]).max() <= tolerance, name


@given(st.lists(st.integers(3, 12), min_size=1, max_size=8), st.integers(12, 40), st.integers(0, 9))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_loss_and_gradients_are_those_of_the_unpacked(tiny, lengths, length, seed):
    examples = drawn(lengths, seed)
    assert_equal_to_unpacked(tiny(seed=seed), examples, length, 1e-5)
    assert_equal_to_unpacked(tiny(seed=seed, dtype=np.float64), examples, length, 1e-12)


def test_a_row_longer_than_the_context_is_taken_in_blocks_with_the_same_result(tiny):
    examples = drawn(np.random.default_rng(0).integers(3, 60, 20))
    model = tiny(dtype=np.float64)
    packed = collate_packed(pack(examples, 400))
    assert packed[0].shape[1] > 256 > model.config.max_positions
    assert_equal_to_unpacked(model, examples, 400, 1e-12)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(4, 8, "all-linear"),
        PromptTuningConfig(5),
        PrefixTuningConfig(5),
    ],
    ids=["lora", "prompt", "prefix"],
)
def test_an_adapter_learns_the_same_from_packed_rows(tiny, config):
    model = get_peft_model(tiny(dtype=np.float64), config)
    for p in model.trainable_parameters():  # B begins at zero, where A would learn nothing
        p.data[:] = np.random.default_rng(1).standard_normal(p.shape) / 3
    assert_equal_to_unpacked(model, drawn([9, 5, 7, 3, 8, 4]), 17, 1e-12)


def test_parts_threads_and_checkpointing_change_nothing(tiny):
    model, examples = tiny(dtype=np.float64), drawn([9, 5, 7, 3, 8, 4, 6])
    assert_equal_to_unpacked(model, examples, 12, 1e-12, accumulate=3, threads=1)
    assert_equal_to_unpacked(model, examples, 12, 1e-12, threads=2)
    model.gradient_checkpointing_enable()
    assert_equal_to_unpacked(model, examples, 12, 1e-12)


def test_another_text_in_the_row_changes_no_bit(tiny):
    model, examples = tiny(), drawn([6, 5, 7])
    ids, _, start = collate_packed(pack(examples, 18))
    before = model.hidden(ids, start=start).data
    first, second = sorted(set(start[0]))[1:]
    ids[0, first:second] = 29 - ids[0, first:second]
    after = model.hidden(ids, start=start).data
    changed = (before != after).any(axis=-1)[0]
    assert changed.tolist() == [first <= t < second for t in range(18)]


def test_a_text_longer_than_the_context_is_refused_in_a_row_too(tiny):
    with pytest.raises(
        ShapeError, match="a sequence of 70 tokens is longer than the context of 64"
    ):
        tiny().loss(*np.ones((2, 1, 71), int), start=np.zeros((1, 71), int))


def test_starts_of_another_shape_are_refused(tiny):
    batch = collate_packed(pack(drawn([6, 5]), 12))
    with pytest.raises(DataError, match=r"start \(1, 10\) must be .* as ids \(1, 11\)"):
        loss_and_gradients(tiny(), *batch[:2], batch[2][:, 1:])


def test_a_step_on_packed_rows_is_the_step_on_the_unpacked(tiny):
    examples = drawn([9, 5, 7, 3])
    models = [tiny(dtype=np.float64), tiny(dtype=np.float64)]
    for model, batch in zip(
        models, [collate(examples), collate_packed(pack(examples, 12))], strict=True
    ):
        train_step(model, AdamW(model.parameters(), lr=1e-2), *batch, max_grad_norm=1.0)
    for p, q in zip(*(m.parameters() for m in models), strict=True):
        np.testing.assert_allclose(p.data, q.data, rtol=0, atol=1e-9)


def test_packed_batches_have_every_example_once_in_an_epoch_and_depend_on_seed_and_step():
    examples = drawn(usual_lengths(0, 60) // 9 + 3, given=1)
    one, other = (Batches(examples, 4, pack=60, seed=3) for _ in range(2))
    n_rows = len(pack(examples, 60))
    # As many steps as rows: four epochs, each example in each.
    seen = Counter(t for step in range(n_rows) for t in texts_of(one.rows(step)))
    assert seen == {ids: 4 * n for ids, n in Counter(tuple(e.ids) for e in examples).items()}
    for step in (20, 3, 0, 11):
        for a, b in zip(one[step], other[step], strict=True):
            assert np.array_equal(a, b)
    differ = [Batches(examples, 4, pack=60, seed=seed)[0][0] for seed in (3, 4)]
    assert differ[0].shape != differ[1].shape or not np.array_equal(*differ)
    assert one.filled() > 0.9 > 0.7 > Batches(examples, 4, seed=3).filled()


def test_old_examples_come_in_rows_of_their_own():
    old, new = drawn([8] * 20, seed=1), drawn([7] * 20)
    batches = Batches(new, 4, old=old, replay=0.25, pack=16)
    olds = {tuple(e.ids) for e in old}
    for step in range(10):
        kinds = [{ids in olds for ids in texts_of([row])} for row in batches.rows(step)]
        assert sorted(map(sum, kinds)) == [0, 0, 0, 1]
        assert all(len(kind) == 1 for kind in kinds)


def test_training_goes_on_with_packed_rows_where_it_stopped(tiny, tmp_path):
    def run(model, steps, **how):
        batches = Batches(drawn([9, 5, 7, 3, 8, 4]), 2, pack=12)
        train(model, AdamW(model.parameters(), lr=1e-2), batches, steps=steps, progress=None, **how)

    whole, halves = tiny(), tiny()
    run(whole, 6)
    run(halves, 3, checkpoint=tmp_path / "c.safetensors")
    again = tiny(seed=9)
    run(again, 6, checkpoint=tmp_path / "c.safetensors", resume=True)
    for p, q in zip(whole.parameters(), again.parameters(), strict=True):
        assert np.array_equal(p.data, q.data)


def test_packing_and_buckets_are_not_for_both():
    with pytest.raises(ConfigError, match="bucket=True beside pack"):
        Batches(drawn([4]), 1, pack=8, bucket=True)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (np.zeros((1, 4), int), r"start \(1, 4\) must have a place for each token of ids \(1, 5\)"),
        (np.full((1, 5), -1), "a place from 0 up to the token's own"),
        (np.array([[0, 0, 3, 3, 3]]), "a place from 0 up to the token's own"),
    ],
)
def test_starts_that_cannot_be_are_refused(tiny, start, said):
    with pytest.raises(ShapeError, match=said):
        tiny().hidden(np.ones((1, 5), int), start=start)
