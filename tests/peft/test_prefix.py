"""Prefix tuning: keys and values before the text's, by hand, and the MLP that is thrown away."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from minilora import ops
from minilora.autograd import Tensor
from minilora.errors import ConfigError
from minilora.files.json_files import read_json
from minilora.model import KVCache
from minilora.peft import PeftModel, PrefixTuningConfig, get_peft_model
from minilora.peft.prefix import Prefix

NAME = "base_model.model.model.prompt_embeddings"
MLP = PrefixTuningConfig(3, prefix_projection=True, encoder_hidden_size=5)


def test_the_words_own_keys_and_values_as_a_prefix_are_the_words(tiny, logits):
    """A prefix that holds what the cache would hold of three tokens is these three tokens."""
    words, ids = np.array([[4, 8, 15]]), np.array([[16, 23, 2, 9]])
    base = tiny()
    whole = logits(base, np.concatenate([words, ids], axis=1))[:, 3:]
    kv = KVCache(base.config, 1, 3, np.float32)
    base.hidden(words, kv=kv)
    # Of each place: layer by layer the keys of all heads, then the values.
    pairs = [a for layer in range(2) for a in (kv.keys[layer, 0], kv.values[layer, 0])]
    columns = np.concatenate([a.transpose(1, 0, 2).reshape(3, -1) for a in pairs], axis=1)
    model = get_peft_model(base, PrefixTuningConfig(3))
    model.adapter_weights()[NAME][:] = columns
    np.testing.assert_allclose(logits(model, ids), whole, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        logits(model, np.repeat(ids, 3, axis=0)), whole.repeat(3, axis=0), rtol=0, atol=1e-6
    )


def test_the_formula_of_the_mlp(tiny):
    model = get_peft_model(tiny(dtype=np.float64), MLP)
    P = model.adapter_weights()
    E, W1, b1 = (P[n] for n in P if "outer" not in n)
    assert (E.shape, W1.shape, b1.shape) == ((3, 12), (5, 12), (5,))
    (decoder,) = (m for _, m in model.adapted("default"))
    for layer in range(2):
        W2, b2 = (P[n] for n in P if f"outer.{layer}." in n)
        right = np.tanh(E @ W1.T + b1) @ W2.T + b2
        pair = decoder.of_layer("default", layer).data  # (2, K, p, D)
        for i, part in enumerate((right[:, :12], right[:, 12:])):
            np.testing.assert_allclose(pair[i].transpose(1, 0, 2).reshape(3, 12), part, rtol=1e-12)


def test_the_mlp_is_thrown_away(tiny, tmp_path):
    get_peft_model(tiny(), MLP).save_pretrained(tmp_path)
    arrays = load_file(tmp_path / "adapter_model.safetensors")
    assert {n: a.shape for n, a in arrays.items()} == {"prompt_embeddings": (3, 2 * 2 * 12)}
    settings = read_json(tmp_path / "adapter_config.json")
    assert settings["prefix_projection"] is False
    again = PeftModel.from_pretrained(tiny(), tmp_path, is_trainable=True)
    assert not again.peft_config["default"].prefix_projection
    assert [p.shape for p in again.trainable_parameters()] == [(3, 48)]


def test_how_wide_the_mlp_is_unless_one_says(tiny):
    config = PrefixTuningConfig(3, prefix_projection=True)
    P = get_peft_model(tiny(), config).adapter_weights()
    assert next(a.shape for n, a in P.items() if "inner.weight" in n) == (12, 12)


@pytest.mark.parametrize("projection", [False, True])
def test_it_may_begin_as_zeros(tiny, projection):
    config = PrefixTuningConfig(3, init_weights="zero", prefix_projection=projection)
    model = get_peft_model(tiny(), config)
    (decoder,) = (m for _, m in model.adapted("default"))
    assert not any(decoder.of_layer("default", layer).data.any() for layer in range(2))
    random = get_peft_model(tiny(), PrefixTuningConfig(60)).adapter_weights()[NAME]
    assert random.std() == pytest.approx(1, rel=0.05)


def test_through_the_door_that_a_cache_has(tiny):
    model = get_peft_model(tiny(), PrefixTuningConfig(3))
    (decoder,) = (m for _, m in model.adapted("default"))
    rng = np.random.default_rng(0)
    k, v = (Tensor(rng.standard_normal((2, 2, 4, 6)).astype(np.float32)) for _ in range(2))
    before = Prefix(decoder, "default", None, None)
    assert before.length == 3
    long_k, long_v = before.extend(1, k, v)
    assert long_k.shape == long_v.shape == (2, 2, 7, 6)
    assert np.array_equal(long_k.data[:, :, 3:], k.data)
    assert np.array_equal(long_v.data[:, :, 3:], v.data)
    assert np.array_equal(long_v.data[0, :, :3], decoder.of_layer("default", 1).data[1])
    y = ops.attention(Tensor(rng.standard_normal((2, 4, 4, 6)).astype(np.float32)), long_k, long_v)
    (P,) = model.trainable_parameters()
    y.sum().backward()
    assert P.grad[:, 24:].any()
    assert not P.grad[:, :24].any()  # layer 0's


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"encoder_hidden_size": 0}, "encoder_hidden_size = 0 must be a whole number from 1"),
        ({"prefix_projection": 1}, "prefix_projection = 1 must be True or False"),
        ({"init_weights": "ones"}, "init_weights = 'ones' must be None or 'zero'"),
    ],
)
def test_a_setting_that_is_none(settings, said):
    with pytest.raises(ConfigError, match=said):
        PrefixTuningConfig(3, **settings)
