"""Gradcheck: a verdict on what is right, on what is wrong, and none where there can be none."""

import numpy as np
import pytest

from minilora import ops
from minilora.autograd import Function, Tensor, gradcheck
from minilora.errors import ConfigError, DTypeError, TapeError
from minilora.ops.lora import LoRALinear
from minilora.ops.matmul import Linear

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 4))


def test_a_right_gradient_passes_and_the_report_shows_how_well():
    report = gradcheck(lambda x, y: x * y, X, X[:1].copy(), names=["x", "y"])
    assert report and report.ok
    assert [(c.name, c.shape) for c in report.inputs] == [("x", (3, 4)), ("y", (1, 4))]
    assert 0 < report.max_error <= 1e-7
    assert report.max_error == max(c.max_error for c in report.inputs)
    assert str(report).count("ok") == 2 and "WRONG" not in str(report)


class FlippedSign(Function):
    """z = x - y, whose dy lacks its minus."""

    def forward(ctx, x, y):
        return x - y

    def backward(ctx, dz):
        return dz, dz


class Transposed(Linear):
    """Linear, whose dW stands the wrong way round: on a square W the shapes do not tell."""

    def backward(ctx, dy):
        dx, dW = super().backward(dy)
        return dx, dW if dW is None else dW.T


class TransposedWay(Linear):
    """Linear, whose dx goes through Wᵀ."""

    def backward(ctx, dy):
        return dy @ ctx.saved.W.T, None


class Unscaled(LoRALinear):
    """The LoRA bypass, whose dB lacks α/r."""

    def backward(ctx, dh):
        dx, dW, dA, dB = super().backward(dh)
        return dx, dW, dA, dB if dB is None else dB / ctx.scaling


class UnscaledWay(LoRALinear):
    """The LoRA bypass, whose way back to A and x lacks α/r."""

    def backward(ctx, dh):
        scaling, ctx.scaling = ctx.scaling, 1.0
        dx, dW, dA, dB = super().backward(dh)
        return dx, dW, dA, scaling * dB


class Halved(Function):
    """y = x², whose gradient is half of what it should be."""

    def forward(ctx, x):
        ctx.save(x=x)
        return x * x

    def backward(ctx, dy):
        return dy * ctx.saved.x


class SlightlyOff(Halved):
    """y = x², whose gradient is wrong in one element, in the seventh place."""

    def backward(ctx, dy):
        dx = 2 * super().backward(dy)
        dx[2, 1] *= 1 + 5e-7
        return dx


def lora(mutant):
    W = Tensor(np.eye(4))
    return lambda x, A, B: mutant.apply(x, W, A, B, scaling=2.0)


@pytest.mark.parametrize(
    ("function", "shapes", "wrong"),
    [
        (FlippedSign.apply, [(3, 4), (3, 4)], [False, True]),
        (lambda x, W: Transposed.apply(x, W), [(3, 4), (4, 4)], [False, True]),
        (lambda x: TransposedWay.apply(x, Tensor(X[:, :3])), [(2, 3)], [True]),
        (lora(Unscaled), [(3, 4), (2, 4), (4, 2)], [False, False, True]),
        (lora(UnscaledWay), [(3, 4), (2, 4), (4, 2)], [True, True, False]),
        (lora(LoRALinear), [(3, 4), (2, 4), (4, 2)], [False, False, False]),
        (Halved.apply, [(3, 4)], [True]),
        (SlightlyOff.apply, [(3, 4)], [True]),
        (lambda x: Halved.apply(x) * 1e-11, [(3, 4)], [True]),
        (lambda x: x * x.detach(), [(3, 4)], [True]),
    ],
)
def test_planted_mistakes_are_found_and_in_the_right_input(function, shapes, wrong):
    rng = np.random.default_rng(1)
    report = gradcheck(function, *(rng.standard_normal(shape) for shape in shapes))
    assert [not c.ok for c in report.inputs] == wrong
    assert bool(report) is not any(wrong)


def test_a_mistake_in_one_element_is_named_with_its_place():
    report = gradcheck(SlightlyOff.apply, X)
    assert report.inputs[0].index == (2, 1)
    assert "WRONG at (2, 1): backward" in str(report) and "measured" in str(report)


