"""Causal attention: who sees whom, heads that share, rows that start late."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilora import ops
from minilora.autograd import Tensor, backward, tape
from minilora.errors import ShapeError

B, H, T, D = 2, 4, 6, 8
NAMES = ("q", "k", "v")


def qkv(K=2, S=T, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = (B, H, T, D), (B, K, S, D), (B, K, S, D)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def attend(q, k, v, start=None):
    return ops.attention(Tensor(q), Tensor(k), Tensor(v), start=start).data


def leaves(arrays):
    return [Tensor(a, requires_grad=True) for a in arrays]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("t", range(T))
def test_what_comes_later_changes_no_bit_before(t, dtype):
    arrays = qkv(dtype=dtype)
    before = attend(*arrays)
    for a in arrays:
        a[:, :, t:] = 100
    after = attend(*arrays)
    assert np.array_equal(after[:, :, :t], before[:, :, :t])
    assert not np.array_equal(after[:, :, t], before[:, :, t])


@pytest.mark.parametrize("t", range(T))
def test_no_gradient_flows_to_what_comes_later(t):
    tensors = q, k, v = leaves(qkv())
    dy = np.zeros((B, H, T, D))
    dy[:, :, t] = 1
    gradients = backward(ops.attention(*tensors), dy)
    for x in (k, v):
        assert not gradients[x][:, :, t + 1 :].any()
    assert gradients[v][:, :, : t + 1].all()
    assert not np.delete(gradients[q], t, axis=2).any()


def test_the_first_token_sees_itself_only():
    q, k, v = qkv(K=H)
    assert np.array_equal(attend(q, k, v)[:, :, 0], v[:, :, 0])


def test_equal_keys_give_the_mean_of_the_values_so_far():
    q, k, v = qkv(K=H)
    k[:] = 1
    expected = np.cumsum(v, axis=2) / np.arange(1, T + 1)[:, None]
    assert np.allclose(attend(q, k, v), expected, rtol=1e-12)


@pytest.mark.parametrize("K", [1, 2, 4])
def test_a_shared_key_head_is_the_same_as_its_copies(K):
    q, k, v = arrays = qkv(K=K)
    shared, apart = leaves(arrays), leaves([q, *(np.repeat(a, H // K, axis=1) for a in (k, v))])
    y, z = ops.attention(*shared), ops.attention(*apart)
    assert np.allclose(y.data, z.data, rtol=1e-12)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    mine, copies = backward(y, dy), backward(z, dy)
    assert np.allclose(mine[shared[0]], copies[apart[0]], rtol=1e-10, atol=1e-14)
    for x, c in zip(shared[1:], apart[1:], strict=True):
        summed = copies[c].reshape(B, K, H // K, T, D).sum(axis=2)
        assert np.allclose(mine[x], summed, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("new", [1, 2, T])
def test_the_last_queries_alone_give_what_they_give_together(new):
    q, k, v = qkv()
    assert np.allclose(attend(q[:, :, -new:], k, v), attend(q, k, v)[:, :, -new:], rtol=1e-12)


def test_padding_before_a_row_s_start_is_not_seen():
    q, k, v = qkv()
    start = np.array([0, 2])
    padded = attend(q, k, v, start)
    assert np.allclose(padded[0], attend(q, k, v)[0], rtol=1e-12)
    alone = attend(*(a[1:, :, 2:] for a in (q, k, v)))
    assert np.allclose(padded[1:, :, 2:], alone, rtol=1e-12)
    for a in (q, k, v):
        a[1, :, :2] = 100
    assert np.array_equal(attend(q, k, v, start)[:, :, 2:], padded[:, :, 2:])


@pytest.mark.parametrize("block", [None, 1, 4])
@pytest.mark.parametrize("for_all", [0, 2])
def test_texts_in_one_row_are_as_if_each_were_alone(block, for_all):
    """Row 0 holds texts of 2, 1 and the rest, row 1 one; places before them are seen by all."""
    q, k, v = qkv()
    n = T - for_all
    start = np.array([[0, 0, 2, 3, 3, 3], [0] * T])[:, :n]
    y = ops.attention(*map(Tensor, (q, k, v)), start=start, block=block).data
    assert np.allclose(y[1], attend(q, k, v)[1], rtol=1e-12)
    assert np.allclose(y[0, :, :for_all], attend(q, k, v)[0, :, :for_all], rtol=1e-12)
    for first, last in ((0, 2), (2, 3), (3, n)):
        places = [*range(for_all), *range(for_all + first, for_all + last)]
        alone = attend(*(a[:1, :, places] for a in (q, k, v)))[0, :, for_all:]
        assert np.allclose(y[0, :, for_all + first : for_all + last], alone, rtol=1e-12)


def test_places_before_the_queries_are_seen_by_every_text():
    q, k, v = qkv(S=T + 3)
    start = np.array([[0, 0, 2, 3, 3, 3]] * B)
    y = attend(q, k, v, start)
    places = [0, 1, 2, 3 + 3, 3 + 4, 3 + 5]
    alone = attend(q[:, :, 3:], *(a[:, :, places] for a in (k, v)))
    assert np.allclose(y[:, :, 3:], alone, rtol=1e-12)


def test_no_gradient_flows_from_one_text_to_another():
    tensors = leaves(qkv())
    y = ops.attention(*tensors, start=np.array([[0, 0, 0, 3, 3, 3]] * B))
    dy = np.zeros(y.shape)
    dy[:, :, 3:] = 1
    for g in backward(y, dy).values():
        assert not g[:, :, :3].any() and g[:, :, 3:].any()


@pytest.mark.parametrize("shape", [(B + 1,), (B, T + 1), (1, T), (B, 1, T)])
def test_starts_that_do_not_fit_are_named(shape):
    with pytest.raises(ShapeError, match=r"start .* does not fit q \(2, 4, 6, 8\); it is \(B,\)"):
        attend(*qkv(), start=np.zeros(shape, int))


def test_padding_is_finite_and_gets_no_gradient_from_tokens():
    tensors = leaves(qkv())
    y = ops.attention(*tensors, start=np.array([0, 2]))
    assert np.isfinite(y.data).all()
    dy = np.zeros(y.shape)
    dy[:, :, 2:] = 1
    gradients = backward(y, dy)
    for x in tensors:
        assert not gradients[x][1, :, :2].any()
        assert np.isfinite(gradients[x]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_scores_stay_finite(dtype):
    tensors = leaves([100 * a for a in qkv(dtype=dtype)])
    y = ops.attention(*tensors)
    assert np.isfinite(y.data).all() and y.dtype == dtype
    for g in backward(y, np.ones_like(y.data)).values():
        assert np.isfinite(g).all() and g.dtype == dtype


@pytest.mark.parametrize(
    ("trained", "kept"),
    [
        ("qkv", {"p", "q", "k", "v"}),
        ("q", {"p", "k", "v"}),
        ("k", {"p", "q", "v"}),
        ("v", {"p"}),
        ("qv", {"p", "k", "v"}),
    ],
)
def test_what_is_kept_for_what(trained, kept):
    tensors = [Tensor(a, n in trained) for n, a in zip(NAMES, qkv(), strict=True)]
    (op,) = tape(ops.attention(*tensors))
    assert set(vars(op.saved)) == kept


@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 4, 6), (2, 4, 6), (2, 4, 6)],
        [(2, 4, 6, 8), (2, 3, 6, 8), (2, 3, 6, 8)],
        [(2, 4, 6, 8), (2, 2, 5, 8), (2, 2, 5, 8)],
        [(2, 4, 6, 8), (2, 2, 6, 7), (2, 2, 6, 7)],
        [(2, 4, 6, 8), (1, 2, 6, 8), (1, 2, 6, 8)],
        [(2, 4, 6, 8), (2, 2, 6, 8), (2, 2, 7, 8)],
    ],
)
def test_shapes_that_do_not_fit_are_all_named(shapes):
    with pytest.raises(ShapeError) as caught:
        attend(*(np.ones(shape) for shape in shapes))
    words = ["Attention", *map(str, shapes), "K dividing H", "T <= S"]
    assert [w for w in words if w not in str(caught.value)] == []


@given(
    st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(1, 9), st.integers(0, 4),
    st.integers(1, 10), st.booleans(),
)  # fmt: skip
def test_blocks_give_what_the_plain_form_gives(B, K, group, T, before, block, padded):
    rng = np.random.default_rng(0)
    shapes = [(B, K * group, T, 4), (B, K, T + before, 4), (B, K, T + before, 4)]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    start = rng.integers(0, T + before, B) if padded else None
    dy = rng.standard_normal(shapes[0])

    def run(attention):
        leaves = [Tensor(a, requires_grad=True) for a in arrays]
        y = attention(leaves)
        gradients = backward(y, dy)
        return [y.data, *(gradients[leaf] for leaf in leaves)]

    plain = run(lambda leaves: ops.Attention.apply(*leaves, start=start))
    blocks = run(lambda leaves: ops.attention(*leaves, start=start, block=block))
    for one, other in zip(plain, blocks, strict=True):
        assert np.abs(one - other).max() <= 1e-12


def test_long_sequences_are_taken_in_blocks_and_keep_no_square():
    def kept(T):
        q = Tensor(np.ones((1, 2, T, 4), np.float32), requires_grad=True)
        (op,) = tape(ops.attention(q, Tensor(q.data), Tensor(q.data)))
        return type(op), sum(a.nbytes for a in vars(op.saved).values())

    assert kept(ops.LONG)[0] is ops.Attention
    form, nbytes = kept(ops.LONG + 1)
    assert form is ops.BlockAttention
    assert nbytes == 3 * 4 * 2 * 4 * (ops.LONG + 1)
