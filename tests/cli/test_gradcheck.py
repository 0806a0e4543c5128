"""`minilora gradcheck`: a verdict on every input of every operation."""

import pytest

from minilora.ops.elementwise import Tanh
from minilora.ops.examples import examples


def test_all_operations_pass(run):
    outcome = run("gradcheck")
    assert (outcome.status, outcome.err) == (0, "")
    head, *rows = [line.split() for line in outcome.out.splitlines()]
    assert head[0] == "operation"
    wanted = [(e.op, name) for e in examples() for name in e.inputs]
    assert [(row[0], row[1]) for row in rows] == wanted
    assert all(float(row[-2]) <= 1e-7 and row[-1] == "ok" for row in rows)


def test_some_operations(run):
    outcome = run("gradcheck", "lora_linear", "linear")
    assert {line.split()[0] for line in outcome.out.splitlines()[1:]} == {"linear", "lora_linear"}


def test_json(run):
    outcome = run("gradcheck", "matmul", "--json")
    assert (outcome.status, outcome.err) == (0, "")
    said = outcome.json()
    assert (said["h"], said["tolerance"]) == (1e-5, 1e-7)
    assert [(r["op"], r["input"], r["shape"], r["ok"]) for r in said["rows"]] == [
        ("matmul", "x", [2, 1, 3, 4], True),
        ("matmul", "y", [5, 4, 2], True),
    ]
    assert all(0 < row["error"] < 1e-7 for row in said["rows"])


@pytest.mark.parametrize("h", ["0.5", "1e200"])
def test_a_difference_that_is_too_wide_fails(run, h):
    """exp bends between the two points, or overflows at one of them."""
    plain, json = run("gradcheck", "exp", "--h", h), run("gradcheck", "exp", "--h", h, "--json")
    assert (plain.status, json.status) == (1, 1)
    assert plain.out.splitlines()[1].endswith("WRONG")
    assert json.json()["rows"][0]["ok"] is False


def test_a_wrong_backward_fails(run, monkeypatch):
    right = Tanh.backward
    monkeypatch.setattr(Tanh, "backward", lambda ctx, dy: 1.01 * right(ctx, dy))
    outcome = run("gradcheck", "tanh", "sigmoid")
    assert outcome.status == 1
    verdicts = [(line.split()[0], line.split()[-1]) for line in outcome.out.splitlines()[1:]]
    assert verdicts == [("tanh", "WRONG"), ("sigmoid", "ok")]


@pytest.mark.parametrize(("name", "head"), [("g.png", b"\x89PNG"), ("new/g.svg", b"<?xml")])
def test_the_figure_of_all_operations(run, here, name, head):
    outcome = run("gradcheck", "--figure", name)
    assert outcome.status == 0
    assert outcome.said == [f"wrote {name}"]
    assert (here / name).read_bytes().startswith(head)


def test_an_unknown_operation(mistake):
    line = mistake("gradcheck", "linear", "conv")
    assert "'conv'" in line
    assert all(e.op in line for e in examples())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("g.xyz", ["'g.xyz'", "png", "svg", "pdf"]),
        ("g", ["'g'", "png", "svg", "pdf"]),
        ("file/g.png", ["file", "another"]),
        ("/proc/minilora/g.png", ["/proc/minilora", "another"]),
    ],
)
def test_a_figure_that_cannot_be_written(mistake, here, name, said):
    (here / "file").touch()
    line = mistake("gradcheck", "tanh", "--figure", name)
    assert all(each in line for each in said), line
