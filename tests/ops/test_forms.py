"""Each operation against its plain formula in NumPy, and against PyTorch: 1e-10 in float64.

A central difference cannot tell a forward that is wrong all along from one that is right; these
can.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from minilora import ops
from minilora.autograd import Tensor, backward
from minilora.errors import ConfigError, DTypeError, ShapeError
from minilora.ops.examples import examples

RNG = np.random.default_rng(0)
IDS = np.array([[2, 0, 2], [4, 2, 1]])
LABELS = np.array([[1, -100, 4], [-100, 0, 1]])
ANGLES = np.arange(3)[:, None, None] * np.array([1.0, 0.3, 0.01])
ROPE = {"cos": np.cos(ANGLES), "sin": np.sin(ANGLES)}
FROZEN = RNG.standard_normal((5, 4))
EPS = 1e-3


def n(*shape):
    return RNG.standard_normal(shape)


def positive(*shape):
    return RNG.uniform(0.5, 2.0, shape)


def leaf(array):
    return Tensor(np.array(array), requires_grad=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def rms_norm(x, g):
    return np.stack([row / np.sqrt(np.mean(row**2) + EPS) * g for row in x])


def rotary(x):
    """Channels i and i + D/2 as one complex number, turned."""
    half = x.shape[-1] // 2
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * ANGLES)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def attention(q, k, v):
    """One query after the other, each over the keys up to its own place."""
    y = np.empty(q.shape)
    (_, H, T, D), (_, K, S, _) = q.shape, k.shape
    for b, h, t in np.ndindex(q.shape[:3]):
        seen, g = slice(S - T + t + 1), h // (H // K)
        y[b, h, t] = softmax(k[b, g, seen] @ q[b, h, t] / np.sqrt(D)) @ v[b, g, seen]
    return y


def cross_entropy(z):
    p = softmax(z)
    asked = [i for i in np.ndindex(LABELS.shape) if LABELS[i] != -100]
    return np.mean([-np.log(p[i][LABELS[i]]) for i in asked])


def torch_rotary(t, x):
    cos, sin = (t.from_numpy(np.concatenate([a, a], axis=-1)) for a in ROPE.values())
    half = x.shape[-1] // 2
    return x * cos + t.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


def torch_attention(t, q, k, v):
    T, S = q.shape[2], k.shape[2]
    seen = t.ones(T, S, dtype=t.bool).tril(diagonal=S - T)
    return t.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)


def torch_cross_entropy(t, z):
    return t.nn.functional.cross_entropy(z.flatten(0, -2), t.from_numpy(LABELS.ravel()))


def torch_lora(t, x, W, A, B):
    linear = t.nn.functional.linear
    return linear(x, W) + linear(linear(x, A), B) * 1.5


@dataclass
class Case:
    """One operation three times: here, as a plain formula in NumPy, and in PyTorch (t)."""

    op: str
    ours: Callable[..., Tensor]
    plain: Callable[..., Any]
    torch: Callable[..., Any]
    inputs: list[np.ndarray]


CASES = [
    Case("add", ops.add, lambda x, y: x + y, lambda t, x, y: x + y, [n(2, 3, 4), n(3, 1)]),
    Case("sub", ops.sub, lambda x, y: x - y, lambda t, x, y: x - y, [n(3, 1), n(2, 1, 4)]),
    Case("mul", ops.mul, lambda x, y: x * y, lambda t, x, y: x * y, [n(2, 3, 4), n(4)]),
    Case("div", ops.div, lambda x, y: x / y, lambda t, x, y: x / y, [n(2, 1, 4), positive(3, 1)]),
    Case("neg", ops.neg, lambda x: -x, lambda t, x: -x, [n(2, 3)]),
    Case("pow", lambda x: ops.pow(x, 2.5), lambda x: x**2.5, lambda t, x: x**2.5, [positive(2, 3)]),
    Case("exp", ops.exp, np.exp, lambda t, x: x.exp(), [n(2, 3)]),
    Case("log", ops.log, np.log, lambda t, x: x.log(), [positive(2, 3)]),
    Case("tanh", ops.tanh, np.tanh, lambda t, x: x.tanh(), [n(2, 3)]),
    Case("sigmoid", ops.sigmoid, sigmoid, lambda t, x: x.sigmoid(), [n(2, 3)]),
    Case(
        "silu",
        ops.silu,
        lambda x: x * sigmoid(x),
        lambda t, x: t.nn.functional.silu(x),
        [n(2, 3)],
    ),
    Case("relu", ops.relu, lambda x: x * (x > 0), lambda t, x: x.relu(), [n(2, 3)]),
    Case(
        "sum",
        lambda x: ops.sum(x, (0, -1)),
        lambda x: np.einsum("abc->b", x),
        lambda t, x: x.sum((0, -1)),
        [n(2, 3, 4)],
    ),
    Case(
        "mean",
        lambda x: ops.mean(x, 1, keepdims=True),
        lambda x: np.einsum("abc->ac", x)[:, None] / 3,
        lambda t, x: x.mean(1, keepdim=True),
        [n(2, 3, 4)],
    ),
    Case(
        "max",
        lambda x: ops.max(x, -1),
        lambda x: np.sort(x)[..., -1],
        lambda t, x: x.amax(-1),
        [n(2, 3, 4)],
    ),
    Case(
        "max",
        lambda x: ops.max(x, (0, 1)),
        lambda x: np.array([2.0, 3.0]),
        lambda t, x: x.amax((0, 1)),
        [np.array([[[2.0, 0.0], [1.0, 3.0]], [[2.0, 3.0], [2.0, 1.0]]])],
    ),
    Case(
        "reshape",
        lambda x: ops.reshape(x, 4, -1),
        lambda x: x.ravel().reshape(4, 6),
        lambda t, x: x.reshape(4, -1),
        [n(2, 3, 4)],
    ),
    Case(
        "transpose",
        lambda x: ops.transpose(x, 1, 2, 0),
        lambda x: np.einsum("abc->bca", x),
        lambda t, x: x.permute(1, 2, 0),
        [n(2, 3, 4)],
    ),
    Case(
        "slice",
        lambda x: x[:, 1:, ::2],
        lambda x: x.take([1, 2], 1).take([0, 2], 2),
        lambda t, x: x[:, 1:, ::2],
        [n(2, 3, 4)],
    ),
    Case(
        "slice",
        lambda x: x[[1, 0, 1]],
        lambda x: x.take([1, 0, 1], 0),
        lambda t, x: x[[1, 0, 1]],
        [n(2, 3)],
    ),
    Case(
        "concatenate",
        lambda x, y, z: ops.concatenate([x, y, z], axis=-1),
        lambda *xs: np.hstack(xs),
        lambda t, *xs: t.cat(xs, dim=-1),
        [n(2, 3), n(2, 1), n(2, 5)],
    ),
    Case(
        "matmul",
        ops.matmul,
        lambda x, y: np.einsum("abik,bkj->abij", np.repeat(x, 5, 1), y),
        lambda t, x, y: x @ y,
        [n(2, 1, 3, 4), n(5, 4, 2)],
    ),
    Case(
        "linear",
        ops.linear,
        lambda x, W: np.einsum("bti,oi->bto", x, W),
        lambda t, x, W: t.nn.functional.linear(x, W),
        [n(2, 3, 4), n(5, 4)],
    ),
    Case(
        "linear",
        ops.linear,
        lambda x, W, b: np.einsum("bti,oi->bto", x, W) + b,
        lambda t, x, W, b: t.nn.functional.linear(x, W, b),
        [n(2, 3, 4), n(5, 4), n(5)],
    ),
    Case(
        "embedding",
        lambda W: ops.embedding(W, ids=IDS),
        lambda W: np.eye(5)[IDS] @ W,
        lambda t, W: t.nn.functional.embedding(t.from_numpy(IDS), W),
        [n(5, 4)],
    ),
    Case(
        "rms_norm",
        lambda x, g: ops.rms_norm(x, g, eps=EPS),
        rms_norm,
        lambda t, x, g: t.nn.functional.rms_norm(x, (4,), g, EPS),
        [n(6, 4), n(4)],
    ),
    Case("rotary", lambda x: ops.rotary(x, **ROPE), rotary, torch_rotary, [n(2, 3, 2, 6)]),
    Case(
        "attention",
        ops.attention,
        attention,
        torch_attention,
        [n(2, 4, 3, 6), n(2, 2, 3, 6), n(2, 2, 3, 6)],
    ),
    Case(
        "attention",
        ops.attention,
        attention,
        torch_attention,
        [n(2, 4, 2, 6), n(2, 1, 5, 6), n(2, 1, 5, 6)],
    ),
    Case(
        "attention",
        lambda q, k, v: ops.attention(q, k, v, block=2),
        attention,
        torch_attention,
        [n(2, 4, 3, 6), n(2, 2, 3, 6), n(2, 2, 3, 6)],
    ),
    Case(
        "swiglu",
        ops.swiglu,
        lambda g, u: g * sigmoid(g) * u,
        lambda t, g, u: t.nn.functional.silu(g) * u,
        [n(2, 3, 4), n(2, 3, 4)],
    ),
    Case("softmax", ops.softmax, softmax, lambda t, x: x.softmax(-1), [n(2, 3, 4)]),
    Case(
        "log_softmax",
        ops.log_softmax,
        lambda x: np.log(softmax(x)),
        lambda t, x: x.log_softmax(-1),
        [n(2, 3, 4)],
    ),
    Case(
        "cross_entropy",
        lambda z: ops.cross_entropy(z, labels=LABELS),
        cross_entropy,
        torch_cross_entropy,
        [n(2, 3, 5)],
    ),
    Case(
        "linear_cross_entropy",
        lambda x, W: ops.linear_cross_entropy(x, W, labels=LABELS),
        lambda x, W: cross_entropy(x @ W.T),
        lambda t, x, W: torch_cross_entropy(t, x @ W.T),
        [n(2, 3, 4), n(5, 4)],
    ),
    Case(
        "lora_linear",
        lambda x, A, B: ops.lora_linear(x, Tensor(FROZEN), A, B, scaling=1.5),
        lambda x, A, B: x @ (FROZEN + 1.5 * B @ A).T,
        lambda t, x, A, B: torch_lora(t, x, t.from_numpy(FROZEN), A, B),
        [n(2, 3, 4), n(2, 4), n(5, 2)],
    ),
    Case(
        "lora_linear_composed",
        lambda x, W, A, B: ops.lora_linear_composed(x, W, A, B, scaling=1.5),
        lambda x, W, A, B: x @ (W + 1.5 * B @ A).T,
        torch_lora,
        [n(2, 3, 4), n(5, 4), n(2, 4), n(5, 2)],
    ),
]
every_case = pytest.mark.parametrize("case", CASES, ids=[c.op for c in CASES])


def test_every_operation_is_held_against_its_formula():
    assert {c.op for c in CASES} == {e.op for e in examples()} - {"dropout", "checkpoint"}


@every_case
def test_forward_is_the_plain_formula(case):
    made = case.ours(*(Tensor(a) for a in case.inputs)).data
    expected = case.plain(*case.inputs)
    assert made.shape == np.shape(expected)
    assert np.abs(made - expected).max() <= 1e-10


@every_case
def test_forward_and_gradients_are_pytorch_s(case):
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    ours = [leaf(a) for a in case.inputs]
    theirs = [torch.tensor(a, requires_grad=True) for a in case.inputs]
    made, expected = case.ours(*ours), case.torch(torch, *theirs)
    assert made.shape == tuple(expected.shape)
    assert np.abs(made.data - expected.detach().numpy()).max() <= 1e-10
    v = np.random.default_rng(1).standard_normal(made.shape)
    gradients = backward(made, v)
    expected.backward(torch.from_numpy(v))
    for x, t in zip(ours, theirs, strict=True):
        assert np.abs(gradients[x] - t.grad.numpy()).max() <= 1e-10


def test_max_shares_its_gradient_evenly_between_equals():
    x = leaf([[1.0, 3.0, 3.0], [2.0, 0.0, 2.0]])
    assert backward(ops.max(x, axis=1), np.array([1.0, 4.0]))[x].tolist() == [
        [0, 0.5, 0.5],
        [2, 0, 2],
    ]


def test_what_is_taken_twice_gets_both_gradients():
    x = leaf(np.zeros(3))
    taken = x[np.array([2, 0, 2])]
    assert backward(taken, np.array([1.0, 2.0, 4.0]))[x].tolist() == [2, 0, 5]


def test_tokens_that_do_not_occur_get_exactly_zero():
    W = leaf(n(5, 4))
    v = n(2, 3, 4)
    gradient = backward(ops.embedding(W, ids=IDS), v)[W]
    assert not gradient[3].any()
    assert np.allclose(gradient[2], v[0, 0] + v[0, 2] + v[1, 1], rtol=1e-14)


@pytest.mark.parametrize("axis", [0, np.int64(1), (np.int64(0), -1), [0, 1]])
@pytest.mark.parametrize("fold", ["sum", "mean", "max"])
def test_axes_may_be_numpy_s_integers_too(fold, axis):
    x = n(2, 3)
    plain = getattr(np, fold)(x, axis=tuple(axis) if isinstance(axis, list) else axis)
    assert np.array_equal(getattr(ops, fold)(Tensor(x), axis).data, plain)


def test_shapes_may_be_numpy_s_integers_too():
    two, three = np.array([2, 3])
    assert ops.reshape(Tensor(n(3, 2)), two, three).shape == (2, 3)
    assert ops.transpose(Tensor(n(2, 3)), np.int64(1), np.int64(0)).shape == (3, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_numbers_stay_finite(dtype):
    x = np.array([-1e4, -100, 0, 100, 1e4], dtype)
    with np.errstate(over="raise", invalid="raise"):
        assert np.allclose(ops.sigmoid(Tensor(x)).data, [0, 0, 0.5, 1, 1], atol=1e-30)
        assert np.allclose(ops.silu(Tensor(x)).data, [0, 0, 0, 100, 1e4], atol=1e-30)
        assert ops.softmax(Tensor(x)).data.tolist() == [0, 0, 0, 0, 1]
        assert np.array_equal(ops.log_softmax(Tensor(x)).data, x - dtype(1e4))
        for op in (ops.sigmoid, ops.silu, ops.softmax, ops.log_softmax, ops.tanh):
            t = Tensor(x, requires_grad=True)
            assert np.isfinite(backward(op(t), np.ones_like(x))[t]).all()
        t = Tensor(x, requires_grad=True)
        gate = ops.swiglu(t, Tensor(np.ones_like(x)))
        assert np.isfinite(backward(gate, np.ones_like(x))[t]).all()


@pytest.mark.parametrize(
    ("exponent", "slope"), [(0, [0, 0, 0]), (1, [1, 1, 1]), (2, [-4, 0, 6]), (-1, None)]
)
def test_powers_of_whole_numbers(exponent, slope):
    x = leaf(np.array([-2, 0 if slope else 1, 3], np.float32))
    y = x ** np.float64(exponent)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y.data, x.data**exponent)
    expected = -1 / x.data**2 if slope is None else slope
    np.testing.assert_allclose(backward(y.sum())[x], expected, rtol=1e-6)


@pytest.mark.parametrize("exponent", [np.ones(2), Tensor(np.ones(2)), "2", True])
def test_the_exponent_is_a_number(exponent):
    with pytest.raises(ConfigError, match=r"Pow: the exponent is a number.*exp\(\)"):
        ops.pow(leaf(n(2)), exponent)


def test_rotary_shows_in_the_product_only_the_distance():
    """q at place t against k at place s depends on t - s alone."""
    places = np.arange(12)[:, None, None] * np.array([1.0, 0.3, 0.01])
    rope = {"cos": np.cos(places), "sin": np.sin(places)}
    q, k = (ops.rotary(Tensor(np.tile(n(6), (1, 12, 1, 1))), **rope).data[0, :, 0] for _ in "qk")
    products = q @ k.T
    for distance in range(-11, 12):
        along = np.diagonal(products, distance)
        assert np.allclose(along, along[0], rtol=1e-12)
    assert np.ptp(products) > 0.1
    assert np.allclose((q * q).sum(-1), (q[0] * q[0]).sum(), rtol=1e-12)


def test_rotary_takes_angles_of_each_row():
    x, other = n(2, 3, 2, 6), ANGLES + 1.0
    both = np.stack([ANGLES, other])
    made = ops.rotary(Tensor(x), cos=np.cos(both), sin=np.sin(both)).data
    for i, angles in enumerate((ANGLES, other)):
        alone = ops.rotary(Tensor(x[i : i + 1]), cos=np.cos(angles), sin=np.sin(angles)).data
        assert np.array_equal(made[i : i + 1], alone)


def test_rms_norm_has_length_root_c_whatever_the_scale():
    x = n(5, 8)
    for scale in (1e-2, 1.0, 1e3):
        y = ops.rms_norm(Tensor(scale * x), Tensor(np.ones(8)), eps=0).data
        assert np.allclose((y * y).sum(axis=-1), 8, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dropout_silences_a_share_and_keeps_the_mean(dtype):
    x = leaf(np.ones((200, 500), dtype))
    y = ops.dropout(x, p=0.2, rng=np.random.default_rng(0))
    assert y.dtype == dtype
    assert set(np.unique(y.data)) == {0, dtype(1.25)}
    assert abs((y.data == 0).mean() - 0.2) < 0.005  # four standard deviations of 1e5 draws
    v = n(200, 500).astype(dtype)
    assert np.array_equal(backward(y, v)[x], v * y.data)


def test_dropout_is_its_generator_s():
    def once(seed):
        return ops.dropout(Tensor(np.ones(50)), p=0.5, rng=np.random.default_rng(seed)).data

    assert np.array_equal(once(1), once(1))
    assert not np.array_equal(once(1), once(2))


def test_dropout_of_nothing_is_the_identity():
    x = n(3, 4)
    assert np.array_equal(ops.dropout(Tensor(x), p=0.0, rng=np.random.default_rng(0)).data, x)


def test_a_p_from_numpy_does_not_change_the_type():
    x = leaf(n(3, 4).astype(np.float32))
    y = ops.dropout(x, p=np.float64(0.25), rng=np.random.default_rng(0))
    assert y.dtype == np.float32
    assert backward(y.sum())[x].dtype == np.float32


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_dropout_outside_of_what_is_allowed(p):
    with pytest.raises(ConfigError, match=rf"dropout p = {p}.*at least 0 and below 1"):
        ops.dropout(Tensor(n(3)), p=p, rng=np.random.default_rng(0))


def misfit(name, call, *words):
    return pytest.param(call, words, id=name)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        misfit("add", lambda: ops.add(n(2, 3), n(2)), "Add", "(2, 3)", "(2,)", "equal"),
        misfit("sub", lambda: ops.sub(n(2, 3), n(4, 3)), "Sub", "(2, 3)", "(4, 3)"),
        misfit("mul", lambda: Tensor(n(2, 3)) * n(3, 2), "Mul", "(2, 3)", "(3, 2)"),
        misfit("div", lambda: n(5) / Tensor(n(2, 3)), "Div", "(5,)", "(2, 3)"),
        misfit("matmul", lambda: ops.matmul(n(2, 3), n(2, 3)), "MatMul", "(2, 3) and y (2, 3)"),
        misfit("matmul vector", lambda: ops.matmul(n(2, 3), n(3)), "MatMul", "(3,)", "two axes"),
        misfit(
            "matmul batches",
            lambda: ops.matmul(n(2, 3, 4), n(3, 4, 5)),
            *("MatMul", "(2, 3, 4)", "(3, 4, 5)"),
        ),
        misfit("linear", lambda: ops.linear(n(2, 3), n(3, 4)), "Linear", "(2, 3)", "(3, 4)"),
        misfit(
            "linear bias",
            lambda: ops.linear(n(2, 3), n(4, 3), n(3)),
            *("Linear", "(2, 3)", "(4, 3)", "b (3,)"),
        ),
        misfit("linear vector", lambda: ops.linear(n(2, 3), n(3)), "Linear", "(2, 3)", "(3,)"),
        misfit("linear number", lambda: ops.linear(np.array(1.0), n(2, 3)), "Linear", "()"),
        misfit("sum", lambda: ops.sum(n(2, 3), 2), "Sum", "axis 2", "(2, 3)"),
        misfit("mean", lambda: ops.mean(n(2, 3), (0, -3)), "Mean", "axis -3", "(2, 3)"),
        misfit("max", lambda: ops.max(n(2, 3), 5), "Max", "axis 5", "(2, 3)"),
        misfit("sum twice", lambda: ops.sum(n(2, 3), (0, -2)), "Sum", "(0, -2)", "twice"),
        misfit("reshape", lambda: ops.reshape(n(2, 3), 4, 2), "Reshape", "(2, 3)", "(4, 2)"),
        misfit("reshape -1", lambda: ops.reshape(n(2, 3), 4, -1), "Reshape", "(4, -1)"),
        misfit("transpose", lambda: ops.transpose(n(2, 3), 0, 2), "Transpose", "(0, 2)", "(2, 3)"),
        misfit("transpose one", lambda: ops.transpose(n(3)), "Transpose", "(3,)"),
        misfit("slice", lambda: Tensor(n(2, 3))[5], "Slice", "[5]", "(2, 3)"),
        misfit("slice axes", lambda: Tensor(n(2, 3))[0, 0, 0], "Slice", "(0, 0, 0)", "(2, 3)"),
        misfit(
            "concatenate",
            lambda: ops.concatenate([n(2, 3), n(3, 3)], 1),
            *("Concatenate", "(2, 3), (3, 3)", "axis 1"),
        ),
        misfit(
            "concatenate axis",
            lambda: ops.concatenate([n(2, 3), n(2, 3)], 2),
            *("Concatenate", "(2, 3), (2, 3)", "axis 2"),
        ),
        misfit(
            "concatenate axes",
            lambda: ops.concatenate([n(2, 3), n(2)], 1),
            *("Concatenate", "(2, 3), (2,)", "axis 1"),
        ),
        misfit("concatenate nothing", lambda: ops.concatenate([]), "Concatenate", "at least one"),
        misfit("rms_norm", lambda: ops.rms_norm(n(2, 3), n(2), eps=0), "RMSNorm", "(2, 3)", "(2,)"),
        misfit("rotary", lambda: ops.rotary(n(1, 3, 2, 4), **ROPE), "Rotary", "(1, 3, 2, 4)"),
        misfit("rotary time", lambda: ops.rotary(n(1, 2, 2, 6), **ROPE), "Rotary", "(3, 1, 3)"),
        misfit("swiglu", lambda: ops.swiglu(n(2, 3), n(3)), "SwiGLU", "(2, 3)", "(3,)"),
    ],
)
def test_shapes_that_do_not_fit_are_met_with_words(call, words):
    with pytest.raises(ShapeError) as caught:
        call()
    assert [w for w in words if w not in str(caught.value)] == [], caught.value


@pytest.mark.parametrize(
    ("ids", "error", "words"),
    [
        (np.array([0.0, 1.0]), DTypeError, r"integers, not float64.*astype"),
        (np.array([True, False]), DTypeError, r"integers, not bool"),
        (np.array([0, 5]), ShapeError, r"token id 5.*0 to 4"),
        (np.array([0, -1]), ShapeError, r"token id -1.*0 to 4"),
        (np.zeros((2, 0), int), ShapeError, r"\(2, 0\).*empty"),
    ],
)
def test_ids_that_are_no_tokens_are_met_with_words(ids, error, words):
    with pytest.raises(error, match=words):
        ops.embedding(Tensor(n(5, 4)), ids=ids)
