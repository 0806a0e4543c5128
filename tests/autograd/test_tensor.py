"""A Tensor: what it holds, what its operators give, and when operations are recorded."""

import operator
import threading

import numpy as np
import pytest

from minilora import ops
from minilora.autograd import Parameter, Tensor, backward, grad_enabled, no_grad
from minilora.errors import DTypeError, MiniloraError, TapeError

X = np.array([[0.5, 2.0, 1.5], [3.0, 0.25, 1.0]])


def leaf(array):
    return Tensor(np.array(array), requires_grad=True)


@pytest.mark.parametrize("data", [1.5, [1.5, 2.5], [[1.0], [2.0]]])
def test_floats_of_python_become_float32(data):
    assert Tensor(data).dtype == np.float32


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "bool"])
def test_arrays_keep_their_type_and_are_not_copied(dtype):
    array = np.ones((2, 3), dtype)
    assert Tensor(array).data is array
    assert Tensor(array).numpy() is array


def test_a_numpy_scalar_keeps_its_type():
    assert Tensor(np.float64(2)).dtype == np.float64


def test_a_tensor_of_a_tensor_is_a_new_leaf_on_the_same_array():
    made = leaf(X) * 2
    again = Tensor(made)
    assert again.data is made.data
    assert again.node is None and not again.requires_grad


def test_shape_type_size_and_length_are_the_array_s():
    t = Tensor(X)
    assert (t.shape, t.dtype, t.ndim, t.size, len(t)) == (X.shape, X.dtype, 2, 6, 2)


def test_item_is_the_one_number():
    assert Tensor(np.array([[2.5]])).item() == 2.5
    assert isinstance(Tensor(np.array(2.5)).item(), float)


def test_repr_names_the_operation_that_made_it_and_whether_a_gradient_is_wanted():
    assert "requires_grad=True" in repr(leaf(X))
    assert "requires_grad" not in repr(Tensor(X))
    assert "made by Exp" in repr(leaf(X).exp())
    assert repr(Parameter(X)).startswith("Parameter(")


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_only_floats_can_have_a_gradient(dtype):
    with pytest.raises(DTypeError, match=rf"{dtype}.*only floats.*convert it"):
        Tensor(np.ones(3, dtype), requires_grad=True)
    whole = Tensor(np.ones(3, dtype))
    with pytest.raises(DTypeError, match=rf"{dtype}.*only floats.*convert it"):
        whole.requires_grad = True
    assert not whole.requires_grad


def test_requires_grad_is_set_on_leaves_only():
    made = leaf(X).exp()
    with pytest.raises(TapeError, match=r"leaves only.*Exp.*detach\(\)"):
        made.requires_grad = False


def test_freezing_forgets_the_gradient():
    x = leaf(X)
    x.sum().backward()
    assert x.grad is not None
    x.requires_grad = False
    assert x.grad is None and not x.requires_grad


def test_parameters_are_trainable_unless_said_otherwise():
    assert Parameter(X).requires_grad
    assert not Parameter(X, requires_grad=False).requires_grad


def test_no_gradient_flows_through_detach():
    x = leaf(X)
    made = x * 3
    cut = made.detach()
    assert cut.data is made.data
    gradients = backward((x * cut).sum())
    assert np.array_equal(gradients[x], 3 * X)  # of x · (3x) only the first factor's part


@pytest.mark.parametrize("symbol", ["add", "sub", "mul", "truediv"])
@pytest.mark.parametrize("other", [2, 0.75, np.array([1.0, -2.0, 4.0]), Tensor(X[:1] + 1)])
def test_operators_are_numpy_s_from_either_side(symbol, other):
    apply = getattr(operator, symbol)
    plain = other.data if isinstance(other, Tensor) else other
    for got, expected in (
        (apply(leaf(X), other), apply(X, plain)),
        (apply(other, leaf(X)), apply(plain, X)),
    ):
        assert isinstance(got, Tensor) and got.requires_grad
        assert np.array_equal(got.data, expected)


