"""The README is the first thing that is tried: what it shows to type works as it stands."""

import re
import shlex
from pathlib import Path

import pytest

from minilora.cli import COMMANDS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands():
    """What calls minilora in its shell blocks, and in its sentences where it is a whole command."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    lines += re.findall(r"`(minilora \w+ [^`]+)`", README)
    return [line for line in lines if line.startswith("minilora ")]


@pytest.mark.parametrize("line", commands())
def test_commands_are_understood(run, monkeypatch, line):
    for name in COMMANDS:
        monkeypatch.setattr(f"minilora.cli.{name}.run", lambda options: 0)
    # [brackets] say that something may be left out, DIR and … stand for what one has oneself.
    words = shlex.split(re.sub(r"\[.*?\]", "", line), comments=True)
    assert run(*words[1:]).status == 0


def test_the_python_works_line_by_line(here, capsys):
    block, *others = [each for each in blocks("python") if "load_base" in each]
    space: dict = {}
    exec(compile(block, "README.md", "exec"), space)
    said = capsys.readouterr().out
    promised = re.search(r"print_trainable_parameters\(\) +# (.+?) \|\| …", block)[1]
    assert said.startswith(promised)
    assert (here / "my-adapter/adapter_model.safetensors").is_file()
    for block in others:
        exec(compile(block, "README.md", "exec"), space)


def test_the_operation_it_shows_is_one(capsys):
    (block,) = [each for each in blocks("python") if "Function" in each]
    import numpy as np

    from minilora.autograd import Function, gradcheck
    from minilora.ops.matmul import linear, rows

    space = {"Function": Function, "linear": linear, "rows": rows}
    exec(compile(block, "README.md", "exec"), space)
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((2, 3, 4)), rng.standard_normal((5, 4))
    assert gradcheck(space["Linear"].apply, *inputs)


def test_every_file_it_names_is_there():
    root = Path(__file__).parents[2]
    (house,) = [each for each in blocks("text") if "cli/" in each]
    names = re.findall(r"^ ([\w/.]+) +\S", house, re.MULTILINE)
    assert len(names) > 15
    assert [name for name in names if not (root / "minilora" / name).exists()] == []
