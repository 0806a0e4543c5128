"""Threads that share a batch, and memory that is kept: faster, and the same results."""

import ctypes
import os
import platform
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from minilora import runtime
from minilora.autograd import backward
from minilora.errors import ConfigError
from minilora.optim import AdamW
from minilora.runtime import Turns, cores, keep_memory, n_threads, parallel, split
from minilora.training import loss_and_gradients, train_step


@given(st.integers(0, 500), st.integers(1, 40))
def test_split_cuts_into_runs_that_cover_all_and_differ_by_at_most_one(n, parts):
    runs = split(n, parts)
    assert [i for run in runs for i in range(n)[run]] == list(range(n))
    sizes = [run.stop - run.start for run in runs]
    assert len(runs) == min(n, parts)
    assert all(sizes) and (not sizes or max(sizes) - min(sizes) <= 1)


def test_parallel_keeps_the_order_and_runs_each_once():
    calls = []

    def square(i):
        calls.append(i)
        return i * i

    assert parallel(square, range(20)) == [i * i for i in range(20)]
    assert sorted(calls) == list(range(20))


def test_parallel_runs_at_the_same_time_in_threads_of_their_own():
    """Each waits for all the others: one after the other they would wait for ever."""
    everyone = threading.Barrier(3, timeout=60)

    def meet(_):
        everyone.wait()
        return threading.get_ident()

    assert len({*parallel(meet, range(3)), threading.get_ident()}) == 4


@pytest.mark.parametrize("items", [[], [1]])
def test_for_one_item_or_none_no_thread_is_needed(items):
    assert parallel(lambda _: threading.get_ident(), items) == [threading.get_ident()] * len(items)


@pytest.mark.parametrize("failing", [[0], [2], [1, 3], [0, 1, 2, 3]])
def test_the_first_failure_is_raised_once_after_all_have_ended(failing):
    ended = []

    def work(i):
        ended.append(i)
        if i in failing:
            raise KeyError(i)
        return i

    with pytest.raises(KeyError) as caught:
        parallel(work, range(4))
    assert caught.value.args == (failing[0],)
    assert sorted(ended) == [0, 1, 2, 3]
    assert parallel(lambda i: i, range(4)) == [0, 1, 2, 3]  # and the threads live on


