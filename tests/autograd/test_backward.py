"""Backward: every gradient once, summed, in the leaf's shape, and nothing more than was asked."""

import weakref

import numpy as np
import pytest

from minilora import ops
from minilora.autograd import Function, Tensor, backward, no_grad, tape
from minilora.errors import DTypeError, ShapeError, TapeError

X = np.random.default_rng(0).standard_normal((2, 3))


def leaf(array=X, dtype=np.float64):
    return Tensor(np.array(array, dtype), requires_grad=True)


def arrays_on(op):
    return [a for a in vars(op.saved).values() if isinstance(a, np.ndarray)]


def test_it_returns_the_gradients_and_writes_to_no_tensor():
    x, y, frozen = leaf(), leaf(), Tensor(X)
    gradients = backward((x * y * frozen).sum())
    assert set(gradients) == {x, y}
    assert np.array_equal(gradients[x], X * X)
    assert x.grad is None and y.grad is None and frozen.grad is None


def test_from_a_leaf_it_is_one():
    x = leaf(2.5)
    assert backward(x) == {x: 1}


def test_a_tensor_of_one_element_counts_as_a_scalar():
    x = leaf([[2.0]])
    assert backward(x * x)[x].tolist() == [[4.0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda x: (x * x).sum(), [(2, 3)]),
        (lambda x: x * x, [()]),
        (lambda x: -x, [()]),
        (lambda x: x.exp() / x + x.tanh(), [()]),
        (lambda x, y: (x * y).mean(), [(4, 2, 3), ()]),
        (lambda x, y: (x - y).max(), [(2, 1), (3,)]),
        (lambda x: x.sum(), [(1, 1)]),
        (lambda x: x[0, 1] * 2.0, [(2, 3)]),
    ],
)
def test_a_gradient_is_an_array_of_the_leaf_s_shape_and_type(function, shapes, dtype):
    rng = np.random.default_rng(0)
    leaves = [leaf(rng.uniform(1, 2, shape), dtype) for shape in shapes]
    gradients = backward(function(*leaves))
    assert set(gradients) == set(leaves)
    for x in leaves:
        assert isinstance(gradients[x], np.ndarray) and gradients[x].flags.writeable
        assert (gradients[x].shape, gradients[x].dtype) == (x.shape, x.dtype)


def test_what_is_used_twice_gets_the_sum():
    x = leaf()
    assert np.allclose(backward((x * x + x).sum())[x], 2 * X + 1, rtol=1e-15)
    assert np.array_equal(backward(ops.concatenate([x, x, x]).sum())[x], np.full(X.shape, 3.0))


def test_used_at_different_depths_it_waits_for_every_part():
    x = leaf()
    deep = x.exp()
    y = deep * x + deep.tanh() * deep + x
    e, t = np.exp(X), np.tanh(np.exp(X))
    expected = e * X + e + (1 - t * t) * e * e + t * e + 1
    assert np.allclose(backward(y.sum())[x], expected, rtol=1e-13)


def test_each_operation_is_passed_once():
    """Sixty doublings are 2⁶⁰ ways from end to start; they are not walked one by one."""
    x = leaf([1.0])
    y = x
    for _ in range(60):
        y = y + y
    assert backward(y)[x].tolist() == [2.0**60]


def test_a_very_long_tape_is_no_problem():
    x = leaf([1.0])
    y = x
    for _ in range(20_000):
        y = y * 1.0
    assert backward(y)[x].tolist() == [1.0]


def test_broadcast_inputs_get_the_sum_over_their_copies():
    x, y, v = leaf(np.ones((3, 1))), leaf(np.ones(4)), np.arange(24.0).reshape(2, 3, 4)
    gradients = backward(x + y + Tensor(np.zeros((2, 1, 1))), v)
    assert np.array_equal(gradients[x], v.sum(axis=(0, 2))[:, None])
    assert np.array_equal(gradients[y], v.sum(axis=(0, 1)))


def test_two_fresh_backwards_are_equal_to_the_bit():
    x, W = leaf(), leaf(np.random.default_rng(1).standard_normal((5, 3)))

    def gradients():
        return backward((ops.softmax(ops.linear(x, W)) * ops.silu(ops.linear(x, W))).sum())

    first, second = gradients(), gradients()
    for p in (x, W):
        assert np.array_equal(first[p], second[p])


