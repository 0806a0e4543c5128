"""Spectra: the nearest matrix of rank k, numbers of directions, shared directions, intruders."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.errors import ConfigError
from minilora.spectra import (
    chance_overlap,
    effective_rank,
    energy,
    energy_rank,
    intruders,
    overlap,
    overlaps,
    random_like,
    rescale,
    singular_values,
    truncate,
)


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("shape", [(12, 12), (20, 9), (7, 15)])
@pytest.mark.parametrize("k", [0, 1, 3, 7])
def test_what_truncate_leaves_is_the_tail(shape, k):
    """Eckart and Young: Frobenius norm √Σσ² and spectral norm σ of the tail."""
    M = gaussian(*shape)
    cut, s = truncate(M, k), np.linalg.svd(M, compute_uv=False)
    assert np.linalg.matrix_rank(cut) == k
    assert abs(np.linalg.norm(M - cut) - np.linalg.norm(s[k:])) < 1e-10
    assert abs(np.linalg.norm(M - cut, 2) - (s[k] if k < len(s) else 0)) < 1e-10


@settings(max_examples=30, deadline=None)
@given(k=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_no_other_matrix_of_that_rank_is_nearer(k, seed):
    M = gaussian(10, 8, seed=seed)
    best = np.linalg.norm(M - truncate(M, k))
    left = gaussian(10, k, seed=seed + 1)
    right = np.linalg.lstsq(left, M, rcond=None)[0]  # the best that goes with `left`
    assert np.linalg.norm(M - left @ right) >= best - 1e-12


def test_truncate_keeps_all_from_the_full_rank_on():
    M = gaussian(6, 9)
    np.testing.assert_allclose(truncate(M, 6), M, atol=1e-12)
    np.testing.assert_allclose(truncate(M, 100), M, atol=1e-12)
    assert truncate(M.astype(np.float32), 2).dtype == np.float64
    with pytest.raises(ConfigError, match="k = -1"):
        truncate(M, -1)


def test_energy_is_the_share_of_the_squares():
    M = gaussian(8, 5)
    held = energy(singular_values(M))
    for k in range(1, 6):
        assert held[k - 1] == pytest.approx((truncate(M, k) ** 2).sum() / (M**2).sum(), abs=1e-12)
    assert (energy(np.zeros(4)) == 0).all()


def test_energy_rank_of_a_square_gaussian_is_about_half():
    ranks = [energy_rank(singular_values(gaussian(128, 128, seed=i))) for i in range(10)]
    assert all(64 <= r <= 68 for r in ranks), ranks


def test_energy_rank_by_hand():
    assert energy_rank(np.array([3.0, 1.0])) == 1  # 9 of 10
    assert energy_rank(np.array([3.0, 1.0]), 0.91) == 2
    assert energy_rank(np.array([2.0, 2.0, 2.0, 0.0]), 1.0) == 3
    assert energy_rank(np.zeros(3)) == 0
    assert energy_rank(singular_values(truncate(gaussian(40, 30), 6)), 1.0) == 6
    for share in (0, -0.1, 1.1):
        with pytest.raises(ConfigError, match="share"):
            energy_rank(np.ones(3), share)


def test_effective_rank_counts_equal_directions_and_less_for_uneven_ones():
    assert effective_rank(np.array([2.0] * 5 + [0.0] * 3)) == pytest.approx(5)
    p = np.array([0.75, 0.25])
    assert effective_rank(8 * p) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert effective_rank(np.zeros(3)) == 0


def test_random_like_has_shape_and_norm():
    M = gaussian(7, 4)
    R = random_like(M, np.random.default_rng(1))
    assert R.shape == M.shape
    assert np.linalg.norm(R) == pytest.approx(np.linalg.norm(M))
    assert (random_like(M, np.random.default_rng(1)) == R).all()
    assert not random_like(np.zeros((3, 2)), np.random.default_rng(0)).any()


@pytest.mark.parametrize(("i", "j"), [(1, 1), (2, 8), (8, 8), (8, 32)])
def test_overlap_of_random_draws_is_chance(i, j):
    draws = [
        overlap(gaussian(8, 64, seed=2 * n), gaussian(32, 64, seed=2 * n + 1), i, j)
        for n in range(20)
    ]
    assert abs(np.mean(draws) - max(i, j) / 64) < 0.02
    assert chance_overlap(i, j, 64) == max(i, j) / 64


def test_overlap_is_one_within_and_zero_at_right_angles():
    A = gaussian(4, 10)
    assert overlap(A, A, 2, 4) == pytest.approx(1)
    assert overlap(A, gaussian(4, 4, seed=5) @ A, 4, 4) == pytest.approx(1)  # the same row space
    E = np.eye(10)
    assert overlap(E[:3], E[3:8], 3, 5) == pytest.approx(0)
    # One of two directions shared, A and B of unlike strength.
    assert overlap(np.diag([3.0, 2.0, 0, 0])[:2], np.diag([0, 3.0, 2.0, 0]), 2, 2) == 0.5


def test_overlaps_is_the_table_of_overlap_from_the_definition():
    A, B = gaussian(5, 12), gaussian(9, 12, seed=1)
    table = overlaps(A, B, [1, 3], [2, 9])
    V, U = (np.linalg.svd(M)[2].T for M in (A, B))
    for a, i in enumerate((1, 3)):
        for b, j in enumerate((2, 9)):
            phi = np.linalg.norm(V[:, :i].T @ U[:, :j]) ** 2 / min(i, j)
            assert table[a, b] == pytest.approx(phi, abs=1e-12)
            assert overlap(A, B, i, j) == pytest.approx(phi, abs=1e-12)


def test_overlap_refuses_directions_that_do_not_exist():
    A = truncate(gaussian(6, 6), 2)
    with pytest.raises(ConfigError, match="rank 2"):
        overlap(A, A, 3, 1)
    with pytest.raises(ConfigError, match="rank 0"):
        overlap(np.zeros((2, 6)), A, 1, 1)
    with pytest.raises(ConfigError, match="different size"):
        overlap(A, gaussian(6, 5), 1, 1)


def test_an_intruder_is_what_w_did_not_have():
    W = np.diag([5.0, 4.0, 3.0, 2.0, 0.0, 0.0])[:, :4]  # writes into the first four of six
    D = np.zeros_like(W)
    D[4, 0] = 50  # a strong new direction to write to
    assert list(intruders(W, W + D)) == [0]
    assert list(intruders(W, W + D, top=0)) == []
    assert list(intruders(W, W)) == []
    assert list(intruders(W, 3 * W + 0)) == []
    # Between the two: a cosine of 0.8 with the first direction.
    turned = W.copy()
    turned[:, 0] = 5 * np.array([0.8, 0, 0, 0, 0.6, 0])
    assert list(intruders(W, turned, threshold=0.7)) == []
    assert list(intruders(W, turned, threshold=0.9)) == [0]


def test_rescale_changes_those_singular_values_only():
    M = gaussian(6, 5)
    s = singular_values(M)
    np.testing.assert_allclose(rescale(M, [], 0.0), M, atol=1e-12)
    np.testing.assert_allclose(rescale(M, [0, 2], 1.0), M, atol=1e-12)
    np.testing.assert_allclose(
        singular_values(rescale(M, [0, 2], 0.0)), [s[1], s[3], s[4], 0, 0], atol=1e-12
    )
