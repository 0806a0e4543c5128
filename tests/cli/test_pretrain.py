"""`minilora pretrain`: from random weights to a folder that is a base."""

import shlex

import pytest

from minilora.data import skills

pytestmark = pytest.mark.usefixtures("few_examples")
NAMES = [s.name for s in skills.OLD + skills.NEW]


@pytest.mark.parametrize("out", ["mine", "in a/my base", "skills"])
def test_a_base_comes_out_and_what_is_suggested_can_be_typed(run, here, out):
    outcome = run("pretrain", "--steps", "3", "--out", out)
    assert outcome.status == 0
    rows = [line.split(maxsplit=3) for line in outcome.out.splitlines()]
    assert [row[0] for row in rows] == NAMES
    assert [row[3] for row in rows] == ["taught"] * 8 + ["kept from it"] * 7
    assert {p.name for p in (here / out).iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    options = shlex.split(outcome.said[-1].partition("use it with ")[2])
    assert options[0] == "--base"
    answer = run("generate", *options, "--prompt", "rev:abcd=")
    # Three steps are not enough to reverse a string, as the embedded base does.
    assert (answer.status, answer.out != "dcba\n") == (0, True)


def test_json_and_the_seed(run):
    first, second, again = (
        run("pretrain", "--steps=2", "--out=mine", "--json", f"--seed={seed}").json()
        for seed in (1, 2, 1)
    )
    assert first.keys() == {"out", "losses", "exact_match"}
    assert first["out"] == "mine"
    assert len(first["losses"]) == 2
    assert list(first["exact_match"]) == NAMES
    assert all(0 <= share <= 1 for share in first["exact_match"].values())
    assert first["losses"] == again["losses"] != second["losses"]


def test_stop_and_go_on(run, here, ctrl_c_at):
    assert run("pretrain", "--steps", "4", "--out", "whole").status == 0
    ctrl_c_at(2)
    stopped = run("pretrain", "--steps", "4", "--out", "halves")
    assert (stopped.status, stopped.out) == (130, "")
    assert "step 2" in stopped.said[-1] and "--resume" in stopped.said[-1]
    assert [p.name for p in (here / "halves").iterdir()] == ["checkpoint.safetensors"]
    assert run("pretrain", "--steps", "4", "--out", "halves", "--resume").status == 0
    assert {p.name: p.read_bytes() for p in (here / "halves").iterdir()} == {
        p.name: p.read_bytes() for p in (here / "whole").iterdir()
    }


@pytest.mark.parametrize("out", ["file", "file/below", "/proc/minilora"])
def test_an_output_folder_that_cannot_be_written(mistake, here, out):
    (here / "file").touch()
    line = mistake("pretrain", "--steps", "1", "--out", out)
    assert out in line
    assert "another" in line
