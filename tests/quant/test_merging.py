"""Merging an adapter back into few bits, and how errors are measured."""

import numpy as np
import pytest

from minilora.errors import ConfigError, ShapeError
from minilora.quant import dequantize, quantize
from minilora.quant.blockwise import PIECE
from minilora.quant.measuring import RoundingError
from minilora.quant.merging import requantized


def low_rank(shape, size, seed=1):
    """ΔW of rank 8 and Frobenius norm `size`."""
    rng = np.random.default_rng(seed)
    delta = rng.standard_normal((shape[0], 8)) @ rng.standard_normal((8, shape[1]))
    return (delta * size / np.linalg.norm(delta)).astype(np.float32)


@pytest.fixture(scope="module")
def stored():
    rng = np.random.default_rng(0)
    return quantize(rng.standard_normal((320, 320)).astype(np.float32) * np.float32(0.02))


def merged(stored, relative):
    return requantized(
        stored, low_rank(stored.shape, relative * np.linalg.norm(dequantize(stored)))
    )


def test_a_small_adapter_vanishes(stored):
    found = merged(stored, 0.01)
    assert found.relative == pytest.approx(0.01, rel=1e-4)
    assert found.moved == 0 and found.survives < 0.1 and found.vanishes
    assert "Keep the adapter apart" in found.words


def test_a_tenth_moves_a_fifth_of_the_codes(stored):
    found = merged(stored, 0.1)
    assert found.moved == pytest.approx(0.2, abs=0.03)
    assert 0.6 < found.survives < 0.95 and found.astray > 0.5


def test_a_large_one_arrives(stored):
    found = merged(stored, 1.0)
    assert found.survives == pytest.approx(1, abs=0.02) and not found.vanishes
    assert "apart" not in found.words


def test_the_measures_are_those_of_the_matrices(stored):
    delta = low_rank(stored.shape, 0.2 * np.linalg.norm(dequantize(stored)))
    found = requantized(stored, delta)
    change = dequantize(found.merged).astype(float) - dequantize(stored)
    # ΔW and what goes astray are orthogonal: Pythagoras holds.
    parts = np.hypot(found.survives, found.astray) * np.linalg.norm(delta)
    assert parts == pytest.approx(np.linalg.norm(change), rel=1e-5)
    assert found.merged.data_type == "nf4" and found.merged.double_quant


def test_no_adapter_at_all(stored):
    found = requantized(stored, np.zeros(stored.shape, np.float32))
    assert (found.moved, found.relative, found.survives) == (0, 0, 1) and not found.vanishes


def test_the_two_zeros_of_fp4_are_one_level():
    w = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    stored = quantize(w, "fp4", 64, double_quant=False)
    assert (stored.codes == 0x88).any() or ((stored.codes & 15) == 8).any()
    found = requantized(stored, np.full(w.shape, 1e-9, np.float32))
    assert found.moved == 0


def test_what_does_not_fit_is_refused(stored):
    with pytest.raises(ShapeError, match=r"\(3, 4\) and a matrix of shape \(320, 320\)"):
        requantized(stored, np.zeros((3, 4), np.float32))
    with pytest.raises(ConfigError, match="ndarray is none of the formats"):
        requantized(np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32))


def test_errors_are_measured_over_pieces():
    w = np.random.default_rng(0).standard_normal(PIECE + 77).astype(np.float32)
    q = quantize(w, "int4")
    error = RoundingError.of(w, q)
    noise = dequantize(q).astype(float) - w
    assert error.mae == pytest.approx(np.abs(noise).mean(), rel=1e-12)
    snr = 10 * np.log10((w.astype(float) ** 2).sum() / (noise**2).sum())
    assert error.snr == pytest.approx(snr, rel=1e-9)
    assert error.bits == pytest.approx(q.bits_per_parameter, rel=1e-12)


def test_errors_add_up():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 640)).astype(np.float32) * np.array([[1], [100]], np.float32)
    one, other = (RoundingError.of(w, quantize(w, "nf4", 64, False)) for w in (a, b))
    both = np.concatenate([a, b])
    together = RoundingError.of(both, quantize(both, "nf4", 64, False))
    assert (one + other).snr == pytest.approx(together.snr, rel=1e-12)
    assert (one + other).mae == pytest.approx(together.mae, rel=1e-12)
    assert (one + other).nbytes == together.nbytes


def test_what_loses_nothing_has_no_noise():
    w = np.array([1, -1, 0, 1], np.float32)
    assert RoundingError.of(w, quantize(w, "nf4", 64, False)).snr == float("inf")
