"""The benchmark's machinery, with workers that only pretend; once with the real rival."""

import json
import subprocess
import sys

import pytest

from minilora.errors import ConfigError, MiniloraError
from minilora.experiments.bench import JOBS, bench, pairs, side
from minilora.experiments.bench.figure import draw, table

# Speaks as worker.py does. The seconds it claims are its own, and grow by a tenth each time.
PRETENDER = """
import json, sys
said, seconds, trouble = json.loads(sys.argv[1])
exec(trouble.get("start", ""))
print("{'a library': 'prints'}", file=sys.stderr)
print("and past sys.stdout")
print(json.dumps(said), flush=True)
for n, _ in enumerate(sys.stdin):
    exec(trouble.get("go", ""))
    print(json.dumps({"seconds": seconds * (1 + n / 10)}), flush=True)
print(json.dumps({"rss": 1000}))
"""


@pytest.fixture
def pretend(monkeypatch):
    """pretend(loss=(1, 1), seconds=(1, 2), trouble={"ours": {"go": "code"}}): fake both sides."""

    def arrange(*, loss=(1.0, 1.0), seconds=(1.0, 2.0), trouble=None):
        def command(which, job, folder):
            i = ("ours", "rival").index(which)
            said = {"first_loss": loss[i], "version": f"{which} 1.0"}
            script = [said, seconds[i], (trouble or {}).get(which, {})]
            return [sys.executable, "-c", PRETENDER, json.dumps(script)]

        monkeypatch.setattr(side, "command", command)
        monkeypatch.setattr(pairs, "prepare", lambda job, folder: None)
        monkeypatch.setattr(pairs, "missing", lambda job: None)

    return arrange


def one(name="skills-lora-step", **options):
    return bench([name], say=lambda line: None, **options)


def test_a_row_says_what_was_measured(pretend):
    pretend()
    report = one(pairs=4)
    (row,) = report["rows"]
    # Warmed up twice, then 1.2, 1.3, 1.4, 1.5 seconds against twice as much.
    assert row["name"] == "skills-lora-step"
    assert row["ours_seconds"] == pytest.approx(1.35)
    assert row["rival_seconds"] == pytest.approx(2.7)
    assert row["ratio"] == row["ratio_low"] == row["ratio_high"] == 0.5
    assert (row["pairs"], row["ours_rss"], row["rival_rss"]) == (4, 1000, 1000)
    assert row["rival"] == "rival 1.0"
    assert row["target"] == JOBS["skills-lora-step"].target
    assert report["skipped"] == [] and report["interrupted"] is False
    assert report["machine"]["threads"] >= 1
    json.dumps(report, allow_nan=False)


def test_the_range_is_from_the_lowest_ratio_to_the_highest_and_the_middle_half_inside(
    pretend, monkeypatch
):
    pretend()
    times = [(1, 4), (3, 4), (2, 4), (8, 4), (2.4, 4), (2.2, 4), (1.8, 4), (1.9, 4)]
    monkeypatch.setattr(pairs, "_turns", lambda *_: times)
    (row,) = one()["rows"]
    assert (row["ratio_low"], row["ratio_high"]) == (0.25, 2)
    low, high = row["ratio_middle"]
    assert row["ratio_low"] < low < row["ratio"] < high < row["ratio_high"]
    assert row["ratio"] == pytest.approx((2 + 2.2) / 2 / 4)


def test_the_sides_take_turns_and_who_is_first_alternates():
    calls = []

    class Noting:
        def __init__(self, name):
            self.name = name

        def go(self):
            calls.append(self.name)
            return 1.0 if self.name == "a" else 2.0

    times = pairs._turns("a job", Noting("a"), Noting("b"), 3)
    assert times == [(1.0, 2.0)] * 3
    assert "".join(calls) == "abab" + "ab" + "ba" + "ab"


@pytest.mark.parametrize("rival", [1.0002, float("nan")])
def test_sides_that_do_not_compute_the_same_are_not_compared(pretend, rival):
    pretend(loss=(1.0, rival))
    with pytest.raises(MiniloraError, match=r"skills-lora-step: the first losses, 1 and .+1e-4"):
        one()


def test_a_rounding_apart_is_the_same(pretend):
    pretend(loss=(1.0, 1.00009))
    assert len(one(pairs=1)["rows"]) == 1


@pytest.mark.parametrize("when", ["start", "go"])
@pytest.mark.parametrize("which", ["ours", "rival"])
def test_a_worker_that_fails_is_one_readable_error(pretend, when, which):
    pretend(trouble={which: {when: "raise ValueError('no such attention')"}})
    with pytest.raises(MiniloraError) as caught:
        one(pairs=2)
    assert str(caught.value) == (
        f"skills-lora-step: the process of {which} ended early, with status 1: "
        "ValueError: no such attention"
    )


