"""The formats: which levels there are, and how well they fit a normal distribution."""

import numpy as np
import pytest

from minilora.quant import DATA_TYPES, dequantize, quantize
from minilora.quant.levels import NF4, levels, nearest, nf4_levels

CODEBOOKS = [name for name in DATA_TYPES if name != "int4-minmax"]


def test_nf4_follows_from_quantiles():
    # One float32 epsilon: the published ones were computed in float32.
    np.testing.assert_allclose(nf4_levels(), NF4, rtol=0, atol=2**-23)
    assert nf4_levels()[7] == 0 and nf4_levels()[0] == -1 and nf4_levels()[-1] == 1


def test_nf4_has_seven_levels_below_0_and_eight_above():
    assert (levels("nf4") < 0).sum() == 7 and (levels("nf4") > 0).sum() == 8


def test_fp4_is_sign_exponent_digit():
    twelfths = levels("fp4") * 12
    expected = [0, 0.0625, 8, 12, 4, 6, 2, 3]
    np.testing.assert_allclose(twelfths[:8], expected, rtol=1e-6)
    np.testing.assert_array_equal(twelfths[8:], -twelfths[:8])
    # 1, 1.5, 2, 3, 4, 6: every power of two once with each digit.
    np.testing.assert_allclose(np.sort(twelfths[:8])[2:], [2, 3, 4, 6, 8, 12], rtol=1e-6)


@pytest.mark.parametrize(("name", "last"), [("int4", 7), ("int8", 127)])
def test_even_levels(name, last):
    np.testing.assert_allclose(levels(name)[1:] * last, np.arange(-last, last + 1), rtol=1e-6)


@pytest.mark.parametrize("name", CODEBOOKS)
def test_every_level_is_nearest_to_itself(name):
    found = levels(name)[nearest(levels(name)[levels(name) >= -1], name)]
    np.testing.assert_array_equal(found, levels(name)[levels(name) >= -1])


@pytest.mark.parametrize("name", CODEBOOKS)
def test_no_level_is_nearer_than_the_nearest(name):
    x = np.random.default_rng(0).uniform(-1, 1, 4001).astype(np.float32)
    chosen = np.abs(levels(name)[nearest(x, name)].astype(np.float64) - x)
    usable = levels(name)[levels(name) >= -1].astype(np.float64)
    best = np.abs(usable[:, None] - x).min(axis=0)
    np.testing.assert_allclose(chosen, best, rtol=0, atol=2e-7)


@pytest.mark.parametrize("name", CODEBOOKS)
def test_halfway_is_the_lower_level(name):
    usable = np.unique(levels(name)[levels(name) >= -1])
    halves = (usable[:-1] + usable[1:]) / np.float32(2)
    # Even levels are not exact in binary, so of their halves those are taken that are.
    exact = halves[np.isin(halves, [-0.5, 0.5])] if name.startswith("int") else halves
    np.testing.assert_array_equal(
        levels(name)[nearest(exact, name)], usable[:-1][np.isin(halves, exact)]
    )
    above = np.nextafter(exact, np.float32(2))
    np.testing.assert_array_equal(
        levels(name)[nearest(above, name)], usable[1:][np.isin(halves, exact)]
    )


@pytest.fixture(scope="module")
def normal():
    return np.random.default_rng(0).standard_normal(64 * 8000).astype(np.float32)


@pytest.mark.parametrize(("name", "mae"), [("nf4", 0.0728), ("fp4", 0.0965), ("int4", 0.0917)])
def test_mean_error_on_a_normal_distribution(normal, name, mae):
    error = np.abs(dequantize(quantize(normal, name, 64, double_quant=False)) - normal)
    assert error.mean() == pytest.approx(mae, abs=1e-3)


@pytest.mark.parametrize(("name", "decibels"), [("int4-minmax", 20.9), ("nf4", 20.7)])
def test_signal_to_noise_on_a_normal_distribution(normal, name, decibels):
    noise = dequantize(quantize(normal, name, 64, double_quant=False)) - normal
    assert 10 * np.log10(np.var(normal) / np.var(noise)) == pytest.approx(decibels, abs=0.1)


def test_codes_of_nf4_are_used_more_evenly_than_those_of_int4(normal):
    def entropy(name):
        q = quantize(normal, name, 64, double_quant=False)
        share = np.bincount(np.concatenate([q.codes >> 4, q.codes & 15]), minlength=16) / q.size
        return -(share[share > 0] * np.log2(share[share > 0])).sum()

    assert entropy("nf4") > 3.8 > 3.6 > entropy("int4")
