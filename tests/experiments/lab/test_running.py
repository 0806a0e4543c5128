"""Runs: every point once, whatever happens meanwhile; in one process, in many, on Dask."""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from minilora.errors import ConfigError, MissingExtraError
from minilora.experiments.lab import workers
from minilora.experiments.lab.experiment import EXPERIMENTS, Plan
from minilora.experiments.lab.rows import ENVELOPE, locked, read_rows
from minilora.experiments.lab.running import FailedPointsError, duration, run

HERE = Path(__file__).parent
# The command line in a process of its own, where `toy` is an experiment and Ctrl-C is heard.
SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from minilora.experiments.lab.experiment import EXPERIMENTS
EXPERIMENTS["toy"] = "toy"
from minilora.cli import main
if __name__ == "__main__":
    sys.exit(main(["experiment", "toy", "--out", ".", *sys.argv[1:]]))
"""
ROWS = "toy.jsonl"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The experiment, at work in an empty folder."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(EXPERIMENTS, "toy", "toy")
    return importlib.import_module("toy").EXPERIMENT


@pytest.fixture
def start(tmp_path):
    """start("--jobs", 2): the script under way, in a session of its own."""
    started = []

    def process(*argv, script=SCRIPT, preexec_fn=None, **environment):
        (tmp_path / "script.py").write_text(script)
        started.append(
            subprocess.Popen(
                [sys.executable, "script.py", *map(str, argv)],
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"} | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                preexec_fn=preexec_fn,
            )
        )
        return started[-1]

    yield process
    for each in started:
        if each.poll() is None:
            os.killpg(each.pid, signal.SIGKILL)
        each.communicate()


def measured():
    return Path("measured.txt").read_text().splitlines()


def lines():
    return Path(ROWS).read_bytes().count(b"\n") if Path(ROWS).exists() else 0


def wait_until(done, seconds=20):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def alive(session):
    """Processes of that session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append((entry / "cmdline").read_text())
    # Trackers of semaphores look after what the killed leave, and go by themselves.
    return [each for each in found if "resource_tracker" not in each]


def test_round_by_round_until_nothing_new_is_asked_for(toy):
    said = []
    rows = run(toy, Plan((0, 1)), ROWS, jobs=1, progress=False, say=said.append, command="again")
    assert measured() == ["choose 0.1 100", "choose 0.2 100", "report 0.2 0", "report 0.2 1"]
    assert rows == read_rows(ROWS, toy)
    for row in rows:
        assert row.keys() >= set(ENVELOPE)
        assert (row["command"], row["threads"]) == ("again", 1)
        assert row["versions"].keys() == {"minilora", "numpy", "python"}
        assert row["seconds"] >= 0
    assert said[0] == "2 points (1 job)"
    assert said[1] == "1 point to go, about 1 second (1 job)"
    assert said[2] == f"2 points, about 1 second (1 job), 2 more are in {ROWS}"


def test_what_is_there_is_not_measured_again(toy):
    first = run(toy, Plan((0,)), ROWS, jobs=1, progress=False)
    again = run(toy, Plan((0,)), ROWS, jobs=1, progress=False)
    assert again == first
    assert len(measured()) == 3
    more = run(toy, Plan((0, 1)), ROWS, jobs=1, progress=False)
    assert more[:3] == first and [r["seed"] for r in more[3:]] == [1]
    assert len(measured()) == 4


def test_as_many_processes_as_are_wanted_and_the_same_rows(toy):
    pytest.importorskip("joblib")
    alone = run(toy, Plan(range(6)), "alone.jsonl", jobs=1, progress=False)
    together = run(toy, Plan(range(6)), ROWS, jobs=2, progress=False)
    assert together == read_rows(ROWS, toy)

    def bare(rows):
        own = ("seconds", "finished", "machine")
        plain = [{k: v for k, v in row.items() if k not in own} for row in rows]
        return sorted(plain, key=lambda row: row["config_hash"])

    assert bare(alone) == bare(together)
    assert {row["threads"] for row in together} == {1}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_point_that_cannot_be_measured_does_not_stop_the_others(toy, jobs):
    pytest.importorskip("joblib")
    said = []
    with pytest.raises(FailedPointsError) as caught:
        run(toy, Plan((913, 0, 914, 1)), ROWS, jobs=jobs, progress=False, say=said.append)
    text = str(caught.value)
    assert text.startswith(f"2 of 6 points failed, the others are in {ROWS}: ")
    assert "role=report, lr=0.2, ms=1, seed=913: seed 913 brings bad luck" in text
    assert "seed=914: a row cannot be written as JSON" in text
    assert sum(line.startswith("failed: ") for line in said) == 2
    reported = [row["seed"] for row in read_rows(ROWS) if row["role"] == "report"]
    assert sorted(reported) == [0, 1]
    assert caught.value.rows == read_rows(ROWS)


