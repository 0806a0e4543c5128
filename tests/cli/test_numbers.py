"""Numbers that no run can have: each is one line with the value, what is allowed, what to do."""

import pytest

WHOLE_FROM_1 = "whole number from 1"
WHOLE_FROM_0 = "whole number from 0"
ABOVE_0 = "number above 0"
BELOW_1 = "below 1"
COMPARE = ("compare", "--steps", "1", "--batch-size", "4")
FINETUNE = ("finetune", "--data", "rows.jsonl", "--out", "tuned")
GENERATE = ("generate", "--prompt", "rev:abcd=")


pytestmark = pytest.mark.usefixtures("rows", "few_examples")


@pytest.mark.parametrize("command", [COMPARE, FINETUNE])
@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--steps", "-3", WHOLE_FROM_1),
        ("--steps", "0", WHOLE_FROM_1),
        ("--steps", "many", WHOLE_FROM_1),
        ("--batch-size", "0", WHOLE_FROM_1),
        ("--rank", "0", WHOLE_FROM_1),
        ("--rank", "-1", WHOLE_FROM_1),
        ("--rank", "2.5", WHOLE_FROM_1),
        ("--rank", "129", "128"),
        ("--alpha", "0", ABOVE_0),
        ("--alpha", "-1", ABOVE_0),
        ("--alpha", "nan", ABOVE_0),
        ("--alpha", "inf", ABOVE_0),
        ("--lr", "0", ABOVE_0),
        ("--lr", "nan", ABOVE_0),
        ("--seed", "-1", WHOLE_FROM_0),
        ("--target-modules", "q_proj,,v_proj", "commas"),
        ("--target-modules", "", "all-linear"),
    ],
)
def test_of_tuning(mistake, command, option, value, allowed):
    line = mistake(*command, f"{option}={value}")
    assert value in line
    assert allowed in line


@pytest.mark.parametrize("command", [COMPARE, FINETUNE])
def test_an_unknown_target_gets_the_names_there_are(mistake, command):
    line = mistake(*command, "--target-modules", "q_proj,c_attn")
    assert "'c_attn'" in line
    for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        assert name in line
    assert "all-linear" in line


@pytest.mark.parametrize(
    ("argv", "value", "allowed"),
    [
        ((*COMPARE, "--replay=1"), "'1'", BELOW_1),
        ((*COMPARE, "--replay=-0.1"), "'-0.1'", "from 0"),
        ((*COMPARE, "--replay=nan"), "'nan'", BELOW_1),
        ((*COMPARE, "--lr-full=-1"), "'-1'", ABOVE_0),
        ((*FINETUNE, "--dropout=1"), "'1'", BELOW_1),
        ((*FINETUNE, "--dropout=-0.5"), "'-0.5'", "from 0"),
        ((*FINETUNE, "--accumulate=0"), "'0'", WHOLE_FROM_1),
        ((*FINETUNE, "--method=half"), "'half'", "'lora', 'qlora'"),
        (("pretrain", "--steps=0"), "'0'", WHOLE_FROM_1),
        (("pretrain", "--seed=x"), "'x'", WHOLE_FROM_0),
        (("gradcheck", "--h=0"), "'0'", ABOVE_0),
        (("gradcheck", "--h=nan"), "'nan'", ABOVE_0),
        ((*GENERATE, "--max-new-tokens=-1"), "'-1'", WHOLE_FROM_0),
        ((*GENERATE, "--max-new-tokens=1.5"), "'1.5'", WHOLE_FROM_0),
        ((*GENERATE, "--temperature=-1"), "'-1'", "from 0"),
        ((*GENERATE, "--temperature=inf"), "'inf'", "from 0"),
        ((*GENERATE, "--top-k=0"), "'0'", WHOLE_FROM_1),
        ((*GENERATE, "--top-p=2"), "'2'", "at most 1"),
        ((*GENERATE, "--top-p=0"), "'0'", "above 0"),
    ],
)
def test_of_one_command(mistake, argv, value, allowed):
    line = mistake(*argv)
    assert value in line
    assert allowed in line
    assert f"minilora {argv[0]} --help" in line


@pytest.mark.parametrize("value", ["zero", "0", "-1", "1.5"])
@pytest.mark.parametrize("command", [COMPARE, FINETUNE])
def test_threads_that_are_no_count(mistake, monkeypatch, command, value):
    monkeypatch.setenv("MINILORA_THREADS", value)
    line = mistake(*command)
    assert f"MINILORA_THREADS='{value}'" in line
    assert WHOLE_FROM_1 in line
