"""The script and the streams around it: pipes that close, full disks, terminals without Greek."""

import os
import sys
from pathlib import Path

import pytest

GENERATE = ("generate", "--prompt", "rev:abcdefgh=")


@pytest.fixture
def nobody_reads():
    """A pipe whose reader has gone away, as `| head` does."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize(
    "argv",
    [
        ("gradcheck", "tanh", "linear"),
        ("gradcheck", "--json"),
        GENERATE,
        (*GENERATE, "--json"),
        ("compare", "--help"),
        ("--version",),
    ],
)
def test_a_reader_that_has_gone_away_is_no_error(script, nobody_reads, argv):
    outcome = script(*argv, stdout=nobody_reads)
    assert (outcome.status, outcome.err) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("argv", [GENERATE, ("gradcheck", "--json"), ("compare", "--help")])
def test_an_output_that_cannot_be_written_is_one_line(mistake, script, argv):
    with open("/dev/full", "wb") as full:
        line = mistake(*argv, by=lambda *argv: script(*argv, stdout=full))
    assert "No space left" in line


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize(
    "argv",
    [
        ("compare", "--help"),
        ("gradcheck", "linear"),
        ("finetune", "--data=rows.jsonl", "--steps=1", "--batch-size=2", "--out=tuned"),
    ],
)
def test_a_terminal_that_has_not_every_character(script, rows, argv, encoding):
    outcome = script(*argv, env={"PYTHONIOENCODING": encoding})
    assert outcome.status == 0, outcome.err


def test_bytes_on_the_command_line_that_are_no_text(mistake, script):
    line = mistake("generate", "--prompt", os.fsdecode(b"rev:\xff="), by=script)
    assert "position 4" in line
    assert "alphabet" in line


def test_without_an_extra(script, mistake, here):
    """As in an environment without `tokenizers`: the import fails."""
    from minilora import save_base
    from minilora.bases import load_base

    save_base(load_base("skills"), here / "words")
    (here / "words/tokenizer.json").write_text('{"model": {"type": "BPE"}, "added_tokens": []}')
    code = (
        "import sys; sys.modules['tokenizers'] = None; import minilora.cli as c; sys.exit(c.main())"
    )
    argv = ("generate", "--base", "words", "--prompt", "abc")
    line = mistake(*argv, by=lambda *argv: script(*argv, program=(sys.executable, "-c", code)))
    assert "pip install 'minilora[llm]'" in line


def test_nothing_heavy_is_imported_for_help(script):
    code = (
        "import sys; from minilora.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'matplotlib', 'torch', 'tokenizers', 'gguf', 'tqdm'}\n"
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    outcome = script(program=(sys.executable, "-c", code))
    assert outcome.status == 0, outcome.err
