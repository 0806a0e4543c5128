"""ModelConfig: what it allows, and Hugging Face's config.json in both its spellings."""

import json

import pytest

from minilora.config import ModelConfig
from minilora.errors import ConfigError

SIZES = {
    "vocab_size": 30,
    "hidden_size": 24,
    "intermediate_size": 40,
    "n_layers": 2,
    "n_heads": 4,
}
HF = {
    "model_type": "llama",
    "vocab_size": 30,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LINEAR = {"rope_type": "linear", "factor": 2.0}


def without(settings, name):
    return {k: v for k, v in settings.items() if k != name}


def test_what_is_left_out_is_filled_in():
    c = ModelConfig(**SIZES)
    assert (c.n_kv_heads, c.K, c.head_dim, c.D) == (4, 4, 6, 6)
    assert not (c.tie_word_embeddings or c.attention_bias or c.mlp_bias)


def test_a_head_dim_of_its_own_needs_no_division():
    c = ModelConfig(**{**SIZES, "hidden_size": 25}, head_dim=8)
    assert (c.D, c.hidden_size) == (8, 25)


@pytest.mark.parametrize(
    "name",
    [*SIZES, "n_kv_heads", "head_dim", "max_positions"],
)
@pytest.mark.parametrize("value", [0, -1, 2.5, "4", True, 2**40])
def test_sizes_are_whole_numbers_from_one(name, value):
    with pytest.raises(ConfigError, match=rf"{name} {value!r} must be a whole number from 1"):
        ModelConfig(**{**SIZES, name: value})


@pytest.mark.parametrize("name", ["rope_theta", "rms_norm_eps"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "x", None, [1.0]])
def test_settings_that_must_be_above_zero(name, value):
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**SIZES, **{name: value})
    assert f"{name} {value!r} must be a number above 0" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 25}, r"n_heads 4 does not divide hidden_size 25.*divisor.*head_dim"),
        ({"n_kv_heads": 3}, r"n_kv_heads 3 must divide n_heads 4"),
        ({"n_kv_heads": 8}, r"n_kv_heads 8 must divide n_heads 4"),
        ({"head_dim": 7}, r"head_dim 7 must be even"),
        ({"hidden_size": 12}, r"head_dim 3 must be even"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, r"'yarn'.*known: linear, llama3"),
        ({"rope_scaling": {"rope_type": "linear"}}, r"'linear' needs factor above 0, not None"),
        ({"rope_scaling": "linear"}, r"'linear'.*must be an object"),
    ],
)
def test_values_that_no_model_can_have(changes, words):
    with pytest.raises(ConfigError, match=words):
        ModelConfig(**{**SIZES, **changes})


def test_an_older_spelling_of_the_scaling_s_type_is_understood():
    old = {"type": "linear", "factor": 2.0}
    assert ModelConfig(**SIZES, rope_scaling=old).rope_scaling == LINEAR
    assert ModelConfig.from_hf({**HF, "rope_scaling": old}).rope_scaling == LINEAR


@pytest.mark.parametrize("scaling", [None, LINEAR, LLAMA3])
def test_both_spellings_say_the_same(scaling):
    older = {**HF, "rope_theta": 5e5, "rope_scaling": scaling, "torch_dtype": "bfloat16"}
    rope = {"rope_theta": 5e5, **(scaling or {"rope_type": "default"})}
    newer = {**HF, "rope_parameters": rope, "dtype": "bfloat16"}
    c = ModelConfig.from_hf(older)
    assert c == ModelConfig.from_hf(newer)
    assert (c.rope_theta, c.rope_scaling) == (5e5, scaling)


def test_what_hugging_face_leaves_out_is_filled_in_as_there():
    c = ModelConfig.from_hf(HF)
    assert (c.n_kv_heads, c.head_dim, c.max_positions) == (4, 6, 2048)
    assert (c.rope_theta, c.rms_norm_eps) == (10000.0, 1e-6)
    nothing = {"num_key_value_heads": None, "head_dim": None, "rope_scaling": None}
    assert ModelConfig.from_hf({**HF, **nothing}) == c


def test_biases_are_where_each_architecture_has_them():
    def biases(**settings):
        c = ModelConfig.from_hf({**HF, **settings})
        return c.attention_bias, c.attention_out_bias, c.mlp_bias

    assert biases() == (False, False, False)
    assert biases(attention_bias=True) == (True, True, False)
    assert biases(mlp_bias=True) == (False, False, True)
    assert biases(model_type="qwen2") == (True, False, False)
    assert biases(model_type="mistral") == (False, False, False)