def test_nothing_trainable_is_met_with_words():
    with pytest.raises(TapeError, match=r"nothing trainable.*requires_grad = True.*no_grad"):
        backward(Tensor(X).sum())
    with no_grad():
        y = leaf().sum()
    with pytest.raises(TapeError, match="nothing trainable"):
        y.backward()


def test_a_non_scalar_needs_a_gradient_to_start_with():
    with pytest.raises(TapeError, match=r"\(2, 3\).*scalar only.*mean\(\) or \.sum\(\)"):
        backward(leaf() * 2)


def test_the_gradient_to_start_with_must_fit():
    y = leaf() * 2
    with pytest.raises(ShapeError, match=r"\(3, 2\).*\(2, 3\)"):
        backward(y, np.ones((3, 2)))
    with pytest.raises(DTypeError, match=r"float32.*float64"):
        backward(y, np.ones((2, 3), np.float32))
    assert np.array_equal(backward(y, Tensor(np.ones((2, 3)))).popitem()[1], np.full((2, 3), 2.0))


def test_a_second_backward_is_met_with_words_and_changes_nothing():
    x = leaf()
    y = x.exp().sum()
    y.backward()
    before = x.grad.copy()
    with pytest.raises(TapeError, match=r"already passed Exp.*freed.*forward pass again"):
        y.backward()
    assert np.array_equal(x.grad, before)


def test_two_losses_over_one_tape_are_met_with_words():
    shared = leaf().exp()
    backward(shared.sum())
    with pytest.raises(TapeError, match="forward pass again"):
        backward((shared * 2).sum())


def test_kept_arrays_are_let_go_as_backward_passes_them():
    """When an operation's turn comes, all newer ones have let go of theirs already."""
    held = []

    class Watch(Function):
        def forward(ctx, x):
            return x.copy()

        def backward(ctx, dy):
            held.extend(len(arrays_on(op)) for op in every if op is not ctx)
            return dy

    x = leaf()
    watched = Watch.apply(x)
    above = watched.exp()
    freed = weakref.ref(above.data)
    y = (above.tanh() * above).sum()
    every = list(tape(y))
    assert sum(len(arrays_on(op)) for op in every) == 4  # e, tanh e, and both factors
    del above
    assert freed() is not None
    backward(y)
    assert held == [0] * (len(every) - 1)
    assert freed() is None


def test_the_tape_is_every_operation_once_newest_first():
    x, y = leaf(), leaf()
    a = x.exp()
    b = a * y
    c = b + a
    assert list(tape(c.sum()))[1:] == [c.node, b.node, a.node]
    assert list(tape(x)) == []


def test_nothing_is_recorded_or_walked_below_the_lowest_trainable_leaf():
    frozen, top = Tensor(X), leaf()
    below = frozen.exp().tanh()
    y = (below * top).sum()
    assert [type(op).__name__ for op in tape(y)] == ["Sum", "Mul"]
    assert set(backward(y)) == {top}


def test_frozen_after_the_forward_pass_still_gets_what_was_recorded():
    """What is wanted is decided when an operation is applied."""
    x, y = leaf(), leaf()
    z = (x * y).sum()
    y.requires_grad = False
    assert set(backward(z)) == {x, y}


def test_parts_are_handed_in_as_they_come_and_add_up():
    """A leaf that was used twice comes twice; nothing is returned."""
    x, w = (Tensor(np.arange(1.0, 7).reshape(2, 3), requires_grad=True) for _ in range(2))
    whole = backward((x * w + x.exp()).sum())
    parts = []
    assert backward((x * w + x.exp()).sum(), hand_in=lambda p, g: parts.append((p, g))) == {}
    assert sorted(p is x for p, _ in parts) == [False, True, True]
    for leaf in (x, w):
        assert np.array_equal(sum(g for p, g in parts if p is leaf), whole[leaf])


def test_a_leaf_alone_is_handed_in_too():
    x, seen = Tensor(np.ones(()), requires_grad=True), []
    assert backward(x, hand_in=lambda p, g: seen.append((p, g.item()))) == {}
    assert seen == [(x, 1.0)]
