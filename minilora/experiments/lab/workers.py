"""Who measures: this process, joblib's processes, or a Dask cluster.

Each hands over outcomes one by one, as they are finished. Every measuring has one thread to itself,
so that a row does not depend on how many were measured at once. Workers never hear Ctrl-C, for
their parent ends them; and where it was killed itself, they end within a second.

A Dask worker that dies costs the points it was at: the scheduler gives them to another one, up to
three times. Dask is asked directly, and not through joblib's backend for it: that one waits for
ever for a point that Dask has given up (joblib 1.6).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits
from tqdm import tqdm

import minilora
from minilora.errors import ConfigError, MiniloraError, require
from minilora.experiments.lab.experiment import Point
from minilora.runtime import cores, threads_set_to

# How long a Dask scheduler, and then its first worker, may take to answer.
DASK_SECONDS = 10


class Outcome(NamedTuple):
    """What measuring a point gave: a result or an error's words, and what a row says besides."""

    point: Point
    result: dict[str, Any] | None
    error: str | None
    about: dict[str, Any]


Measuring = Callable[[Callable[[Point], dict[str, Any]], list[Point]], Iterable[Outcome]]


@contextlib.contextmanager
def workers(jobs: int, dask: str | None) -> Iterator[tuple[int, Measuring]]:
    """How many points are measured at once, and what measures them."""
    if dask is not None:
        with _client(dask, jobs) as client:
            yield sum(client.ncores().values()), partial(_on_dask, client)
    elif jobs == 1:
        with threads_set_to(1):
            yield 1, lambda measure, points: (_measured(measure, point) for point in points)
    else:
        require("joblib", extra="sweep", purpose="more than 1 of --jobs")
        _start_tracker()
        try:
            yield jobs, partial(_in_processes, jobs)
        except BaseException:
            from joblib.externals.loky import get_reusable_executor

            get_reusable_executor().shutdown(wait=True, kill_workers=True)
            raise


def _start_tracker() -> None:
    """Start the process that takes away the semaphores of runs that were ended: quietly.

    Ctrl-C can fall between the removal of a semaphore and the word of it. The tracker then warns
    that it found none to remove, which is no news to a reader, in the midst of what is.
    """
    from joblib.externals.loky.backend import resource_tracker

    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [before, "ignore:resource_tracker"]))
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


def _in_processes(
    jobs: int, measure: Callable[[Point], dict[str, Any]], points: list[Point]
) -> Iterator[Outcome]:
    """Outcomes in the order in which they are finished, from joblib's processes."""
    import joblib

    with joblib.parallel_config(
        "loky",
        n_jobs=jobs,
        inner_max_num_threads=1,
        initializer=_mind,
        initargs=(os.getpid(),),
    ):
        parallel = joblib.Parallel(
            return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs"
        )
    with _deaf_to_ctrl_c():
        outcomes = parallel(joblib.delayed(_measured_in_worker)(measure, p) for p in points)
    try:
        yield from outcomes
    except BrokenProcessPool as error:
        raise ConfigError(
            "a worker process was killed, perhaps for want of memory; the rows so far are kept: "
            "give the same command again, with fewer --jobs"
        ) from error
    finally:
        outcomes.close()


def _on_dask(
    client: Any, measure: Callable[[Point], dict[str, Any]], points: list[Point]
) -> Iterator[Outcome]:
    """Outcomes in the order in which they are finished, from the workers of a cluster.

    A point that several workers died with is given up, perhaps together with one that only waited
    there: Dask cannot tell which of them it was.
    """
    from distributed import KilledWorker, as_completed

    futures = {client.submit(_measured_in_worker, measure, p, pure=False): p for p in points}
    try:
        for future in as_completed(futures, loop=client.loop):
            if future.status == "cancelled":
                raise ConfigError(
                    "the Dask scheduler has gone away; the rows so far are kept: give the same "
                    "command again when it is back"
                )
            if isinstance(future.exception(), KilledWorker):
                why = "several Dask workers died while they had it, perhaps for want of memory"
                yield Outcome(futures[future], None, why, {})
            else:
                yield future.result()
    finally:
        client.cancel(list(futures))


@contextlib.contextmanager
def _client(address: str, jobs: int) -> Iterator[Any]:
    """A client of the scheduler at that address, with workers; "local": of one started here."""
    distributed = require("distributed", extra="sweep", purpose="--dask")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        where: Any = address
        if address == "local":
            where = distributed.LocalCluster(
                n_workers=jobs,
                threads_per_worker=1,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
            stack.enter_context(where)
        else:
            _check_scheduler(distributed, address)
        client = stack.enter_context(
            distributed.Client(where, timeout=DASK_SECONDS, set_as_default=False)
        )
        try:
            client.wait_for_workers(1, timeout=DASK_SECONDS)
        except TimeoutError as error:
            raise ConfigError(
                f"the Dask scheduler at {address!r} has no workers; start some, with "
                f"`dask worker {address} --nthreads 1`"
            ) from error
        if address == "local":
            client.run(_ignore_ctrl_c)
        yield client


def _check_scheduler(distributed: Any, address: str) -> None:
    """ConfigError if no scheduler answers. A Client that met none would not go quickly."""

    async def ask() -> None:
        connection = await distributed.comm.connect(address, timeout=DASK_SECONDS)
        connection.abort()

    try:
        with ThreadPoolExecutor(1) as other:  # a notebook's own thread has a loop already
            other.submit(lambda: asyncio.run(ask())).result()
    except Exception as error:  # what speaks another language there can be misread in any way
        raise ConfigError(
            f"no Dask scheduler answers at {address!r}; give an address such as "
            "tcp://127.0.0.1:8786, where `dask scheduler` runs, or local"
        ) from error


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes that are started in here never hear Ctrl-C: their parent ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _mind(parent: int) -> None:
    """First thing in a process of joblib's: no Ctrl-C, and no life after the parent's."""
    if hasattr(signal, "pthread_sigmask"):
        # `train` listens to Ctrl-C; blocked it never arrives.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])

    # The bars of training would take a lock from the system each, and a killed process keeps it.
    tqdm.set_lock(threading.RLock())

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@cache
def _one_thread() -> None:
    """For good, in a process that does nothing but measure."""
    os.environ["MINILORA_THREADS"] = "1"
    threadpool_limits(1, "blas")


def _measured_in_worker(measure: Callable[[Point], dict[str, Any]], point: Point) -> Outcome:
    _one_thread()
    return _measured(measure, point)


def _measured(measure: Callable[[Point], dict[str, Any]], point: Point) -> Outcome:
    began, result, said = time.perf_counter(), None, None
    try:
        result = measure(point)
    except MiniloraError as error:
        said = str(error)
    about = {
        "seconds": round(time.perf_counter() - began, 3),
        "versions": {
            "minilora": minilora.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "machine": machine(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Outcome(point, result, said, about)


@cache
def machine() -> dict[str, Any]:
    """What this runs on: cores, platform, and NumPy's BLAS."""
    blas = [f"{b['internal_api']} {b['version']}" for b in threadpool_info() if b["prefix"]]
    return {"cores": cores(), "platform": platform.platform(), "blas": ", ".join(blas)}
