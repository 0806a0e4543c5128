"""Models by name or by their config.json, and what is said of those that there are not."""

import json

import pytest

from minilora.accounting.counts import Method, arrays
from minilora.accounting.presets import NAMES, Gpt, preset
from minilora.bases import load_base
from minilora.config import ModelConfig
from minilora.errors import ConfigError, FormatError


def total(config):
    return sum(a.size for a in arrays(config, Method()))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama-3-8b", 8_030_261_248),
        ("llama-2-7b", 6_738_415_616),
        ("smollm2-135m", 134_515_008),
        ("skills", 795_520),
    ],
)
def test_parameters_as_published(name, parameters):
    assert total(preset(name)) == parameters


def test_skills_is_the_base_that_is_shipped():
    assert preset("skills") == load_base("skills").config


def test_gpt3_is_for_counting_only():
    config = preset("gpt3-175b")
    assert isinstance(config, Gpt)
    assert (config.n_layers, config.hidden_size) == (96, 12288)
    assert round(total(config) / 1e9) == 175


@pytest.fixture
def written(tmp_path):
    """written(**fields): the path of a small config.json with those fields."""

    def write(**fields):
        hf = ModelConfig(100, 32, 48, 3, 4, n_kv_heads=2).to_hf() | fields
        path = tmp_path / "config.json"
        path.write_text(json.dumps({k: v for k, v in hf.items() if v != "gone"}))
        return path

    return write


def test_a_config_json_or_its_folder(written):
    path = written()
    assert preset(path) == preset(str(path.parent)) == ModelConfig(100, 32, 48, 3, 4, n_kv_heads=2)


def test_the_biases_of_a_qwen2_count(written):
    # Of q (32), k and v (16 each), in each of three layers.
    plain, biased = total(preset(written())), total(preset(written(model_type="qwen2")))
    assert biased - plain == 3 * (32 + 16 + 16)


def test_a_tied_embedding_counts_once(written):
    plain, tied = total(preset(written())), total(preset(written(tie_word_embeddings=True)))
    assert plain - tied == 100 * 32


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_type": "gpt2"}, ("'gpt2'", "llama, mistral, qwen2")),
        ({"model_type": "gone"}, ("model_type",)),
        ({"hidden_size": "gone"}, ("'hidden_size'",)),
        ({"hidden_size": -32}, ("hidden_size", "-32")),
        ({"hidden_size": 0}, ("hidden_size",)),
        ({"num_hidden_layers": 1.5}, ("num_hidden_layers", "1.5")),
        ({"num_hidden_layers": "many"}, ("num_hidden_layers", "'many'")),
        ({"vocab_size": 10**12}, ("vocab_size", "1000000000000")),
        ({"num_key_value_heads": 3}, ("n_kv_heads 3",)),
    ],
)
def test_settings_that_no_model_has(written, fields, named):
    path = written(**fields)
    with pytest.raises(ConfigError) as error:
        preset(path)
    assert all(each in str(error.value) for each in (str(path), *named))


@pytest.mark.parametrize("contents", ["", "[1]", '{"a": 1', "\x00\x01"])
def test_a_file_that_is_none(tmp_path, contents):
    path = tmp_path / "config.json"
    path.write_text(contents)
    with pytest.raises(FormatError, match=r"config\.json"):
        preset(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FormatError, match="nowhere"):
        preset(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("name", "near"),
    [("llama3-8b", "llama-3-8b"), ("Llama-2-7B", "llama-2-7b"), ("smollm2", "smollm2-135m")],
)
def test_an_unknown_name_gets_the_nearest_and_the_list(name, near):
    with pytest.raises(ConfigError) as error:
        preset(name)
    assert f"did you mean {near}?" in str(error.value)
    assert all(each in str(error.value) for each in NAMES)
    assert repr(name) in str(error.value)


def test_a_name_like_none_gets_the_list():
    with pytest.raises(ConfigError, match=r"there are llama-3-8b, .*config\.json"):
        preset("bert")
