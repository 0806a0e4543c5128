"""`minilora data show`: a row as tokens, where it stands, and mistakes in one line."""

import pytest

PAIR = {"prompt": "rev:abc=", "completion": "cba"}
LONG = {"prompt": "rev:" + "a" * 300 + "=", "completion": "a"}


@pytest.fixture(autouse=True)
def _no_colours_asked_for(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_a_row_is_shown_with_what_counts(run, write_rows):
    write_rows({"prompt": "cpy:a=", "completion": "a"}, PAIR)
    outcome = run("data", "show", "rows.jsonl", "--row", "2")
    assert outcome.status == 0 and outcome.said == []
    assert outcome.out.splitlines() == [
        "r│e│v│:│a│b│c│=⟦c⟧⟦b⟧⟦a⟧⟦<end>⟧",
        "",
        "rows.jsonl, line 2: template plain, 12 tokens, 4 of them targets; fits the context of 256",
    ]


def test_with_no_mask_all_but_the_first_token_count(run, write_rows):
    write_rows(PAIR)
    out = run("data", "show", "rows.jsonl", "--mask", "none").out
    assert out.startswith("r⟦e⟧⟦v⟧") and "11 of them targets" in out


def test_as_json(run, write_rows):
    write_rows(PAIR)
    said = run("data", "show", "rows.jsonl", "--json").json()
    assert said["where"] == "rows.jsonl, line 1" and said["mask"] == "answers"
    assert (said["n_tokens"], said["n_targets"], said["too_long_by"]) == (12, 4, 0)
    assert "".join(t["text"] for t in said["tokens"]) == "rev:abc=cba<end>"
    assert [t["target"] for t in said["tokens"]] == [False] * 8 + [True] * 4


def test_a_row_longer_than_the_context_is_shown_and_told(run, write_rows):
    write_rows(LONG)
    out = run("data", "show", "rows.jsonl").out
    assert "✂ here the context ends ✂" in out
    assert "51 too many for the context of 256: nothing is cut, finetune refuses this row" in out


def test_colours_are_for_terminals(run, write_rows, monkeypatch):
    write_rows(PAIR)
    assert "\x1b[" not in run("data", "show", "rows.jsonl").out
    assert "\x1b[1;4;38;5;208mc" in run("data", "show", "rows.jsonl", "--color", "always").out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert "\x1b[" in run("data", "show", "rows.jsonl").out
    assert "\x1b[" not in run("data", "show", "rows.jsonl", "--color", "never").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in run("data", "show", "rows.jsonl").out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--row", "3"], ["rows.jsonl has 2 rows", "no --row 3"]),
        (["--row", "0"], ["whole number from 1"]),
        (["--row", "2"], ["rows.jsonl, line 2", "'completion' is empty"]),
        (["--template", "x"], ["'x'", "own, base, plain, alpaca, chat"]),
        (["--template", "chat"], ["no chat template"]),
        (["--template", "alpaca"], ["rows.jsonl, line 1", "'B' at position 0", "alphabet"]),
        (["--mask", "x"], ["'x'", "answers, last, none"]),
        (["--base", "nowhere"], ["nowhere"]),
    ],
)
def test_mistakes_are_one_line(run, write_rows, options, words):
    write_rows(PAIR, {"prompt": "a", "completion": ""})
    outcome = run("data", "show", "rows.jsonl", *options)
    assert outcome.status == 2 and outcome.out == "" and len(outcome.said) == 1
    assert [word for word in words if word not in outcome.said[0]] == []


def test_a_row_of_no_form_is_named(run, write_rows):
    write_rows({"question": "Who?"})
    outcome = run("data", "show", "rows.jsonl")
    assert outcome.status == 2 and "rows.jsonl, line 1: no form that is known" in outcome.said[0]