def test_a_worker_that_is_killed_is_told_as_such(pretend):
    pretend(trouble={"rival": {"go": "import os; os.kill(os.getpid(), 9)"}})
    with pytest.raises(MiniloraError, match="process of rival ended early, by SIGKILL"):
        one(pairs=2)


def test_a_worker_that_ended_before_it_was_told_to_go_on(pretend):
    """Then it is the telling that fails, with a broken pipe."""
    job = JOBS["skills-lora-step"]
    pretend(trouble={"ours": {"go": "n > 0 and sys.exit('out of memory')"}})
    with side.started("ours", job, None) as worker:
        worker.go()
        for _ in range(3):  # however often one asks
            with pytest.raises(MiniloraError, match="ended early, with status 1: out of memory"):
                worker.go()


def test_a_worker_that_says_very_much_does_not_get_stuck(pretend):
    """More than any pipe holds, on standard error."""
    pretend(trouble={"rival": {"start": "sys.stderr.write('warning\\n' * 200_000)"}})
    assert len(one(pairs=1)["rows"]) == 1


def test_no_worker_outlives_its_row(pretend, monkeypatch):
    started = []
    popen = subprocess.Popen

    def noting(*args, **options):
        started.append(popen(*args, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", noting)
    pretend(trouble={"rival": {"go": "raise ValueError"}})
    with pytest.raises(MiniloraError):
        one()
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)


def test_ctrl_c_keeps_the_rows_that_are_finished(pretend, monkeypatch):
    pretend()
    one_row = pairs._row

    def row(job, n):
        if job.name == "smollm2-lora-step":
            raise KeyboardInterrupt
        return one_row(job, n)

    monkeypatch.setattr(pairs, "_row", row)
    report = bench(pairs=1, say=lambda line: None)
    assert [r["name"] for r in report["rows"]] == ["skills-lora-step", "skills-full-step"]
    assert report["interrupted"] is True


def test_an_unknown_name_is_met_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'fast'.*skills-lora-step"):
        bench(["skills-lora-step", "fast"])


def test_every_job_that_was_asked_for_is_there():
    assert set(JOBS) == {
        "skills-lora-step", "skills-full-step", "smollm2-lora-step", "smollm2-full-step",
        "smollm2-generate", "smollm2-prefill", "load-adapter", "merge", "sweep-point",
        "skills-lora-step-compiled", "skills-full-step-compiled",
    }  # fmt: skip


@pytest.mark.parametrize("absent", ["torch", "transformers", "peft", "smollm2", "compiler"])
def test_what_is_absent_is_a_reason_to_skip_that_says_what_to_do(monkeypatch, tmp_path, absent):
    monkeypatch.setattr(
        pairs.importlib.util, "find_spec", lambda name: None if name == absent else "found"
    )
    file = tmp_path / "smollm2.gguf"
    if absent != "smollm2":
        file.touch()
    monkeypatch.setattr(pairs, "cached_file", lambda: file)
    monkeypatch.setattr(
        pairs.shutil, "which", lambda name: None if absent == "compiler" else f"/usr/bin/{name}"
    )
    monkeypatch.setattr(pairs, "_row", lambda job, n: {"name": job.name})
    said = []
    report = bench(say=said.append)
    skipped = {each["name"]: each["reason"] for each in report["skipped"]}
    needs = {
        "smollm2": {n for n, job in JOBS.items() if job.base == "smollm2"},
        "compiler": {n for n, job in JOBS.items() if job.compiled},
    }.get(absent, set(JOBS))
    advice = {"smollm2": "minilora fetch smollm2", "compiler": "C++ compiler"}
    assert set(skipped) == needs
    assert {r["name"] for r in report["rows"]} == set(JOBS) - needs
    for reason in skipped.values():
        assert advice.get(absent, f"{absent} is not installed: pip install") in reason
    assert said == [f"{name}: skipped, {reason}" for name, reason in skipped.items()]


def test_table_and_figure(pretend, tmp_path):
    pretend()
    report = one(pairs=2)
    text = table(report)
    assert "skills-lora-step" in text and "0.50" in text and "rival 1.0" in text
    assert len({len(line) for line in text.splitlines()[:2]}) == 1
    draw(report, tmp_path / "bench.svg")
    assert "skills-lora-step" in (tmp_path / "bench.svg").read_text()


@pytest.mark.slow
def test_the_real_rival(monkeypatch):
    for module in ("torch", "transformers", "peft"):
        pytest.importorskip(module)
    monkeypatch.setenv("MINILORA_THREADS", "1")
    report = one(pairs=1)
    (row,) = report["rows"]
    assert row["ratio"] > 0
    assert min(row["ours_rss"], row["rival_rss"]) > 10**7
    assert "torch" in row["rival"] and "1 threads" in row["rival"]
    assert "numpy" in row["ours"] and "1 threads" in row["ours"]
