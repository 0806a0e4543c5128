"""The command line from the outside: what was said, where, and with which exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

from minilora import training
from minilora.cli import main
from minilora.data import skills

SCRIPT = Path(sys.executable).with_name("minilora")


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit status, and what it wrote to either stream."""

    status: int
    out: str
    err: str

    @property
    def said(self) -> list[str]:
        """The lines that stay on the screen from standard error: a bar is written over."""
        ends = (line.rsplit("\r", 1)[-1] for line in self.err.split("\n"))
        return [line for line in ends if line.strip()]

    def json(self):
        """The one object on standard output; anything else there fails."""
        assert self.out.startswith("{\n") and self.out.endswith("\n}\n")
        return json.loads(self.out)


@pytest.fixture(autouse=True, scope="module")
def one_blas_thread():
    """Its threads wait for each other by spinning: on a busy machine that is most of the time."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder to work in, so that no default of --out lands in the repository."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(capsys):
    """run("generate", "--prompt", …): the command in this process."""

    def command(*argv):
        capsys.readouterr()
        try:
            status = main([str(a) for a in argv])
        except SystemExit as leaving:  # --help and --version
            status = leaving.code
        return Outcome(status, *capsys.readouterr())

    return command


@pytest.fixture
def script(start):
    """script("generate", …, env={…}, stdout=file): the real one, in a process of its own."""

    def command(*argv, **options):
        process = start(*argv, **options)
        out, err = process.communicate()
        text = ((each or b"").decode(errors="replace") for each in (out, err))
        return Outcome(process.returncode, *text)

    return command


@pytest.fixture
def start():
    """start("finetune", …): the script as a process under way."""
    started = []

    def process(*argv, env=None, stdout=subprocess.PIPE, program=(SCRIPT,)):
        # Standard output is buffered and encoded as it usually is.
        unusual = ("PYTHONUNBUFFERED", "PYTHONIOENCODING")
        inherited = {k: v for k, v in os.environ.items() if k not in unusual}
        inherited["OPENBLAS_NUM_THREADS"] = "1"
        command = [str(part) for part in (*program, *argv)]
        pipes = {"stdout": stdout, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, env={**inherited, **(env or {})}, **pipes))
        return started[-1]

    yield process
    for each in started:
        if each.poll() is None:
            each.kill()
            each.communicate()


@pytest.fixture
def mistake(run, here):
    """mistake(*argv) is the one line about it; status 2, and every file is as it was before.

    by       the fixture that runs the command: `run`, unless told otherwise
    leaves   paths of what may stay behind
    """

    def command(*argv, by=run, leaves=()):
        before = files(here)
        outcome = by(*argv)
        assert (outcome.status, outcome.out) == (2, "")
        assert len(outcome.said) == 1, outcome.err
        line = outcome.said[0]
        assert line.startswith("minilora: ")
        after = files(here)
        assert {path: after[path] for path in after if path not in leaves} == before
        return line

    return command


def files(folder):
    """Everything below a folder: path → bytes, None for folders."""
    return {
        str(p.relative_to(folder)): None if p.is_dir() else p.read_bytes()
        for p in sorted(folder.rglob("*"))
    }


@pytest.fixture
def write_rows(here):
    """write_rows(row, …): a file of JSON lines, rows.jsonl."""

    def write(*rows):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (here / "rows.jsonl").write_text("".join(lines), encoding="utf-8")

    return write


@pytest.fixture
def rows(write_rows):
    """rows.jsonl with eight questions of one skill."""
    write_rows(*skills.rows(skills.skill("sort-descending"), "train", 8))


@pytest.fixture
def few_examples(monkeypatch):
    """At most 16 examples of each skill and split, where thousands take seconds to test on."""
    drawn = skills.examples

    def fewer(which, split, n, seed=0):
        return drawn(which, split, min(n, 16), seed)

    monkeypatch.setattr(skills, "examples", fewer)


@pytest.fixture
def ctrl_c_at(monkeypatch):
    """ctrl_c_at(3): Ctrl-C is pressed once, in the third step from now on."""

    def press(step):
        count = iter(range(1, 10**6))
        one_step = training.train_step

        def pressed(*args, **options):
            if next(count) == step:
                signal.raise_signal(signal.SIGINT)
            return one_step(*args, **options)

        monkeypatch.setattr(training, "train_step", pressed)

    return press
