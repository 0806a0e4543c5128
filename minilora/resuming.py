"""Runs that stop and go on: what is written down on the way, and how it is taken up again.

A checkpoint is one file with the trained weights, the optimizer's state and the history; which
batch comes next, and what dropout draws, follow from the number of the step alone. So a run that
was stopped and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minilora.errors import FormatError
from minilora.files.atomic import whole_file
from minilora.files.json_files import append_json_line
from minilora.files.safetensors import read_metadata, read_tensors, write_tensors
from minilora.optim import AdamW


@dataclass
class History:
    """What a run has gone through: the loss and the seconds of each step."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    interrupted: bool = False


def save_checkpoint(
    path: str | Path,
    model: Any,
    optimizer: AdamW,
    history: History,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Everything a run needs to go on, in one safetensors file, whole or not at all."""
    arrays = {f"model.{n}": p.data for n, p in model.named_parameters() if p.requires_grad}
    arrays |= {f"optimizer.{n}": a for n, a in optimizer.state_dict().items()}
    said = json.dumps({"losses": history.losses, "seconds": history.seconds})
    about = {"format": "minilora checkpoint", "history": said}
    write_tensors(path, arrays, about | {"settings": json.dumps(settings or {})})


def load_checkpoint(
    path: str | Path, model: Any, optimizer: AdamW, settings: Mapping[str, Any] | None = None
) -> History:
    """Put a saved state into model and optimizer. FormatError if it is of another run."""
    said, arrays = read_metadata(path), read_tensors(path)
    if said.get("format") != "minilora checkpoint":
        raise FormatError(f"{path} is not a checkpoint of minilora")
    trainable = {f"model.{n}": p for n, p in model.named_parameters() if p.requires_grad}
    found = {n: a.shape for n, a in arrays.items() if n.startswith("model.")}
    if found != {n: p.shape for n, p in trainable.items()}:
        raise FormatError(
            f"{path} is the checkpoint of another run: it trains other parameters "
            "than this one; take another --out, or leave --resume out"
        )
    saved = json.loads(said.get("settings", "{}"))
    now = json.loads(json.dumps(settings or {}))
    for name in now:
        if name in saved and saved[name] != now[name]:
            raise FormatError(
                f"{path} is of a run with {name} {saved[name]!r}, not {now[name]!r}: go on with "
                "the same settings, or leave --resume out"
            )
    try:
        history = History(**json.loads(said["history"]))
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} does not say how far its run had come; it is damaged") from error
    optimizer.load_state_dict(
        {n.removeprefix("optimizer."): a for n, a in arrays.items() if n.startswith("optimizer.")}
    )
    for name, p in trainable.items():
        p.data[...] = arrays[name]
    return history


def begin_log(log: Path, n: int) -> None:
    """Keep the first n lines: a run that died had gone on after its last checkpoint."""
    if log.exists():
        lines = log.read_bytes().splitlines(keepends=True)[:n]
        with whole_file(log) as file:
            file.writelines(lines)


def log_step(log: str | Path, history: History, lr: float) -> None:
    """Add a line about the step that was just taken."""
    step, loss, seconds = len(history.losses), history.losses[-1], history.seconds[-1]
    append_json_line(log, {"step": step, "loss": loss, "lr": lr, "seconds": round(seconds, 4)})


@contextmanager
def ctrl_c() -> Iterator[threading.Event]:
    """Turn Ctrl-C into a wish that the loop grants between two steps; the second is at once."""
    wanted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield wanted
        return
    before = signal.getsignal(signal.SIGINT)

    def note(signum: int, frame: Any) -> None:
        if wanted.is_set():
            raise KeyboardInterrupt
        wanted.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield wanted
    finally:
        signal.signal(signal.SIGINT, before)
