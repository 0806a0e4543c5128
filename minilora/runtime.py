"""What makes NumPy fast, apart from what is computed: memory that is kept, threads that share.

Two things stand between NumPy and the speed of this machine, and neither is in the mathematics.
Large arrays are handed back to the operating system as soon as they are freed, and asked for anew
in the next operation, page by page: that alone was 36 to 42 % of a training step. And a product of
many small matrices leaves all cores but one idle, while element-wise work always does. So memory is
kept (`keep_memory`), and a batch is cut into shares of rows, one thread each (`parallel`): NumPy
lets go of Python's lock while it computes.

Environment:  MINILORA_THREADS=n       threads that share a batch (default: the cores there are,
                                       or OMP_NUM_THREADS if that is fewer)
              MINILORA_KEEP_MEMORY=0   give memory back to the system as usual
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from minilora.errors import ConfigError

_thread = threading.local()

T = TypeVar("T")
R = TypeVar("R")

# From glibc's malloc.h: option, value.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_KEEP = (
    (_M_MMAP_MAX, 0),  # large arrays come from the heap, which can be kept, not from mmap
    (_M_TRIM_THRESHOLD, 2**31 - 1),  # do not give the end of the heap back
    (_M_TOP_PAD, 64 * 2**20),  # grow by 64 MiB at a time
    (_M_ARENA_MAX, 1),  # one heap for all threads
)


@cache
def keep_memory() -> bool:
    """Ask the C library to keep freed memory for the next array. True if it was done.

    Done once for the process, by `train_step` and by the command line; nothing where the C library
    is not glibc, or if MINILORA_KEEP_MEMORY=0.
    """
    if os.environ.get("MINILORA_KEEP_MEMORY", "1") == "0" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    done = [mallopt(option, value) for option, value in _KEEP]  # all of them, in this order
    return done == [1] * len(_KEEP)


def resident_peak() -> int:
    """The most bytes of this process that were in memory at once, whatever they were for."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not `ru_maxrss`: a process inherits that from the one that started it.
        line = next(each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource  # not on Windows

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def n_threads() -> int:
    """How many threads share a batch. ConfigError if an environment variable is no count."""
    asked = _positive("MINILORA_THREADS")
    return asked or min(cores(), _positive("OMP_NUM_THREADS") or cores())


@contextmanager
def threads_set_to(n: int) -> Iterator[None]:
    """Inside this `with`, `n_threads()` is n, here and in processes that are started."""
    before = os.environ.get("MINILORA_THREADS")
    os.environ["MINILORA_THREADS"] = str(n)
    try:
        with _blas().limit(limits=n, user_api="blas"):
            yield
    finally:
        if before is None:
            del os.environ["MINILORA_THREADS"]
        else:
            os.environ["MINILORA_THREADS"] = before


def _positive(variable: str) -> int | None:
    # OpenMP takes a list, a number for each level of nesting; the first is the one meant here.
    text = os.environ.get(variable, "").split(",")[0].strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) == 0:
        raise ConfigError(f"{variable}={text!r} must be a whole number from 1; unset it or mend it")
    return int(text)


def split(n: int, parts: int) -> list[slice]:
    """0…n cut into at most `parts` runs, none empty, no two differing by more than one."""
    parts = min(parts, n)
    if parts == 0:
        return []
    edges = [n * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


# A model of so many numbers has products that are worth BLAS's own threads.
_LARGE = 10_000_000


def parallel(function: Callable[[T], R], items: Sequence[T], *, size: int = 0) -> list[R]:
    """[function(item) for item in items], each in a thread of its own, in the items' order.

    BLAS is held to one thread meanwhile, so that it does not fight over the same cores. A single
    item leaves it all of them if the work is large (`size`, the model's numbers): its threads wait
    for each other by spinning, and where products are small that costs many times what it gains.
    If calls fail, the first failure in the items' order is raised, after all have ended.
    """
    # From within a share there are no threads left to hand out: the calls come one after another.
    if in_a_share():
        return [function(item) for item in items]
    if len(items) <= 1:
        with _blas().limit(limits=n_threads() if size >= _LARGE else 1, user_api="blas"):
            return [function(item) for item in items]

    def share(item: T) -> R:
        _thread.shares = True
        return function(item)

    with _blas().limit(limits=1, user_api="blas"):
        futures = [
            _worker(os.getpid(), i).submit(copy_context().run, share, item)
            for i, item in enumerate(items)
        ]
        failures = [future.exception() for future in futures]  # waits
    for failure in failures:
        if failure is not None and not isinstance(failure, AbandonedError):
            raise failure
    return [future.result() for future in futures]


def in_a_share() -> bool:
    """Whether this runs in a thread that `parallel` has started."""
    return getattr(_thread, "shares", False)


class AbandonedError(Exception):
    """A share was waiting for another one that has failed."""


class Turns:
    """Shares do a thing one after the other, in their order, and then again from the first.

    So a sum over shares is made in one order, whichever is faster, and none has to keep its part
    until all are done. They must run at the same time, as those of `parallel` do.
    """

    def __init__(self, n: int):
        self._n = n
        self._taken: Counter[Hashable] = Counter()
        self._changed = threading.Condition()
        self._failed = False

    @contextmanager
    def take(self, i: int, what: Hashable) -> Iterator[None]:
        """Wait until it is the i-th share's turn at `what`; it ends with the `with`."""
        with self._changed:
            self._changed.wait_for(lambda: self._failed or self._taken[what] % self._n == i)
            if self._failed:
                raise AbandonedError
        yield
        with self._changed:
            self._taken[what] += 1
            self._changed.notify_all()

    @contextmanager
    def share(self) -> Iterator[None]:
        """Around a whole share: if it fails, those that wait for it are told."""
        try:
            yield
        except BaseException:
            with self._changed:
                self._failed = True
                self._changed.notify_all()
            raise


def _blas() -> ThreadpoolController:
    """All BLAS libraries that are loaded, also those that came after NumPy's: SciPy's, say."""
    return _blas_among(len(sys.modules))


@lru_cache(1)
def _blas_among(n_modules: int) -> ThreadpoolController:
    # Looking through the loaded libraries takes milliseconds: only when something was imported.
    return ThreadpoolController()


@cache
def _worker(pid: int, i: int) -> ThreadPoolExecutor:
    """The thread that takes the i-th share, always the same one.

    One for each process: a fork inherits the object, but not its thread.
    """
    return ThreadPoolExecutor(1, thread_name_prefix=f"minilora-{i}")