def test_a_gradient_that_is_missing_altogether_is_found():
    report = gradcheck(lambda x, y: x * y.detach(), X, X + 1)
    assert [c.ok for c in report.inputs] == [True, False]
    assert report.inputs[1].analytic == 0


def test_an_input_that_nothing_depends_on_passes_with_zero():
    report = gradcheck(lambda x, y: x * 2, X, X + 1)
    assert report and report.inputs[1].max_error == 0


def test_a_gradient_that_is_no_number_is_found():
    class NoNumber(Halved):
        def backward(ctx, dy):
            return np.full_like(dy, np.nan)

    assert not gradcheck(NoNumber.apply, X)


def test_a_gradient_of_another_shape_or_type_is_met_with_words():
    class Summed(Halved):
        def backward(ctx, dy):
            return (dy * 2 * ctx.saved.x).sum(axis=0)

    class Narrowed(Halved):
        def backward(ctx, dy):
            return (dy * 2 * ctx.saved.x).astype(np.float32)

    with pytest.raises(ConfigError, match=r"x a gradient of float64 \(4,\).*float64 \(3, 4\)"):
        gradcheck(Summed.apply, X, names=["x"])
    with pytest.raises(ConfigError, match=r"gradient of float32 \(3, 4\).*float64 \(3, 4\)"):
        gradcheck(Narrowed.apply, X)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_less_than_float64_is_refused(dtype):
    with pytest.raises(DTypeError, match=rf"float64, not {np.dtype(dtype)}.*astype\(np\.float64\)"):
        gradcheck(lambda x: x * 2, X.astype(dtype))


@pytest.mark.parametrize(
    "alias",
    [X.T, X[:, ::2], np.broadcast_to(X[0], (3, 4)), Tensor(X.T)],
    ids=["transposed", "strided", "broadcast", "tensor"],
)
def test_views_that_are_not_contiguous_are_refused(alias):
    with pytest.raises(ConfigError, match=r"strides.*pass a\.copy\(\)"):
        gradcheck(lambda x: x * 2, alias)


def test_inputs_that_share_memory_are_refused():
    for other in (X, X[:2], Tensor(X)):
        with pytest.raises(ConfigError, match=r"share memory; pass copies"):
            gradcheck(lambda x, y: x.sum() * y.sum(), X, other)


@pytest.mark.parametrize("samples", [0, -1])
def test_checking_nothing_is_no_verdict(samples):
    with pytest.raises(ConfigError, match=rf"samples {samples}.*1 or more"):
        gradcheck(Halved.apply, X, samples=samples)


def test_without_a_float_input_there_is_nothing_to_check():
    with pytest.raises(TapeError, match="nothing trainable"):
        gradcheck(lambda ids: ops.embedding(Tensor(X), ids=ids), np.array([0, 2]))


def test_other_types_are_passed_through():
    ids = np.array([[2, 0], [2, 1]])
    report = gradcheck(lambda W, ids, name: ops.embedding(W, ids=ids), X, ids, "tokens")
    assert report and len(report.inputs) == 1


def test_inputs_are_left_as_they_were():
    x, before = Tensor(X.copy()), X.copy()
    assert gradcheck(lambda x: x.exp(), x)
    assert np.array_equal(x.data, before)
    assert x.grad is None and not x.requires_grad


def test_an_output_that_is_a_view_of_the_input_is_measured_rightly():
    assert gradcheck(lambda x: x.reshape(4, 3).transpose(), X)


@pytest.mark.parametrize("samples", [1, 5, 100])
def test_samples_are_so_many_elements_of_each_input(samples):
    calls = []

    def function(x, y):
        calls.append(1)
        return x * y

    assert gradcheck(function, X, X[0].copy(), samples=samples)
    checked = min(samples, X.size) + min(samples, X[0].size)
    assert len(calls) == 1 + 2 * checked


def test_an_h_that_is_too_large_or_too_small_shows():
    """Too far apart the curve bends between the two points, too near they are rounded away."""
    errors = {h: gradcheck(lambda x: x.exp(), X, h=h).max_error for h in (1e-2, 1e-5, 1e-12)}
    assert errors[1e-5] < 1e-7 < min(errors[1e-2], errors[1e-12])
