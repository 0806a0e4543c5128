"""Batches: padded rightly, and a function of seed and step alone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.data.batches import Batches, collate
from minilora.data.instructions import Example
from minilora.errors import ConfigError, DataError


def numbered(n, start=0):
    """n examples, of which each says in its first token which one it is."""
    return [Example([start + i] + [7] * (i % 4 + 1), [-100] + [7] * (i % 4 + 1)) for i in range(n)]


def whose(rows):
    return [row.ids[0] for row in rows]


def test_rows_are_filled_up_on_the_right():
    ids, labels = collate([Example([5, 6, 7], [-100, 6, 7]), Example([8], [8])], pad_id=1)
    assert ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert labels.tolist() == [[-100, 6, 7], [8, -100, -100]]
    assert ids.dtype == labels.dtype == np.int64


def test_padding_changes_no_logit_before_it_and_no_loss(tiny):
    model, short, long = tiny(), Example([3, 4, 5], [-100, 4, 5]), Example([6] * 9, [-100] * 9)
    alone, padded = collate([short]), collate([short, long], pad_id=2)
    np.testing.assert_allclose(
        model(padded[0]).data[0, :3], model(alone[0]).data[0], rtol=0, atol=1e-6
    )
    assert model.loss(*padded).item() == pytest.approx(model.loss(*alone).item(), abs=1e-6)
    other_padding = collate([short, long], pad_id=9)
    assert np.array_equal(model(padded[0]).data[0, :3], model(other_padding[0]).data[0, :3])


def test_an_empty_batch_is_an_error():
    with pytest.raises(DataError, match="batch is empty"):
        collate([])


@given(
    n=st.integers(1, 30),
    size=st.integers(1, 12),
    seed=st.integers(0, 2**32),
    steps=st.lists(st.integers(0, 60), min_size=1, max_size=5),
)
@settings(max_examples=50)
def test_a_batch_depends_on_seed_and_step_alone(n, size, seed, steps):
    one, other = Batches(numbered(n), size, seed=seed), Batches(numbered(n), size, seed=seed)
    for _ in range(3):
        one[0]
    for step in steps:  # in any order, after anything
        for a, b in zip(one[step], other[step], strict=True):
            assert np.array_equal(a, b)
        assert len(one.rows(step)) == size


@given(n=st.integers(1, 30), size=st.integers(1, 12), seed=st.integers(0, 1000))
@settings(max_examples=50)
def test_every_epoch_has_every_example_once(n, size, seed):
    """n batches of `size` are `size` epochs: a batch may span two, so they are counted together."""
    batches = Batches(numbered(n), size, seed=seed)
    seen = Counter(i for step in range(n) for i in whose(batches.rows(step)))
    assert seen == dict.fromkeys(range(n), size)


def test_epochs_and_seeds_differ_in_what_stands_together():
    def companies(seed, first):
        batches = Batches(numbered(40), 8, seed=seed)
        return {frozenset(whose(batches.rows(step))) for step in range(first, first + 5)}

    in_order = {frozenset(range(i, i + 8)) for i in range(0, 40, 8)}
    all_of_them = [companies(0, 0), companies(0, 5), companies(1, 0), in_order]
    for each in all_of_them:
        assert frozenset().union(*each) == frozenset(range(40))
    assert len(set().union(*all_of_them)) == 20


@given(
    size=st.integers(1, 64),
    replay=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50)
def test_replay_is_the_share_asked_for_never_off_by_a_row(size, replay, seed):
    batches = Batches(numbered(10), size, seed=seed, old=numbered(10, start=100), replay=replay)
    n_old = 0
    for step in range(40):
        here = sum(i >= 100 for i in whose(batches.rows(step)))
        assert len(batches.rows(step)) == size
        assert abs(here - replay * size) < 1
        n_old += here
        assert abs(n_old - replay * size * (step + 1)) < 1 + 1e-9


def test_old_and_new_are_mixed_and_each_taken_in_turn():
    batches = Batches(numbered(12), 6, old=numbered(6, start=100), replay=0.5)
    rows = [whose(batches.rows(step)) for step in range(4)]
    seen = Counter(i for row in rows for i in row)
    assert {i: n for i, n in seen.items() if i < 100} == dict.fromkeys(range(12), 1)
    assert {i: n for i, n in seen.items() if i >= 100} == {100 + i: 2 for i in range(6)}
    places = {tuple(i >= 100 for i in row) for row in rows}
    assert len(places) > 1


def test_without_replay_nothing_old_comes():
    batches = Batches(numbered(12), 6, old=numbered(6, start=100))
    assert all(i < 100 for step in range(10) for i in whose(batches.rows(step)))


def test_batches_are_filled_up_with_the_token_asked_for():
    ids, labels = Batches(numbered(8), 8, pad_id=29)[0]
    assert ids.shape == labels.shape == (8, 5)
    assert (ids[labels == -100] == 29).sum() == sum(4 - (i % 4 + 1) for i in range(8))


@pytest.mark.parametrize("size", [0, -1, 2.5, "8", None, True])
def test_a_batch_size_is_a_whole_number_from_1(size):
    with pytest.raises(ConfigError, match=r"batch size .* must be a whole number from 1") as said:
        Batches(numbered(4), size)
    assert repr(size) in str(said.value)


@pytest.mark.parametrize("replay", [1, 1.0, -0.1, float("nan"), 5])
def test_replay_is_a_share_below_1(replay):
    with pytest.raises(ConfigError, match=r"must be a share in \[0, 1\)") as said:
        Batches(numbered(4), 2, old=numbered(4), replay=replay)
    assert repr(replay) in str(said.value)


def test_replay_needs_old_examples_and_training_needs_new_ones():
    with pytest.raises(ConfigError, match=r"replay 0\.1 needs old examples"):
        Batches(numbered(4), 2, replay=0.1)
    with pytest.raises(DataError, match="no examples to train on"):
        Batches([], 2)


def long_and_short(n, seed=0):
    lengths = np.random.default_rng(seed).lognormal(3, 0.8, n).astype(int) + 2
    return [Example([i] + [7] * (k - 1), [-100] + [7] * (k - 1)) for i, k in enumerate(lengths)]


@given(
    n=st.integers(1, 40),
    size=st.integers(1, 9),
    seed=st.integers(0, 1000),
    replay=st.sampled_from([0.0, 0.05, 0.4]),
)
@settings(max_examples=50)
def test_buckets_have_every_example_once_in_an_epoch(n, size, seed, replay):
    batches = Batches(
        long_and_short(n), size, seed=seed, bucket=True, old=numbered(5, 1000), replay=replay
    )
    new = [i for step in range(60) for i in sorted(whose(batches.rows(step))) if i < 1000]
    plain = Batches(long_and_short(n), size, seed=seed, old=numbered(5, 1000), replay=replay)
    in_plain = [i for step in range(60) for i in whose(plain.rows(step)) if i < 1000]
    assert len(new) == len(in_plain)
    whole = len(new) // n
    if whole:
        # Steps may end within an epoch: what is left over is at most one of each.
        counts = Counter(new)
        assert all(whole <= counts[i] <= whole + 1 for i in range(n))


def test_buckets_save_padding_and_keep_chance():
    examples = long_and_short(640)
    plain, bucketed = Batches(examples, 8), Batches(examples, 8, bucket=True)
    assert plain.filled() < 0.5 and bucketed.filled() > 0.85
    assert bucketed.padding_saved() > 0.85 and plain.padding_saved() == 0
    paddings = [
        sum((ids.size - (ids > 0).sum()) for ids, _ in (b[step] for step in range(80)))
        for b in (
            Batches([Example([1] * len(e.ids), e.labels) for e in examples], 8, bucket=k)
            for k in (False, True)
        )
    ]
    assert bucketed.padding_saved() == pytest.approx(1 - paddings[1] / paddings[0])
    # Neither the order of the batches nor who shares one is the same in the next epoch.
    widths = [[bucketed[step][0].shape[1] for step in range(80 * e, 80 * e + 80)] for e in (0, 1)]
    assert widths[0] != sorted(widths[0]) and widths[0] != widths[1]
    companies = [
        {frozenset(whose(bucketed.rows(step))) for step in range(80 * e, 80 * e + 80)}
        for e in (0, 1)
    ]
    assert len(companies[0] & companies[1]) < 20


def test_buckets_depend_on_seed_and_step_alone():
    examples = long_and_short(50)
    one, other = (Batches(examples, 6, seed=2, bucket=True) for _ in range(2))
    for step in (30, 2, 9, 0):
        for a, b in zip(one[step], other[step], strict=True):
            assert np.array_equal(a, b)
    assert whose(one.rows(0)) != whose(Batches(examples, 6, seed=3, bucket=True).rows(0))


def test_filled_is_the_share_of_tokens():
    batches = Batches([Example([1] * 4, [1] * 4), Example([1], [1])], 2)
    assert batches.filled() == batches.filled(3) == 5 / 8


def test_a_run_of_before_has_the_batches_it_had():
    """Figures and checkpoints rest on this order."""
    batches = Batches(numbered(11), 4, seed=5, old=numbered(3, 100), replay=0.3)
    epoch = {e: np.random.default_rng([5, 0, e]).permutation(11) for e in range(3)}
    step = 7
    n_old = int(0.3 * 4 * 8) - int(0.3 * 4 * 7)
    first = 7 * 4 - int(0.3 * 4 * 7)
    new = [epoch[i // 11][i % 11] for i in range(first, first + 4 - n_old)]
    assert sorted(i for i in whose(batches.rows(step)) if i < 100) == sorted(new)