def test_many_failures_are_told_in_one_line(toy):
    def unlucky(point):
        raise ConfigError(f"no luck with {point['seed']}")

    from dataclasses import replace

    points = [{"seed": s} for s in range(5)]
    experiment = replace(toy, measure=unlucky, points=lambda rows, plan: points)
    with pytest.raises(FailedPointsError, match=r"^5 of 5 .*seed=2: no luck.*; and 2 more$"):
        run(experiment, Plan(), ROWS, jobs=1, progress=False)
    assert not Path(ROWS).exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_mistake_in_the_program_is_no_failed_point(toy, jobs):
    pytest.importorskip("joblib")
    with pytest.raises(RuntimeError, match="a mistake"):
        run(toy, Plan((0, 915)), ROWS, jobs=jobs, progress=False)
    assert len(read_rows(ROWS)) >= 2


def test_a_worker_that_is_killed_is_told(toy):
    pytest.importorskip("joblib")
    with pytest.raises(ConfigError, match=r"a worker process was killed.*same command again"):
        run(toy, Plan((966, 0, 1)), ROWS, jobs=2, progress=False)
    rows = run(toy, Plan((966, 0, 1)), ROWS, jobs=2, progress=False)
    assert len(rows) == lines() == 5


def test_rows_of_another_plan_are_not_mixed_in(toy):
    run(toy, Plan((0,)), ROWS, jobs=1, progress=False)
    for other in (Plan((0,), steps=2), Plan((0,), quick=True)):
        with pytest.raises(ConfigError, match="do not go together"):
            run(toy, other, ROWS, jobs=1, progress=False)
    assert lines() == 3


def test_two_runs_into_one_file(toy):
    with locked(ROWS), pytest.raises(ConfigError, match="written by another run"):
        run(toy, Plan((0,)), ROWS, jobs=1, progress=False)
    assert not Path("measured.txt").exists()


def test_a_torn_line_is_measured_again(toy):
    run(toy, Plan((0, 1)), ROWS, jobs=1, progress=False)
    whole = Path(ROWS).read_bytes()
    Path(ROWS).write_bytes(whole[:-20])
    with pytest.warns(UserWarning, match="unfinished"):
        rows = run(toy, Plan((0, 1)), ROWS, jobs=1, progress=False)
    assert len(rows) == lines() == 4
    assert measured()[-2:] == ["report 0.2 1"] * 2


def test_without_joblib_one_job_runs(toy, monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(MissingExtraError, match=r"--jobs.*pip install 'minilora\[sweep\]'"):
        run(toy, Plan((0,)), "sub/" + ROWS, jobs=2, progress=False)
    assert not Path("sub").exists()
    assert len(run(toy, Plan((0,)), ROWS, jobs=1, progress=False)) == 3


@pytest.mark.parametrize("jobs", [0, -1, 1.5, True])
def test_jobs_are_counted(toy, jobs):
    with pytest.raises(ConfigError, match="jobs"):
        run(toy, Plan((0,)), ROWS, jobs=jobs)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1 second"), (40.4, "40 seconds"), (540, "9 minutes"), (9000, "2.5 hours")],
)
def test_times_as_people_say_them(seconds, text):
    assert duration(seconds) == text


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("moments", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_and_gone_on_with(toy, start, moments):
    """Two rounds, 24 points of 20 ms: each run is killed when two more rows are there."""
    pytest.importorskip("joblib")
    argv = ("--seeds", "0-21", "--steps", "20")
    for moment in range(moments):
        jobs = 1 + moment % 2
        process = start(*argv, "--jobs", jobs)
        wait_until(lambda n=2 * moment: lines() >= n and process.poll() is None)  # noqa: B023
        time.sleep(0.003 * moment)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        wait_until(lambda: not alive(process.pid))  # noqa: B023
    assert lines() < 24
    process = start(*argv, "--jobs", 2)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out == "22 reported\n"
    rows = read_rows(ROWS, toy, plan=Plan(steps=20))
    assert lines() == len(rows) == len({row["config_hash"] for row in rows}) == 24


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "how", ["--jobs=1", "--jobs=2", pytest.param("--dask=local", marks=pytest.mark.slow)]
)
def test_ctrl_c_ends_cleanly(toy, start, how):
    """As the terminal does it: the signal goes to all processes of the group."""
    pytest.importorskip("joblib")
    pytest.importorskip("distributed")
    argv = ("--seeds", "0-39", "--steps", "50", how)
    process = start(*argv)
    wait_until(lambda: lines() >= 5)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    ends = [line.rsplit("\r", 1)[-1].strip() for line in err.split("\n") if line.strip()]
    there = lines()
    assert 5 <= there < 42
    assert (
        ends[-2] == f"stopped: {there} of 42 points are done; the same command goes on from there"
    )
    assert ends[-1] == "minilora: interrupted"
    wait_until(lambda: not alive(process.pid), 2)
    before = Path(ROWS).read_bytes()
    out, err = start(*argv).communicate(timeout=60)
    assert out == "40 reported\n", err
    assert f"{there} more are in toy.jsonl" in err
    assert Path(ROWS).read_bytes().startswith(before)
    assert lines() == 42


