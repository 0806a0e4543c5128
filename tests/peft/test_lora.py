"""One matrix and its bypass: the start, the scaling, the counts, the merge."""

import numpy as np
import pytest

from minilora import ops
from minilora.autograd import Tensor, backward
from minilora.config import ModelConfig
from minilora.errors import NonFiniteError
from minilora.model import Transformer
from minilora.nn import Linear, training
from minilora.peft import LoraConfig, LoraLinear, get_peft_model
from minilora.peft.lora import Switch

N_IN, N_OUT, R = 7, 5, 3


def make_layer(*, dtype=np.float64, bias=False, seed=0, used=True, **settings):
    """A LoraLinear of random W with one adapter "a"; `used`: B is random, not zero."""
    rng = np.random.default_rng(seed)
    base = Linear(N_IN, N_OUT, bias=bias, dtype=dtype)
    base.weight.data[:] = rng.standard_normal((N_OUT, N_IN))
    if bias:
        base.bias.data[:] = rng.standard_normal(N_OUT)
    base.requires_grad_(False)
    layer = LoraLinear(base, Switch(active="a"))
    layer.add("a", LoraConfig(**{"r": R, "lora_alpha": 6, **settings}), rng)
    if used:
        layer.lora_B["a"].weight.data[:] = rng.standard_normal((N_OUT, R))
    x = rng.standard_normal((4, 6, N_IN)).astype(dtype)
    return layer, Tensor(x, requires_grad=True)


def parts(layer):
    """W, A, B as arrays."""
    return (m.weight.data for m in (layer.base_layer, layer.lora_A["a"], layer.lora_B["a"]))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("rslora", "scaling"), [(False, 6 / 3), (True, 6 / 3**0.5)])
