"""A results file: one line a measured point, added when it is measured, and never changed.

The file is JSON Lines without a header, so that it can be cut, counted and joined by any tool. Each
row says by itself what it is: the point, what came out, and an envelope (`ENVELOPE`) of what it
was measured with. Rows that mean something else are refused, not mixed in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from minilora.errors import ConfigError, FormatError
from minilora.experiments.lab.experiment import Experiment, Plan, Point, Row
from minilora.files.json_files import append_json_line, parse_json
from minilora.files.reading import reading

try:
    import fcntl
except ImportError:  # Windows; there two runs into one file are not noticed
    fcntl = None  # type: ignore[assignment]

# Raised when the envelope changes.
FORMAT = 1

ENVELOPE = (
    "experiment",  # its name, and …
    "experiment_version",  # … the version of what its points mean
    "format",  # of the envelope
    "config_hash",  # of experiment, version and point: rows with the same one are the same run
    "plan",  # what of the plan decides the points besides seeds: steps and quick
    "command",  # that measures it again
    "seconds",  # that the measuring took
    "versions",  # of minilora, NumPy and Python
    "machine",  # cores, platform, BLAS
    "finished",  # when, in UTC
)


def config_hash(experiment: Experiment, point: Point) -> str:
    """16 hex digits that say which run this is. 16 and 16.0 are one number, as in JSON."""
    said = json.dumps(
        _canonical([experiment.name, experiment.version, point]),
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def make_row(
    experiment: Experiment, plan: Plan, point: Point, result: dict[str, Any], **envelope: Any
) -> Row:
    """A row of a point and what came out, just as it will be read again.

    Raises ConfigError if the result says otherwise what the row says already, FormatError if JSON
    cannot say it (NaN, for one).
    """
    envelope = {
        "experiment": experiment.name,
        "experiment_version": experiment.version,
        "format": FORMAT,
        "config_hash": config_hash(experiment, point),
        "plan": plan_of(plan),
        **envelope,
    }
    before = {**point, **envelope}
    result = _as_json(result)
    for name in result:
        if name in before and result[name] != before[name]:
            raise ConfigError(
                f"experiment {experiment.name}: its result has {name!r}, which is a field of the "
                "point or of every row already; give it another name"
            )
    return {**_as_json(point), **result, **_as_json(envelope)}


def plan_of(plan: Plan) -> dict[str, Any]:
    """What rows of one file must have in common besides the experiment; seeds may be added."""
    return {"steps": plan.steps, "quick": plan.quick}


def append(path: str | Path, row: Row) -> None:
    """Add a row with a single write, and see to it that it has reached the disk.

    Raises OSError, naming the file, for a full disk, for one; the rows before it are safe.
    """
    try:
        append_json_line(path, row)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def read_rows(
    path: str | Path,
    experiment: Experiment | None = None,
    *,
    plan: Plan | None = None,
    mend: bool = False,
) -> list[Row]:
    """All rows of a file, in its order.

    experiment   that they must be of; None: of whichever the first is
    plan         whose steps and quickness they must have; None: any
    mend         also cut an unfinished last line off the file, so that rows can be added

    The last line has no end if a process was killed while it wrote: it is left out, with a warning.
    So is a row whose config_hash was there before. Raises FormatError, with file and line, for any
    other line that is no row; ConfigError for a row of something else.
    """
    with reading(path, "rows"):
        whole, last = _cut(Path(path).read_bytes())
    rows: dict[str, Row] = {}
    for number, line in enumerate(whole.split(b"\n")[:-1], 1):
        row = _row(line, path, number)
        if experiment is not None:
            _check_kind(row, _wanted(experiment, plan), f"{path}, line {number}")
        elif rows:
            _check_kind(row, _kind(next(iter(rows.values()))), f"{path}, line {number}")
        if row["config_hash"] in rows:
            warnings.warn(
                f"{path}, line {number}: the point {row['config_hash']} is there already; "
                "the first row of it counts",
                stacklevel=2,
            )
        rows.setdefault(row["config_hash"], row)
    if last:
        warnings.warn(
            f"{path}: the last line is unfinished and does not count; its point is measured again "
            "when the run goes on",
            stacklevel=2,
        )
        if mend:
            os.truncate(path, len(whole))
    return list(rows.values())


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Be the only run that writes this file; it is made if need be, and not left behind empty.

    Raises ConfigError if another run writes it, OSError if it cannot be written.
    """
    path = Path(path)
    with open(path, "ab") as file:
        if fcntl is not None and not _taken(file):
            raise ConfigError(
                f"{path} is being written by another run; wait for it, or choose another file"
            )
        try:
            yield
        finally:
            if path.exists() and path.stat().st_size == 0:
                path.unlink()


def _taken(file: BinaryIO) -> bool:
    """Whether the lock is ours now, on a file that its last holder has not removed meanwhile."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(file.fileno()).st_nlink > 0


def _as_json(value: dict[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise FormatError(f"a row cannot be written as JSON: {error}; None says unknown") from error


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _cut(raw: bytes) -> tuple[bytes, bytes]:
    """The whole lines, and what stands after the last line's end."""
    end = raw.rfind(b"\n") + 1
    return raw[:end], raw[end:]


def _row(line: bytes, path: str | Path, number: int) -> Row:
    try:
        row = parse_json(line.decode(), path, number)
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}, line {number}: broken UTF-8; it is no row") from error
    missing = (
        ENVELOPE if not isinstance(row, dict) else [name for name in ENVELOPE if name not in row]
    )
    if missing:
        raise FormatError(
            f"{path}, line {number}: no row of an experiment, it has no {missing[0]!r}; take the "
            "line out, or choose another file"
        )
    return row


def _kind(row: Row) -> dict[str, Any]:
    """What all rows of a file must have in common."""
    alike = {name: row[name] for name in ("experiment", "format", "experiment_version")}
    return {**alike, **row["plan"]}


def _wanted(experiment: Experiment, plan: Plan | None) -> dict[str, Any]:
    wanted = {
        "experiment": experiment.name,
        "format": FORMAT,
        "experiment_version": experiment.version,
    }
    return wanted if plan is None else {**wanted, **plan_of(plan)}


def _check_kind(row: Row, wanted: dict[str, Any], where: str) -> None:
    kind = _kind(row)
    for name, value in wanted.items():
        if kind.get(name) != value:
            there, here = ("as usual" if v is None else v for v in (kind.get(name), value))
            raise ConfigError(
                f"{where}: {name} is {there} there and {here} here; such rows do not go together: "
                "choose another file, or move that one away and measure again"
            )