def test_a_call_inside_a_call_does_not_wait_for_itself():
    """A sweep in threads that train in threads. In a process that can be ended if it hangs."""
    script = (
        "from minilora.runtime import parallel\n"
        "inner = lambda i: parallel(lambda j: 10 * i + j, range(2))\n"
        "print(parallel(inner, range(2)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "[[0, 1], [10, 11]]"


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_a_blas_that_is_loaded_later_is_held_too():
    pytest.importorskip("scipy")
    script = (
        "import numpy\n"
        "from threadpoolctl import threadpool_info, threadpool_limits\n"
        "from minilora.runtime import parallel\n"
        "parallel(abs, [1, 2])\n"
        "import scipy.linalg\n"
        "def blas(_):\n"
        "    return [p['num_threads'] for p in threadpool_info() if p['user_api'] == 'blas']\n"
        "with threadpool_limits(2, user_api='blas'):\n"
        "    print(parallel(blas, [1, 2]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert set(done.stdout) <= set("[1, ]\n"), done.stdout


def test_blas_is_held_to_one_thread_meanwhile_and_let_go_after():
    with threadpool_limits(2, user_api="blas"):
        assert parallel(lambda _: blas_threads(), range(2)) == [{1}, {1}]
        assert blas_threads() == {2}
        with pytest.raises(KeyError):
            parallel(lambda i: {}[i], range(2))
        assert blas_threads() == {2}


@pytest.fixture
def environment(monkeypatch):
    for name in ("MINILORA_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch.setenv


def test_threads_are_the_cores_unless_said_otherwise(environment):
    assert n_threads() == cores() >= 1
    environment("OMP_NUM_THREADS", "1")
    assert n_threads() == 1
    environment("OMP_NUM_THREADS", "10000")
    assert n_threads() == cores()
    environment("MINILORA_THREADS", " 7 ")
    assert n_threads() == 7
    environment("MINILORA_THREADS", "")
    assert n_threads() == cores()


def test_a_list_of_nested_levels_is_what_openmp_allows_too(environment):
    environment("OMP_NUM_THREADS", "1,4")
    assert n_threads() == 1


@pytest.mark.parametrize("variable", ["MINILORA_THREADS", "OMP_NUM_THREADS"])
@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "²", "1e3"])
def test_threads_that_are_no_count_are_met_with_words(environment, variable, value):
    environment(variable, value)
    with pytest.raises(ConfigError, match=rf"{variable}='{value}' must be a whole number from 1"):
        n_threads()


def test_a_training_step_says_so_too(environment, tiny, tiny_batch):
    model = tiny()
    environment("MINILORA_THREADS", "many")
    with pytest.raises(ConfigError, match="MINILORA_THREADS='many'"):
        train_step(model, AdamW(model.parameters()), *tiny_batch)


def losses_and_weights(model, batch, steps=10):
    optimizer = AdamW(model.parameters(), lr=3e-3)
    losses = [train_step(model, optimizer, *batch) for _ in range(steps)]
    return losses, [p.data for p in model.parameters()]


@pytest.mark.parametrize("n", [2, 3, 4, 5, 16])
def test_any_number_of_threads_trains_alike(tiny, tiny_batch, threads, n):
    """Also more than there are rows, and shares with unequal numbers of targets."""
    threads(1)
    serial, _ = losses_and_weights(tiny(), tiny_batch)
    threads(n)
    shared, _ = losses_and_weights(tiny(), tiny_batch)
    assert serial[-1] < serial[0] - 0.5
    assert np.abs(np.subtract(serial, shared)).max() <= 1e-5


@pytest.mark.parametrize("n", [1, 2, 3])
def test_one_number_of_threads_gives_one_result_to_the_bit(tiny, tiny_batch, threads, n):
    threads(n)
    (losses, weights), (again, others) = (losses_and_weights(tiny(), tiny_batch) for _ in range(2))
    assert losses == again
    assert all(a.tobytes() == b.tobytes() for a, b in zip(weights, others, strict=True))


@pytest.mark.parametrize("n", [1, 2, 8])
def test_shared_gradients_are_those_of_the_whole_batch(tiny, tiny_batch, threads, n):
    threads(n)
    model = tiny(dtype=np.float64)
    whole = model.loss(*tiny_batch)
    expected = backward(whole)
    loss, gradients = loss_and_gradients(model, *tiny_batch)
    assert loss == pytest.approx(whole.item(), rel=1e-13)
    assert set(gradients) == set(expected)
    for p, g in gradients.items():
        assert np.abs(g - expected[p]).max() <= 1e-14
        assert p.grad is None  # handed back as values


@pytest.mark.parametrize("n", [1, 4])
def test_a_batch_of_one(tiny, tiny_batch, threads, n):
    threads(n)
    model, (ids, labels) = tiny(), (a[:1] for a in tiny_batch)
    expected = model.loss(ids, labels).item()
    assert train_step(model, AdamW(model.parameters()), ids, labels) == pytest.approx(expected)


def test_a_share_without_targets_adds_nothing(tiny, tiny_batch, threads):
    threads(2)
    model, (ids, labels) = tiny(dtype=np.float64), tiny_batch
    labels[3:] = -100
    whole = model.loss(ids, labels)
    loss, gradients = loss_and_gradients(model, ids, labels)
    assert loss == pytest.approx(whole.item(), rel=1e-13)
    for p, g in backward(whole).items():
        assert np.abs(gradients[p] - g).max() <= 1e-14


def test_memory_is_kept_by_glibc_unless_said_otherwise(monkeypatch):
    asked = []

    class CLibrary:
        def __init__(self, name):
            pass

        def mallopt(self, option, value):
            asked.append(option)
            return 1

    fresh = keep_memory.__wrapped__  # it acts once for the process, and has done so already
    monkeypatch.setattr(ctypes, "CDLL", CLibrary)
    monkeypatch.setattr(runtime.platform, "libc_ver", lambda: ("glibc", "2.35"))
    monkeypatch.setenv("MINILORA_KEEP_MEMORY", "0")
    assert fresh() is False and asked == []
    monkeypatch.setenv("MINILORA_KEEP_MEMORY", "1")
    assert fresh() is True and len(asked) == 4
    monkeypatch.delenv("MINILORA_KEEP_MEMORY")
    assert fresh() is True and len(asked) == 8
    monkeypatch.setattr(runtime.platform, "libc_ver", lambda: ("musl", "1.2"))
    assert fresh() is False and len(asked) == 8


def test_kept_memory_changes_no_bit():
    script = """
import numpy as np
from minilora import AdamW, ModelConfig, Transformer, train_step
from minilora.runtime import keep_memory
model = Transformer(ModelConfig(30, 24, 40, 2, 4))
optimizer = AdamW(model.parameters())
ids = np.random.default_rng(0).integers(0, 30, (4, 9))
print(keep_memory(), *[train_step(model, optimizer, ids, ids).hex() for _ in range(3)])
"""
    said = []
    for value in ("0", "1"):
        env = {**os.environ, "MINILORA_KEEP_MEMORY": value, "MINILORA_THREADS": "2"}
        done = subprocess.run(
            [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
        )
        said.append(done.stdout.split())
    (off, *losses), (on, *others) = said
    assert len(losses) == 3 and losses == others
    assert (off, on) == ("False", str(platform.libc_ver()[0] == "glibc"))


def test_turns_are_taken_in_order_whoever_is_faster():
    turns, said = Turns(3), []

    def share(i):
        for what in ("head", "layer", "head"):
            time.sleep(0.01 * (2 - i))  # the last is the fastest
            with turns.take(i, what):
                said.append((what, i))

    parallel(share, range(3))
    for what, rounds in (("head", 2), ("layer", 1)):
        assert [i for w, i in said if w == what] == [0, 1, 2] * rounds


@pytest.mark.parametrize("faulty", [0, 1, 2])
def test_who_waits_for_a_share_that_failed_is_let_go_and_the_fault_is_what_is_told(faulty):
    turns = Turns(3)

    def share(i):
        with turns.share():
            for _ in range(2):
                if i == faulty:
                    raise KeyError("the fault")
                with turns.take(i, "x"):
                    pass

    with pytest.raises(KeyError, match="the fault"):
        parallel(share, range(3))
