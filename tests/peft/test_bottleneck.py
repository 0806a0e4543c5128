"""Bottleneck adapters: the two formulas, by hand, and where they stand."""

import numpy as np
import pytest

from minilora import ops
from minilora.autograd import Tensor, no_grad
from minilora.errors import ConfigError
from minilora.ops.elementwise import sigmoid
from minilora.peft import BottleneckConfig, get_peft_model
from minilora.peft.bottleneck import Bottleneck

SIGMA = {"relu": lambda u: np.maximum(u, 0), "tanh": np.tanh, "silu": lambda u: u * sigmoid(u)}


@pytest.fixture
def learnt(biased):
    """learnt(config): in float64, with every number of the adapter moved."""

    def make(config):
        model = get_peft_model(biased(np.float64), config)
        rng = np.random.default_rng(7)
        for array in model.adapter_weights().values():
            array += rng.normal(0, 0.5, array.shape)
        return model

    return make


@pytest.mark.parametrize("sigma", SIGMA)
@pytest.mark.parametrize("kind", ["pfeiffer", "parallel"])
def test_the_formula(learnt, kind, sigma):
    model = learnt(BottleneckConfig(5, kind=kind, nonlinearity=sigma, scaling=1.5))
    layer = model.get_submodule("base_model.model.model.layers.1.mlp")
    assert isinstance(layer, Bottleneck)
    W1, b1, W2, b2 = (p.data for p in layer.parts("default").values())
    assert [a.shape for a in (W1, b1, W2, b2)] == [(5, 24), (5,), (24, 5), (24,)]
    x = np.random.default_rng(0).standard_normal((2, 3, 24))
    with no_grad():
        y = layer.base_layer(Tensor(x)).data
        h = layer(Tensor(x)).data
    goes_in = x if kind == "parallel" else y
    right = y + 1.5 * (SIGMA[sigma](goes_in @ W1.T + b1) @ W2.T + b2)
    np.testing.assert_allclose(h, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "ends"),
    [("houlsby", {"self_attn", "mlp"}), ("pfeiffer", {"mlp"}), ("parallel", {"mlp"})],
)
def test_where_they_stand(biased, kind, ends):
    model = get_peft_model(biased(), BottleneckConfig(5, kind=kind))
    paths = [path for path, _ in model.adapted("default")]
    assert {path.rsplit(".", 1)[-1] for path in paths} == ends
    assert len(paths) == 2 * len(ends)


def test_behind_attention_too(learnt):
    model = learnt(BottleneckConfig(5))
    layer = model.get_submodule("base_model.model.model.layers.0.self_attn")
    W1, b1, W2, b2 = (p.data for p in layer.parts("default").values())
    x = np.random.default_rng(0).standard_normal((2, 3, 24))
    rope = {"cos": np.ones((3, 1, 3)), "sin": np.zeros((3, 1, 3))}
    with no_grad():
        y = layer.base_layer(Tensor(x), rope, None, None).data
        h = layer(Tensor(x), rope, None, None).data
    right = y + np.maximum(y @ W1.T + b1, 0) @ W2.T + b2
    np.testing.assert_allclose(h, right, rtol=1e-12, atol=1e-12)


def test_it_starts_with_nothing_to_say_and_something_to_hear(biased):
    weights = get_peft_model(biased(), BottleneckConfig(5), seed=3).adapter_weights()
    for name, array in weights.items():
        assert array.any() == ("adapter_down.weight" in name)
    down = next(iter(weights.values()))
    assert np.abs(down).max() <= 24**-0.5
    other = get_peft_model(biased(), BottleneckConfig(5), seed=4).adapter_weights()
    assert not np.array_equal(down, next(iter(other.values())))


def test_relu_has_no_gradient_where_it_is_zero():
    x = Tensor(np.array([-2.0, 0.0, 3.0]), requires_grad=True)
    ops.relu(x).sum().backward()
    assert x.grad.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bottleneck_size": 0}, "bottleneck_size = 0 must be a whole number from 1"),
        ({"bottleneck_size": True}, "bottleneck_size = True must be"),
        ({"kind": "serial"}, "'serial' must be 'houlsby', 'pfeiffer' or 'parallel'"),
        ({"nonlinearity": "gelu"}, "'gelu' must be one of relu, silu, tanh"),
        ({"nonlinearity": None}, "None must be one of"),
        ({"scaling": 0}, "scaling = 0 must be a number above 0"),
        ({"scaling": float("nan")}, "scaling = nan must be"),
        ({"scaling": "4"}, "scaling = '4' must be"),
    ],
)
def test_a_setting_that_is_none(settings, said):
    with pytest.raises(ConfigError, match=said):
        BottleneckConfig(**settings)