@pytest.mark.parametrize(
    ("ours", "numpy"),
    [
        (lambda t: -t, lambda a: -a),
        (lambda t: t @ t.transpose(), lambda a: a @ a.T),
        (lambda t: t[1, 1:], lambda a: a[1, 1:]),
        (lambda t: t[..., None], lambda a: a[..., None]),
        (lambda t: t.exp(), np.exp),
        (lambda t: t.log(), np.log),
        (lambda t: t.tanh(), np.tanh),
        (lambda t: t.sum(), np.sum),
        (lambda t: t.sum(0), lambda a: a.sum(0)),
        (lambda t: t.mean(axis=-1, keepdims=True), lambda a: a.mean(-1, keepdims=True)),
        (lambda t: t.max(1), lambda a: a.max(1)),
        (lambda t: t.reshape(3, 2), lambda a: a.reshape(3, 2)),
        (lambda t: t.reshape((3, -1)), lambda a: a.reshape(3, -1)),
        (lambda t: t.transpose(1, 0), lambda a: a.T),
        (lambda t: t.transpose((1, 0)), lambda a: a.T),
    ],
)
def test_methods_are_numpy_s(ours, numpy):
    made = ours(leaf(X))
    assert np.array_equal(made.data, numpy(X))
    assert made.shape == np.shape(numpy(X))


def test_a_tensor_is_iterated_over_like_its_array():
    x = leaf(X)
    rows = list(x)
    assert len(rows) == 2
    assert all(np.array_equal(row.data, a) for row, a in zip(rows, X, strict=True))
    first, second = x
    assert np.array_equal(backward((first * second).sum())[x], X[::-1])


def test_numpy_sees_its_array():
    t = Tensor(X)
    assert np.asarray(t) is X
    assert np.array_equal(np.array(t, dtype=np.float32), X.astype(np.float32))
    assert not np.shares_memory(np.array(t), X)


@pytest.mark.parametrize("number", [2, 0.1, np.float64(0.1)])
def test_numbers_take_the_type_of_the_tensor(number):
    single = leaf(X.astype(np.float32))
    for made in (single * number, number * single, single + number, single / number):
        assert made.dtype == np.float32
    assert (leaf(X) * number).dtype == np.float64


@pytest.mark.parametrize(
    "mix",
    [
        lambda single, double: single + double,
        lambda single, double: double @ single.transpose(),
        lambda single, double: ops.linear(single, double),
        lambda single, double: ops.concatenate([single, double]),
        lambda single, double: double.data * single,
    ],
)
def test_float_types_do_not_mix(mix):
    with pytest.raises(DTypeError, match=r"float32 and float64.*convert one"):
        mix(leaf(X.astype(np.float32)), leaf(X))


def test_an_array_of_integers_does_not_widen_float32_silently():
    with pytest.raises(DTypeError, match=r"Mul was given.*float32.*float64"):
        leaf(X.astype(np.float32)) * np.array([1, 2, 3])


def test_errors_are_value_errors():
    with pytest.raises(ValueError) as caught:
        leaf(X) + np.ones(4)
    assert isinstance(caught.value, MiniloraError)
    assert issubclass(DTypeError, ValueError) and issubclass(DTypeError, TypeError)


def test_backward_adds_to_grad():
    x, y = leaf(X), leaf(X)
    (x * y).sum().backward()
    (x * 3).sum().backward()
    assert np.array_equal(x.grad, X + 3)
    assert np.array_equal(y.grad, X)
    assert x.grad.dtype == X.dtype


def test_backward_of_a_non_scalar_weighs_its_elements():
    x, v = leaf(X), np.arange(6.0).reshape(2, 3)
    (x * 2).backward(v)
    assert np.array_equal(x.grad, 2 * v)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x + y,
        lambda x, y: ops.concatenate([x, y]),
        lambda x, y: x.transpose() + y.transpose(),
    ],
)
def test_grad_is_an_array_of_its_own(function):
    """Scaling one gradient in place must scale neither another one nor what was passed in."""
    x, y = leaf(X), leaf(X)
    made = function(x, y)
    v = np.ones(made.shape)
    made.backward(v)
    before = y.grad.copy()
    x.grad *= 0.5
    assert np.array_equal(y.grad, before)
    assert (v == 1).all()


def test_inside_no_grad_nothing_is_recorded():
    x = leaf(X)
    with no_grad():
        made = x * 2
        assert not grad_enabled()
    assert grad_enabled()
    assert made.node is None and not made.requires_grad
    assert (x * 2).node is not None


def test_no_grad_nests_and_ends_with_an_exception():
    with no_grad():
        with pytest.raises(KeyError), no_grad():
            raise KeyError
        assert not grad_enabled()
    assert grad_enabled()


def test_no_grad_is_of_one_thread_only():
    seen = []
    with no_grad():
        other = threading.Thread(target=lambda: seen.append(grad_enabled()))
        other.start()
        other.join()
    assert seen == [True]
