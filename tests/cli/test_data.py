"""`minilora data`: what is said, where, with which exit status, and which files are there then."""

import importlib
import json
import shlex

import pytest

from minilora.cli.data import SUBCOMMANDS

QUESTION = {"prompt": "What is it?", "completion": " A cat."}
OFF = "--near=off"


@pytest.fixture
def messy(write_rows):
    """rows.jsonl: three good rows, a duplicate, a conflict, a blank answer, no row at all."""
    write_rows(
        QUESTION,
        {"prompt": "what is it", "completion": "a cat"},
        {"prompt": "What is it?", "completion": " A dog."},
        {"prompt": "Who?", "completion": " "},
        {"question": "Where?"},
        {"text": "Once."},
        {"instruction": "Add.", "input": "1 2", "output": "3"},
    )


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_each_subcommand_has_help_with_an_example_that_can_be_typed(run, name):
    outcome = run("data", name, "--help")
    assert outcome.status == 0
    assert outcome.out.startswith(f"usage: minilora data {name} ")
    example = importlib.import_module(f"minilora.cli.data.{name}").EXAMPLE
    assert f"example:  {example}" in outcome.out
    assert "\n  --json" in outcome.out
    assert shlex.split(example)[:3] == ["minilora", "data", name]


def test_a_check_says_what_is_wrong_and_with_status_1(run, messy, here):
    outcome = run("data", "check", "rows.jsonl", OFF)
    assert outcome.status == 1
    assert outcome.out.splitlines()[:3] == [
        "rows.jsonl: 7 rows = 3 good + 4 not",
        "  1 broken: cannot be read as a row",
        "    rows.jsonl, line 5: " + outcome.out.splitlines()[2].split(": ", 1)[1],
    ]
    assert outcome.said == [
        "minilora data clean rows.jsonl writes the good ones and the others apart"
    ]
    assert [p.name for p in here.iterdir()] == ["rows.jsonl"]
    said = run("data", "check", "rows.jsonl", OFF, "--json").json()
    assert said["rows"] == said["kept"] + sum(said["dropped"].values()) == 7
    assert run("data", "--json", "check", "rows.jsonl", OFF).json() == said


def test_a_check_of_good_rows_has_status_0(run, write_rows):
    write_rows(QUESTION)
    outcome = run("data", "check", "rows.jsonl", OFF)
    assert (outcome.status, outcome.said) == (0, [])


def test_a_clean_writes_both_files_and_twice_changes_nothing(run, messy, here):
    outcome = run("data", "clean", "rows.jsonl", OFF)
    assert outcome.status == 0
    assert outcome.said == ["wrote rows.clean.jsonl (3) and rows.dropped.jsonl (4)"]
    kept, dropped = lines(here / "rows.clean.jsonl"), lines(here / "rows.dropped.jsonl")
    assert kept[0] == QUESTION
    assert [each["reason"] for each in dropped] == ["duplicate", "conflict", "empty", "broken"]
    assert dropped[0]["collides_with"] == "rows.jsonl, line 1"
    run("data", "clean", "rows.clean.jsonl", OFF, "--out=2.jsonl", "--dropped=3.jsonl")
    assert lines(here / "2.jsonl") == kept
    assert (here / "3.jsonl").read_bytes() == b""


def test_a_dry_run_writes_nothing(run, messy, here):
    outcome = run("data", "clean", "rows.jsonl", OFF, "--dry-run", "--json")
    assert outcome.json()["kept"] == 3
    assert outcome.said == ["nothing was written"]
    assert [p.name for p in here.iterdir()] == ["rows.jsonl"]


def test_every_rule_arrives(run, messy, here):
    (here / "test.jsonl").write_text('{"text": "once"}\n')

    def dropped(*options):
        said = run("data", "check", "rows.jsonl", OFF, "--json", *options).json()
        return {reason: n for reason, n in said["dropped"].items() if n}

    usual = {"broken": 1, "empty": 1, "duplicate": 1, "conflict": 1}
    assert dropped() == usual
    assert dropped("--keep=empty,conflict") == {"broken": 1, "duplicate": 1}
    assert dropped("--match=exact") == {"broken": 1, "empty": 1, "conflict": 1}
    assert dropped("--max-words=4") == {"broken": 1, "empty": 1, "long": 3}
    assert dropped("--test=test.jsonl") == {**usual, "leaked": 1}
    assert dropped("--base=skills")["broken"] == 6
    assert dropped("--max-characters=4")["long"] == 5


