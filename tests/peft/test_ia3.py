"""IA³: a factor for each channel, before or behind a matrix, and in it once merged."""

import numpy as np
import pytest

from minilora.autograd import Tensor, no_grad
from minilora.errors import AdapterError, ConfigError, FormatError
from minilora.files.json_files import read_json, write_json
from minilora.peft import IA3Config, PeftModel, get_peft_model


@pytest.fixture
def learnt(biased):
    """learnt(config): in float64, with every factor apart from 1."""

    def make(config=None, **options):
        model = get_peft_model(biased(np.float64, **options), config or IA3Config())
        rng = np.random.default_rng(7)
        for array in model.adapter_weights().values():
            array += rng.normal(0, 0.5, array.shape)
        return model

    return make


@pytest.mark.parametrize("end", ["self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj"])
def test_the_formula(learnt, end):
    model = learnt()
    layer = model.get_submodule(f"base_model.model.model.layers.1.{end}")
    base = layer.base_layer
    W, b, factors = base.weight.data, base.bias.data, layer.ia3_l["default"].data
    n_out, n_in = W.shape
    x = np.random.default_rng(0).standard_normal((2, 3, n_in))
    with no_grad():
        h = layer(Tensor(x)).data
    if "down" in end:
        assert factors.shape == (1, n_in)
        right = (x * factors[0]) @ W.T + b
    else:
        assert factors.shape == (n_out, 1)
        right = (x @ W.T + b) * factors[:, 0]
    np.testing.assert_allclose(h, right, rtol=1e-12, atol=1e-12)


def test_merged_it_is_in_the_rows_or_the_columns(learnt, biased):
    model = learnt()
    factors = {n.split("layers.")[1]: a.copy() for n, a in model.adapter_weights().items()}
    plain, base = model.merge_and_unload(), biased(np.float64)
    k, was = plain.model.layers[0].self_attn.k_proj, base.model.layers[0].self_attn.k_proj
    row = factors["0.self_attn.k_proj.ia3_l"]
    assert np.array_equal(k.weight.data, np.diag(row[:, 0]) @ was.weight.data)
    assert np.array_equal(k.bias.data, row[:, 0] * was.bias.data)
    down, was = plain.model.layers[1].mlp.down_proj, base.model.layers[1].mlp.down_proj
    column = factors["1.mlp.down_proj.ia3_l"]
    assert np.array_equal(down.weight.data, was.weight.data @ np.diag(column[0]))
    assert np.array_equal(down.bias.data, was.bias.data)


@pytest.mark.parametrize(
    ("config", "n"),
    [
        (IA3Config(), 2 * (12 + 12 + 40)),
        (IA3Config("v_proj", None), 2 * 12),
        (IA3Config("all-linear", None), 2 * (48 + 24 + 80 + 40)),
        (IA3Config(["down_proj"], []), 2 * 24),
        (IA3Config(["up_proj", "q_proj"], ["up_proj"]), 2 * (24 + 24)),
        (IA3Config(r".*layers\.1\.mlp\.\w+", r".*down_proj"), 40 + 40 + 40),
        (IA3Config("all-linear", "down_proj"), 2 * (48 + 24 + 80 + 40)),
        (IA3Config("all-linear", [], exclude_modules=["o_proj"]), 2 * (48 + 80 + 24)),
    ],
)
def test_which_channels(biased, config, n):
    assert get_peft_model(biased(), config).n_parameters(trainable=True) == n


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"feedforward_modules": ["up_proj"]}, "'up_proj' is not one of target_modules"),
        ({"target_modules": []}, r"target_modules = \[\] must name matrices"),
        ({"feedforward_modules": 3}, "feedforward_modules = 3 must be names"),
        ({"exclude_modules": "("}, "exclude_modules: '\\(' is no regular expression"),
    ],
)
def test_a_setting_that_is_none(settings, said):
    with pytest.raises(ConfigError, match=said):
        IA3Config(**settings)


def test_a_target_that_is_not_there(biased, fingerprint):
    base = biased()
    with pytest.raises(ConfigError, match="'W_pack' matches no matrix"):
        get_peft_model(base, IA3Config(["v_proj", "W_pack"], None))
    with pytest.raises(ConfigError, match=r"feedforward_modules = '\.\*up_proj' matches none"):
        get_peft_model(base, IA3Config("v_proj", ".*up_proj"))
    assert all(p.requires_grad for p in base.parameters())


def test_on_the_head_of_a_tied_model_it_is_used_but_not_merged(learnt, biased, logits):
    ids = np.random.default_rng(0).integers(0, 31, (2, 5))
    model = learnt(IA3Config(["lm_head"], None), tie_word_embeddings=True)
    base = biased(np.float64, tie_word_embeddings=True)
    factors = next(iter(model.adapter_weights().values()))[:, 0]
    np.testing.assert_allclose(logits(model, ids), logits(base, ids) * factors, rtol=1e-12)
    with pytest.raises(AdapterError, match="one array is the embeddings and lm_head"):
        model.merge_adapter()


def test_settings_that_are_not_computed_here(biased, tmp_path):
    get_peft_model(biased(), IA3Config()).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    settings = read_json(file)
    for name, value in (("fan_in_fan_out", True), ("modules_to_save", ["lm_head"])):
        write_json(file, settings | {name: value})
        with pytest.raises(FormatError, match=f"{name} = .* is not computed here"):
            PeftModel.from_pretrained(biased(), tmp_path)
    write_json(file, settings | {"init_ia3_weights": False})
    PeftModel.from_pretrained(biased(), tmp_path)
