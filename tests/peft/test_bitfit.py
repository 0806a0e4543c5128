"""BitFit: the biases that are there, and the norms if asked."""

import numpy as np
import pytest

from minilora.errors import ConfigError
from minilora.peft import BitFitConfig, get_peft_model


def test_a_llama_has_no_biases_and_is_told_what_it_has(tiny):
    base = tiny()
    with pytest.raises(ConfigError, match=r"no biases.*BitFitConfig\(norms=True\)"):
        get_peft_model(base, BitFitConfig())
    assert all(p.requires_grad for p in base.parameters())
    model = get_peft_model(base, BitFitConfig(norms=True))
    assert model.n_parameters(trainable=True) == (2 * 2 + 1) * 24
    assert all("norm" in name for name in model.adapter_weights())


def test_every_bias_and_nothing_else(biased):
    base = biased()
    there = {n for n, _ in base.named_parameters() if n.endswith(".bias")}
    names = get_peft_model(base, BitFitConfig()).adapter_weights()
    assert {n.removeprefix("base_model.model.") for n in names} == there
    assert len(there) == 2 * 7


def test_merged_the_copies_take_the_places(biased, tiny_batch, tune):
    model = get_peft_model(biased(), BitFitConfig(norms=True))
    tune(model, tiny_batch)
    learnt = {n.removeprefix("base_model.model."): a for n, a in model.adapter_weights().items()}
    plain, base = model.merge_and_unload().state_dict(), biased().state_dict()
    for name, array in plain.items():
        assert np.array_equal(array, learnt.get(name, base[name]))
        assert np.array_equal(array, base[name]) == (name not in learnt)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"norms": 1}, "norms = 1 must be True or False"),
        ({"biases": None}, "biases = None must be True or False"),
        ({"biases": False}, "leave nothing to be trained"),
    ],
)
def test_a_setting_that_is_none(settings, said):
    with pytest.raises(ConfigError, match=said):
        BitFitConfig(**settings)