def test_near_duplicates_by_default(run, write_rows):
    pytest.importorskip("datasketch")
    text = "the quick brown fox jumps over the lazy dog and runs into the dark woods"
    write_rows({"text": text}, {"text": text + " again"})
    assert run("data", "check", "rows.jsonl", "--json").json()["dropped"]["near"] == 1
    assert run("data", "check", "rows.jsonl", "--near=1").status == 0
    assert run("data", "check", "rows.jsonl", "--shingle=characters:9").status == 1


def test_build_split_and_check_one_after_the_other(run, here):
    table = "".join(f"land{i},city{i}\n" for i in range(100))
    (here / "t.csv").write_text("country,city\n" + table + "nowhere,\n")
    (here / "say.txt").write_text("The capital of {country} is\n{country}'s capital:\n")
    outcome = run(
        "data", "build", "t.csv", "--template-file=say.txt", "--completion= {city}", "--each=2"
    )
    assert outcome.out.splitlines() == [
        "101 records = 100 used + 1 left out",
        "  1 left out: nothing in column 'city'",
        "200 rows, 200 distinct prompts",
        "rows by template: 1: 100, 2: 100",
    ]
    assert outcome.said[-1].startswith("wrote t.rows.jsonl; look it over: minilora data check")
    outcome = run("data", "split", "t.rows.jsonl", OFF, "--together=record", "--json")
    said = outcome.json()
    assert said["rows"] == sum(said["by_side"].values()) == 200
    assert said["groups"] == 100
    sides = [{row["record"] for row in lines(here / said["out"][side])} for side in said["by_side"]]
    assert sum(map(len, sides)) == 100
    run("data", "split", "t.rows.jsonl", OFF, "--validation=0", "--test=0.3", "--out=mine")
    assert sorted(p.name for p in here.glob("mine.*")) == ["mine.test.jsonl", "mine.train.jsonl"]
    outcome = run("data", "check", "mine.train.jsonl", "--test=mine.test.jsonl", OFF)
    assert outcome.status == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("data",), "required: SUBCOMMAND"),
        (("data", "check"), "required: FILE"),
        (("data", "check", "none.jsonl", OFF), "none.jsonl: cannot be read as rows"),
        (("data", "check", "rows.jsonl", "--near=0.1"), "'0.1' must be a number from 0.5"),
        (("data", "check", "rows.jsonl", "--shingle=lines"), "'lines' must be words or characters"),
        (("data", "check", "rows.jsonl", OFF, "--max-tokens=3"), "--max-tokens needs --base"),
        (("data", "clean", "rows.jsonl", "--keep=broken"), "'broken' must be one of empty"),
        (("data", "clean", "rows.jsonl", OFF, "--out=rows.jsonl"), "would be written over"),
        (
            ("data", "split", "rows.jsonl", OFF, "--test=0.5", "--validation=0.5"),
            "nothing to train",
        ),
        (("data", "split", "rows.jsonl", OFF), "rows.jsonl, line 5: no form that is known"),
        (("data", "build", "rows.jsonl"), "rows need --prompt and --completion"),
        (("data", "build", "rows.jsonl", "--prompt={a.b}", "--completion=x"), "nothing else"),
        (("data", "build", "rows.jsonl", "--prompt={x}", "--completion=x"), "no column 'x'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_everything_as_it_was(mistake, messy, argv, message):
    assert message in mistake(*argv)


def test_a_damaged_file_is_told_by_line_and_byte(run, here):
    (here / "rows.jsonl").write_bytes(b'{"prompt": "a", "completion": "b"}\n{"prompt": "\xe9"}\n')
    outcome = run("data", "check", "rows.jsonl", OFF)
    assert outcome.status == 1
    assert "rows.jsonl, line 2: byte 13, in 'prompt': 0xe9 is no UTF-8" in outcome.out
