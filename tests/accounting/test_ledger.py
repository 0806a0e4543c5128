"""Bytes of a step: counted where they lie, and held against what NumPy says it has allocated."""

import gc
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from minilora.accounting import activation_bytes, ledger
from minilora.autograd import tape
from minilora.optim import AdamW
from minilora.peft import LoraConfig, get_peft_model
from minilora.training import train_step

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])


@pytest.fixture
def large_batch():
    """Large enough that no array on the tape is one of those that NumPy keeps for reuse."""
    ids = np.random.default_rng(0).integers(0, 30, (16, 33))
    return ids, ids.copy()


@pytest.fixture
def make(tiny):
    def model(method, **options):
        return tiny(**options) if method == "full" else get_peft_model(tiny(**options), LORA)

    return model


def measure_step(model, optimizer, ids, labels):
    """The ledger's sums over one step."""
    with ledger(model, optimizer) as kept:
        train_step(model, optimizer, ids, labels)
    return SimpleNamespace(**kept.totals, peak=kept.peak)


def held_by_numpy():
    """Bytes of the arrays that have been made since tracing began, and are still there."""
    gc.collect()
    arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    return sum(t.size for t in tracemalloc.take_snapshot().filter_traces([arrays]).traces)


methods = pytest.mark.parametrize("method", ["full", "lora"])


@methods
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tied", [False, True])
def test_the_tape_says_exactly_what_is_held(make, large_batch, method, dtype, tied):
    ids, labels = large_batch
    model = make(method, dtype=dtype, tied=tied)
    model.loss(ids, labels)  # so that what is computed once and kept is there already
    tracemalloc.start()
    try:
        loss = model.loss(ids, labels)
        held = held_by_numpy()
    finally:
        tracemalloc.stop()
    # The loss itself is not on the tape.
    assert activation_bytes(loss, model) == held - loss.data.nbytes


def test_backward_lets_go_of_all_of_it(make, large_batch):
    model = make("lora")
    loss = model.loss(*large_batch)
    operations = list(tape(loss))
    assert activation_bytes(loss, model) > 100_000
    loss.backward()
    assert all(not {k: v for k, v in vars(op.saved).items() if k != "_op"} for op in operations)


def test_freezing_drops_arrays_from_the_tape(make, large_batch):
    full, lora = make("full"), make("lora")
    kept = [activation_bytes(m.loss(*large_batch), m) for m in (full, lora)]
    assert kept[1] < 0.9 * kept[0]
    full.requires_grad_(False)
    full.lm_head.requires_grad_(True)
    assert activation_bytes(full.loss(*large_batch), full) < 0.1 * kept[0]


@methods
@pytest.mark.parametrize("tied", [False, True])
def test_weights_gradients_and_moments_are_counted_one_by_one(make, large_batch, method, tied):
    model = make(method, tied=tied)
    optimizer = AdamW(model.parameters())
    found = measure_step(model, optimizer, *large_batch)
    trained = sum(p.data.nbytes for p in model.parameters() if p.requires_grad)
    assert found.weights == sum(p.data.nbytes for p in set(model.parameters()))
    assert found.weights == 4 * model.n_parameters()
    assert found.gradients == trained
    assert found.optimizer == optimizer.state_bytes == 2 * trained


@methods
@pytest.mark.parametrize("n", [1, 2, 3])
def test_activations_are_those_of_all_threads(make, large_batch, method, n, threads):
    """Cut into shares, only what every share makes for itself is there more than once."""
    ids, labels = large_batch
    model = make(method)
    optimizer = AdamW(model.parameters())
    threads(1)
    whole = measure_step(model, optimizer, ids, labels).activations
    assert whole == activation_bytes(model.loss(ids, labels), model)
    threads(n)
    shares = measure_step(model, optimizer, ids, labels).activations
    angles = 2 * 32 * 3 * 4  # cos and sin (T, 1, D/2), in each share
    head = 31 * 24 * 4 if method == "full" else 0  # the head's gradient, in each share
    assert shares == whole + (n - 1) * (angles + head)


@methods
@pytest.mark.parametrize("n", [1, 2])
def test_peak_is_at_least_the_parts_that_are_there_together(make, large_batch, method, n, threads):
    threads(n)
    model = make(method)
    optimizer = AdamW(model.parameters())
    train_step(model, optimizer, *large_batch)
    found = measure_step(model, optimizer, *large_batch)
    standing = found.weights + found.optimizer
    assert found.peak > standing + found.gradients
    if n == 1:  # shares of threads need not be at their fullest at the same time
        assert found.peak > standing + found.activations
    assert found.peak < standing + 2 * found.activations + 3 * found.gradients


def test_lora_holds_less_of_each_kind_but_the_weights(make, large_batch, threads):
    threads(1)  # how full two are at once is not the same every time
    full, lora = (
        vars(measure_step(m, AdamW(m.parameters()), *large_batch))
        for m in (make("full"), make("lora"))
    )
    kinds = ["weights", "gradients", "optimizer", "activations", "buffers", "peak"]
    assert list(full) == kinds
    assert lora["weights"] == full["weights"] + lora["gradients"]
    for kind in ("gradients", "optimizer", "activations", "peak"):
        assert lora[kind] < full[kind]


@methods
def test_the_step_that_is_measured_is_a_step_like_any_other(make, large_batch, method, fingerprint):
    measured, stepped = make(method), make(method)
    optimizers = AdamW(measured.parameters()), AdamW(stepped.parameters())
    measure_step(measured, optimizers[0], *large_batch)
    train_step(stepped, optimizers[1], *large_batch)
    assert fingerprint(measured.state_dict()) == fingerprint(stepped.state_dict())
    assert optimizers[0].t == optimizers[1].t == 1
    assert not tracemalloc.is_tracing()


def test_it_may_be_measured_while_someone_else_is_tracing(make, large_batch, threads):
    threads(1)  # how full two are at once is not the same every time
    model = make("lora")
    optimizer = AdamW(model.parameters())
    measure_step(model, optimizer, *large_batch)  # so that what is made once is there already
    alone = measure_step(model, optimizer, *large_batch)
    tracemalloc.start()
    try:
        ballast = np.ones(10**6)
        ballast = ballast[:1].copy()  # a megabyte that came and went is none of the step's
        beside = measure_step(model, optimizer, *large_batch)
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()
    assert ballast == 1
    assert beside.peak == pytest.approx(alone.peak, rel=0.05)


def test_a_step_that_fails_stops_the_tracing(make, large_batch, monkeypatch):
    model = make("lora")
    optimizer = AdamW(model.parameters())

    def fail(*_, **__):
        raise RuntimeError

    monkeypatch.setattr(f"{__name__}.train_step", fail)
    with pytest.raises(RuntimeError):
        measure_step(model, optimizer, *large_batch)
    assert not tracemalloc.is_tracing()