@pytest.mark.parametrize(
    ("settings", "context"),
    [
        ({"model_type": "mistral", "sliding_window": 64}, 64),
        ({"model_type": "mistral", "sliding_window": None}, 512),
        ({"model_type": "mistral", "sliding_window": 4096}, 512),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": False}, 512),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True}, 64),
    ],
)
def test_the_context_ends_with_a_sliding_window(settings, context):
    """Beyond the window such a model sees less than this one would."""
    c = ModelConfig.from_hf({**HF, "max_position_embeddings": 512, **settings})
    assert c.max_positions == context


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, r"model_type 'gpt2'.*llama, mistral, qwen2"),
        ({"model_type": None}, r"model_type None.*llama, mistral, qwen2"),
        ({"hidden_act": "gelu"}, r"hidden_act 'gelu'.*only 'silu'"),
        ({"vocab_size": None}, r"no field 'vocab_size', which a llama needs"),
        ({"hidden_size": "24"}, r"hidden_size '24' must be a whole number"),
        ({"num_key_value_heads": 0}, r"n_kv_heads 0 must be a whole number"),
        ({"max_position_embeddings": "x"}, r"max_position\w+ 'x' must be a whole number"),
        ({"sliding_window": "x"}, r"sliding_window 'x' must be a whole number"),
        ({"sliding_window": -5}, r"sliding_window -5 must be a whole number"),
        ({"rope_theta": "x"}, r"rope_theta 'x' must be a number"),
        ({"rope_theta": 0}, r"rope_theta 0 must be a number above 0"),
        ({"rms_norm_eps": None}, r"rms_norm_eps None must be a number"),
        ({"rope_scaling": [1]}, r"rotary settings \[1\] must be an object"),
        ({"rope_parameters": {"rope_type": ["yarn"]}}, r"\['yarn'\].*known: linear, llama3"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, r"'dynamic'.*known: linear"),
        ({"rope_scaling": {**LINEAR, "factor": -1}}, r"'linear' needs factor above 0, not -1"),
        ({"rope_scaling": {**LINEAR, "factor": "2"}}, r"needs factor above 0, not '2'"),
        ({"rope_scaling": {**LINEAR, "factor": float("nan")}}, r"factor above 0, not nan"),
        (
            {"rope_scaling": without(LLAMA3, "low_freq_factor")},
            r"'llama3' needs low_freq_factor above 0, not None",
        ),
        (
            {"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}},
            r"high_freq_factor 1\.0 must be above low_freq_factor 1\.0",
        ),
    ],
)
def test_a_config_that_cannot_be_computed_is_met_with_words(changes, words):
    with pytest.raises(ConfigError, match=words):
        ModelConfig.from_hf({**HF, **changes})


@pytest.mark.parametrize("field", without(HF, "model_type"))
def test_missing_fields_are_named(field):
    with pytest.raises(ConfigError, match=rf"no field '{field}'"):
        ModelConfig.from_hf(without(HF, field))


EVERY = [
    ModelConfig(**SIZES),
    ModelConfig(**SIZES, n_kv_heads=2, head_dim=10, tie_word_embeddings=True),
    ModelConfig(**SIZES, rope_theta=5e5, rope_scaling=LLAMA3, max_positions=131072),
    ModelConfig(**SIZES, rope_scaling=LINEAR, rms_norm_eps=1e-6),
    ModelConfig(**SIZES, attention_bias=True, attention_out_bias=True, mlp_bias=True),
    ModelConfig(**SIZES, attention_bias=True, model_type="qwen2"),
    ModelConfig(**SIZES, model_type="mistral", max_positions=512),
]


@pytest.mark.parametrize("config", EVERY)
def test_to_hugging_face_and_back_is_the_same(config):
    said = json.loads(json.dumps(config.to_hf("bfloat16")))
    assert ModelConfig.from_hf(said) == config
    assert said["torch_dtype"] == said["dtype"] == "bfloat16"


def test_what_its_config_json_cannot_say_is_refused():
    """A Llama's biases are on all four matrices or on none."""
    with pytest.raises(ConfigError, match=r"attention_bias.*attention_out_bias.*llama"):
        ModelConfig(**SIZES, attention_bias=True).to_hf()


@pytest.mark.parametrize("config", EVERY)
def test_transformers_reads_what_is_written(config, tmp_path):
    pytest.importorskip("torch", reason="needs the extra parity")
    transformers = pytest.importorskip("transformers", reason="needs the extra parity")
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(theirs).__name__ == config.to_hf()["architectures"][0].replace(
        "ForCausalLM", "Config"
    )
    theirs.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert ModelConfig.from_hf(again) == config
