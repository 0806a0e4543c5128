"""Adapters made into one, as functions of arrays."""

import numpy as np
import pytest

from minilora.peft import combining

STACK = np.array([[4.0, -1.0, 0.5, -3.0], [1.0, 2.0, -2.0, -0.1], [-2.0, 1.5, 0.4, 0.2]])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def vectors(rng):
    return rng.normal(0, 1, (3, 6, 10))


def test_linear_is_the_weighted_sum():
    found = combining.linear([np.array([1.0, 2]), np.array([10.0, -4])], [0.5, -2])
    assert np.array_equal(found, [-19.5, 9])


@pytest.mark.parametrize(
    ("density", "kept"), [(1, [4, -1, 0.5, -3]), (0.5, [4, 0, 0, -3]), (0.7, [4, 0, 0, -3]),
                          (0.25, [4, 0, 0, 0]), (0.1, [0, 0, 0, 0])]
)  # fmt: skip
def test_the_largest_are_kept_whatever_their_sign(density, kept):
    before = STACK[0].copy()
    assert np.array_equal(combining.keep_largest(STACK[0], density), kept)
    assert np.array_equal(STACK[0], before)


def test_dropping_keeps_the_share_and_on_average_the_whole(rng):
    tensor = rng.normal(0, 1, (50, 40))
    draws = np.array([combining.drop_random(tensor, 0.3, rng) for _ in range(400)])
    kept = draws != 0
    assert abs(kept.mean() - 0.3) < 0.003
    assert np.allclose(draws[kept], np.broadcast_to(tensor, draws.shape)[kept] / 0.3)
    # The mean of 400 draws has the deviation |τ| √(0.7 / 0.3 / 400).
    assert (np.abs(draws.mean(axis=0) - tensor) < 5.5 * np.abs(tensor) * 0.0764).all()


def test_dropping_nothing_is_the_same_array_of_numbers(rng, vectors):
    assert np.array_equal(combining.drop_random(vectors, 1, rng), vectors)


def test_the_sign_is_elected_by_mass_or_by_heads():
    mass = combining.agrees_with_majority(STACK, "total")
    assert mass.tolist() == [
        [True, False, False, True],
        [True, True, True, True],
        [False, True, False, False],
    ]
    heads = combining.agrees_with_majority(STACK, "frequency")
    assert heads[:, 2].tolist() == [True, False, True]
    assert np.array_equal(np.delete(heads, 2, axis=1), np.delete(mass, 2, axis=1))


def test_a_draw_is_a_plus_and_zero_agrees_with_nobody():
    stack = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, -2.0]])
    for majority in ("total", "frequency"):
        found = combining.agrees_with_majority(stack, majority)
        assert found.tolist() == [[True, False, False], [False, False, True]]


def test_ties_is_the_mean_of_those_that_agree():
    # First column: 4 and 1 agree. Second: 2 and 1.5. Third: -2 alone. Fourth: -3 and -0.1.
    found = combining.ties(STACK, [1, 1, 1], density=1)
    np.testing.assert_allclose(found, [2.5, 1.75, -2, -1.55], rtol=1e-15)
    # Of two numbers each: (4, -3), (2, -2), (-2, 1.5).
    found = combining.ties(STACK, [1, 10, 100], density=0.5)
    np.testing.assert_allclose(found, [4, (20 + 150) / 2, -20, -3], rtol=1e-15)


def test_one_adapter_that_all_agree_with_is_itself_again(vectors):
    assert np.allclose(combining.ties([vectors[0]] * 3, [1, 1, 1], density=1), vectors[0])


def test_pairs_side_by_side_are_the_sum_exactly(rng):
    # Whole numbers, so that nothing is rounded.
    pairs = [
        (rng.integers(-9, 9, (r, 7)).astype(float), rng.integers(-9, 9, (5, r)).astype(float))
        for r in (2, 3, 1)
    ]
    factors = [2.0, -0.5, 0.25]
    A, B = combining.side_by_side(pairs, factors)
    assert (A.shape, B.shape) == ((6, 7), (5, 6))
    assert np.array_equal(B @ A, sum(f * B @ A for f, (A, B) in zip(factors, pairs, strict=True)))


def test_the_nearest_pair_loses_the_small_singular_values_and_no_more(vectors):
    change = vectors[0]
    sigma = np.linalg.svd(change, compute_uv=False)
    for rank in (1, 3, 6):
        A, B = combining.nearest_pair(change, rank)
        assert (A.shape, B.shape) == ((rank, 10), (6, rank))
        lost = np.linalg.norm(change - B @ A) ** 2
        np.testing.assert_allclose(lost, (sigma[rank:] ** 2).sum(), atol=1e-12)


@pytest.mark.parametrize("wide", [3, 9, 30])  # below and above what such a matrix has
@pytest.mark.parametrize("rank", [1, 3])
def test_narrowing_is_that_without_the_large_matrix(rng, wide, rank):
    A, B = rng.normal(0, 1, (wide, 12)), rng.normal(0, 1, (8, wide))
    small_A, small_B = combining.narrowed((A, B), rank)
    near_A, near_B = combining.nearest_pair(B @ A, rank)
    np.testing.assert_allclose(small_B @ small_A, near_B @ near_A, atol=1e-10)
    assert (small_A.shape, small_B.shape) == ((rank, 12), (8, rank))


def test_widening_changes_nothing_but_the_rank(rng):
    A, B = rng.normal(0, 1, (2, 5)), rng.normal(0, 1, (4, 2))
    wide_A, wide_B = combining.widened((A, B), 6)
    assert (wide_A.shape, wide_B.shape) == ((6, 5), (4, 6))
    np.testing.assert_allclose(wide_B @ wide_A, B @ A, rtol=1e-15)


def test_a_and_b_apart_have_mixed_terms_and_a_carries_the_sign(rng):
    (A1, B1), (A2, B2) = pairs = [(rng.normal(0, 1, (2, 5)), rng.normal(0, 1, (4, 2)))] * 2
    A, B = combining.apart(pairs, [4, -9], combining.linear)
    np.testing.assert_allclose(A, 2 * A1 - 3 * A2)
    np.testing.assert_allclose(B, 2 * B1 + 3 * B2)


@pytest.mark.parametrize("density", [0.2, 0.55, 0.9])
@pytest.mark.parametrize("majority", ["total", "frequency"])
@pytest.mark.parametrize("kind", ["linear", "magnitude_prune", "ties", "dare_linear", "dare_ties"])
def test_each_gives_what_peft_gives_with_the_same_coins(
    vectors, rng, monkeypatch, kind, density, majority
):
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    theirs = pytest.importorskip("peft.utils.merge_utils", reason="needs the extra parity")
    coins = np.random.default_rng(7)
    monkeypatch.setattr(
        torch, "bernoulli", lambda p: torch.tensor(coins.random(p.shape) < p.numpy()).double()
    )
    weights = [0.7, -1.2, 2.0]
    options = {} if kind == "linear" else {"density": density}
    if kind.endswith("ties"):
        options["majority_sign_method"] = majority
    theirs_by_name = getattr(theirs, "task_arithmetic" if kind == "linear" else kind)
    expected = theirs_by_name(
        [torch.tensor(v) for v in vectors], torch.tensor(weights, dtype=torch.float64), **options
    )
    merge = combining.merge_by(
        kind, density=density, majority=majority, rng=np.random.default_rng(7)
    )
    np.testing.assert_allclose(merge(list(vectors), weights), expected.numpy(), atol=1e-12)
