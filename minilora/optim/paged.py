"""AdamW whose m and v lie in a file: the operating system pages in what a step is just at.

The file is mapped into memory, so the moments are arrays like others, and the update is AdamW's
own, bit for bit. After a tensor has moved its pages are given back: the process holds the moments
of one tensor at a time, and the system keeps as much of the file in memory as it has to spare.

QLoRA's paged optimizer (arXiv 2305.14314, section 3) is the same between a card's memory and the
machine's.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minilora.autograd import Parameter
from minilora.errors import ConfigError
from minilora.optim.adamw import AdamW


class PagedAdamW(AdamW):
    """`AdamW` with m and v in a file without a name, which vanishes with the optimizer.

    folder   where the file is; None: the system's for temporary files. On some systems that one is
             kept in memory (tmpfs), and then nothing is won: name one on a disk

    Raises ConfigError as AdamW, and if the folder has no room for the file.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        folder: str | Path | None = None,
    ):
        self.folder = folder
        self._map: mmap.mmap | None = None
        self._at: dict[Parameter, tuple[int, int]] = {}
        super().__init__(parameters, lr, betas, eps, weight_decay)

    def _make_moments(self) -> None:
        offset = 0
        for p in self.parameters():  # each on pages of its own, so that they can be given back
            length = 2 * p.data.nbytes
            self._at[p] = offset, length
            offset += -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
        if all(isinstance(p.data, np.ndarray) for p in self.parameters()):
            self._map = _mapped(offset, self.folder)
        for p in self.parameters():
            self.m[p], self.v[p] = self._arrays(p)

    def _arrays(self, p: Parameter) -> Any:
        if self._map is None:
            return np.zeros_like(p.data), np.zeros_like(p.data)  # shadows
        both = np.frombuffer(self._map, p.dtype, 2 * p.size, self._at[p][0])
        return both.reshape(2, *p.shape)

    def _move(self, p: Parameter, g: np.ndarray, group: Mapping[str, Any]) -> None:
        super()._move(p, g, group)
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            offset, length = self._at[p]
            self._map.madvise(mmap.MADV_DONTNEED, offset, length)

    def moments(self) -> Iterator[tuple[Parameter, str, np.ndarray]]:
        return iter(())

    @property
    def paged_bytes(self) -> int:
        return sum(array.nbytes for array in (*self.m.values(), *self.v.values()))


def _mapped(n_bytes: int, folder: str | Path | None) -> mmap.mmap:
    """A new file of zeros, all of its room set aside, as memory. It has no name to be left by."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # or a full disk would be found out in the middle
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            else:
                file.truncate(n_bytes)
            return mmap.mmap(file.fileno(), n_bytes)
    except OSError as error:
        place = folder or tempfile.gettempdir()
        why = "there is no room" if error.errno == errno.ENOSPC else error.strerror
        raise ConfigError(
            f"m and v need a file of {n_bytes:,} bytes in {place}: {why}; "
            "give another folder, or optimizer adamw-8bit, which needs a quarter"
        ) from None