@pytest.mark.skipif(os.name != "posix", reason="needs named semaphores")
@pytest.mark.parametrize("before", ["", "default"])
def test_a_semaphore_that_is_gone_already_is_no_news(start, before):
    """What Ctrl-C can leave: one that joblib's tracker knows of, and that was removed."""
    pytest.importorskip("joblib")
    gone = """
from joblib.externals.loky.backend import resource_tracker
from minilora.experiments.lab.workers import workers
with workers(2, None):
    resource_tracker.register("/minilora-gone", "semlock")
print(os.environ["PYTHONWARNINGS"])
"""
    process = start(script="import os" + gone, PYTHONWARNINGS=before)
    assert process.communicate(timeout=20) == (f"{before}\n", "")


@pytest.mark.skipif(os.name != "posix", reason="needs limits")
def test_a_full_disk_is_one_line_and_the_rows_are_safe(toy, start):
    import resource

    def small():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))

    process = start("--seeds", "0-20", "--jobs", 1, preexec_fn=small)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (2, "")
    assert "Traceback" not in err
    last = err.rstrip().rsplit("\n", 1)[-1]
    assert last.startswith("minilora: toy.jsonl: ") and "make room" in last
    there = read_rows(ROWS, toy)
    assert 2 <= len(there) == lines() < 23
    rows = run(toy, Plan(range(21)), ROWS, jobs=1, progress=False)
    assert rows[: len(there)] == there and len(rows) == 23


class TestDask:
    @pytest.fixture(autouse=True)
    def _dask(self):
        pytest.importorskip("distributed")
        pytest.importorskip("joblib")

    @pytest.mark.parametrize(
        "address", ["tcp://127.0.0.1:9", "nonsense", "tcp://nowhere.invalid:1"]
    )
    def test_nobody_answers(self, toy, monkeypatch, address):
        monkeypatch.setattr(workers, "DASK_SECONDS", 0.5)
        with pytest.raises(ConfigError, match=r"no Dask scheduler answers at .*dask scheduler"):
            run(toy, Plan((0,)), ROWS, dask=address, progress=False)
        assert not Path(ROWS).exists()

    def test_a_scheduler_without_workers(self, toy, monkeypatch):
        from distributed import LocalCluster

        monkeypatch.setattr(workers, "DASK_SECONDS", 0.5)
        with (
            LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster,
            pytest.raises(ConfigError, match=r"has no workers.*dask worker"),
        ):
            run(toy, Plan((0,)), ROWS, dask=cluster.scheduler_address, progress=False)

    @pytest.mark.slow
    def test_local(self, toy):
        rows = run(toy, Plan((0, 1)), ROWS, jobs=1, dask="local", progress=False)
        assert len(rows) == lines() == 4
        assert {row["threads"] for row in rows} == {1}

    @pytest.mark.slow
    def test_a_worker_killed_at_its_point_costs_only_that(self, toy):
        from distributed import LocalCluster

        with LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=50,
        ) as cluster:
            address = cluster.scheduler_address
            rows = run(toy, Plan((0, 966, *range(1, 6)), 50), ROWS, dask=address, progress=False)
            assert len(rows) == lines() == 9
            counted = Counter(measured())
            assert counted["report 0.2 966"] == 2
            assert sum(counted.values()) <= 9 + 3
            with pytest.raises(FailedPointsError, match="seed=967: several Dask workers died"):
                run(toy, Plan((967,), 50), ROWS, dask=address, progress=False)
            assert lines() == 9

    @pytest.mark.slow
    def test_a_scheduler_that_goes_away(self, toy):
        common = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        common["env"] = {**os.environ, "PYTHONPATH": str(HERE)}

        def dask(role, *options):
            argv = [sys.executable, "-m", f"distributed.cli.dask_{role}", "--no-dashboard"]
            return subprocess.Popen([*argv, "--scheduler-file", "where.json", *options], **common)

        started = [dask("scheduler", "--port", "0")]
        try:
            wait_until(Path("where.json").exists)
            started.append(dask("worker", "--nthreads", "1", "--no-nanny"))
            wait_until(lambda: Path("where.json").stat().st_size > 0)
            address = json.loads(Path("where.json").read_text())["address"]

            def kill_it():
                wait_until(lambda: lines() >= 4)
                started[0].kill()

            killer = threading.Thread(target=kill_it)
            killer.start()
            with pytest.raises(ConfigError, match=r"scheduler has gone away.*again"):
                run(toy, Plan(range(50), 100), ROWS, dask=address, progress=False)
            killer.join()
            assert 4 <= lines() == len(read_rows(ROWS)) < 52
        finally:
            for each in started:
                each.kill()
                each.wait()
