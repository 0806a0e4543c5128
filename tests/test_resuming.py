"""Stopped and resumed, or run twice: the same bits as a run that was not stopped."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from minilora.errors import FormatError
from minilora.files.safetensors import read_tensors
from minilora.optim import AdamW
from minilora.peft import LoraConfig, get_peft_model
from minilora.resuming import load_checkpoint, save_checkpoint

N = 7

# A run in which everything that has a state takes part; the same text is run in other processes.
SETUP = """
import numpy as np
from minilora.config import ModelConfig
from minilora.data.batches import Batches
from minilora.data.instructions import Example
from minilora.model import Transformer
from minilora.optim import AdamW, Schedule
from minilora.peft import LoraConfig, get_peft_model
from minilora.training import train


def examples(n, seed):
    rows = np.random.default_rng(seed).integers(0, 30, (n, 7)).tolist()
    return [Example(r, [-100, -100, *r[2:]]) for r in rows]


def make(method):
    base = Transformer(ModelConfig(31, 24, 40, 2, 4, n_kv_heads=2, max_positions=64), seed=1)
    config = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.3)
    model = base if method == "full" else get_peft_model(base, config, seed=2)
    return model, AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)


def run(model, optimizer, steps, **options):
    batches = Batches(examples(9, 1), 4, seed=5, old=examples(5, 2), replay=0.3)
    return train(
        model, optimizer, batches, steps=steps, schedule=Schedule("cosine", 7, warmup=2),
        accumulate=2, seed=11, progress=None, **options,
    )
