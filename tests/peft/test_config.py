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
        ({"bias": "some"}, "'none', 'lora_only' or 'all'"),
        ({"bias": True}, "'none', 'lora_only' or 'all'"),
        ({"use_dora": 1}, "True or False"),
        ({"rank_pattern": {"q_proj": 0}}, "a whole number from 1"),
        ({"rank_pattern": {"q_proj": 2.5}}, "a whole number from 1"),
        ({"rank_pattern": ["q_proj"]}, "must map names to numbers"),
        ({"rank_pattern": {"(q_proj": 2}}, "no regular expression"),
        ({"alpha_pattern": {"q_proj": -1}}, "a number above 0"),
        ({"alpha_pattern": {3: 1}}, "must map names to numbers"),
        ({"exclude_modules": [3]}, "must be names"),
        ({"exclude_modules": "(q_proj"}, "no regular expression"),
        ({"modules_to_save": 3}, "must be names"),
        ({"modules_to_save": [""]}, "must be names"),
        ({"trainable_token_indices": [-1]}, "ids of tokens, each once"),
        ({"trainable_token_indices": [1, 1]}, "ids of tokens, each once"),
        ({"trainable_token_indices": [1.5]}, "ids of tokens, each once"),
        ({"trainable_token_indices": {"lm_head": []}}, "ids of tokens, each once"),
        ({"trainable_token_indices": 7}, "ids of tokens, each once"),
        ({"layers_pattern": "layers"}, "layers_to_transform"),
        ({"layers_pattern": "layers", "target_modules": ".*q_proj"}, "['q_proj', 'v_proj']"),
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


def test_a_pattern_is_met_by_the_end_of_a_path_and_the_first_that_fits_counts():
    config = LoraConfig(
        r=8,
        lora_alpha=16,
        rank_pattern={r"layers\.1\..*q_proj": 2, "q_proj": 3, "proj": 4},
        alpha_pattern={"self_attn.v_proj": 5},
    )
    q0, q1, v = LINEARS[0], LINEARS[4], LINEARS[2]
    assert [config.at(path).r for path in (q0, q1, v, "lm_head")] == [3, 2, 8, 8]
    assert [config.at(path).scaling for path in (q0, q1, v)] == [16 / 3, 16 / 2, 5 / 8]
    assert config.at("lm_head") is config
    root = LoraConfig(r=8, lora_alpha=16, rank_pattern={"q_proj": 4}, use_rslora=True)
    assert root.at(q0).scaling == 16 / 2


def test_a_config_can_be_a_key_whatever_is_in_it():
    settings = {"rank_pattern": {"a": 1, "b": 2}, "trainable_token_indices": {"lm_head": [1, 2]}}
    one, two = LoraConfig(**settings), LoraConfig(**settings, modules_to_save=["norm"])
    assert hash(one) == hash(LoraConfig(**settings))
    assert len({one, two, LoraConfig(**settings)}) == 2


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (["k_proj"], ["q_proj", "v_proj", "up_proj"]),
        (("layers.0.self_attn.q_proj", "proj"), ["k_proj", "v_proj", "up_proj", "q_proj"]),
        (r".*self_attn.*", ["up_proj"]),
        (r"self_attn", ["q_proj", "k_proj", "v_proj", "up_proj"]),  # no whole path
    ],
)
def test_what_is_excluded_is_not_meant(exclude, left):
    found = find_targets(LINEARS, "all-linear", exclude=exclude)
    assert list(dict.fromkeys(path.rsplit(".")[-1] for path in found)) == left


def test_if_all_is_excluded_both_settings_are_named():
    with pytest.raises(ConfigError, match=r"target_modules.*q_proj.*exclude_modules.*'q_proj'"):
        find_targets(LINEARS, ["q_proj"], exclude=["q_proj"])


def test_a_file_may_name_more_than_there_is_but_not_only_that():
    names = ["q_proj", "W_pack"]
    with pytest.raises(ConfigError, match="W_pack"):
        find_targets(LINEARS, names)
    assert find_targets(LINEARS, names, strict=False) == [LINEARS[0], LINEARS[4]]
    with pytest.raises(ConfigError, match="W_pack"):
        find_targets(LINEARS, ["W_pack"], strict=False)
    with pytest.raises(ConfigError, match="no layer 7"):
        find_targets(LINEARS, ["q_proj"], [1, 7])
    assert find_targets(LINEARS, ["q_proj"], [1, 7], strict=False) == [LINEARS[4]]


def test_layers_that_are_called_otherwise():
    assert find_targets(LINEARS, ["q_proj"], 1, layers_pattern=["h", "layers"]) == [LINEARS[4]]
    with pytest.raises(ConfigError, match=r"layers_pattern = 'blocks'.*'layers'"):
        find_targets(LINEARS, ["q_proj"], 1, layers_pattern="blocks")


def test_a_rank_of_a_pattern_is_held_to_the_same_rule(tiny):
    config = LoraConfig(r=2, target_modules=["q_proj", "k_proj"], rank_pattern={"k_proj": 13})
    with pytest.raises(ConfigError, match=r"rank 13 .* = 12 of .*k_proj \(12, 24\)"):
        get_peft_model(tiny(), config)


@pytest.mark.parametrize("pattern", ["(", "a)(b", "(?i)h", "*", "a{99999999999}"])
@pytest.mark.parametrize("setting", ["modules_to_save", "layers_pattern", "rank_pattern"])
def test_what_cannot_be_a_part_of_a_regular_expression_is_said_with_its_setting(setting, pattern):
    given = {pattern: 2} if setting == "rank_pattern" else [pattern]
    with pytest.raises(ConfigError) as said:
        LoraConfig(layers_to_transform=[0, 1], **{setting: given})
    assert f"{setting}: {pattern!r} is no regular expression" in str(said.value)


def test_names_that_are_no_patterns_may_be_anything():
    assert LoraConfig(exclude_modules=["("]).exclude_modules == ("(",)
    assert LoraConfig(exclude_modules="(?i).*Q_PROJ").exclude_modules


@pytest.mark.parametrize("pattern", ["(layers|h)", "layers|h", "(?:h|layers)", "(l)(a)yers"])
def test_the_number_of_a_layer_stands_behind_whatever_groups_the_pattern_has(pattern):
    for layer in (0, 1):
        found = find_targets(LINEARS, ["q_proj"], layer, layers_pattern=[pattern])
        assert found == [f"model.layers.{layer}.self_attn.q_proj"]
