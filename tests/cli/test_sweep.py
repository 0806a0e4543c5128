"""`minilora sweep`: a grid from the command line, its one file of rows, its figure."""

import json

import pytest

from minilora.experiments.sweep import Grid


@pytest.mark.slow
@pytest.mark.usefixtures("few_examples")
def test_two_ranks_to_the_end(run, here):
    argv = ("sweep", "--ranks", "1,2", "--steps", "3", "--batch-size=4", "--jobs", "1")
    outcome = run(*argv)
    assert outcome.status == 0
    assert {p.name for p in (here / "sweep").iterdir()} == {
        "sweep.jsonl", "sweep.png", "sweep.txt",
    }  # fmt: skip
    lines = (here / "sweep/sweep.jsonl").read_text().splitlines()
    assert len(lines) == 2
    for rank, line in enumerate(lines, 1):
        row = json.loads(line)
        assert row.keys() >= {
            "new", "old", "losses", "trainable_parameters", "bytes", "seconds", "versions", "seed",
            "config_hash", "task", "method", "rank", "alpha", "scaling", "target_modules", "lr",
            "steps", "batch_size",
        }  # fmt: skip
        assert (row["rank"], row["alpha"], row["steps"], row["batch_size"]) == (
            rank,
            2 * rank,
            3,
            4,
        )
        assert row["trainable_parameters"] == 2048 * rank
        assert row["command"] == "minilora sweep --ranks 1,2 --steps 3 --batch-size 4"
    head = outcome.out.splitlines()[0].split()
    assert head == ["new", "old", "parameters", "seeds", "setting"]
    assert "LoRA r=1 α=2 q_proj+v_proj, lr 0.005" in outcome.out
    assert "sort-descending: best on validation is" in outcome.out
    assert outcome.said[-1] == "wrote sweep/sweep.jsonl, sweep/sweep.png"

    again = run(*argv, "--json", "--format", "svg").json()
    assert (again["experiment"], again["rows"]) == ("sweep", 2)
    assert again["figure"] == "sweep/sweep.svg"
    assert (here / "sweep/sweep.jsonl").read_text().splitlines() == lines
    assert run("plot", "sweep/sweep.jsonl").out.strip() == again["answer"]


def test_every_option_arrives(run, here, monkeypatch):
    asked = {}

    def note(grid, out, **options):
        asked.update(vars(grid), out=out, **options)
        return []

    monkeypatch.setattr("minilora.experiments.sweep.sweep", note)
    options = {
        "methods": "full,lora",
        "tasks": "mirror,cipher",
        "ranks": "1,2,2",
        "alphas": "4,0.5",
        "lrs": "1e-3,2e-3",
        "target-modules": "q_proj+v_proj,all-linear,o_proj",
        "scalings": "r,sqrt_r",
        "seeds": "0-2",
        "steps": "7",
        "batch-size": "5",
        "jobs": "3",
        "dask": "local",
        "track": "board",
        "out": "there",
    }
    assert run("sweep", *[f"--{name}={value}" for name, value in options.items()]).status == 0
    grid = Grid(
        methods=("full", "lora"), tasks=("mirror", "cipher"), ranks=(1, 2), alphas=(4.0, 0.5),
        lrs=(1e-3, 2e-3), target_modules=(("q_proj", "v_proj"), "all-linear", ("o_proj",)),
        scalings=("r", "sqrt_r"), seeds=(0, 1, 2), steps=7, batch_size=5,
    )  # fmt: skip
    assert {name: asked[name] for name in vars(grid)} == vars(grid)
    assert (asked["jobs"], asked["dask"], asked["track"], asked["out"]) == (
        3, "local", "board", "there",
    )  # fmt: skip
    # The command in the rows is one that asks for the same grid.
    again = asked["command"].split()
    asked.clear()
    assert run(*again[1:]).status == 0
    assert {name: asked[name] for name in vars(grid)} == vars(grid)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--ranks", "129"), "rank 129 is above min(out, in) = 128"),
        (("--ranks", "1,,2"), "'1,,2' must be values with commas"),
        (("--ranks=",), "'' must be values with commas"),
        (("--ranks", "1;2"), "'1;2' must be a whole number from 1"),
        (("--alphas", "0"), "'0' must be a number above 0"),
        (("--lrs", "fast"), "'fast' must be a number above 0"),
        (("--tasks", "fly"), "there is no task 'fly'"),
        (("--methods", "qlora"), "method 'qlora' must be one of full, lora"),
        (("--target-modules", "x_proj"), "target 'x_proj' matches no matrix"),
        (("--target-modules", "q_proj+"), "'q_proj+' must be names joined by +"),
        (("--scalings", "r2"), "scaling 'r2' must be one of r, sqrt_r"),
        (("--seeds", "1-0"), "'1-0' must be seeds"),
        (("--out", "a-file", "--jobs=1"), "a-file"),
    ],
)
def test_mistakes(mistake, here, argv, said):
    (here / "a-file").touch()
    assert said in mistake("sweep", *argv)
