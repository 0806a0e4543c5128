"""The LoRA bypass, by hand and composed: one result, and only what is trained is paid for."""

import numpy as np
import pytest

from minilora import ops
from minilora.autograd import Tensor, backward, tape
from minilora.errors import ShapeError

# Rows (B, T), in, out and r, all apart.
SHAPES = {"x": (2, 3, 6), "A": (4, 6), "B": (5, 4)}
RNG = np.random.default_rng(0)
W = RNG.standard_normal((5, 6))
ARRAYS = {name: RNG.standard_normal(shape) for name, shape in SHAPES.items()}
V = RNG.standard_normal((2, 3, 5))


def inputs(trained=("x", "A", "B"), dtype=np.float64, **changed):
    arrays = {**ARRAYS, **changed}
    return [Tensor(a.astype(dtype), requires_grad=n in trained) for n, a in arrays.items()]


def by_hand(x, A, B, scaling=0.75):
    return ops.lora_linear(x, Tensor(W.astype(x.dtype)), A, B, scaling=scaling)


def composed(x, A, B, scaling=0.75):
    return ops.lora_linear_composed(x, Tensor(W.astype(x.dtype)), A, B, scaling=scaling)


@pytest.mark.parametrize("scaling", [0.75, 2.0, 16 / 3])
@pytest.mark.parametrize("trained", ["x", "A", "B", "xA", "xB", "AB", "xAB"])
def test_composed_equals_by_hand(trained, scaling):
    results = []
    for bypass in (by_hand, composed):
        leaves = inputs(trained)
        h = bypass(*leaves, scaling)
        gradients = backward(h, V)
        results.append([h.data, *(gradients.get(t) for t in leaves)])
    for mine, other in zip(*results, strict=True):
        if mine is None:
            assert other is None
        else:
            assert np.abs(mine - other).max() <= 1e-12


def test_it_is_the_product_with_w_plus_scaled_b_a():
    x, A, B = ARRAYS.values()
    expected = x @ (W + 0.75 * B @ A).T
    assert np.abs(by_hand(*inputs()).data - expected).max() <= 1e-12


def test_scaling_multiplies_the_bypass_and_nothing_else():
    x, A, B = inputs()
    base = ops.linear(x, Tensor(W)).data
    once, thrice = (by_hand(x, A, B, s).data - base for s in (1.0, 3.0))
    assert np.allclose(thrice, 3 * once, rtol=1e-12)
    assert np.array_equal(by_hand(x, A, B, 0.0).data, base)


def test_while_b_is_zero_the_output_is_the_base_s_and_only_b_learns():
    leaves = x, A, B = inputs(B=np.zeros(SHAPES["B"]))
    h = by_hand(*leaves)
    assert np.array_equal(h.data, ops.linear(x, Tensor(W)).data)
    gradients = backward(h, V)
    assert not gradients[A].any()
    assert gradients[B].any()
    assert np.allclose(gradients[x], V @ W, rtol=1e-13)


@pytest.mark.parametrize("shape", [(6,), (7, 6), (1, 1, 6), (2, 3, 4, 6)])
def test_any_number_of_leading_axes(shape):
    x = RNG.standard_normal(shape)
    leaves = inputs(x=x)
    h = by_hand(*leaves)
    assert h.shape == (*shape[:-1], 5)
    other = inputs(x=x)
    expected = composed(*other)
    v = np.ones(h.shape)
    mine, theirs = backward(h, v), backward(expected, v)
    for a, b in zip(leaves, other, strict=True):
        assert np.abs(mine[a] - theirs[b]).max() <= 1e-12


@pytest.mark.parametrize(
    ("trained", "kept"),
    [
        ("AB", {"x", "u", "B"}),
        ("xAB", {"x", "u", "A", "B", "W"}),
        ("A", {"x", "B"}),
        ("B", {"u"}),
        ("x", {"W", "A", "B"}),
    ],
)
def test_what_is_kept_for_what(trained, kept):
    """At the lowest adapter x needs no gradient: W is not even kept, let alone dW computed."""
    (op,) = tape(by_hand(*inputs(trained)))
    assert set(vars(op.saved)) == kept


def test_what_is_kept_beside_x_is_as_narrow_as_the_rank():
    (op,) = tape(by_hand(*inputs("AB")))
    made = [a for n, a in vars(op.saved).items() if n not in SHAPES]
    assert [a.shape for a in made] == [(2, 3, 4)]


def test_w_gets_no_gradient_and_must_be_frozen():
    (op,) = tape(by_hand(*inputs()))
    assert op.needs.W is False
    x, A, B = inputs()
    with pytest.raises(ShapeError, match=r"no gradient for W: freeze it.*lora_linear_composed"):
        ops.lora_linear(x, Tensor(W, requires_grad=True), A, B, scaling=1.0)


def test_composed_trains_all_three():
    x, A, B = inputs()
    base = Tensor(W, requires_grad=True)
    gradients = backward(ops.lora_linear_composed(x, base, A, B, scaling=0.75), V)
    assert np.allclose(gradients[base], np.einsum("bto,bti->oi", V, x.data), rtol=1e-12)
    assert set(gradients) == {x, base, A, B}


def test_the_bypass_may_read_another_x():
    x, A, B = inputs()
    other = Tensor(2 * x.data)
    h = ops.lora_linear_composed(x, Tensor(W), A, B, scaling=0.75, x_bypass=other)
    assert np.allclose(h.data, x.data @ W.T + 1.5 * x.data @ (B.data @ A.data).T, rtol=1e-12)


@pytest.mark.parametrize("bypass", [by_hand, composed])
@pytest.mark.parametrize("scaling", [2, 2.0, np.float64(2.0)])
def test_in_float32_everything_stays_float32(bypass, scaling):
    leaves = inputs(dtype=np.float32)
    h = bypass(*leaves, scaling)
    assert h.dtype == np.float32
    gradients = backward(h, V.astype(np.float32))
    assert [gradients[t].dtype for t in leaves] == [np.float32] * 3


@pytest.mark.parametrize(
    "changed",
    [
        {"x": np.ones((2, 3, 5))},
        {"A": np.ones((4, 5))},
        {"B": np.ones((6, 4))},
        {"B": np.ones((5, 3))},
        {"A": np.ones(6)},
    ],
)
def test_shapes_that_do_not_fit_are_all_named(changed):
    leaves = inputs(**changed)
    with pytest.raises(ShapeError) as caught:
        by_hand(*leaves)
    shapes = [str(t.shape) for t in leaves] + [str(W.shape)]
    words = ["LoRALinear", *shapes, "(…, in), (out, in), (r, in) and (out, r)"]
    assert [w for w in words if w not in str(caught.value)] == []
