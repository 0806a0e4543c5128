"""`import minilora` brings its names, and nothing heavy along with them."""

import importlib
import subprocess
import sys

import pytest

import minilora

HEAVY = ("matplotlib", "torch", "transformers", "peft", "tokenizers", "gguf", "jinja2", "tqdm")


def loaded_after(statement):
    """Which of the heavy packages a fresh process has loaded after a statement."""
    script = f"import sys\n{statement}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_it_loads_nothing_heavy():
    assert loaded_after("import minilora") == set()
    assert loaded_after("import matplotlib.figure, minilora") == {"matplotlib"}


def test_using_every_name_loads_nothing_but_the_bar_of_training():
    assert loaded_after("from minilora import *") <= {"tqdm"}


@pytest.mark.parametrize("name", minilora.__all__)
def test_every_name_is_there_and_comes_from_where_it_is_said_to(name):
    home = minilora._HOME[name]
    assert getattr(minilora, name) is getattr(importlib.import_module(home), name)
    assert name in dir(minilora)


def test_all_names_are_said():
    assert sorted(minilora._HOME) == sorted(minilora.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'minilora' has no attribute 'nonsense'"):
        _ = minilora.nonsense


def test_a_tensor_has_its_arithmetic_however_it_was_come_by():
    script = "from minilora import Tensor; print((Tensor([1.0]) + 1).item())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "2.0"
