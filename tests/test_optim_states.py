"""Moments in 8 bits and in a file: what is held, what comes of it, and going on from a state."""

import errno
import gc
import math
import os

import numpy as np
import pytest

import minilora
from minilora.accounting import ledger, predict
from minilora.autograd import Parameter
from minilora.config import ModelConfig
from minilora.errors import ConfigError
from minilora.optim import OPTIMIZERS, AdamW, AdamW8bit, PagedAdamW, Schedule, make
from minilora.optim.eight_bit import Moment
from minilora.peft import loraplus_groups
from minilora.quant.dynamic import dynamic_map
from minilora.resuming import load_checkpoint, save_checkpoint
from minilora.training import History, train_step

LARGE, SMALL = (70, 130), (7,)
TINY = ModelConfig(97, 64, 96, 2, 4, max_positions=64)


def parameters(dtype=np.float32):
    rng = np.random.default_rng(0)
    return [Parameter(rng.standard_normal(shape).astype(dtype)) for shape in (LARGE, SMALL)]


def steps(optimizer, n, first=0):
    for i in range(first, first + n):
        rng = np.random.default_rng([1, i])
        optimizer.step(
            {p: rng.standard_normal(p.shape).astype(p.dtype) for p in optimizer.parameters()}
        )


# -- 8 bits


def test_what_is_held_is_a_byte_a_number_and_four_a_block():
    optimizer = AdamW8bit(parameters())
    n, small = math.prod(LARGE), math.prod(SMALL)
    assert optimizer.state_bytes == 2 * (n + 4 * math.ceil(n / 256)) + 2 * 4 * small


@pytest.mark.parametrize("block_size", [1, 100, 256, 2**15, 10**6])
def test_a_step_is_adamws_on_what_was_held_and_leaves_the_nearest_codes(block_size):
    (p, q), (p2, _) = parameters(), parameters()
    ours, plain = AdamW8bit([p, q], block_size=block_size), AdamW([p2])
    for i in range(3):
        g = np.random.default_rng(i).standard_normal(LARGE).astype(np.float32)
        held = [m.read(0, p.size).reshape(LARGE) for m in (ours.m[p], ours.v[p])]
        plain.m[p2][:], plain.v[p2][:] = held
        ours.step({p: g})
        plain.step({p2: g})
        assert np.array_equal(p.data, p2.data)
        for moment, exact in ((ours.m[p], plain.m[p2]), (ours.v[p], plain.v[p2])):
            _nearest(moment, exact.reshape(-1), block_size)


