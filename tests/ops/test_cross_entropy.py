"""Cross entropy, from logits or straight from the last vectors: masks, extremes, chunks, shares."""

import importlib
import tracemalloc

import numpy as np
import pytest

from minilora import ops
from minilora.autograd import Tensor, backward, tape
from minilora.errors import DataError, DTypeError, ShapeError
from minilora.ops import count_targets

# By name, since `minilora.ops.cross_entropy` is the operation and not its file.
room = importlib.import_module("minilora.ops.cross_entropy")
RNG = np.random.default_rng(0)
B, T, C, V = 3, 5, 4, 7
LABELS = RNG.integers(0, V, (B, T))
LABELS[0, :3] = -100
LABELS[1, 4] = -100
X = RNG.standard_normal((B, T, C))
W = RNG.standard_normal((V, C))
Z = X @ W.T


def leaf(array):
    return Tensor(np.array(array), requires_grad=True)


def from_logits(x, W, labels=LABELS, n_targets=None):
    return ops.cross_entropy(ops.linear(x, W), labels=labels, n_targets=n_targets)


def straight(x, W, labels=LABELS, n_targets=None):
    return ops.linear_cross_entropy(x, W, labels=labels, n_targets=n_targets)


both = pytest.mark.parametrize("loss", [from_logits, straight])


@both
def test_tokens_without_a_label_have_exactly_no_gradient(loss):
    x = leaf(X)
    dx = backward(loss(x, Tensor(W)))[x]
    assert not dx[LABELS == -100].any()
    assert dx[LABELS != -100].all()


@both
def test_tokens_without_a_label_change_nothing(loss):
    """Not the loss, and not the gradient of the head, whatever stands there."""
    other = np.where((LABELS == -100)[..., None], 100 * RNG.standard_normal(X.shape), X)
    first, second = leaf(W), leaf(W)
    a, b = loss(Tensor(X), first), loss(Tensor(other), second)
    assert a.data == b.data
    assert np.array_equal(backward(a)[first], backward(b)[second])


def test_masked_logits_have_exactly_no_gradient():
    z = leaf(Z)
    dz = backward(ops.cross_entropy(z, labels=LABELS))[z]
    assert not dz[LABELS == -100].any()
    assert dz[LABELS != -100].all()


def test_the_gradient_is_what_was_said_minus_what_is_right():
    z = leaf(Z)
    p = np.exp(Z) / np.exp(Z).sum(axis=-1, keepdims=True)
    asked = LABELS != -100
    onehot = LABELS[..., None] == np.arange(V)
    expected = (p - onehot) * asked[..., None] / asked.sum()
    gradient = backward(ops.cross_entropy(z, labels=LABELS))[z]
    assert np.allclose(gradient, expected, rtol=1e-12, atol=1e-16)


@both
def test_the_loss_is_scaled_by_what_comes_from_above(loss):
    x, head = leaf(X), leaf(W)
    once = backward(loss(x, head))
    thrice = backward(loss(x, head) * 3)
    for p in (x, head):
        assert np.allclose(thrice[p], 3 * once[p], rtol=1e-14)


@pytest.mark.parametrize("n_tokens", [2, 50, 1000])
def test_knowing_nothing_is_ln_v(n_tokens):
    loss = ops.cross_entropy(Tensor(np.zeros((1, 4, n_tokens))), labels=np.zeros((1, 4), int))
    assert abs(loss.item() - np.log(n_tokens)) < 1e-12


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("big", [1e4, -1e4])
def test_extreme_logits_stay_finite(dtype, big):
    z = leaf(np.array([[big, 0, -big], [0, big, 0]], dtype))
    loss = ops.cross_entropy(z, labels=np.array([2, 1]))
    surprises = [2e4, 0] if big > 0 else [0, 1e4 + np.log(2)]
    assert np.isclose(loss.item(), np.mean(surprises), rtol=1e-6)
    assert np.isfinite(backward(loss)[z]).all()


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_scores_stay_finite_from_vectors_too(loss, dtype):
    x, head = leaf((1e4 * X).astype(dtype)), leaf(W.astype(dtype))
    made = loss(x, head)
    assert np.isfinite(made.item()) and made.item() > 100
    assert all(np.isfinite(g).all() for g in backward(made).values())


@both
def test_no_token_with_a_label_is_an_error_that_says_so(loss):
    with pytest.raises(DataError, match=r"none of the 15 labels is a target.*-100.*mask"):
        loss(leaf(X), leaf(W), np.full((B, T), -100))