"""
names: dict = {}
exec(SETUP, names)
make, run = names["make"], names["run"]


@pytest.fixture
def bits(fingerprint):
    """bits(model, optimizer): hashes of all weights, moments, and the number of steps."""

    def hashes(model, optimizer):
        return fingerprint(model.state_dict()) | fingerprint(optimizer.state_dict())

    return hashes


@pytest.fixture
def straight(bits):
    """straight(method): losses and bits of a run that nothing stopped."""

    def whole(method, steps=N):
        model, optimizer = make(method)
        return run(model, optimizer, steps).losses, bits(model, optimizer)

    return whole


methods = pytest.mark.parametrize("method", ["full", "lora"])


@methods
@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_k_steps_and_then_the_rest_are_all_of_them(method, k, straight, bits, tmp_path, threads):
    threads(2)
    checkpoint = tmp_path / "checkpoint.safetensors"
    run(*make(method), k, checkpoint=checkpoint)
    model, optimizer = make(method)
    history = run(model, optimizer, N, checkpoint=checkpoint, resume=True)
    assert (history.losses, bits(model, optimizer)) == straight(method)
    assert len(history.seconds) == N
    assert optimizer.t == N


@methods
@pytest.mark.parametrize("n_threads", [1, 2])
def test_ctrl_c_ends_with_a_whole_state_that_resumes_bit_equal(
    method, n_threads, straight, bits, tmp_path, threads
):
    threads(n_threads)
    checkpoint, handler = tmp_path / "checkpoint.safetensors", signal.getsignal(signal.SIGINT)

    def press(step, loss):
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    model, optimizer = make(method)
    history = run(model, optimizer, N, checkpoint=checkpoint, after_step=press)
    assert history.interrupted
    assert len(history.losses) == optimizer.t == 3
    assert signal.getsignal(signal.SIGINT) is handler

    other, resumed = make(method)
    history = run(other, resumed, N, checkpoint=checkpoint, resume=True)
    assert not history.interrupted
    assert (history.losses, bits(other, resumed)) == straight(method)


def test_ctrl_c_during_a_step_is_granted_after_it(straight, bits, tmp_path, monkeypatch):
    """Signals reach Python between any two lines, so the step must not be cut through."""
    checkpoint = tmp_path / "checkpoint.safetensors"
    update, model_and_optimizer = AdamW.step, make("lora")

    def pressed(self, gradients=None):
        if self.t == 2:
            signal.raise_signal(signal.SIGINT)
        update(self, gradients)

    with monkeypatch.context() as patch:
        patch.setattr(AdamW, "step", pressed)
        history = run(*model_and_optimizer, N, checkpoint=checkpoint)
    assert history.interrupted
    assert len(history.losses) == 3
    assert bits(*model_and_optimizer) == straight("lora", 3)[1]
    model, optimizer = make("lora")
    run(model, optimizer, N, checkpoint=checkpoint, resume=True)
    assert bits(model, optimizer) == straight("lora")[1]


def test_the_second_ctrl_c_is_at_once_and_the_last_whole_state_stays(straight, bits, tmp_path):
    checkpoint, handler = tmp_path / "checkpoint.safetensors", signal.getsignal(signal.SIGINT)

    def press(step, loss):
        if step == 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(*make("lora"), N, checkpoint=checkpoint, checkpoint_every=3, after_step=press)
    assert signal.getsignal(signal.SIGINT) is handler
    model, optimizer = make("lora")
    assert len(load_checkpoint(checkpoint, model, optimizer).losses) == 3
    assert bits(model, optimizer) == straight("lora", 3)[1]


@methods
def test_a_run_that_died_goes_on_from_its_last_checkpoint(method, straight, bits, tmp_path):
    checkpoint, log = tmp_path / "checkpoint.safetensors", tmp_path / "log.jsonl"

    def die(step, loss):
        if step == 5:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run(*make(method), N, checkpoint=checkpoint, checkpoint_every=2, log=log, after_step=die)
    model, optimizer = make(method)
    history = run(model, optimizer, N, checkpoint=checkpoint, log=log, resume=True)
    losses, whole = straight(method)
    assert (history.losses, bits(model, optimizer)) == (losses, whole)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, N + 1))
    assert [line["loss"] for line in lines] == losses


def test_saving_checkpoints_changes_nothing(straight, bits, tmp_path):
    model, optimizer = make("lora")
    checkpoint = tmp_path / "checkpoint.safetensors"
    history = run(model, optimizer, N, checkpoint=checkpoint, checkpoint_every=1)
    assert (history.losses, bits(model, optimizer)) == straight("lora")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_a_checkpoint_holds_what_is_trained_and_its_moments_alone(tmp_path):
    model, optimizer = make("lora")
    checkpoint = tmp_path / "checkpoint.safetensors"
    run(model, optimizer, 2, checkpoint=checkpoint)
    stored = read_tensors(checkpoint)
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    moments = {f"optimizer.{k}.{i}" for k in "mv" for i in range(len(trainable))}
    assert set(stored) == {f"model.{n}" for n in trainable} | moments | {"optimizer.t"}


def test_resuming_what_is_finished_does_nothing(straight, bits, tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    run(*make("lora"), N, checkpoint=checkpoint)
    model, optimizer = make("lora")
    history = run(model, optimizer, N, checkpoint=checkpoint, resume=True)
    assert (history.losses, bits(model, optimizer)) == straight("lora")


def test_resuming_where_there_is_nothing_starts(straight, bits, tmp_path):
    model, optimizer = make("lora")
    checkpoint = tmp_path / "deep" / "checkpoint.safetensors"
    history = run(model, optimizer, N, checkpoint=checkpoint, resume=True)
    assert (history.losses, bits(model, optimizer)) == straight("lora")
    assert checkpoint.exists()


def test_without_resume_a_checkpoint_is_written_over(straight, bits, tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    run(*make("lora"), 3, checkpoint=checkpoint)
    model, optimizer = make("lora")
    history = run(model, optimizer, N, checkpoint=checkpoint)
    assert (history.losses, bits(model, optimizer)) == straight("lora")


@pytest.mark.parametrize("kind", ["another method", "an adapter", "cut off", "no file of ours"])
def test_a_checkpoint_of_something_else_is_refused_and_nothing_changes(kind, bits, tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    model, optimizer = make("lora")
    if kind == "another method":
        run(*make("full"), 1, checkpoint=checkpoint)
    elif kind == "an adapter":
        model.save_pretrained(tmp_path)
        checkpoint = tmp_path / "adapter_model.safetensors"
    else:
        run(*make("lora"), 1, checkpoint=checkpoint)
        whole = checkpoint.read_bytes()
        checkpoint.write_bytes(whole[: len(whole) // 2] if kind == "cut off" else b"nothing")
    before = bits(model, optimizer)
    with pytest.raises(FormatError, match=checkpoint.name):
        run(model, optimizer, N, checkpoint=checkpoint, resume=True)
    assert bits(model, optimizer) == before


@pytest.mark.parametrize("part", ["model", "optimizer"])
def test_a_checkpoint_with_one_array_of_another_shape_changes_nothing(part, bits, tmp_path):
    model, optimizer = make("lora")
    other = get_peft_model(make("full")[0], LoraConfig(r=3, target_modules="all-linear"))
    history = run(*make("lora"), 1)
    checkpoint = tmp_path / "checkpoint.safetensors"
    theirs = AdamW(other.parameters())
    if part == "model":
        save_checkpoint(checkpoint, other, optimizer, history)
    else:
        save_checkpoint(checkpoint, model, theirs, history)
    before = bits(model, optimizer)
    with pytest.raises(ValueError, match="other parameters"):
        load_checkpoint(checkpoint, model, optimizer)
    assert bits(model, optimizer) == before


def child(code, **environment):
    """Start Python on SETUP and then `code`."""
    return subprocess.Popen(
        [sys.executable, "-c", SETUP + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MINILORA_THREADS": "2", "OPENBLAS_NUM_THREADS": "1", **environment},
    )


@methods
def test_two_fresh_processes_give_the_same_losses_bit_for_bit(method, straight, threads):
    threads(2)
    code = f"""
    print([loss.hex() for loss in run(*make("{method}"), 7).losses])
    """
    processes = [child(code, PYTHONHASHSEED=seed) for seed in ("1", "2")]
    outputs = [process.communicate() for process in processes]
    assert outputs[0][0] == outputs[1][0], outputs
    assert outputs[0][0].strip() == str([loss.hex() for loss in straight(method)[0]])


def test_ctrl_c_from_outside_leaves_a_state_that_resumes_bit_equal(
    straight, bits, tmp_path, threads
):
    threads(2)
    checkpoint, log = tmp_path / "checkpoint.safetensors", tmp_path / "log.jsonl"
    process = child(
        f"""
        history = run(*make("lora"), 10**6, checkpoint={str(checkpoint)!r}, log={str(log)!r})
        print(history.interrupted, len(history.losses))
        """
    )
    try:
        while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") > 2):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    interrupted, done = out.split()
    assert interrupted == "True"
    steps = int(done) + 2
    model, optimizer = make("lora")
    history = run(model, optimizer, steps, checkpoint=checkpoint, resume=True)
    assert (history.losses, bits(model, optimizer)) == straight("lora", steps)
