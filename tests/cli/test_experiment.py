"""`minilora experiment`: rows, figure and answer; `minilora figures`: them again."""

import importlib
import json
import re
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilora.cli.options import seeds
from minilora.experiments import redraw
from minilora.experiments.lab.experiment import EXPERIMENTS

LAB = Path(__file__).parents[1] / "experiments" / "lab"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.syspath_prepend(LAB)
    for name in list(EXPERIMENTS):
        monkeypatch.delitem(EXPERIMENTS, name)
    monkeypatch.setitem(EXPERIMENTS, "toy", "toy")
    importlib.import_module("toy")


def test_rows_figure_and_answer(run, here):
    outcome = run("experiment", "toy", "--seeds", "0-2,7", "--steps", "2", "--jobs", "1")
    assert (outcome.status, outcome.out) == (0, "4 reported\n")
    assert {p.name for p in (here / "figures").iterdir()} == {"toy.jsonl", "toy.png", "toy.txt"}
    assert outcome.said[-1] == "wrote figures/toy.jsonl, figures/toy.png"
    rows = [json.loads(line) for line in (here / "figures/toy.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows] == [100, 100, 0, 1, 2, 7]
    assert {row["command"] for row in rows} == {"minilora experiment toy --seeds 0,1,2,7 --steps 2"}


def test_json(run):
    outcome = run("experiment", "toy", "--seeds=1", "--jobs=1", "--format=svg", "--json")
    assert outcome.json() == {
        "experiment": "toy",
        "question": "Does it run?",
        "rows": 3,
        "answer": "1 reported",
        "figure": "figures/toy.svg",
    }


def test_quick_rows_are_in_a_file_of_their_own(run, here):
    assert run("experiment", "toy", "--quick", "--jobs=1").status == 0
    assert run("experiment", "toy", "--jobs=1").status == 0
    quick, full = (
        (here / f"figures/{name}.jsonl").read_text().splitlines() for name in ("quick-toy", "toy")
    )
    assert len(quick) == 4 and len(full) == 5
    assert all(json.loads(line)["plan"]["quick"] for line in quick)


def test_a_second_time_nothing_is_measured(run, here):
    first = run("experiment", "toy", "--jobs=1")
    before = (here / "figures/toy.jsonl").read_bytes()
    again = run("experiment", "toy", "--jobs=1")
    assert again.out == first.out
    assert (here / "figures/toy.jsonl").read_bytes() == before
    assert len((here / "measured.txt").read_text().splitlines()) == 5


def test_failed_points(run, here):
    outcome = run("experiment", "toy", "--seeds=0,913", "--jobs=1", "--json")
    assert outcome.status == 1
    assert outcome.json()["answer"] == "1 reported"
    assert outcome.said[-1].startswith("minilora: 1 of 4 points failed")
    assert "seed 913 brings bad luck" in outcome.said[-1]


def test_the_names_with_their_questions(run):
    outcome = run("experiment")
    assert (outcome.status, outcome.out) == (0, "toy  Does it run?\n")
    assert run("experiment", "--json").json() == {"toy": "Does it run?"}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("game",), "there is no experiment 'game'; there are toy"),
        (("toy", "--seeds", "4-0"), "'4-0' must be seeds such as 0-4"),
        (("toy", "--seeds", "99-101"), "seeds 100, 101 choose the learning rates"),
        (("toy", "--jobs", "0"), "'0' must be a whole number from 1"),
        (("toy", "--steps", "x"), "'x' must be a whole number from 1"),
        (("toy", "--format", "gif"), "gif"),
        (("toy", "--out", "a-file"), "a-file"),
    ],
)
def test_mistakes(mistake, here, argv, said):
    (here / "a-file").touch()
    assert said in mistake("experiment", *argv)


def test_rows_of_another_plan_are_refused(run, mistake):
    run("experiment", "toy", "--jobs=1")
    line = mistake("experiment", "toy", "--jobs=1", "--steps=7")
    assert "figures/toy.jsonl, line 1: steps is as usual there and 7 here" in line


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 30)), min_size=1, max_size=5))
def test_seeds_as_written_are_seeds_as_read(ranges):
    text = ",".join(str(a) if n == 0 else f"{a}-{a + n}" for a, n in ranges)
    wanted = [s for a, n in ranges for s in range(a, a + n + 1)]
    assert seeds(text) == tuple(dict.fromkeys(wanted))