def test_forward_is_w_x_plus_the_scaled_bypass(bias, rslora, scaling):
    layer, x = make_layer(bias=bias, use_rslora=rslora)
    W, A, B = parts(layer)
    expected = x.data @ (W + scaling * B @ A).T + (layer.base_layer.bias.data if bias else 0)
    np.testing.assert_allclose(layer(x).data, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("start", [True, "gaussian"])
def test_a_fresh_pair_changes_no_bit(start):
    layer, x = make_layer(dtype=np.float32, used=False, init_lora_weights=start)
    assert layer.lora_A["a"].weight.data.all()
    assert np.array_equal(layer(x).data, layer.base_layer(x).data)


def test_a_fresh_pair_with_both_random_is_another_model():
    layer, x = make_layer(used=False, init_lora_weights=False)
    assert np.abs(layer(x).data - layer.base_layer(x).data).max() > 1e-3


def test_the_start_of_a_is_kaiming_uniform_or_normal():
    layer = LoraLinear(Linear(400, 300), Switch())
    layer.add("uniform", LoraConfig(r=64), np.random.default_rng(0))
    layer.add("normal", LoraConfig(r=64, init_lora_weights="gaussian"), np.random.default_rng(0))
    A = layer.lora_A["uniform"].weight.data
    bound = 1 / np.sqrt(400)
    assert A.min() >= -bound
    assert A.max() <= bound
    assert A.min() < -0.99 * bound
    assert A.max() > 0.99 * bound
    assert np.std(A) == pytest.approx(bound / np.sqrt(3), rel=0.02)
    assert np.std(layer.lora_A["normal"].weight.data) == pytest.approx(1 / 64, rel=0.02)
    assert not layer.lora_B["uniform"].weight.data.any()
    assert not layer.lora_B["normal"].weight.data.any()


def test_every_seed_and_every_matrix_has_an_a_of_its_own(tiny):
    arrays = [
        layer.lora_A["default"].weight.data
        for seed in (0, 1)
        for layer in get_peft_model(tiny(), LoraConfig(r=4), seed=seed).layers().values()
    ]
    assert len({a.tobytes() for a in arrays}) == len(arrays) == 8
    again = get_peft_model(tiny(), LoraConfig(r=4), seed=0).layers().values()
    for first, second in zip(arrays, again, strict=False):
        assert np.array_equal(first, second.lora_A["default"].weight.data)


def test_while_b_is_zero_no_gradient_reaches_a():
    layer, x = make_layer(used=False)
    gradients = backward(ops.sum(ops.tanh(layer(x))))
    A, B = layer.lora_A["a"].weight, layer.lora_B["a"].weight
    assert set(gradients) == {x, A, B}
    assert not gradients[A].any()
    assert gradients[B].all()


def test_while_a_is_zero_no_gradient_reaches_b_and_with_both_zero_none_at_all():
    layer, x = make_layer()
    A, B = layer.lora_A["a"].weight, layer.lora_B["a"].weight
    A.data[:] = 0
    gradients = backward(ops.sum(ops.tanh(layer(x))))
    assert not gradients[B].any()
    assert gradients[A].any()
    B.data[:] = 0
    gradients = backward(ops.sum(ops.tanh(layer(x))))
    assert not gradients[A].any()
    assert not gradients[B].any()


def test_dropout_acts_on_the_bypass_alone_and_only_in_training():
    layer, x = make_layer(lora_dropout=0.5, bias=True)
    still = layer(x).data
    assert np.array_equal(still, layer(x).data)
    with training(np.random.default_rng(3)):
        h = layer(x).data
    W, A, B = parts(layer)
    kept = np.random.default_rng(3).random(x.shape, np.float32) >= 0.5
    expected = x.data @ W.T + 2 * (x.data * kept / 0.5) @ A.T @ B.T + layer.base_layer.bias.data
    np.testing.assert_allclose(h, expected, rtol=0, atol=1e-12)
    assert np.abs(h - still).max() > 0.1


def test_dropout_and_hand_written_op_agree_when_nothing_is_dropped():
    by_hand, x = make_layer()
    composed, _ = make_layer(lora_dropout=1e-15)
    with training(np.random.default_rng(0)):
        ours, theirs = by_hand(x), composed(x)
    np.testing.assert_allclose(ours.data, theirs.data, rtol=0, atol=1e-12)
    ours, theirs = backward(ops.sum(ops.tanh(ours))), backward(ops.sum(ops.tanh(theirs)))
    for name in ("lora_A", "lora_B"):
        np.testing.assert_allclose(
            ours[getattr(by_hand, name)["a"].weight],
            theirs[getattr(composed, name)["a"].weight],
            rtol=0,
            atol=1e-12,
        )
    np.testing.assert_allclose(*(g[x] for g in (ours, theirs)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_merged_is_unmerged_and_the_very_weight_comes_back(dtype, tolerance):
    layer, x = make_layer(dtype=dtype, bias=True)
    W = layer.base_layer.weight.data
    before, bits, apart = W.copy(), W.tobytes(), layer(x).data
    layer.merge(layer.merged("a"))
    layer.switch.merged = "a"
    assert layer.base_layer.weight.dtype == dtype
    together = layer(x).data
    np.testing.assert_allclose(together, apart, rtol=0, atol=tolerance * np.abs(apart).max())
    assert np.abs(layer.base_layer.weight.data - before).max() > 0.1
    layer.unmerge()
    assert layer.base_layer.weight.data is W
    assert W.tobytes() == bits


def test_delta_is_exactly_alpha_over_r_times_b_a():
    layer, _ = make_layer()
    _, A, B = parts(layer)
    assert np.array_equal(layer.delta("a"), 6 / 3 * (B @ A))
    root, _ = make_layer(use_rslora=True)
    assert np.array_equal(root.delta("a"), 6 / 3**0.5 * (B @ A))


def test_delta_in_float32_is_multiplied_in_float64():
    layer, _ = make_layer(dtype=np.float32)
    _, A, B = (a.astype(np.float64) for a in parts(layer))
    assert layer.delta("a").dtype == np.float64
    np.testing.assert_allclose(layer.delta("a"), 2 * (B @ A), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_what_is_not_finite_is_not_merged(part, value):
    layer, _ = make_layer(dtype=np.float32)
    bits = layer.base_layer.weight.data.tobytes()
    getattr(layer, part)["a"].weight.data[1, 2] = value
    with pytest.raises(NonFiniteError, match=r"'a'.*not finite"):
        layer.merge(layer.merged("a"))
    assert layer.base_layer.weight.data.tobytes() == bits


def test_a_product_that_float32_cannot_hold_is_not_merged():
    layer, _ = make_layer(dtype=np.float32)
    bits = layer.base_layer.weight.data.tobytes()
    for part in (layer.lora_A, layer.lora_B):
        part["a"].weight.data[:] = 1e30
    with pytest.raises(NonFiniteError, match="'a'"):
        layer.merge(layer.merged("a"))
    assert layer.base_layer.weight.data.tobytes() == bits


def test_a_4096_matrix_needs_65536_numbers_at_rank_8():
    layer = LoraLinear(Linear(4096, 4096).requires_grad_(False), Switch())
    layer.add("a", LoraConfig(r=8), np.random.default_rng(0))
    assert layer.n_parameters(trainable=True) == 65_536
    assert layer.base_layer.n_parameters() == 16_777_216
    assert 100 * 65_536 / 16_777_216 == 0.390625


@pytest.mark.parametrize("r", [1, 3, 8])
@pytest.mark.parametrize("targets", [["q_proj"], ["k_proj", "down_proj"], "all-linear"])
def test_trainable_is_the_sum_of_r_times_in_plus_out(tiny, r, targets):
    model = get_peft_model(tiny(), LoraConfig(r=r, target_modules=targets))
    shapes = {"q_proj": (24, 24), "k_proj": (12, 24), "v_proj": (12, 24), "o_proj": (24, 24)}
    shapes |= {"gate_proj": (40, 24), "up_proj": (40, 24), "down_proj": (24, 40)}
    names = shapes if targets == "all-linear" else targets
    expected = 2 * sum(r * sum(shapes[name]) for name in names)
    assert model.get_nb_trainable_parameters() == (expected, tiny().n_parameters() + expected)


def test_smollm2_counts_as_peft_prints_them(capsys):
    config = ModelConfig(
        49152,
        576,
        1536,
        30,
        9,
        n_kv_heads=3,
        max_positions=8192,
        rope_theta=100000.0,
        tie_word_embeddings=True,
    )
    base = Transformer(config, seed=None)
    assert base.n_parameters() == 134_515_008
    model = get_peft_model(base, LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
    assert model.n_parameters(trainable=True) == 460_800
    model.print_trainable_parameters()
    assert capsys.readouterr().out == (
        "trainable params: 460,800 || all params: 134,975,808 || trainable%: 0.3414\n"
    )
