"""Whatever goes wrong while a file is read is a `FormatError` that names the file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from minilora.errors import FormatError, MiniloraError


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Turn what the libraries and the system raise about `path` into one `FormatError`.

    kind: what the file should be, as a word in a sentence: "JSON", "a safetensors file".
    """
    try:
        yield
    except MiniloraError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise FormatError(f"{os.fspath(path)}: cannot be read as {kind} ({reason})") from error
    except Exception as error:
        # The libraries raise bare Exception, KeyError and more from their depths; all of them
        # mean the same here, and MemoryError and Ctrl-C are not among what should pass as this.
        if isinstance(error, MemoryError):
            raise
        raise damaged(path, kind, str(error) or type(error).__name__) from error


def damaged(path: str | os.PathLike[str], kind: str, reason: str) -> FormatError:
    """The error for a file that is there but is not, or no longer, what it should be."""
    return FormatError(f"{os.fspath(path)}: not {kind}, or damaged: {reason}; get the file again")
