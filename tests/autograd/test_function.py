"""A Function: its inputs by name, what it keeps, and where its gradients go."""

import weakref

import numpy as np
import pytest

import minilora.ops  # noqa: F401  teaches tensors their operators
from minilora.autograd import Function, Tensor, backward, gradcheck, no_grad
from minilora.errors import DTypeError, TapeError

X = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]])


def leaf(array, dtype=np.float64):
    return Tensor(np.array(array, dtype), requires_grad=True)


class Scale(Function):
    """z = x y over whole arrays, and it remembers what was wanted of it."""

    def forward(ctx, x, y):
        ctx.save(x=x if ctx.needs.y else None, y=y if ctx.needs.x else None)
        return x * y

    def backward(ctx, dz):
        return (
            dz * ctx.saved.y if ctx.needs.x else None,
            dz * ctx.saved.x if ctx.needs.y else None,
        )


class Total(Function):
    """y = x0 + x1 + …, of any number of inputs."""

    def forward(ctx, *xs):
        return sum(xs[1:], xs[0])

    def backward(ctx, dy):
        return (dy,) * len(vars(ctx.needs))


def test_the_example_of_its_docstring_is_right():
    class Linear(Function):
        def forward(ctx, x, W):
            ctx.save(x=x if ctx.needs.W else None, W=W if ctx.needs.x else None)
            return x @ W.T

        def backward(ctx, dy):
            dx = dy @ ctx.saved.W if ctx.needs.x else None
            dW = dy.T @ ctx.saved.x if ctx.needs.W else None
            return dx, dW

    assert gradcheck(Linear.apply, X, np.random.default_rng(0).standard_normal((4, 3)))


@pytest.mark.parametrize(("x", "y"), [(True, True), (True, False), (False, True)])
def test_needs_says_which_gradients_are_wanted_and_save_keeps_what_they_use(x, y):
    node = Scale.apply(Tensor(X, requires_grad=x), Tensor(X + 1, requires_grad=y)).node
    assert (node.needs.x, node.needs.y) == (x, y)
    assert set(vars(node.saved)) == {name for name, kept in (("x", y), ("y", x)) if kept}


def test_the_inputs_of_a_row_are_numbered():
    node = Total.apply(leaf(X), Tensor(X), leaf(X)).node
    assert vars(node.needs) == {"x0": True, "x1": False, "x2": True}


def test_too_many_inputs_are_refused_with_the_names_there_are():
    with pytest.raises(TypeError, match=r"Scale.*x, y.*3 were given"):
        Scale.apply(X, X, X)


def test_nothing_stands_on_the_tape_if_no_gradient_is_wanted():
    assert Scale.apply(Tensor(X), X).node is None
    with no_grad():
        assert Scale.apply(leaf(X), leaf(X)).node is None


def test_edges_lead_to_operations_and_trainable_leaves():
    x, y = leaf(X), leaf(X)
    first = Scale.apply(x, y)
    second = Total.apply(first, x, Tensor(X))
    assert second.node.edges == (first.node, x, None)
    assert second.node.order > first.node.order


def test_save_ignores_what_is_none_and_adds_up():
    op = Scale()
    op.save(a=X, b=None)
    op.save(c=X)
    assert set(vars(op.saved)) == {"a", "c"}


def test_what_was_released_says_so():
    op = Scale()
    op.save(x=X)
    op.release()
    with pytest.raises(TapeError, match=r"already passed Scale.*freed.*forward pass again"):
        _ = op.saved.x


def test_float_types_do_not_mix():
    with pytest.raises(DTypeError, match=r"Scale.*float32 and float64.*convert one"):
        Scale.apply(leaf(X, np.float32), X)


def test_a_forward_that_changes_the_type_is_found_out():
    class Sloppy(Function):
        def forward(ctx, x):
            return x * np.float64(0.5)

    with pytest.raises(DTypeError, match=r"Sloppy was given float32 and made float64"):
        Sloppy.apply(leaf(X, np.float32))


def test_options_are_passed_on_and_have_no_gradient():
    class Power(Function):
        def forward(ctx, x, *, n):
            ctx.n = n
            ctx.save(x=x)
            return x**n

        def backward(ctx, dy):
            return dy * ctx.n * ctx.saved.x ** (ctx.n - 1)

    x = leaf(X)
    y = Power.apply(x, n=3)
    assert vars(y.node.needs) == {"x": True}
    assert np.array_equal(backward(y.sum())[x], 3 * X**2)


def test_an_absent_input_may_be_none():
    class Shifted(Function):
        def forward(ctx, x, b):
            return x if b is None else x + b

        def backward(ctx, dy):
            return dy, dy if ctx.needs.b else None

    x = leaf(X)
    assert np.array_equal(backward(Shifted.apply(x, None).sum())[x], np.ones_like(X))


def test_a_missing_gradient_is_found_out():
    class Forgetful(Function):
        def forward(ctx, x, y):
            return x + y

        def backward(ctx, dz):
            return dz, None

    y = Forgetful.apply(leaf(X), leaf(X)).sum()
    with pytest.raises(TapeError, match=r"Forgetful\.backward gave None"):
        backward(y)


def test_an_array_that_no_backward_needs_is_freed_during_the_forward_pass():
    """A tensor points to the operation that made it, not to the tensors that went in."""
    x = leaf(X)
    middle = x + 1
    freed = weakref.ref(middle.data)
    y = middle + 2  # keeps nothing
    del middle
    assert freed() is None
    assert y.requires_grad
