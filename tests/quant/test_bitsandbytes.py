"""NF4 and FP4 beside bitsandbytes: codes and constants bit for bit.

`vectors.json` holds what bitsandbytes 0.50.2 made of 24 blocks, so that this is also held where it
is not installed. It is made again by `python tests/quant/test_bitsandbytes.py`.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from minilora.quant import dequantize, quantize
from minilora.quant.dynamic import dynamic_map
from minilora.quant.levels import NF4, levels

VECTORS = Path(__file__).parent / "vectors.json"
KINDS = ["nf4", "fp4"]


def blocks(count, block_size=64, seed=0):
    """Blocks of all sorts: normal, flat, zero, with outliers, of ties, subnormal, huge."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((count, block_size)).astype(np.float32)
    w *= np.float32(10.0) ** rng.integers(-6, 3, (count, 1)).astype(np.float32)
    w[1::12] = 0
    w[2::12, rng.integers(block_size)] *= 50
    w[3::12] = np.float32(0.37) * np.sign(w[3::12])
    halves = np.sort((np.array(NF4[:-1], np.float32) + np.array(NF4[1:], np.float32)) / 2)
    w[4::12, :15], w[4::12, 15:] = halves, 1
    w[5::12] *= np.float32(1e-39)
    w[6::12] = np.sign(w[6::12]) * np.float32(3e38)
    w[7::12] = np.linspace(-1, 1, block_size)
    w[8::12] = -0.0
    w[9::12] *= np.float32(1e-33)
    return w


def of_bitsandbytes(w, name, block_size=64, double=False):
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("bitsandbytes.functional")
    packed, state = functional.quantize_4bit(
        torch.from_numpy(w.copy()),
        blocksize=block_size,
        quant_type=name,
        compress_statistics=double,
    )
    back = functional.dequantize_4bit(packed, state)
    # Two numbers come back as a column.
    return packed.numpy().ravel(), state, back.numpy().reshape(w.shape)


def bits(a):
    return np.ascontiguousarray(a, np.float32).view(np.uint32)


@pytest.mark.parametrize(("count", "block_size"), [(1000, 64), (300, 32), (300, 128), (60, 1024)])
@pytest.mark.parametrize("name", KINDS)
def test_a_thousand_blocks_bit_for_bit(name, count, block_size):
    w = blocks(count, block_size)
    packed, state, back = of_bitsandbytes(w, name, block_size)
    q = quantize(w, name, block_size, double_quant=False)
    np.testing.assert_array_equal(q.codes, packed)
    np.testing.assert_array_equal(bits(q.constants.part(0, count)), bits(state.absmax))
    np.testing.assert_array_equal(bits(dequantize(q)), bits(back))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("length", [1, 2, 63, 65, 127, 191, 64 * 9 + 5])
def test_a_last_block_that_is_not_whole(name, length):
    for seed in range(12):
        w = np.roll(blocks(12, seed=seed), seed, axis=0).reshape(-1)[-length:]
        packed, state, back = of_bitsandbytes(w, name)
        q = quantize(w, name, 64, double_quant=False)
        np.testing.assert_array_equal(q.codes, packed)
        absmax = q.constants.part(0, len(q.constants))
        np.testing.assert_array_equal(bits(absmax), bits(state.absmax))
        # Not the sign of a zero: of FP4's second one its loops for ends make -0.
        np.testing.assert_array_equal(dequantize(q), back)