@both
def test_a_share_without_a_target_has_loss_and_gradient_zero(loss):
    """A thread may be given rows that have none, while the batch as a whole has some."""
    x, head = leaf(X), leaf(W)
    made = loss(x, head, np.full((B, T), -100), n_targets=11)
    assert made.item() == 0
    gradients = backward(made)
    for p in (x, head):
        assert gradients[p].shape == p.shape and not gradients[p].any()


@both
def test_shares_divided_by_the_whole_batch_s_targets_add_up_to_the_mean(loss):
    whole_x, whole_head = leaf(X), leaf(W)
    whole = loss(whole_x, whole_head)
    expected = backward(whole)
    n = count_targets(LABELS)
    total, dhead = 0.0, 0.0
    for i in range(B):
        x, head = leaf(X[i : i + 1]), leaf(W)
        part = loss(x, head, LABELS[i : i + 1], n_targets=n)
        gradients = backward(part)
        total, dhead = total + part.item(), dhead + gradients[head]
        assert np.allclose(gradients[x], expected[whole_x][i : i + 1], rtol=1e-12, atol=1e-16)
    assert np.isclose(total, whole.item(), rtol=1e-13)
    assert np.allclose(dhead, expected[whole_head], rtol=1e-12)


@both
@pytest.mark.parametrize("bad", [V, -1, -99, 1000])
def test_labels_that_are_no_tokens(loss, bad):
    labels = np.where(LABELS.max() == LABELS, bad, LABELS)
    with pytest.raises(DataError, match=rf"label {bad} .*0 to {V - 1}, or -100"):
        loss(leaf(X), leaf(W), labels)


@both
def test_labels_must_be_integers(loss):
    with pytest.raises(DTypeError, match=r"labels must be integers, not float64"):
        loss(leaf(X), leaf(W), LABELS.astype(np.float64))


def test_shapes_that_do_not_fit_are_met_with_words():
    with pytest.raises(ShapeError, match=r"CrossEntropy.*\(3, 5, 7\).*\(3, 5\), not \(3, 4\)"):
        ops.cross_entropy(Tensor(Z), labels=LABELS[:, 1:])
    for x, labels in ((X[..., 1:], LABELS), (X, LABELS[:, 1:])):
        with pytest.raises(ShapeError) as caught:
            straight(Tensor(x), Tensor(W), labels)
        words = ["LinearCrossEntropy", str(x.shape), str(W.shape), str(labels.shape)]
        assert [w for w in words if w not in str(caught.value)] == []


@pytest.mark.parametrize("rows", [1, 2, 3, 11, 100])
def test_chunks_of_any_size_give_what_all_the_logits_at_once_give(rows, monkeypatch):
    monkeypatch.setattr(room, "_CHUNK", rows * V)
    x, head = leaf(X), leaf(W)
    chunked, whole = straight(x, head), from_logits(x, head)
    assert abs(chunked.item() - whole.item()) <= 1e-12
    mine, other = backward(chunked), backward(whole)
    for p in (x, head):
        assert np.abs(mine[p] - other[p]).max() <= 1e-12


def test_logits_exist_for_one_chunk_at_a_time_and_for_labelled_tokens_only(monkeypatch):
    monkeypatch.setattr(room, "_CHUNK", 4 * V)
    made = []
    surprise = room._surprise
    monkeypatch.setattr(room, "_surprise", lambda z, t: made.append(z.shape) or surprise(z, t))
    straight(leaf(X), leaf(W))
    assert made == [(3, V), (4, V), (4, V)]
    assert count_targets(LABELS) == 11


def test_the_logits_of_two_chunks_are_never_there_at_once(monkeypatch):
    x, head = np.ones((200, 8), np.float32), np.ones((1000, 8), np.float32)
    monkeypatch.setattr(room, "_CHUNK", 40 * len(head))
    chunk = 40 * len(head) * x.itemsize
    tracemalloc.start()
    try:
        straight(Tensor(x, requires_grad=True), Tensor(head), np.arange(200))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert chunk < peak < 1.5 * chunk


@pytest.mark.parametrize(
    ("x", "head", "kept"),
    [(True, True, {"dx", "asked", "dW"}), (True, False, {"dx", "asked"}), (False, True, {"dW"})],
)
def test_nothing_as_wide_as_the_logits_is_kept(x, head, kept):
    loss = straight(Tensor(X, requires_grad=x), Tensor(W, requires_grad=head))
    (op,) = tape(loss)
    assert set(vars(op.saved)) == kept
    sizes = {"dx": 11 * C, "asked": 11, "dW": V * C}  # 11 tokens have a label
    assert {name: a.size for name, a in vars(op.saved).items()} == {n: sizes[n] for n in kept}
