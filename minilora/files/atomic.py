"""A write is whole or did not happen, for one file and for several that belong together.

One file is written under a temporary name in the same folder, flushed to the disk, and renamed
over the old one: renaming is the one step that the operating system does all at once. A reader,
and a machine that loses power or a process that is killed, meets the old file or the new one.

Several files (an adapter is its settings and its arrays) cannot be renamed at once, but the folder
that holds them can. They are written into a hidden folder beside their places; renaming that to
`.ready` is the moment at which the new ones count, and then each moves to its place. Killed before
that moment, the old files are all there; killed after it, `locate` finds each new file wherever it
has got to, and the next write finishes the moving. Only a program that does not ask `locate`
(transformers, PEFT) and comes between a kill at just that time and the next write can meet a
folder of which a part is new.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from minilora.errors import ConfigError

_STAGING = ".writing"
_READY = ".ready"


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file to write to, which takes the place of `path` when the block ends well.

    When the block raises, or the disk is full, or the folder cannot be written, that error
    surfaces, `path` is as it was and nothing else is left behind. Folders on the way are made.

    Raises OSError for what the operating system refuses, also for a `path` that is not a plain
    file (renaming over `/dev/null` would replace the device).
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "Not a plain file, so it is not written", str(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    with _made(target.parent):
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            if isinstance(error, OSError) and error.filename in (None, str(temporary)):
                error.filename = os.fspath(path)
            raise
    _sync_folder(target.parent)


@contextlib.contextmanager
def whole_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty folder to write files in, which take their places in `folder` together.

    Other files in `folder` stay. Readers that may come after a kill ask `locate` where a file is.
    When the block raises, that error surfaces and `folder` is as it was. One writer at a time.

    Raises OSError for what the operating system refuses, ConfigError for an empty name.
    """
    folder = _named(folder)
    staging = folder / _STAGING
    with _made(folder):
        try:
            # What a killed write left unfinished never counted; what it left ready does.
            shutil.rmtree(staging, ignore_errors=True)
            _finish(folder)
            staging.mkdir()
            yield staging
            _sync_folder(staging)
            os.rename(staging, folder / _READY)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    _sync_folder(folder)
    _finish(folder)


def locate(folder: str | os.PathLike[str], name: str) -> Path:
    """Where the file `name` of a folder that `whole_folder` writes is; it need not exist.

    It is `folder / name`, except after a write that was killed while its files were moving.
    Nothing is changed by looking, so it works for folders that are read-only.
    """
    waiting = Path(folder) / _READY / name
    return waiting if waiting.exists() else Path(folder) / name


@contextlib.contextmanager
def made_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder that can be written to, made if need be; before long work, not after it.

    When the block raises, folders that were made and are still empty are taken back.

    Raises OSError naming the folder if it cannot be made or written, ConfigError for an empty name.
    """
    folder = _named(folder)
    with _made(folder):
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(folder)) from error
        yield folder


def _named(folder: str | os.PathLike[str]) -> Path:
    """The folder that is meant. ConfigError for an empty name, which Path takes for this one."""
    if not os.fspath(folder):
        raise ConfigError(
            "the folder to write is '', an empty name; give a folder, such as 'tuned'"
        )
    return Path(folder)


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder and those above it, and take back those that were made if the block raises."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for each in missing:
            with contextlib.suppress(OSError):
                each.rmdir()
        raise


def _finish(folder: Path) -> None:
    """Move the files of a write that counts already to their places."""
    ready = folder / _READY
    if not ready.is_dir():
        return
    for file in sorted(ready.iterdir()):
        os.replace(file, folder / file.name)
    _sync_folder(folder)
    ready.rmdir()


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a loss of power, where the system offers that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know no fsync for folders; the renaming itself is done.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
