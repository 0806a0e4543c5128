"""`minilora profile`: a table for people, one object for programs, a figure."""

import pytest

SMALL = ("--batch-size", "2", "--length", "8", "--steps", "1")


def test_the_table(run):
    outcome = run("profile", *SMALL)
    assert outcome.status == 0
    first, *lines = outcome.out.splitlines()
    assert "forward" in first and "backward" in first
    named = {line[:20].strip() for line in lines}
    assert {"Linear", "LoRALinear", "Attention", "AdamW", "between operations"} <= named
    assert "in matrix products" in outcome.out
    assert outcome.said == []


def test_json_is_one_object(run):
    outcome = run("profile", *SMALL, "--method", "full", "--json")
    assert outcome.status == 0
    report = outcome.json()
    assert (report["base"], report["method"]) == ("skills", "full")
    assert (report["batch_size"], report["length"], report["steps"]) == (2, 8, 1)
    assert {"step_seconds", "product_share", "product_rate", "peak_rate"} <= report.keys()
    for row in report["rows"]:
        assert {"op", "forward_seconds", "backward_seconds", "flops"} <= row.keys()


def test_the_figure(run, here):
    outcome = run("profile", *SMALL, "--figure", "profile.png")
    assert outcome.status == 0
    assert outcome.said == ["wrote profile.png"]
    assert (here / "profile.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--base", "gpt"), "'gpt'"),
        (("--method", "prefix"), "'prefix'"),
        (("--length", "1"), "'1' must be a whole number from 2"),
        (("--length", "100000"), "length 100000 must be from 2 to this base's context"),
        (("--steps", "0"), "'0' must be a whole number from 1"),
        (("--figure", "profile.gif"), "must end in .png, .svg, .pdf"),
    ],
)
def test_mistakes(mistake, options, said):
    assert said in mistake("profile", *options)
