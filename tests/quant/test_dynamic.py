"""The dynamic 8-bit map: bitsandbytes' levels, and the code nearest to a number."""

import numpy as np
import pytest

from minilora.quant.dynamic import dynamic_map, nearest

HALF = np.float32(0.5)


@pytest.mark.parametrize("signed", [True, False])
def test_the_levels(signed):
    levels = dynamic_map(signed)
    assert levels.dtype == np.float32 and levels.shape == (256,)
    assert (np.diff(levels) > 0).all()
    assert levels[-1] == 1 and 0 in levels
    assert levels[0] == (np.float32(-0.99296875) if signed else 0)
    # A decade has twice the levels of the one below it, and the largest 64, or 128.
    magnitudes = levels[levels > 0][:-1]
    in_decades = [((magnitudes > 10.0**-d / 10) & (magnitudes < 10.0**-d)).sum() for d in range(7)]
    assert in_decades == [(64 if signed else 128) // 2**d for d in range(7)]


@pytest.mark.parametrize("signed", [True, False])
def test_the_levels_are_bitsandbytes(signed):
    functional = pytest.importorskip("bitsandbytes.functional", reason="needs the extra parity")
    theirs = functional.create_dynamic_map(signed=signed).numpy()
    assert np.array_equal(dynamic_map(signed), theirs)


@pytest.mark.parametrize("signed", [True, False])
def test_the_nearest_level_is_found_by_search(signed):
    levels = dynamic_map(signed)
    halves = (levels[:-1] + levels[1:]) * HALF
    rng = np.random.default_rng(0)
    sign = rng.choice([-1, 1], 20_000) if signed else 1
    many = [levels, halves, np.nextafter(halves, np.float32(2)), np.nextafter(halves, -halves - 1)]
    many += [
        rng.uniform(-1 if signed else 0, 1, 20_000),
        sign * 10.0 ** rng.uniform(-44, 0, 20_000),
    ]
    x = np.clip(np.concatenate(many), -1 if signed else 0, 1).astype(np.float32)
    assert np.array_equal(nearest(x, signed), np.searchsorted(halves, x, side="left"))


@pytest.mark.parametrize("signed", [True, False])
def test_bitsandbytes_takes_the_nearest_of_a_number_that_it_has_rounded(signed):
    """On a processor, to one of 65536 even steps of [-1, 1]: 0 becomes 1.5e-5. Ours is nearer."""
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    functional = pytest.importorskip("bitsandbytes.functional", reason="needs the extra parity")
    levels = dynamic_map(signed)
    rng = np.random.default_rng(0)
    low = -1 if signed else 0
    dense = [
        rng.uniform(low, 1, 2**17),
        10.0 ** rng.uniform(-9, 0, 2**16),
        np.linspace(low, 1, 2**16),
    ]
    x = np.concatenate(dense).astype(np.float32)
    x[::256] = 1  # the scale of each block
    codes, _ = functional.quantize_blockwise(
        torch.tensor(x), code=torch.tensor(levels.copy()), blocksize=256
    )
    theirs = codes.numpy()
    steps = np.floor((x + np.float32(1)) * np.float32(32767.5) + HALF)
    assert np.array_equal(nearest((steps / 65535 * 2 - 1).astype(np.float32), signed), theirs)
    ours = nearest(x, signed)
    wrong_by = np.abs(levels[theirs] - x.astype(float)) - np.abs(levels[ours] - x.astype(float))
    assert wrong_by.min() > -1e-9 and wrong_by.max() < 3.1e-5
    large = np.abs(x) > 1e-3
    assert np.abs(theirs.astype(int) - ours)[large].max() == 1
    assert (theirs == ours)[large].mean() > 0.997


@pytest.mark.parametrize("signed", [True, False])
def test_a_level_is_its_own_nearest_and_zero_is_exact(signed):
    assert np.array_equal(nearest(dynamic_map(signed), signed), np.arange(256))
    zeros = np.array([[0.0, -0.0]], np.float32)
    assert (dynamic_map(signed)[nearest(zeros, signed)] == 0).all()
    assert nearest(zeros, signed).shape == (1, 2)