def _nearest(moment, exact, block_size):
    """Each number is held as the level of its block that no other level is nearer than."""
    levels = dynamic_map(moment.signed).astype(np.float64)
    for b, start in enumerate(range(0, len(exact), block_size)):
        block = exact[start : start + block_size].astype(np.float64)
        scale = np.abs(block).max()
        assert moment.scales[b] == np.float32(scale)
        codes = moment.codes[start : start + block_size]
        of = slice(None, None, max(1, len(block) // 200))  # some of each
        apart = np.abs(levels[:, None] * scale - block[of])
        chosen = np.take_along_axis(apart, codes[None, of].astype(int), 0)[0]
        assert (chosen <= apart.min(axis=0) + 1e-6 * scale).all()


def test_a_block_of_zeros_stays_zeros():
    moment = Moment(np.zeros(300, np.float32), True, 256)
    assert (moment.read(0, 300) == 0).all()
    moment.write(0, np.zeros(300, np.float32))
    assert np.isfinite(moment.scales).all() and (moment.read(0, 300) == 0).all()


def test_near_bitsandbytes_own():
    """Its processor kernel looks small numbers up in a coarser table, so a few codes differ."""
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    bnb = pytest.importorskip("bitsandbytes", reason="needs the extra parity")
    (p, _), lr = parameters(), 1e-2
    theirs = torch.nn.Parameter(torch.tensor(p.data.copy()))
    ours = AdamW8bit([p], lr)
    them = bnb.optim.AdamW8bit([theirs], lr=lr, weight_decay=0.0)
    for i in range(10):
        g = np.random.default_rng(i).standard_normal(LARGE).astype(np.float32)
        ours.step({p: g})
        theirs.grad = torch.tensor(g)
        them.step()
        state = them.state[theirs]
        if i == 0:
            np.testing.assert_allclose(p.data, theirs.detach().numpy(), rtol=0, atol=1e-7)
            assert np.array_equal(ours.m[p].scales, state["absmax1"].numpy())
            np.testing.assert_allclose(ours.v[p].scales, state["absmax2"].numpy(), rtol=3e-7)
    for moment, i in ((ours.m[p], 1), (ours.v[p], 2)):
        assert (moment.codes == state[f"state{i}"].numpy().reshape(-1)).mean() > 0.98
        np.testing.assert_allclose(moment.scales, state[f"absmax{i}"].numpy(), rtol=0.01)
    apart = np.abs(p.data - theirs.detach().numpy())
    assert apart.mean() < 0.01 * lr and apart.max() < lr


@pytest.mark.parametrize("block_size", [0, -1, 2.0, True, "256", 2**31 + 1, 10**20])
def test_a_block_size_that_there_is_not(block_size):
    said = r"block_size .* must be a whole number from 1 to 2,147,483,648; 256 is usual"
    with pytest.raises(ConfigError, match=said):
        AdamW8bit(parameters(), block_size=block_size)


@pytest.mark.parametrize(("block_size", "same"), [(2**31, 10**4), (np.uint8(100), 100)])
def test_block_sizes_at_the_limit_and_of_numpy(block_size, same):
    ours, other = (AdamW8bit(parameters(), block_size=b) for b in (block_size, same))
    steps(ours, 3)
    steps(other, 3)
    for p, q in zip(ours.parameters(), other.parameters(), strict=True):
        assert np.array_equal(p.data, q.data)


def test_a_gradient_far_below_its_blocks_largest_moves_too_far():
    """Its v is held as 0, so each step sees that step's gradient alone. AdamW would move by lr."""
    p, lr, n = Parameter(np.zeros(4096, np.float32)), 1e-3, 200
    g = np.full(4096, 1e-4, np.float32)
    g[::256] = 1
    optimizer = AdamW8bit([p], lr, eps=1e-30)
    for _ in range(n):
        before = p.data.copy()
        optimizer.step({p: g})
    moved = (before - p.data) / lr
    np.testing.assert_allclose(moved[::256], 1, rtol=0.02)
    expected = math.sqrt((1 - 0.999**n) / (1 - 0.999))  # 13.5
    np.testing.assert_allclose(
        np.delete(moved, np.s_[::256]), expected, rtol=0.2
    )  # m is coarse, too


def test_a_state_in_other_blocks_is_refused():
    one, other = AdamW8bit(parameters()), AdamW8bit(parameters(), block_size=255)
    assert one.state_bytes == other.state_bytes  # so that shapes would not tell
    with pytest.raises(ConfigError, match="in blocks of 256, not 255; give block_size=256"):
        other.load_state_dict(one.state_dict())


# -- in a file


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_paged_is_adamw_bit_for_bit(dtype, tmp_path):
    plain, paged = AdamW(parameters(dtype)), PagedAdamW(parameters(dtype), folder=tmp_path)
    steps(plain, 20)
    steps(paged, 20)
    for p, q in zip(plain.parameters(), paged.parameters(), strict=True):
        assert np.array_equal(p.data, q.data)
        assert np.array_equal(plain.m[p], paged.m[q])
        assert np.array_equal(plain.v[p], paged.v[q])
    assert paged.state_bytes == 0
    assert paged.paged_bytes == plain.state_bytes
    assert os.listdir(tmp_path) == []  # the file has no name, so nothing is left behind


def test_no_room_is_said_in_words(tmp_path):
    with pytest.raises(ConfigError, match=r"a file of [\d,]+ bytes in .*nowhere.*adamw-8bit"):
        PagedAdamW(parameters(), folder=tmp_path / "nowhere")


def test_a_full_disk_is_said_in_words(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(ConfigError, match=r"there is no room; give another folder"):
        PagedAdamW(parameters(), folder=tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="only Linux tells")
def test_the_file_goes_with_the_optimizer_also_after_an_exception(tmp_path):
    def maps():
        with open("/proc/self/maps") as file:
            return sum(str(tmp_path) in line for line in file)

    def fails():
        optimizer = PagedAdamW(parameters(), folder=tmp_path)
        steps(optimizer, 1)
        assert maps() == 1
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle") as caught:
        fails()
    del caught
    gc.collect()
    assert maps() == 0


# -- all of them


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_settings_are_given_as_to_adamw(name):
    kind = OPTIMIZERS[name]
    for optimizer in (
        kind(parameters(), 0.1, (0.8, 0.9), 1e-6, 0.01),
        make(name, parameters(), lr=0.1, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.01),
    ):
        (group,) = optimizer.groups
        chosen = [group[k] for k in ("lr", "betas", "eps", "weight_decay")]
        assert chosen == [0.1, (0.8, 0.9), 1e-6, 0.01]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_quadratic_is_brought_to_its_least(name):
    target = parameters()[0].data
    p = Parameter(np.zeros(LARGE, np.float32))
    optimizer, fall = make(name, [p], lr=0.1), Schedule("cosine", 300)
    for step in range(300):
        fall.apply(optimizer, step)
        optimizer.step({p: p.data - target})
    assert np.abs(p.data - target).max() < 1e-2 < np.abs(target).mean()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_going_on_from_a_state_is_going_on(name, tmp_path):
    whole, first = make(name, parameters()), make(name, parameters())
    steps(whole, 7)
    steps(first, 4)
    saved = {k: v.copy() for k, v in first.state_dict().items()}
    second = make(name, first.parameters())
    second.load_state_dict(saved)
    steps(second, 3, first=4)
    for p, q in zip(whole.parameters(), second.parameters(), strict=True):
        assert np.array_equal(p.data, q.data)
    for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_checkpoint_holds_it(name, tmp_path):
    model, other = (minilora.Transformer(TINY, seed=3) for _ in range(2))
    one, two = make(name, model.parameters()), make(name, other.parameters())
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 97, (4, 12)) for _ in range(4)]
    for ids in batches[:2]:
        train_step(model, one, ids, ids)
    save_checkpoint(tmp_path / "state.safetensors", model, one, History())
    load_checkpoint(tmp_path / "state.safetensors", other, two)
    for ids in batches[2:]:
        assert train_step(model, one, ids, ids) == train_step(other, two, ids, ids)


def test_a_state_of_another_optimizer_is_refused():
    with pytest.raises(ConfigError, match="or of another optimizer"):
        AdamW(parameters()).load_state_dict(AdamW8bit(parameters()).state_dict())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_eight_examples_are_learnt_by_heart(name):
    model = minilora.Transformer(TINY, seed=0)
    ids = np.random.default_rng(0).integers(0, 97, (8, 10))
    ids[:, 0] = np.arange(8)  # no two begin alike
    optimizer = make(name, model.parameters(), lr=1e-2)
    losses = [train_step(model, optimizer, ids, ids, max_grad_norm=1.0) for _ in range(80)]
    assert losses[0] > 4 and losses[-1] < 0.01


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_schedules_and_threads(name):
    base = minilora.Transformer(TINY, seed=0)
    model = minilora.get_peft_model(base, minilora.LoraConfig(8, target_modules="all-linear"))
    optimizer = make(name, loraplus_groups(model, 1e-3, 16))
    Schedule("linear", 10).apply(optimizer, 5)
    assert [g["lr"] for g in optimizer.groups] == pytest.approx([5e-4, 8e-3])
    ids = np.random.default_rng(0).integers(0, 97, (5, 10))
    losses = [train_step(model, optimizer, ids, ids, threads=2) for _ in range(3)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_ledger_and_its_prediction(name):
    model = minilora.Transformer(TINY, seed=0)
    optimizer = make(name, model.parameters())
    ids = np.zeros((2, 9), int)
    with ledger(model, optimizer) as kept:
        train_step(model, optimizer, ids, ids, threads=1)
    said = predict(TINY, batch_size=2, length=9, optimizer=name).ledger
    assert kept.totals == said.totals
    n = model.n_parameters()
    bytes_a_number = {"adamw": 8, "adamw-8bit": 2 + 8 / 256, "adamw-paged": 0}[name]
    assert kept.totals["optimizer"] == pytest.approx(bytes_a_number * n, rel=0.02)
    assert kept.peak == pytest.approx(said.peak, rel=0.1)  # Python objects count on so small a step
    assert kept.paged == said.paged == (8 * n if name == "adamw-paged" else 0)
    assert ("of m and v in a file" in kept.table()) == (name == "adamw-paged")


def test_a_name_that_there_is_not():
    with pytest.raises(ConfigError, match="'sgd' is not one of adamw, adamw-8bit, adamw-paged"):
        make("sgd", parameters())
