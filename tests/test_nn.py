"""Modules: parameters found by their paths, taken over by name, and dropout only in training."""

import threading

import numpy as np
import pytest

from minilora.autograd import Parameter, Tensor
from minilora.errors import ConfigError, FormatError
from minilora.nn import (
    Dropout,
    Embedding,
    Linear,
    Module,
    ModuleDict,
    ModuleList,
    RMSNorm,
    training,
    training_rng,
)

RNG = np.random.default_rng(0)


class Pair(Module):
    """Two layers, a list and a dict of layers, and one matrix that is used in two places."""

    def __init__(self):
        self.first = Linear(3, 4, bias=True)
        self.blocks = ModuleList([RMSNorm(4, 1e-5), Linear(4, 2)])
        self.named = ModuleDict()
        self.named["extra"] = Linear(2, 2)
        self.tied = Linear(3, 4)
        self.tied.weight = self.first.weight
        self.size = 7


NAMES = {
    "first.weight": (4, 3),
    "first.bias": (4,),
    "blocks.0.weight": (4,),
    "blocks.1.weight": (2, 4),
    "named.extra.weight": (2, 2),
}


def test_parameters_are_named_by_their_paths_each_once():
    assert {name: p.shape for name, p in Pair().named_parameters()} == NAMES
    assert all(isinstance(p, Parameter) for p in Pair().parameters())


def test_modules_are_named_by_their_paths():
    pair = Pair()
    modules = dict(pair.named_modules())
    assert list(modules) == [
        *("", "first", "blocks", "blocks.0", "blocks.1", "named", "named.extra", "tied"),
    ]
    assert all(pair.get_submodule(path) is module for path, module in modules.items())


def test_a_path_that_leads_nowhere_is_met_with_words():
    with pytest.raises(ConfigError, match=r"'blocks\.2'.*'2'.*0, 1"):
        Pair().get_submodule("blocks.2")
    with pytest.raises(ConfigError, match=r"'second'.*first, blocks, named, tied"):
        Pair().get_submodule("second.weight")


def test_a_module_must_say_what_it_computes():
    with pytest.raises(NotImplementedError, match=r"Pair must say.*forward\(\)"):
        Pair()(1)


def test_freezing_and_thawing_a_part():
    pair = Pair()
    assert len(pair.trainable_parameters()) == 5
    assert pair.requires_grad_(False) is pair
    assert pair.trainable_parameters() == []
    pair.named.requires_grad_(True)
    assert pair.trainable_parameters() == [pair.named["extra"].weight]
    assert (pair.n_parameters(), pair.n_parameters(trainable=True)) == (12 + 4 + 4 + 8 + 4, 4)


def test_a_list_and_a_dict_of_modules():
    pair = Pair()
    assert len(pair.blocks) == 2
    assert list(pair.blocks) == [pair.blocks[0], pair.blocks[1]]
    assert "extra" in pair.named
    del pair.named["extra"]
    assert "extra" not in pair.named
    assert "named.extra.weight" not in dict(pair.named_parameters())


def test_the_state_is_the_arrays_themselves():
    pair = Pair()
    state = pair.state_dict()
    assert set(state) == set(NAMES)
    assert state["first.weight"] is pair.first.weight.data


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays_are_taken_over_by_name_in_the_model_s_type(dtype):
    pair = Pair()
    arrays = {name: RNG.standard_normal(shape).astype(dtype) for name, shape in NAMES.items()}
    pair.load_state_dict(arrays)
    for name, p in pair.named_parameters():
        assert p.dtype == np.float32 and p.data.flags.c_contiguous
        assert np.array_equal(p.data, arrays[name].astype(np.float32))
    assert pair.tied.weight is pair.first.weight


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"third.weight": np.ones(3)}, r"no weight 'third\.weight'.*first\.weight"),
        ({"first.weight": np.ones((3, 4))}, r"first\.weight has shape \(3, 4\).*\(4, 3\)"),
        ({"first.bias": None}, r"1 of the model's weights are missing, first first\.bias"),
        (dict.fromkeys(NAMES), r"5 of the model's weights are missing, first blocks\.0\.weight"),
    ],
)
def test_arrays_that_do_not_fit_are_met_with_words(change, words):
    arrays = {name: np.ones(shape) for name, shape in NAMES.items()} | change
    with pytest.raises(FormatError, match=words):
        Pair().load_state_dict({n: a for n, a in arrays.items() if a is not None})


def test_linear_adds_its_bias_if_it_has_one():
    x = Tensor(RNG.standard_normal((2, 5, 3)).astype(np.float32))
    layer = Linear(3, 4, bias=True)
    layer.weight.data[:] = RNG.standard_normal((4, 3))
    layer.bias.data[:] = RNG.standard_normal(4)
    assert np.allclose(layer(x).data, x.data @ layer.weight.data.T + layer.bias.data, atol=1e-6)
    assert Linear(3, 4).bias is None


def test_embedding_looks_up_rows():
    layer = Embedding(6, 3)
    layer.weight.data[:] = RNG.standard_normal((6, 3))
    ids = np.array([[5, 0], [2, 5]])
    assert np.array_equal(layer(ids).data, layer.weight.data[ids])


def test_rms_norm_starts_with_weights_one():
    x = RNG.standard_normal((2, 8))
    y = RMSNorm(8, 1e-5, np.float64)(Tensor(x)).data
    assert np.allclose((y * y).mean(axis=-1), 1, atol=1e-4)


def test_dropout_acts_only_in_training():
    x, layer = Tensor(np.ones((20, 20), np.float32)), Dropout(0.5)
    assert layer(x) is x
    with training(np.random.default_rng(0)):
        assert 0.3 < (layer(x).data == 0).mean() < 0.7
        assert Dropout(0.0)(x) is x
    assert layer(x) is x


def test_training_nests_and_ends_with_an_exception():
    outer, inner = np.random.default_rng(0), np.random.default_rng(1)
    with training(outer):
        with training(inner):
            assert training_rng() is inner
        with pytest.raises(KeyError), training(inner):
            raise KeyError
        assert training_rng() is outer
    assert training_rng() is None


def test_training_is_of_one_thread_only():
    seen = []
    with training(np.random.default_rng(0)):
        other = threading.Thread(target=lambda: seen.append(training_rng()))
        other.start()
        other.join()
    assert seen == [None]


@pytest.mark.parametrize("p", [-0.1, 1, 2.0, float("nan")])
def test_dropout_outside_of_what_is_allowed(p):
    with pytest.raises(ConfigError, match=rf"dropout {p} must be at least 0 and below 1"):
        Dropout(p)