@given(st.text(alphabet="0123-, x", max_size=8))
def test_whatever_is_typed_is_seeds_or_a_mistake(text):
    try:
        found = seeds(text)
    except ArgumentTypeError:
        return
    assert found and len(set(found)) == len(found)
    typed = {int(each) for each in re.findall(r"\d+", text)}
    assert {found[0], max(found)} <= typed


@pytest.mark.parametrize("text", ["", ",", "1,", "-1", "1-", "0-99999999", "1.5", "²", "0 - 1 2"])
def test_what_are_no_seeds(mistake, text):
    assert "must be seeds such as" in mistake("experiment", "toy", f"--seeds={text}")


class TestFigures:
    @pytest.fixture(autouse=True)
    def _some(self, run, here):
        run("experiment", "toy", "--jobs=1", "--seeds=0,1,2,3")
        (here / "figures/toy.png").unlink()
        for name in ("compare", "bench"):
            report = (ROOT / f"figures/{name}.json").read_bytes()
            (here / f"figures/{name}.json").write_bytes(report)

    def test_all_that_have_rows(self, run, here):
        outcome = run("figures")
        assert outcome.status == 0
        assert outcome.out.splitlines() == [
            "drawn: compare, bench, toy",
            "without rows: compare_smollm2, scaling",
        ]
        for name in ("compare", "bench", "toy"):
            assert (here / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")

    def test_only_some_and_json(self, run, here):
        outcome = run("figures", "--only", "toy", "--json")
        assert outcome.json() == {"drawn": ["toy"], "without_rows": [], "failed": []}
        assert not (here / "figures/bench.png").exists()

    def test_measured_anew(self, run, here):
        rows = here / "figures/toy.jsonl"
        old = rows.read_text()
        outcome = run("figures", "--rerun", "--only", "toy", "--jobs", "1")
        assert outcome.status == 0
        new = [json.loads(line) for line in rows.read_text().splitlines()]
        assert [row["seed"] for row in new] == [100, 100, 0, 1, 2, 3]  # those it had
        assert rows.read_text() != old
        assert new[0]["command"] == "minilora figures --rerun --only toy"
        assert not (here / "figures/toy.new.jsonl").exists()

    def test_stopped_it_goes_on_and_the_old_rows_stay(self, run, here, monkeypatch):
        old = (here / "figures/toy.jsonl").read_text()
        count = iter(range(100))
        whole = redraw.run

        def stopped(which, plan, path, **options):
            from dataclasses import replace

            def measure(point):
                if next(count) == 3:
                    raise KeyboardInterrupt
                return which.measure(point)

            return whole(replace(which, measure=measure), plan, path, **options)

        monkeypatch.setattr(redraw, "run", stopped)
        argv = ("figures", "--rerun", "--only", "toy", "--jobs", "1")
        outcome = run(*argv)
        assert outcome.status == 130
        assert any("stopped: 3 of 6 points are done" in line for line in outcome.said)
        assert (here / "figures/toy.jsonl").read_text() == old
        assert run(*argv).status == 0
        assert len((here / "measured.txt").read_text().splitlines()) == 6 + 6

    def test_one_that_fails_does_not_keep_the_others(self, run, here):
        (here / "figures/bench.json").write_text("{")
        outcome = run("figures")
        assert outcome.status == 1
        assert "failed: bench" in outcome.out and "drawn: compare, toy" in outcome.out
        assert any("bench.json" in line for line in outcome.said)

    def test_mistakes(self, mistake):
        assert "no figure is called 'fly'; there are: compare" in mistake("figures", "--only=fly")
        assert "'nowhere' is no folder" in mistake("figures", "--folder=nowhere")


def test_a_report_measured_anew_replaces_the_old_one_only_if_it_is_whole(run, here, monkeypatch):
    from minilora.experiments import bench

    (here / "figures").mkdir()
    old = json.loads((ROOT / "figures/bench.json").read_text())
    (here / "figures/bench.json").write_text(json.dumps(old))
    new = {**old, "rows": [{**row, "ratio": 0.123} for row in old["rows"]], "interrupted": False}
    asked = []

    def measured(**options):
        asked.append(options["pairs"])
        return new

    monkeypatch.setattr(bench, "bench", measured)
    assert run("figures", "--rerun", "--only=bench").status == 0
    assert asked == [max(row["pairs"] for row in old["rows"])]
    assert json.loads((here / "figures/bench.json").read_text()) == new
    new = {**new, "rows": new["rows"][1:]}
    assert run("figures", "--rerun", "--only=bench").status == 1
    assert len(json.loads((here / "figures/bench.json").read_text())["rows"]) == len(old["rows"])
