"""Measure an experiment's points, as many at once as there are cores, and lose none.

Each row is added to the file as it arrives, and is on the disk before the next one is looked at. So
a run may be killed at any time: the same command measures what is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from minilora.errors import ConfigError, MiniloraError
from minilora.experiments.lab.experiment import Experiment, Plan, Point, Row
from minilora.experiments.lab.rows import append, config_hash, locked, make_row, read_rows
from minilora.experiments.lab.tracking import tracker
from minilora.experiments.lab.workers import Outcome, workers
from minilora.files.atomic import made_folder
from minilora.resuming import ctrl_c
from minilora.runtime import cores
from minilora.training import check_count


class FailedPointsError(MiniloraError):
    """Some points could not be measured; all others are in the file, and here as `rows`."""

    def __init__(self, message: str, rows: list[Row]):
        super().__init__(message)
        self.rows = rows


def run(
    experiment: Experiment,
    plan: Plan,
    path: str | Path,
    *,
    jobs: int | None = None,
    dask: str | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
    track: str | None = None,
    command: str | None = None,
) -> list[Row]:
    """Measure whatever the experiment asks for and `path` has not yet; all rows of the file.

    jobs      processes at once; None: as many as cores; 1: in this process
    dask      address of a scheduler, whose workers are used instead; "local": of `jobs` workers
    progress  whether to show a bar
    say       is told what is being done
    track     where else results go: see `tracking`
    command   that does this again, for the rows

    Raises ConfigError for a file of other rows, a file that another run writes, a scheduler that
    does not answer; FailedPointsError at the end if points failed; OSError if the disk is full;
    KeyboardInterrupt for Ctrl-C. In each case the rows so far are in the file, and the same call
    goes on from there.
    """
    if jobs is not None:
        check_count("jobs", jobs)
    path = Path(path)
    again = command or f"minilora experiment {experiment.name}"
    with made_folder(path.parent), locked(path), tracker(track, experiment.name) as note:
        rows = read_rows(path, experiment, plan=plan, mend=True)
        state = _Run(experiment, plan, path, rows, again, say, note)
        try:
            _measure_all(state, jobs or cores(), dask, progress)
        except (KeyboardInterrupt, OSError):
            state.tell(
                f"stopped: {state.done()} of {len(state.asked)} points are done; the same command "
                "goes on from there"
            )
            raise
    if state.failed:
        raise FailedPointsError(state.failures(), state.rows)
    return state.rows


@dataclass
class _Run:
    """A run under way: what is measured, what failed, and whom to tell."""

    experiment: Experiment
    plan: Plan
    path: Path
    rows: list[Row]
    command: str
    say: Callable[[str], None]
    note: Callable[[Row], None]
    failed: dict[str, tuple[Point, str]] = field(default_factory=dict)
    workers: int = 1
    asked: set[str] = field(default_factory=set)
    waiting: int = 0  # points that were announced and are not done

    def new_points(self) -> list[Point]:
        """What the experiment asks for by now and was not tried yet, each once."""
        tried = {row["config_hash"] for row in self.rows} | self.failed.keys()
        asked = self.experiment.points(self.rows, self.plan)
        by_hash = {config_hash(self.experiment, point): point for point in asked}
        self.asked = set(by_hash)
        return [point for h, point in by_hash.items() if h not in tried]

    def announce(self, points: list[Point]) -> None:
        self.waiting = len(points)
        there = self.done()
        before = f", {there} more are in {self.path}" if there else ""
        self.tell(f"{_count(len(points), 'point')}{self._estimate()}{before}")

    def _estimate(self) -> str:
        seconds = [row["seconds"] for row in self.rows]
        if not seconds:
            return f" ({_count(self.workers, 'job')})"
        rounds = -(-self.waiting // self.workers)
        left = sum(seconds) / len(seconds) * rounds
        return f", about {duration(left)} ({_count(self.workers, 'job')})"

    def take(self, outcome: Outcome) -> None:
        """Keep a row, or note why there is none."""
        point = outcome.point
        self.waiting -= 1
        try:
            if outcome.result is None:
                raise ConfigError(outcome.error)
            about = {"command": self.command, **outcome.about}
            row = make_row(self.experiment, self.plan, point, outcome.result, **about)
        except MiniloraError as error:
            self.failed[config_hash(self.experiment, point)] = point, str(error)
            self.tell(f"failed: {shown(point)}: {error}")
        else:
            with ctrl_c() as wanted:  # a row is in the file and counted, or neither
                append(self.path, row)
                self.rows.append(row)
            self.note(row)
            if wanted.is_set():
                raise KeyboardInterrupt
            if len(self.rows) == 1 and self.waiting:
                self.tell(f"{_count(self.waiting, 'point')} to go{self._estimate()}")

    def tell(self, line: str) -> None:
        with tqdm.external_write_mode(file=sys.stderr):  # the bar makes room
            self.say(line)

    def done(self) -> int:
        """How many of the points that are asked for have their row."""
        return len(self.asked & {row["config_hash"] for row in self.rows})

    def failures(self) -> str:
        some = [f"{shown(point)}: {why}" for point, why in list(self.failed.values())[:3]]
        more = f"; and {len(self.failed) - 3} more" if len(self.failed) > 3 else ""
        count = f"{len(self.failed)} of {len(self.asked)} points failed"
        return f"{count}, the others are in {self.path}: {'; '.join(some)}{more}"


def _measure_all(state: _Run, jobs: int, dask: str | None, progress: bool) -> None:
    """Round by round: what the experiment asks for may depend on the rows of the round before."""
    points = state.new_points()
    if not points:
        return
    with workers(jobs, dask) as (state.workers, measure):
        while points:
            state.announce(points)
            with tqdm(total=len(points), unit="point", disable=not progress, leave=False) as bar:
                for outcome in measure(state.experiment.measure, points):
                    state.take(outcome)
                    bar.update()
            points = state.new_points()


def shown(point: Point) -> str:
    """A point in a line."""
    return ", ".join(f"{name}={value}" for name, value in point.items())


def duration(seconds: float) -> str:
    """A time as people say it: `40 seconds`, `9 minutes`, `2.5 hours`."""
    if seconds < 90:
        return _count(max(1, round(seconds)), "second")
    if seconds < 90 * 60:
        return _count(round(seconds / 60), "minute")
    return f"{seconds / 3600:.1f} hours"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
