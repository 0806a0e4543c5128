"""Names and folders: what loads, and what is said of what does not."""

import subprocess
import sys

import pytest

import minilora.bases
from minilora.bases import load_base, save_base
from minilora.data.tokenizers import CharTokenizer
from minilora.errors import ConfigError
from minilora.files.json_files import write_json
from minilora.files.safetensors import write_tensors
from minilora.model import ModelConfig, Transformer

SIZES = ModelConfig(24, 16, 32, 2, 4, n_kv_heads=2, max_positions=64)


def save(folder, model):
    write_json(folder / "config.json", model.config.to_hf())
    arrays = {name: p.data for name, p in model.named_parameters()}
    write_tensors(folder / "model.safetensors", arrays)


def test_a_folder_gives_the_model_with_its_tokenizer(tmp_path):
    model = Transformer(SIZES, seed=1)
    save(tmp_path, model)
    loaded = load_base(tmp_path)
    assert loaded.tokenizer is None
    assert loaded.base_name == str(tmp_path)
    assert (loaded([[1, 2, 3]]).data == model([[1, 2, 3]]).data).all()
    CharTokenizer.from_alphabet("abc").save(tmp_path)
    loaded = load_base(str(tmp_path), dtype="float64")
    assert loaded.tokenizer.encode("cab") == [4, 2, 3]
    assert loaded([[1, 2, 3]]).dtype == "float64"


def test_skills_is_looked_for_in_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(minilora.bases, "skills_folder", lambda: tmp_path)
    with pytest.raises(ConfigError, match="minilora pretrain"):
        load_base("skills")
    save(tmp_path, Transformer(SIZES))
    assert load_base("skills").base_name == "skills"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nonsense", "'nonsense' is neither .* skills and smollm2"),
        ("HuggingFaceTB/SmolLM2-135M", "hf download HuggingFaceTB/SmolLM2-135M --local-dir"),
        ("./missing/folder", "neither a known name nor a folder"),
        ("", "neither"),
    ],
)
def test_unknown_names(name, said):
    with pytest.raises(ConfigError, match=said):
        load_base(name)


def test_a_file_is_no_folder_and_half_precision_no_dtype(tmp_path):
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ConfigError, match="is a file"):
        load_base(tmp_path / "model.gguf")
    with pytest.raises(ConfigError, match=r"'float16'.*'float32', 'float64'"):
        load_base(tmp_path, dtype="float16")


def test_importing_brings_nothing_that_only_some_need():
    script = """
import sys, minilora.bases
print([m for m in ("tokenizers", "gguf", "jinja2", "torch", "matplotlib") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_base_is_saved_over_another_whole_or_not_at_all(tmp_path, monkeypatch):
    old, new = Transformer(SIZES, seed=1), Transformer(SIZES, seed=2)
    for model in (old, new):
        model.tokenizer = CharTokenizer.from_alphabet("abc")
    save_base(old, tmp_path)
    # As after a kill, once the new files count and before they are at their places.
    monkeypatch.setattr("minilora.files.atomic._finish", lambda folder: None)
    save_base(new, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir())[0] == ".ready"
    loaded = load_base(tmp_path)
    assert (loaded([[1, 2]]).data == new([[1, 2]]).data).all()
    assert loaded.tokenizer.encode("c") == [4]
