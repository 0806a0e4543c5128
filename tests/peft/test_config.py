"""LoraConfig: what it allows, what it says of the rest, and which matrices it names."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilora.errors import ConfigError
from minilora.peft import LoraConfig, get_peft_model
from minilora.peft.config import find_targets

LINEARS = [
    *(
        f"model.layers.{layer}.{name}"
        for layer in range(2)
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj")
    ),
    "lm_head",
]


@given(st.integers(1, 10**6), st.floats(1e-6, 1e6))
def test_scaling_is_alpha_over_rank_or_over_its_root(r, alpha):
    assert LoraConfig(r, alpha).scaling == alpha / r
    assert LoraConfig(r, alpha, use_rslora=True).scaling == alpha / math.sqrt(r)


@pytest.mark.parametrize("r", [0, -1, 2.5, 8.0, True, None, "8", math.nan])
def test_a_rank_is_a_whole_number_from_1(r):
    with pytest.raises(ConfigError, match=r"rank r = .* must be a whole number from 1") as said:
        LoraConfig(r=r)
    assert repr(r) in str(said.value)


@pytest.mark.parametrize("alpha", [0, -1.5, math.nan, math.inf, None, "16", True])
def test_alpha_is_a_number_above_0(alpha):
    with pytest.raises(ConfigError, match=r"lora_alpha = .* must be a number above 0") as said:
        LoraConfig(lora_alpha=alpha)
    assert repr(alpha) in str(said.value)


@pytest.mark.parametrize("p", [1, 1.0, -0.1, math.nan, "0.1", None])
def test_dropout_is_a_share_below_1(p):
    with pytest.raises(ConfigError, match=r"lora_dropout = .* must be in \[0, 1\)") as said:
        LoraConfig(lora_dropout=p)
    assert repr(p) in str(said.value)


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ({"bias": "all"}, "'none'"),
        ({"bias": "lora_only"}, "'none'"),
        ({"init_lora_weights": "pissa_niter_4"}, "True, False, 'gaussian' or 'pissa'"),
        ({"init_lora_weights": None}, "True, False, 'gaussian' or 'pissa'"),
        ({"layers_to_transform": -1}, "numbers of layers from 0"),
        ({"layers_to_transform": [0, 1.5]}, "numbers of layers from 0"),
        ({"layers_to_transform": True}, "numbers of layers from 0"),
        ({"layers_to_transform": "0"}, "numbers of layers from 0"),
        ({"layers_to_transform": 0, "target_modules": "all-linear"}, "['q_proj', 'v_proj']"),
        ({"use_rslora": "no"}, "True or False"),
        ({"target_modules": []}, "q_proj,v_proj or all-linear"),
        ({"target_modules": ""}, "q_proj,v_proj or all-linear"),
        ({"target_modules": None}, "q_proj,v_proj or all-linear"),
        ({"target_modules": 5}, "q_proj,v_proj or all-linear"),
        ({"target_modules": [3]}, "q_proj,v_proj or all-linear"),
    ],
)
def test_other_settings_are_named_with_what_is_allowed(setting, allowed):
    with pytest.raises(ConfigError) as said:
        LoraConfig(**setting)
    assert next(iter(setting)) in str(said.value)
    assert allowed in str(said.value)


def test_a_list_of_targets_names_ends_of_paths_in_the_models_order():
    assert find_targets(LINEARS, ["v_proj", "q_proj"]) == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.v_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
    ]
    assert find_targets(LINEARS, ["layers.1.self_attn.q_proj"]) == [
        "model.layers.1.self_attn.q_proj"
    ]
    assert find_targets(LINEARS, ["lm_head"]) == ["lm_head"]


@pytest.mark.parametrize("layers", [1, [1], (1,), range(1, 2), {1}, np.array([1]), np.int64(1)])
def test_only_in_the_layers_that_are_named(layers):
    kept = LoraConfig(layers_to_transform=layers).layers_to_transform
    assert find_targets(LINEARS, ["v_proj", "q_proj"], kept) == [
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
    ]
    with pytest.raises(ConfigError, match=r"'0\.self_attn\.q_proj' matches no matrix"):
        find_targets(LINEARS, ["0.self_attn.q_proj"], kept)


def test_no_layer_named_means_all_and_a_whole_path_is_meant_wherever_it_is():
    assert LoraConfig(layers_to_transform=[]).layers_to_transform is None
    assert hash(LoraConfig(layers_to_transform=[1, 0])) == hash(
        LoraConfig(layers_to_transform=(0, 1))
    )
    whole = "model.layers.0.self_attn.q_proj"
    assert find_targets(LINEARS, [whole, "v_proj"], 1) == [whole, LINEARS[6]]
    assert find_targets(LINEARS, ["lm_head"], 1) == ["lm_head"]


def test_a_layer_that_the_model_has_not_is_named():
    with pytest.raises(ConfigError, match=r"no layer 2 in this model; it has 0 to 1"):
        find_targets(LINEARS, ["q_proj"], [1, 2])


def test_all_linear_is_every_matrix_but_the_heads():
    assert find_targets(LINEARS, "all-linear") == LINEARS[:-1]


def test_one_string_is_a_regular_expression_for_the_whole_path():
    assert find_targets(LINEARS, r".*layers\.1\..*(q|k)_proj") == [
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.k_proj",
    ]
    with pytest.raises(ConfigError, match="matches no matrix"):
        find_targets(LINEARS, r"layers\.1\..*_proj|head")  # the middle of a path is not enough


@pytest.mark.parametrize("targets", ["nonsense", ["q_proj", "nonsense"], ["q_pro"], ["_proj"]])
def test_a_target_that_names_nothing_is_met_with_the_names_that_exist(targets):
    with pytest.raises(ConfigError) as said:
        find_targets(LINEARS, targets)
    wrong = targets if isinstance(targets, str) else targets[-1]
    assert repr(wrong) in str(said.value)
    for name in ("k_proj", "q_proj", "up_proj", "v_proj", "lm_head", "all-linear"):
        assert name in str(said.value)


def test_a_target_that_is_no_regular_expression_is_called_that():
    with pytest.raises(ConfigError, match=r"'\(q_proj' is no regular expression"):
        find_targets(LINEARS, "(q_proj")


def test_a_rank_above_the_smaller_side_is_refused_with_matrix_and_shape(tiny):
    with pytest.raises(ConfigError, match=r"rank 13 .* = 12 of .*layers\.0.*k_proj \(12, 24\)"):
        get_peft_model(tiny(), LoraConfig(r=13, target_modules=["k_proj"]))
    assert get_peft_model(tiny(), LoraConfig(r=12, target_modules=["k_proj"])).layers()


def test_a_refused_adapter_leaves_the_base_trainable_and_bare(tiny):
    base = tiny()
    for config in (LoraConfig(r=25), LoraConfig(target_modules=["nonsense"])):
        with pytest.raises(ConfigError):
            get_peft_model(base, config)
    assert all(p.requires_grad for p in base.parameters())
    assert not any("lora" in name for name, _ in base.named_parameters())