@pytest.mark.parametrize("name", KINDS)
def test_a_dense_sweep_around_every_decision(name):
    rising = np.unique(levels(name))
    halves = (rising[:-1] + rising[1:]) / np.float32(2)
    near = bits(halves)[:, None].astype(np.int64) + np.arange(-40, 41)
    sweep = near.astype(np.uint32).view(np.float32).reshape(-1)
    sweep = np.concatenate([sweep, np.linspace(-1, 1, 60001, dtype=np.float32), -sweep])
    w = np.ones((-(-len(sweep) // 63), 64), np.float32)
    w[:, 1:].flat[: len(sweep)] = sweep
    packed, _, _ = of_bitsandbytes(w, name)
    np.testing.assert_array_equal(quantize(w, name).codes, packed)
    # The same with another divisor, so that scaling rounds.
    packed, _, _ = of_bitsandbytes(w * np.float32(0.7), name)
    np.testing.assert_array_equal(quantize(w * np.float32(0.7), name).codes, packed)


def grid_code(x):
    """The rule of bitsandbytes' CPU kernel: nearest not to x, but to x on a grid of 65,536."""
    place = ((x + np.float32(1)) * np.float32(32767.5) + np.float32(0.5)).astype(np.int64)
    on_grid = (place / 32767.5 - 1).astype(np.float32)
    rising = dynamic_map(signed=True)
    return np.searchsorted((rising[:-1] + rising[1:]) / np.float32(2), on_grid)


def test_double_quantization():
    """Where they differ, its grid is to blame: a 65,536th of the largest is all that it sees."""
    w = np.random.default_rng(3).standard_normal((640, 640)).astype(np.float32)
    packed, state, back = of_bitsandbytes(w, "nf4", double=True)
    q = quantize(w)
    np.testing.assert_array_equal(q.codes, packed)
    held, theirs = q.constants, state.absmax.numpy()
    np.testing.assert_allclose(held.mean, state.offset.numpy(), rtol=2e-7)
    np.testing.assert_allclose(held.scales, state.state2.absmax.numpy(), rtol=2e-6)
    same = held.codes == theirs
    assert 0.99 < same.mean() < 1  # so not bit for bit

    exact = quantize(w, double_quant=False).constants.part(0, len(held)) - held.mean
    x = exact / np.repeat(held.scales, 256)[: len(held)]
    np.testing.assert_array_equal(grid_code(x), theirs)
    of_same = np.repeat(same, 64).reshape(w.shape)
    np.testing.assert_allclose(dequantize(q)[of_same], back[of_same], rtol=0, atol=2e-6)


def test_largest_numbers_of_nested_blocks_have_a_least_here_and_none_there():
    w = np.zeros((10, 64), np.float32)
    _, state, back = of_bitsandbytes(w, "nf4", double=True)
    q = quantize(w)
    assert state.state2.absmax.tolist() == [0]
    assert q.constants.scales.tolist() == [np.float32(1e-38)]
    np.testing.assert_array_equal(dequantize(q), back)


def test_the_dynamic_format():
    """The same beside its 8-bit blocks, where every number goes through that grid."""
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("bitsandbytes.functional")
    w = np.random.default_rng(5).standard_normal((500, 64)).astype(np.float32)
    codes, state = functional.quantize_blockwise(torch.from_numpy(w), blocksize=64)
    q = quantize(w, "int8-dynamic", 64, double_quant=False)
    absmax = q.constants.part(0, 500)
    np.testing.assert_array_equal(bits(absmax), bits(state.absmax))
    theirs = codes.numpy()
    np.testing.assert_array_equal(grid_code(w / absmax[:, None]), theirs)
    same = q.codes.reshape(w.shape) == theirs
    assert same.mean() > 0.99
    back = functional.dequantize_blockwise(codes, state, blocksize=64).numpy()
    np.testing.assert_array_equal(bits(dequantize(q)[same]), bits(back[same]))
    # Where they differ, ours is nearer, or as near as float32 can tell.
    ours_off, theirs_off = (
        np.abs(a[~same].astype(float) - w[~same]) for a in (dequantize(q), back)
    )
    assert (ours_off <= theirs_off + 1e-7 * np.abs(w[~same])).all()


def test_committed_vectors():
    found = json.loads(VECTORS.read_text())
    w = np.array(found["w"], np.uint32).view(np.float32).reshape(-1, 64)
    np.testing.assert_array_equal(bits(w), bits(blocks(len(w))))
    for name in KINDS:
        q = quantize(w, name, 64, double_quant=False)
        assert q.codes.tobytes().hex() == found[name]["packed"]
        absmax = bits(q.constants.part(0, len(q.constants)))
        np.testing.assert_array_equal(absmax, found[name]["absmax"])
        np.testing.assert_array_equal(bits(dequantize(q)).ravel(), found[name]["back"])


def make_vectors():
    w = blocks(24)
    made = {"w": bits(w).ravel().tolist()}
    for name in KINDS:
        packed, state, back = of_bitsandbytes(w, name)
        made[name] = {
            "packed": packed.tobytes().hex(),
            "absmax": bits(state.absmax.numpy()).tolist(),
            "back": bits(back).ravel().tolist(),
        }
    VECTORS.write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    make_vectors()
