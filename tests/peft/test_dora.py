"""DoRA: lengths and directions apart, and no gradient through the norm."""

import numpy as np
import pytest

from minilora import ops
from minilora.autograd import Tensor, backward, tape
from minilora.nn import Linear, training
from minilora.peft import LoraConfig, LoraLinear
from minilora.peft.adapted import Switch
from minilora.peft.dora import row_norms, with_length

N_IN, N_OUT, R, S = 7, 5, 3, 2.0


def make_layer(*, dtype=np.float64, bias=True, used=True, **settings):
    rng = np.random.default_rng(0)
    base = Linear(N_IN, N_OUT, bias=bias, dtype=dtype)
    for p in base.parameters():
        p.data[:] = rng.standard_normal(p.shape)
    base.requires_grad_(False)
    layer = LoraLinear(base, Switch(active="a"))
    layer.add("a", LoraConfig(**{"r": R, "lora_alpha": 6, "use_dora": True, **settings}), rng)
    if used:
        layer.lora_B["a"].weight.data[:] = rng.standard_normal((N_OUT, R))
        layer.lora_magnitude_vector["a"].data[:] = rng.uniform(0.5, 2, N_OUT)
    return layer, Tensor(rng.standard_normal((4, 6, N_IN)).astype(dtype), requires_grad=True)


def parts(layer):
    """W, A, B, m and b as arrays."""
    base = layer.base_layer
    arrays = (base.weight, layer.lora_A["a"].weight, layer.lora_B["a"].weight)
    return [p.data for p in (*arrays, layer.lora_magnitude_vector["a"], base.bias)]


@pytest.mark.parametrize("rslora", [False, True])
def test_forward_is_the_formula(rslora):
    layer, x = make_layer(use_rslora=rslora)
    W, A, B, m, b = parts(layer)
    V = W + (6 / 3**0.5 if rslora else S) * B @ A
    W_new = m[:, None] * V / np.linalg.norm(V, axis=1, keepdims=True)
    np.testing.assert_allclose(layer(x).data, x.data @ W_new.T + b, rtol=0, atol=1e-12)
    np.testing.assert_allclose(layer.delta("a"), W_new - W, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(layer.delta("a") + W, axis=1), m, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("start", [True, "gaussian"])
def test_a_fresh_one_has_the_lengths_of_w_and_changes_no_bit(dtype, start):
    layer, x = make_layer(dtype=dtype, used=False, init_lora_weights=start)
    W, _, _, m, _ = parts(layer)
    np.testing.assert_allclose(m, np.linalg.norm(W, axis=1), rtol=1e-6)
    assert m.dtype == dtype
    assert np.array_equal(layer(x).data, layer.base_layer(x).data)


def test_beside_pissa_it_starts_at_w_too():
    layer, x = make_layer(used=False, init_lora_weights="pissa")
    W, _, _, m, _ = parts(layer)
    np.testing.assert_allclose(m, np.linalg.norm(W, axis=1), rtol=1e-12)
    np.testing.assert_allclose(layer(x).data, layer.base_layer(x).data, rtol=0, atol=1e-12)


def test_the_gradients_are_those_of_the_formula_with_the_norm_held():
    layer, x = make_layer()
    weights = [layer.lora_A["a"].weight, layer.lora_B["a"].weight, layer.lora_magnitude_vector["a"]]
    gradients = backward(ops.sum(ops.tanh(layer(x))))
    W, A, B, m, b = (array.copy() for array in parts(layer))
    norm = row_norms(W, A, B, S)  # a constant, while A and B are moved

    def loss(x, A, B, m):
        return np.tanh((x @ (W + S * B @ A).T) * (m / norm) + b).sum()

    inputs = [x.data, A, B, m]
    for i, p in enumerate([x, *weights]):
        expected = np.empty(p.shape)
        for at in np.ndindex(p.shape):
            ends = []
            for h in (1e-6, -1e-6):
                moved = [array.copy() for array in inputs]
                moved[i][at] += h
                ends.append(loss(*moved))
            expected[at] = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(gradients[p], expected, rtol=0, atol=1e-7)


def test_it_is_not_the_gradient_through_the_norm():
    layer, x = make_layer()
    B = layer.lora_B["a"].weight
    gradient = backward(ops.sum(ops.tanh(layer(x))))[B]
    value, ends = B.data[1, 2], []
    for h in (1e-6, -1e-6):
        B.data[1, 2] = value + h
        ends.append(ops.sum(ops.tanh(layer(x))).item())
    assert abs((ends[0] - ends[1]) / 2e-6 - gradient[1, 2]) > 1e-2


def test_no_array_of_w_s_size_is_kept_for_backward():
    layer, x = make_layer()
    base = layer.base_layer.weight.data
    kept = [a for op in tape(layer(x)) for a in vars(op.saved).values()]
    assert not any(a.shape == base.shape and a is not base for a in kept)


def test_dropout_leaves_the_plain_w_x_alone():
    layer, x = make_layer(lora_dropout=0.5)
    with training(np.random.default_rng(3)):
        h = layer(x).data
    W, A, B, m, b = parts(layer)
    kept = x.data * (np.random.default_rng(3).random(x.shape, np.float32) >= 0.5) / 0.5
    V = W + S * B @ A
    gain = m / np.linalg.norm(V, axis=1)
    expected = x.data @ W.T + (gain - 1) * (kept @ W.T) + gain * S * (kept @ A.T @ B.T) + b
    np.testing.assert_allclose(h, expected, rtol=0, atol=1e-12)


def test_rows_are_brought_to_their_lengths():
    rng = np.random.default_rng(0)
    V, m = rng.standard_normal((4, 6)), np.array([1.0, 2, 3, 4])
    W = with_length(V, m)
    np.testing.assert_allclose(np.linalg.norm(W, axis=1), m, rtol=1e-12)
    np.testing.assert_allclose(W / V, (W / V)[:, :1] * np.ones(6), rtol=1e-12)
