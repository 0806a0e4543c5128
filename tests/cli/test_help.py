"""Help, version, and what one hears who asks for something that there is not."""

import importlib
import re
import shlex

import pytest

import minilora
from minilora.cli import COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(run, command):
    outcome = run(command, "--help")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith(f"usage: minilora {command} ")
    assert outcome.out.count("example:  minilora ") == 1
    assert "\n  --json" in outcome.out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_can_be_typed_as_it_stands(run, monkeypatch, command):
    def note(options):
        asked.append(options.command)
        return 0

    for name in COMMANDS:
        monkeypatch.setattr(f"minilora.cli.{name}.run", note)
    example = importlib.import_module(f"minilora.cli.{command}").EXAMPLE
    asked = []
    for part in example.split("&&"):
        program, *argv = shlex.split(part)
        assert program == "minilora"
        assert run(*argv).status == 0
    assert asked[0] == command


def test_the_whole_help_names_all_commands(run):
    outcome = run("--help")
    assert (outcome.status, outcome.err) == (0, "")
    for command in COMMANDS:
        assert re.search(rf"^    {command}\b", outcome.out, re.MULTILINE)


def test_version(run, script):
    assert run("--version").out == script("--version").out == f"minilora {minilora.__version__}\n"


def test_the_lora_options_are_the_same_wherever_they_are(run):
    texts = [run(command, "--help").out for command in ("compare", "finetune")]
    groups = [re.search(r"\nLoRA:\n(.+?)\n\n", text, re.DOTALL)[1] for text in texts]
    assert groups[1].startswith(groups[0])  # finetune has --dropout besides
    assert all(option in groups[0] for option in ("--rank", "--alpha", "--target-modules"))


def test_no_command_and_an_unknown_one(mistake):
    for argv in ((), ("tune",)):
        line = mistake(*argv)
        assert all(command in line for command in COMMANDS)


@pytest.mark.parametrize(
    ("argv", "missing"),
    [
        (("finetune", "--out", "x"), "--data"),
        (("finetune", "--data", "x.jsonl"), "--out"),
        (("generate",), "--prompt"),
        (("fetch",), "BASE"),
    ],
)
def test_a_missing_option_is_named(mistake, argv, missing):
    line = mistake(*argv)
    assert f"required: {missing}" in line
    assert f"minilora {argv[0]} --help" in line


def test_an_unknown_option_is_named_with_the_help_of_its_command(mistake):
    line = mistake("compare", "--stpes", "3")
    assert "--stpes" in line
    assert "minilora compare --help" in line


def test_an_option_is_not_guessed_from_its_beginning(mistake):
    assert "--promp" in mistake("generate", "--promp", "rev:abcd=")
