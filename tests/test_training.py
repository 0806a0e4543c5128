"""A training step and the loop around it: what is computed, what is refused, what is written."""

import json
import math
import signal
import threading
import warnings

import numpy as np
import pytest

from minilora.autograd import backward
from minilora.data.batches import Batches
from minilora.data.instructions import Example
from minilora.errors import ConfigError, DataError, MiniloraError, NonFiniteError
from minilora.optim import AdamW, Schedule
from minilora.peft import LoraConfig, get_peft_model
from minilora.training import loss_and_gradients, train, train_step

LORA = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])


@pytest.fixture
def batches():
    """Batches of 4 out of 10 short examples."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 30, 5 + i % 3).tolist() for i in range(10)]
    return Batches([Example(r, [-100, -100, *r[2:]]) for r in rows], 4, seed=3)


def arrays(gradients, model):
    return {name: gradients[p] for name, p in model.named_parameters() if p in gradients}


def assert_close(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(
            ours[name], theirs[name], rtol=0, atol=tolerance * max(1, np.abs(theirs[name]).max())
        )


# -- one step


@pytest.mark.parametrize("lora", [False, True])
def test_a_step_is_forward_loss_backward_update(tiny, tiny_batch, lora, threads, fingerprint):
    threads(1)

    def make():
        return get_peft_model(tiny(), LORA) if lora else tiny()

    by_hand, model = make(), make()
    slow, fast = AdamW(by_hand.parameters(), lr=1e-2), AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        loss = by_hand.loss(*tiny_batch, n_targets=20)
        slow.step(backward(loss))
        said = train_step(model, fast, *tiny_batch)
        assert type(said) is float
        assert said == loss.item()
    assert fingerprint(model.state_dict()) == fingerprint(by_hand.state_dict())
    assert fast.t == 3


def test_it_leaves_no_gradient_behind(tiny, tiny_batch):
    model = tiny()
    train_step(model, AdamW(model.parameters()), *tiny_batch)
    assert all(p.grad is None for p in model.parameters())


def test_gradients_are_clipped_together_before_the_update(tiny, tiny_batch, fingerprint):
    models = [tiny(dtype=np.float64) for _ in range(3)]
    free, clipped, by_hand = (AdamW(m.parameters(), lr=1e-2, eps=1.0) for m in models)
    train_step(models[0], free, *tiny_batch)
    train_step(models[1], clipped, *tiny_batch, max_grad_norm=1e-3)
    _, gradients = loss_and_gradients(models[2], *tiny_batch)
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
    assert norm > 0.1
    by_hand.step({p: g * (1e-3 / norm) for p, g in gradients.items()})
    assert_close(models[1].state_dict(), models[2].state_dict(), 1e-15)
    assert fingerprint(models[0].state_dict()) != fingerprint(models[1].state_dict())


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("parts", [2, 3, 5, 99])
def test_accumulated_gradients_are_those_of_the_whole_batch(tiny, tiny_batch, parts, lora, threads):
    model = tiny(dtype=np.float64)
    if lora:
        model = get_peft_model(model, LORA)
        for layer in model.layers().values():
            layer.lora_B["default"].weight.data[:] = 0.1
    loss, gradients = loss_and_gradients(model, *tiny_batch)
    for n in (1, 2):
        threads(n)
        again, accumulated = loss_and_gradients(model, *tiny_batch, accumulate=parts)
        assert again == pytest.approx(loss, abs=1e-12)
        assert_close(arrays(accumulated, model), arrays(gradients, model), 1e-12)


@pytest.mark.parametrize("silent", [(), (0, 1), (3, 4)])
def test_threads_share_a_batch_and_the_sum_is_the_same(tiny, tiny_batch, silent, threads):
    """Also where a share has nothing to be asked for: the mean is over the whole batch."""
    ids, labels = tiny_batch
    labels = labels.copy()
    labels[list(silent)] = -100
    model = tiny(dtype=np.float64)
    whole = model.loss(ids, labels)
    expected = arrays(backward(whole), model)
    for n in (1, 2, 3, 8):
        threads(n)
        loss, gradients = loss_and_gradients(model, ids, labels)
        assert loss == pytest.approx(whole.item(), abs=1e-12)
        assert_close(arrays(gradients, model), expected, 1e-12)


def test_one_number_of_threads_gives_one_result_bit_for_bit(tiny, tiny_batch, threads, fingerprint):
    dropout = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5)
    for n in (1, 2, 3):
        threads(n)
        seen = set()
        for _ in range(8):
            model = get_peft_model(tiny(), dropout)
            loss, gradients = loss_and_gradients(model, *tiny_batch, seed=5)
            seen.add((loss, *fingerprint(arrays(gradients, model)).values()))
        assert len(seen) == 1


def test_dropout_is_drawn_from_the_seed(tiny, tiny_batch):
    model = get_peft_model(tiny(), LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5))
    for layer in model.layers().values():
        layer.lora_B["default"].weight.data[:] = 0.1
    losses = [loss_and_gradients(model, *tiny_batch, seed=s)[0] for s in (1, 2, 1)]
    assert losses[0] == losses[2] != losses[1]
    assert model.loss(*tiny_batch).item() not in losses


def test_eight_examples_are_learnt_by_heart(tiny):
    rng = np.random.default_rng(3)
    ids = rng.integers(8, 30, (8, 7))
    ids[:, 0] = np.arange(8)  # each is told apart by its first token, which does not come again
    model = tiny()
    optimizer = AdamW(model.parameters(), lr=1e-2)
    losses = [train_step(model, optimizer, ids, ids) for _ in range(150)]
    assert losses[0] == pytest.approx(math.log(31), rel=0.05)
    assert losses[-1] < 0.01


# -- what is refused, before anything has changed


def state(model, optimizer):
    return {
        **{f"{name}": p.data.copy() for name, p in model.named_parameters()},
        **{f"state.{name}": np.array(a) for name, a in optimizer.state_dict().items()},
    }


@pytest.fixture
def unchanged(fingerprint):
    """unchanged(model, optimizer, error, step): `step()` raises, and all is as before."""

    def check(model, optimizer, error, step, match=None):
        before = fingerprint(state(model, optimizer))
        with pytest.raises(error, match=match) as raised:
            step()
        assert fingerprint(state(model, optimizer)) == before
        return str(raised.value)

    return check


@pytest.mark.parametrize("n", [1, 2])
def test_a_loss_that_is_not_finite_stops_before_the_update(tiny, tiny_batch, unchanged, threads, n):
    threads(n)
    model = get_peft_model(tiny(), LORA)
    optimizer = AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        train_step(model, optimizer, *tiny_batch)
    model.layers()["model.layers.1.self_attn.v_proj"].lora_B["default"].weight.data[3, 1] = np.nan
    said = unchanged(
        model, optimizer, NonFiniteError, lambda: train_step(model, optimizer, *tiny_batch)
    )
    assert "step 3" in said
    assert "the loss is nan" in said
    assert "nothing was updated" in said


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_a_gradient_that_is_not_finite_is_named(
    tiny, tiny_batch, unchanged, monkeypatch, name, value
):
    model = tiny()
    optimizer = AdamW(model.parameters(), lr=1e-2)
    train_step(model, optimizer, *tiny_batch)
    named = dict(model.named_parameters())

    def poisoned(loss, hand_in):
        gradients = backward(loss)
        gradients[named[name]].flat[5] = value
        for p, g in gradients.items():
            hand_in(p, g)

    monkeypatch.setattr("minilora.training.backward", poisoned)
    said = unchanged(
        model, optimizer, NonFiniteError, lambda: train_step(model, optimizer, *tiny_batch)
    )
    assert "step 2" in said
    assert f"gradient of {name} is not finite" in said


def test_gradients_too_large_to_be_squared_are_not_applied(
    tiny, tiny_batch, unchanged, monkeypatch
):
    model = tiny()
    optimizer = AdamW(model.parameters(), lr=1e-2)
    huge = np.float32(1e30)

    def large(loss, hand_in):
        backward(loss, hand_in=lambda p, g: hand_in(p, g * huge))

    monkeypatch.setattr("minilora.training.backward", large)
    unchanged(
        model,
        optimizer,
        NonFiniteError,
        lambda: train_step(model, optimizer, *tiny_batch),
        match=r"step 1: .*finite",
    )


@pytest.mark.parametrize("n", [1, 2])
def test_numbers_that_grow_too_large_end_in_words_and_not_in_warnings(
    tiny, tiny_batch, unchanged, threads, n
):
    threads(n)
    model = tiny()
    optimizer = AdamW(model.parameters(), lr=1e-2)
    for name, p in model.named_parameters():
        if "mlp" in name:
            p.data *= np.float32(1e20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unchanged(
            model, optimizer, NonFiniteError, lambda: train_step(model, optimizer, *tiny_batch)
        )


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda ids, labels: (ids[:0], labels[:0]), "at least one row"),
        (lambda ids, labels: (ids[0], labels[0]), r"\(batch, time\)"),
        (lambda ids, labels: (ids, labels[0]), r"\(5, 7\).*\(7,\)"),
        (lambda ids, labels: (ids, labels[:2]), r"\(5, 7\).*\(2, 7\)"),
        (lambda ids, labels: (ids[:2], labels), r"\(2, 7\).*\(5, 7\)"),
        (lambda ids, labels: (ids, labels[:, :4]), r"\(5, 7\).*\(5, 4\)"),
        (lambda ids, labels: (ids[:, :1], labels[:, :1]), "target|at least 2 tokens"),
        (lambda ids, labels: (ids, np.full_like(labels, -100)), "none of the .* is a target"),
        (lambda ids, labels: (ids.astype(float), labels), "integers, not float64"),
        (lambda ids, labels: (ids + 2, labels), r"token id 31 .* 0 to 30"),
        (lambda ids, labels: (ids - 1, labels), r"token id -1 .* 0 to 30"),
        (lambda ids, labels: (ids, np.where(labels < 0, labels, 31)), r"label 31 .* 0 to 30"),
        (lambda ids, labels: (ids, np.where(labels < 0, -1, labels)), r"label -1 .* 0 to 30"),
        (lambda ids, labels: (np.tile(ids, 10), np.tile(labels, 10)), "longer than the context"),
    ],
)
@pytest.mark.parametrize("n", [1, 2])
def test_a_batch_that_is_none_is_refused_in_words(
    tiny, tiny_batch, unchanged, spoil, says, threads, n
):
    threads(n)
    model = tiny()
    optimizer = AdamW(model.parameters(), lr=1e-2)
    batch = spoil(*tiny_batch)
    unchanged(
        model, optimizer, MiniloraError, lambda: train_step(model, optimizer, *batch), match=says
    )


@pytest.mark.parametrize("accumulate", [0, -1, 2.5])
def test_accumulate_is_a_whole_number_from_1(tiny, tiny_batch, unchanged, accumulate):
    model = tiny()
    optimizer = AdamW(model.parameters())
    said = unchanged(
        model,
        optimizer,
        ConfigError,
        lambda: train_step(model, optimizer, *tiny_batch, accumulate=accumulate),
    )
    assert str(accumulate) in said


def test_frozen_after_the_optimizer_was_made_there_is_nothing_to_train(tiny, tiny_batch, unchanged):
    model = tiny()
    optimizer = AdamW(model.parameters())
    model.requires_grad_(False)
    unchanged(
        model,
        optimizer,
        MiniloraError,
        lambda: train_step(model, optimizer, *tiny_batch),
        match=r"trainable.*requires_grad = True",
    )


def test_a_norm_of_zero_is_refused(tiny, tiny_batch, unchanged):
    model = tiny()
    optimizer = AdamW(model.parameters())
    unchanged(
        model,
        optimizer,
        ConfigError,
        lambda: train_step(model, optimizer, *tiny_batch, max_grad_norm=0),
        match="max_norm 0 must be above 0",
    )


# -- the loop


def test_the_loop_is_steps_over_batches_with_the_scheduled_rate(tiny, batches, fingerprint):
    schedule = Schedule("cosine", 6, warmup=2)
    by_hand, model = tiny(), tiny()
    slow, fast = AdamW(by_hand.parameters(), lr=1e-2), AdamW(model.parameters(), lr=1e-2)
    seen = []
    history = train(
        model,
        fast,
        batches,
        steps=6,
        schedule=schedule,
        max_grad_norm=0.5,
        progress=None,
        after_step=lambda step, loss: seen.append((step, loss)),
    )
    losses = []
    for step in range(6):
        slow.groups[0]["lr"] = 1e-2 * schedule.factor(step)
        losses.append(train_step(by_hand, slow, *batches[step], max_grad_norm=0.5))
    assert history.losses == losses
    assert seen == list(enumerate(losses, 1))
    assert len(history.seconds) == 6
    assert min(history.seconds) > 0
    assert not history.interrupted
    assert fingerprint(model.state_dict()) == fingerprint(by_hand.state_dict())


def test_dropout_is_drawn_anew_in_every_step_and_for_every_seed(tiny, tiny_batch):
    model = get_peft_model(tiny(), LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5))
    for layer in model.layers().values():
        layer.lora_B["default"].weight.data[:] = 0.1

    class Same:
        def __getitem__(self, step):
            return tiny_batch

    losses = []
    for seed in (0, 1):
        still = AdamW(model.parameters(), lr=1e-30)  # so that nothing but the dropout changes
        losses += train(model, still, Same(), steps=5, seed=seed, progress=None).losses
    assert len(set(losses)) == 10


def test_the_log_has_a_line_for_each_step(tiny, batches, tmp_path):
    model = tiny()
    schedule, log = Schedule("linear", 5, warmup=2), tmp_path / "log.jsonl"
    history = train(
        model,
        AdamW(model.parameters(), lr=1e-2),
        batches,
        steps=5,
        schedule=schedule,
        log=log,
        progress=None,
    )
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["loss"] for line in lines] == history.losses
    assert [line["lr"] for line in lines] == [1e-2 * schedule.factor(i) for i in range(5)]
    assert [line["seconds"] for line in lines] == pytest.approx(history.seconds, abs=1e-4)


def test_the_bar_shows_name_loss_and_time_left_or_nothing(tiny, batches, capsys):
    model = tiny()
    optimizer = AdamW(model.parameters())
    train(model, optimizer, batches, steps=3, progress=None)
    assert capsys.readouterr() == ("", "")
    history = train(model, optimizer, batches, steps=3, progress="learning")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "learning" in shown.err
    assert "/3" in shown.err
    assert "<" in shown.err  # tqdm's mark between the time gone and the time left
    assert len(history.losses) == 3


@pytest.mark.parametrize("steps", [0, -3, 2.5, "10", None, True])
def test_steps_are_a_whole_number_from_1(tiny, batches, steps, unchanged):
    model = tiny()
    optimizer = AdamW(model.parameters())
    said = unchanged(
        model,
        optimizer,
        ConfigError,
        lambda: train(model, optimizer, batches, steps=steps, progress=None),
    )
    assert repr(steps) in said


@pytest.mark.parametrize("every", [0, -1])
def test_checkpoints_come_every_so_many_steps_from_1(tiny, batches, tmp_path, unchanged, every):
    model = tiny()
    optimizer = AdamW(model.parameters())

    def run():
        train(
            model,
            optimizer,
            batches,
            steps=3,
            checkpoint=tmp_path / "c.safetensors",
            checkpoint_every=every,
            progress=None,
        )

    said = unchanged(model, optimizer, ConfigError, run)
    assert str(every) in said


def test_a_run_that_breaks_keeps_the_state_of_before_the_step(tiny, batches, tmp_path, fingerprint):
    """The log ends with the last good step, and the error names the one after it."""
    model, other = tiny(), tiny()
    optimizer, log = AdamW(model.parameters(), lr=1e-2), tmp_path / "log.jsonl"

    class Poisoned:
        def __getitem__(self, step):
            if step == 3:
                model.model.norm.weight.data[0] = np.nan
            return batches[step]

    with pytest.raises(NonFiniteError, match="step 4: the loss is nan"):
        train(model, optimizer, Poisoned(), steps=9, log=log, progress=None)
    train(other, AdamW(other.parameters(), lr=1e-2), batches, steps=3, progress=None)
    other.model.norm.weight.data[0] = np.nan
    assert fingerprint(model.state_dict()) == fingerprint(other.state_dict())
    assert len(log.read_text().splitlines()) == 3
    assert optimizer.t == 3


def test_it_runs_in_a_thread_and_leaves_ctrl_c_alone_there(tiny, batches):
    model, handler = tiny(), signal.getsignal(signal.SIGINT)
    done = []

    def run():
        history = train(model, AdamW(model.parameters()), batches, steps=2, progress=None)
        done.append((len(history.losses), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done == [(2, handler)]


def test_no_target_in_a_batch_of_the_loop_is_said(tiny):
    silent = Batches([Example([1, 2, 3], [-100] * 3)], 2)
    model = tiny()
    with pytest.raises(DataError, match=r"none of the 4 labels is a target"):
        train(model, AdamW(model.parameters()), silent, steps=1, progress=None)
