"""Hand results on to TensorBoard or MLflow, for who follows runs there; the rows stay what counts.

A value that begins with `mlflow:`, `file:`, `http:` or `https:` is MLflow's (`mlflow:` is taken
off); anything else is a folder for TensorBoard's event files, one folder below it a point.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minilora.errors import ConfigError, MissingExtraError, require

Row = dict[str, Any]
Scalar = tuple[str, float, int]


@contextmanager
def tracker(track: str | None, experiment: str) -> Iterator[Callable[[Row], None]]:
    """What takes each row as it is finished. MissingExtraError without the library it needs."""
    if track is None:
        yield lambda row: None
        return
    if track.startswith(("mlflow:", "file:", "http:", "https:")):
        note = _mlflow(track.removeprefix("mlflow:"), experiment)
    else:
        note = _tensorboard(Path(track), experiment)

    def take(row: Row) -> None:
        # The row is safe already: whatever ails the tracker, the run goes on.
        try:
            note(row)
        except Exception as error:
            warnings.warn(
                f"--track {track}: {row['config_hash']} is not there: {error}", stacklevel=1
            )

    yield take


def scalars(row: Row) -> Iterator[Scalar]:
    """(name, value, step) of all that has a course, and of the results that are numbers."""
    for step, loss in row.get("losses") or []:
        yield "loss", loss, step
    for look in row.get("curve") or []:
        for name, value in look.items():
            if name != "step" and _is_number(value):
                yield f"validation/{name}", value, look["step"]
    last = row.get("steps") or 0
    for name, value in row.items():
        if _is_number(value):
            yield f"row/{name}", value, last


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tensorboard(folder: Path, experiment: str) -> Callable[[Row], None]:
    tensorboard = require("tensorboardX", extra="track", purpose="--track")

    def note(row: Row) -> None:
        place = folder / experiment / row["config_hash"]
        with tensorboard.SummaryWriter(str(place)) as writer:
            for name, value, step in scalars(row):
                writer.add_scalar(name, value, step)

    return note


def _mlflow(address: str, experiment: str) -> Callable[[Row], None]:
    # Without a database a folder is all that is left, and a server that is not there is no riddle.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    tracking = require("mlflow.tracking", extra="track", purpose="--track")
    try:
        client = tracking.MlflowClient(address)
        found = client.get_experiment_by_name(experiment)
        home = found.experiment_id if found else client.create_experiment(experiment)
    except Exception as error:  # MLflow has an error of its own for each kind of store
        if isinstance(error, MissingExtraError):
            raise
        raise ConfigError(f"--track {address!r}: MLflow says: {error}") from error

    def note(row: Row) -> None:
        made = client.create_run(home, run_name=row["config_hash"])
        for name, value in row.items():
            if isinstance(value, str | int | float):
                client.log_param(made.info.run_id, name, value)
        for name, value, step in scalars(row):
            client.log_metric(made.info.run_id, name, value, step=step)
        client.set_terminated(made.info.run_id)

    return note
