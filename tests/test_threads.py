"""Threads share a batch: nobody can tell from the result, nor from what a fault leaves behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from minilora.autograd import watch
from minilora.errors import NonFiniteError
from minilora.model import Transformer
from minilora.optim import AdamW
from minilora.peft import LoraConfig, get_peft_model
from minilora.runtime import cores, n_threads, parallel, threads_set_to
from minilora.training import loss_and_gradients, train_step


@pytest.fixture(params=["full", "lora"])
def model(request, tiny):
    if request.param == "full":
        return tiny
    settings = LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", lora_dropout=0.1)
    return lambda: get_peft_model(tiny(), settings, seed=1)


def without_dropout(model):
    return get_peft_model(model, LoraConfig(r=3, target_modules="all-linear"), seed=1)


def trained(model, batch, steps, **options):
    """Losses, and all that a step changes."""
    optimizer = AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    losses = [train_step(model, optimizer, *batch, seed=step, **options) for step in range(steps)]
    return losses, state(model, optimizer)


def state(model, optimizer):
    """Copies of the parameters and of the optimizer's numbers."""
    arrays = {n: p.data.copy() for n, p in model.named_parameters()}
    return arrays | {n: a.copy() for n, a in optimizer.state_dict().items()}


@pytest.mark.parametrize("adapted", [False, True])
def test_one_thread_and_two_lose_alike_over_50_steps(tiny, tiny_batch, adapted):
    """(Dropout draws for each share by itself, so it is left out.)"""
    make = (lambda: without_dropout(tiny())) if adapted else tiny
    one, _ = trained(make(), tiny_batch, 50, threads=1)
    two, _ = trained(make(), tiny_batch, 50, threads=2)
    assert one[-1] < one[0] - 0.3
    assert np.abs(np.subtract(one, two)).max() <= 1e-5


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_same_seed_and_threads_give_the_same_bits(model, tiny_batch, fingerprint, n):
    (losses, first), (again, second) = (
        trained(model(), tiny_batch, 10, threads=n, accumulate=2) for _ in range(2)
    )
    assert losses == again
    assert fingerprint(first) == fingerprint(second)


@pytest.mark.parametrize(("rows", "n"), [(1, 2), (1, 5), (3, 2), (5, 3), (2, 7)])
def test_rows_that_threads_do_not_divide(tiny, tiny_batch, rows, n):
    """A batch of one, fewer rows than threads, a rest: the step of one thread, but for rounding."""
    batch = tuple(a[:rows] for a in tiny_batch)
    expected_losses, expected = trained(tiny(dtype=np.float64), batch, 5, threads=1)
    losses, after = trained(tiny(dtype=np.float64), batch, 5, threads=n)
    assert losses == pytest.approx(expected_losses, rel=1e-12)
    for name, array in expected.items():
        assert np.abs(after[name] - array).max() <= 1e-9, name


def test_a_fault_in_one_thread_is_raised_once_and_whole_and_nothing_was_done(
    model, tiny_batch, fingerprint, monkeypatch
):
    faulty, (ids, labels) = model(), tiny_batch
    optimizer = AdamW(faulty.parameters())
    train_step(faulty, optimizer, ids, labels, threads=2)
    before = fingerprint(state(faulty, optimizer))
    loss, raised_in = Transformer.loss, []

    def stumbling(self, rows, *args, **options):
        computed = loss(self, rows, *args, **options)
        if len(rows) == 3:  # the second share of five rows
            raised_in.append(threading.current_thread())
            raise KeyError("this share only")
        return computed

    monkeypatch.setattr(Transformer, "loss", stumbling)
    with pytest.raises(KeyError, match="this share only") as caught:
        train_step(faulty, optimizer, ids, labels, threads=2)
    assert len(raised_in) == 1 and raised_in[0] is not threading.current_thread()
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert "stumbling" in [entry.name for entry in caught.traceback]  # where it was, not only that
    assert fingerprint(state(faulty, optimizer)) == before
    assert all(p.grad is None for p in faulty.parameters())

    monkeypatch.undo()
    after_fault = train_step(faulty, optimizer, ids, labels, threads=2)
    undisturbed = model()
    optimizer = AdamW(undisturbed.parameters())
    steps = [train_step(undisturbed, optimizer, ids, labels, threads=2) for _ in range(2)]
    assert after_fault == steps[1]


def test_ctrl_c_while_threads_compute_does_nothing_by_halves(
    tiny, tiny_batch, fingerprint, monkeypatch
):
    model, (ids, labels) = tiny(), tiny_batch
    optimizer = AdamW(model.parameters())
    before = fingerprint(state(model, optimizer))
    loss = Transformer.loss

    def pressed(self, rows, *args, **options):
        if len(rows) == 2:  # the first share of five rows
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self, rows, *args, **options)

    monkeypatch.setattr(Transformer, "loss", pressed)
    with pytest.raises(KeyboardInterrupt):
        train_step(model, optimizer, ids, labels, threads=2)
    assert fingerprint(state(model, optimizer)) == before
    monkeypatch.undo()
    undisturbed = tiny()
    expected = train_step(undisturbed, AdamW(undisturbed.parameters()), ids, labels, threads=2)
    assert train_step(model, optimizer, ids, labels, threads=2) == expected


def test_a_loss_that_is_not_finite_leaves_everything_too(tiny, tiny_batch, fingerprint):
    broken = tiny()
    optimizer = AdamW(broken.parameters())
    broken.lm_head.weight.data[0, 0] = np.inf
    before = fingerprint(state(broken, optimizer))
    with pytest.raises(NonFiniteError, match="step 1"):
        train_step(broken, optimizer, *tiny_batch, threads=2)
    assert fingerprint(state(broken, optimizer)) == before


def test_the_threads_hold_one_set_of_gradients_between_them(tiny, tiny_batch, monkeypatch):
    """Each hands in a gradient as soon as it has it: what it holds itself is never a set."""
    model, most = tiny(), []

    class Held:
        def recorded(self, op):
            pass

        def passed(self, op, gradients):
            leaves = [g.nbytes for g in gradients.values() if any(g.shape == s for s in shapes)]
            most.append(sum(leaves))

    shapes = {p.shape for p in model.parameters()}
    with watch(Held()):
        _, gradients = loss_and_gradients(model, *tiny_batch, threads=2)
    assert max(most) <= 3 * max(p.data.nbytes for p in model.parameters())
    assert max(most) < 0.5 * sum(g.nbytes for g in gradients.values())


def test_a_step_inside_of_a_share_takes_no_threads_and_waits_for_none(tiny, tiny_batch):
    expected = loss_and_gradients(tiny(), *tiny_batch, threads=1)[0]
    losses = parallel(lambda _: loss_and_gradients(tiny(), *tiny_batch, threads=2)[0], [None, None])
    assert losses == [expected, expected]


def _train_in_child(pipe, model, batch):
    pipe.send(trained(model, batch, 3, threads=2)[0])


def test_a_forked_child_trains_like_its_parent(tiny, tiny_batch):
    """The parent's threads are not there in the child; it must not wait for them."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system does not fork")
    expected, _ = trained(tiny(), tiny_batch, 3, threads=2)  # and now the parent has its threads
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_train_in_child, args=(theirs, tiny(), tiny_batch))
    child.start()
    try:
        assert mine.poll(60), "the child hangs"
        assert mine.recv() == expected
        child.join(60)
        assert child.exitcode == 0
    finally:
        child.kill()
        child.join()
    assert trained(tiny(), tiny_batch, 3, threads=2)[0] == expected  # the parent's live on


SWEEP = """
import threading
from multiprocessing import Pool
import numpy as np
from minilora import AdamW, ModelConfig, Transformer, train_step
from minilora.runtime import n_threads
from threadpoolctl import threadpool_info

def point(seed):
    model = Transformer(ModelConfig(30, 24, 40, 2, 4), seed=seed)
    ids = np.random.default_rng(0).integers(0, 30, (4, 9))
    train_step(model, AdamW(model.parameters()), ids, ids)
    ours = sum(t.name.startswith("minilora") for t in threading.enumerate())
    blas = max([p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"], default=1)
    return n_threads(), ours, blas

if __name__ == "__main__":
    with Pool(2) as pool:
        print(pool.map(point, range(4)))
"""


def test_workers_of_a_sweep_do_not_start_threads_of_their_own(tmp_path):
    """joblib and Dask tell their workers OMP_NUM_THREADS=1."""
    script = tmp_path / "sweep.py"
    script.write_text(SWEEP)
    env = {k: v for k, v in os.environ.items() if k != "MINILORA_THREADS"}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, check=True,
        env=env | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout.strip() == str([(1, 0, 1)] * 4)


def test_threads_set_to_is_for_the_with_only(monkeypatch):
    monkeypatch.delenv("MINILORA_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with threads_set_to(3):
        assert n_threads() == 3
        with threads_set_to(2):
            assert n_threads() == 2
        assert n_threads() == 3
    assert n_threads() == 1
    assert "MINILORA_THREADS" not in os.environ
    monkeypatch.delenv("OMP_NUM_THREADS")
    with pytest.raises(KeyError), threads_set_to(7):
        parallel(lambda i: {}[i], [0])
    assert n_threads() == cores()


def test_no_grad_and_books_are_those_of_whoever_opened_them(tiny, tiny_batch):
    """Threads that share a batch inherit them; a thread of someone else's does not see them."""
    import threading

    from minilora.accounting import ledger, predict
    from minilora.autograd import no_grad
    from minilora.config import ModelConfig
    from minilora.errors import TapeError

    model = tiny()
    optimizer = AdamW(model.parameters())
    for threads in (1, 2):
        with no_grad(), pytest.raises(TapeError):
            train_step(model, optimizer, *tiny_batch, threads=threads)

    config = ModelConfig(31, 24, 40, 2, 4)
    alone = predict(config, batch_size=4, length=12)
    found = []

    def foretell():
        found.append(predict(config, batch_size=4, length=12))

    others = [threading.Thread(target=foretell) for _ in range(3)]
    with ledger(model, optimizer) as books:
        for other in others:
            other.start()
        for other in others:
            other.join()
    assert books.timeline == []
    for each in found:
        assert each.flops == alone.flops
        assert each.ledger.totals == alone.ledger.totals


def test_an_update_is_whole_though_ctrl_c_is_pressed_in_it(tiny, tiny_batch, monkeypatch):
    import signal

    model, straight = tiny(), tiny()
    optimizer = AdamW(model.parameters(), lr=1e-2)
    train_step(straight, AdamW(straight.parameters(), lr=1e-2), *tiny_batch, threads=1)
    move, pressed = AdamW._move, []

    def press(self, *args):
        move(self, *args)
        if not pressed:
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(AdamW, "_move", press)
    with pytest.raises(KeyboardInterrupt):
        train_step(model, optimizer, *tiny_batch, threads=1)
    assert optimizer.t == 1
    for p, q in zip(model.parameters(), straight.parameters(), strict=True):
        assert np.array_equal(p.data, q.data)
