"""Quantizing arrays: what is held, what comes back, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.errors import ConfigError, DTypeError, NonFiniteError, ShapeError
from minilora.quant import DATA_TYPES, bits_per_parameter, dequantize, quantize
from minilora.quant.blockwise import PIECE
from minilora.quant.levels import levels
from minilora.quant.packing import pack, unpack

ABSMAX = [name for name in DATA_TYPES if name != "int4-minmax"]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def largest_gap(name):
    usable = np.unique(levels(name)[levels(name) >= -1]).astype(np.float64)
    # The dynamic map has no level -1, so numbers there are further from the next.
    return max(np.diff(usable).max(), 2 * (1 + usable[0]))


def per_number(q, constants):
    return np.repeat(constants, q.block_size)[: q.size].reshape(q.shape)


@given(st.lists(st.integers(0, 15), max_size=70))
def test_packing_is_bijective(codes):
    codes = np.array(codes, np.uint8)
    packed = pack(codes, fill=9)
    assert len(packed) == (len(codes) + 1) // 2
    np.testing.assert_array_equal(unpack(packed, len(codes)), codes)


def test_the_first_code_is_in_the_high_half():
    assert pack(np.array([1, 2, 3], np.uint8), fill=7).tolist() == [0x12, 0x37]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(ABSMAX),
    st.lists(st.integers(0, 9), min_size=0, max_size=3),
    st.integers(1, 80),
    st.integers(0, 2**32 - 1),
)
def test_errors_are_within_half_the_largest_gap(name, shape, block_size, seed):
    w = normal(*shape, seed=seed)
    q = quantize(w, name, block_size, double_quant=False)
    found = dequantize(q)
    assert found.shape == w.shape and found.dtype == np.float32
    absmax = per_number(q, q.constants.part(0, len(q.constants)))
    assert (np.abs(found - w) <= absmax * (largest_gap(name) / 2 + 1e-6)).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 200), st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_errors_of_minmax_are_within_half_a_step(n, block_size, seed):
    w = normal(n, seed=seed) + np.float32(3)
    q = quantize(w, "int4-minmax", block_size, double_quant=False)
    step = per_number(q, q.constants.part(0, len(q.constants)))
    assert (np.abs(dequantize(q) - w) <= step * 0.5001 + 1e-6).all()


def test_minmax_keeps_what_lies_far_from_zero():
    w = normal(64) + np.float32(100)
    noise = {name: np.abs(dequantize(quantize(w, name)) - w).mean() for name in DATA_TYPES}
    assert noise["int4-minmax"] < 0.3 and noise["nf4"] > 1


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", DATA_TYPES)
@pytest.mark.parametrize(("shape", "block_size"), [((7, 9), 4), ((6, 64), 64), ((5, 33), 64)])
def test_rows_are_those_of_the_whole(name, shape, block_size, double):
    q = quantize(normal(*shape), name, block_size, double)
    whole = dequantize(q)
    for start in range(shape[0] + 1):
        for stop in range(start, shape[0] + 1):
            np.testing.assert_array_equal(q.rows(start, stop), whole[start:stop])


def test_long_arrays_are_undone_in_pieces_without_a_seam():
    w = normal(2 * PIECE + 101)
    q = quantize(w, block_size=96)
    np.testing.assert_array_equal(dequantize(q), q.part(0, q.size))
    assert np.abs(dequantize(q)[PIECE - 3 : PIECE + 3] - w[PIECE - 3 : PIECE + 3]).max() < 0.6


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", DATA_TYPES)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 5), (5, 0), (2, 3, 5)])
def test_arrays_of_any_shape(name, shape, double):
    w = np.asarray(normal(*shape), np.float32)
    q = quantize(w, name, 4, double)
    assert q.shape == shape and dequantize(q).shape == shape
    assert np.abs(dequantize(q) - w).max(initial=0) < 0.6
    if len(shape) == 2:
        assert q.rows(0, shape[0]).shape == shape


def test_rows_that_are_not_there_are_refused():
    q = quantize(normal(4, 8))
    for start, stop in [(-1, 2), (3, 2), (0, 5)]:
        with pytest.raises(ShapeError, match=f"rows {start} to {stop}"):
            q.rows(start, stop)
    with pytest.raises(ShapeError, match=r"shape \(3,\)"):
        quantize(normal(3)).rows(0, 1)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", ABSMAX)
def test_zeros_stay_zeros(name, double):
    w = normal(6, 64)
    w[2:4] = 0
    np.testing.assert_array_equal(dequantize(quantize(w, name, 64, double))[2:4], 0)


@pytest.mark.parametrize("name", [n for n in ABSMAX if n != "int8-dynamic"])
def test_the_largest_number_of_a_block_comes_back_exactly(name):
    w = normal(8, 64)
    found = dequantize(quantize(w, name, 64, double_quant=False))
    at = np.abs(w).argmax(axis=1)[:, None]
    np.testing.assert_array_equal(np.take_along_axis(found, at, 1), np.take_along_axis(w, at, 1))


def test_quantizing_what_came_back_moves_nothing():
    for name in ("nf4", "fp4", "int4", "int8"):
        once = quantize(normal(8, 64), name, 64, double_quant=False)
        again = quantize(dequantize(once), name, 64, double_quant=False)
        np.testing.assert_array_equal(dequantize(again), dequantize(once))


@pytest.mark.parametrize("name", DATA_TYPES)
def test_double_quantization_changes_constants_by_a_hundredth_of_their_spread(name):
    w = normal(64 * 1000)
    plain, double = quantize(w, name, 64, False), quantize(w, name, 64, True)
    np.testing.assert_array_equal(plain.codes, double.codes)
    n = len(plain.constants)
    exact, found = plain.constants.part(0, n), double.constants.part(0, n)
    # Half the largest gap of the map, of the largest that is left when the mean is taken off.
    assert 0 < np.abs(found - exact).max() <= 0.0071 * np.abs(exact - exact.mean()).max()


def test_bits_per_parameter():
    assert bits_per_parameter("nf4", 64, False) == 4.5
    assert bits_per_parameter("nf4", 64, True) == 4 + 8 / 64 + 32 / (64 * 256)
    assert bits_per_parameter("int4-minmax", 64, False) == 5
    assert bits_per_parameter("int8", 128, False) == 8.25


@pytest.mark.parametrize("name", DATA_TYPES)
@pytest.mark.parametrize("double", [False, True])
def test_bytes_are_those_of_the_formula(name, double):
    q = quantize(normal(256, 256), name, 64, double)
    means = 4 * double * (2 if name == "int4-minmax" else 1)
    assert 8 * (q.nbytes - means) / q.size == bits_per_parameter(name, 64, double)
    assert q.nbytes == sum(a.nbytes for a in q.arrays().values())
    assert q.bits_per_parameter == 8 * q.nbytes / 65536


def test_what_it_says_of_itself():
    q = quantize(normal(3, 5), "fp4", 4, False)
    assert (q.shape, q.size, q.ndim, q.dtype) == ((3, 5), 15, 2, np.float32)
    assert (q.data_type, q.block_size, q.double_quant) == ("fp4", 4, False)
    assert repr(q) == "Quantized((3, 5), fp4, blocks of 4, 24 bytes)"
    assert set(q.arrays()) == {"codes", "constants"}


def test_what_is_held_cannot_be_written_to():
    w = normal(4, 64)
    for name in ("nf4", "int8"):
        q = quantize(w, name)
        for array in q.arrays().values():
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
    w[0] = 1  # nothing of it is held, so nobody locked it


def test_float16_and_strange_memory_layouts_are_taken():
    w = normal(8, 64)
    np.testing.assert_array_equal(quantize(w.T).codes, quantize(w.T.copy()).codes)
    half = w.astype(np.float16)
    np.testing.assert_array_equal(quantize(half).codes, quantize(half.astype(np.float32)).codes)


@pytest.mark.parametrize(
    "size", [0, -64, 2.5, "64", True, None, 2**31 + 1, 10**20, np.uint64(2**64 - 1)]
)
@pytest.mark.parametrize("name", DATA_TYPES)
def test_block_sizes_that_cannot_be(name, size):
    said = r"block_size .* must be a whole number from 1 to 2,147,483,648; 64 is usual"
    with pytest.raises(ConfigError, match=said):
        quantize(normal(4), name, size)
    with pytest.raises(ConfigError, match=said):
        bits_per_parameter(name, size)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", DATA_TYPES)
def test_a_block_larger_than_the_array_is_all_of_it(name, double):
    w = normal(10, 10)
    expected = dequantize(quantize(w, name, 100, double))
    # Whole blocks are multiplied with an inverse, begun ones divided: the last digit may differ.
    found = dequantize(quantize(w, name, 2**31, double))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [np.int64(64), np.uint8(64), np.int8(64)])
@pytest.mark.parametrize("name", DATA_TYPES)
def test_block_sizes_of_numpy_are_taken(name, size):
    w = normal(5, 64)
    q = quantize(w, name, size)
    assert type(q.block_size) is int
    np.testing.assert_array_equal(dequantize(q), dequantize(quantize(w, name, 64)))
    assert bits_per_parameter(name, size) == bits_per_parameter(name, 64)


def test_unknown_formats_are_listed_against():
    with pytest.raises(ConfigError, match="'nf3' is none of nf4, fp4, int4, int4-minmax, int8, "):
        quantize(normal(4), "nf3")
    with pytest.raises(ConfigError, match="'q4' is none of"):
        bits_per_parameter("q4")
    for no_name in (["nf4"], {"nf4"}, None, 4):
        with pytest.raises(ConfigError, match="is none of nf4, fp4"):
            quantize(normal(4), no_name)
        with pytest.raises(ConfigError, match="is none of nf4, fp4"):
            bits_per_parameter(no_name)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", DATA_TYPES)
def test_what_is_not_finite_is_named(bad, name):
    w = normal(4, 8)
    w[2, 5] = w[3, 1] = bad
    with pytest.raises(NonFiniteError, match=rf"k_proj\[2, 5\] is {bad}, and 1 more"):
        quantize(w, name, name="k_proj")


def test_what_is_quantized_already_is_refused():
    with pytest.raises(ConfigError, match="the array is quantized already, as nf4"):
        quantize(quantize(normal(4)), "int4")


@pytest.mark.parametrize("w", [np.arange(4), np.zeros(4), [1.0, 2.0]])
def test_other_dtypes_are_refused(w):
    with pytest.raises(DTypeError, match="float32 or float16; convert"):
        quantize(w)


def test_a_range_that_float32_has_not():
    with pytest.raises(ConfigError, match="further apart than float32 reaches"):
        quantize(np.array([3e38, -3e38], np.float32), "int4-minmax")
    found = dequantize(quantize(np.array([3e38, -3e38], np.float32), "nf4", 64, False))
    np.testing.assert_array_equal(found, np.array([3e38, -3e38], np.float32))


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", ABSMAX)
def test_what_is_finite_comes_back_finite(name, double):
    """Constants near float32's largest, of which a rounded one can be larger than that."""
    w = np.full(1000, 3.4e38, np.float32)
    w[::2] *= -1
    w[:64] = 1
    found = dequantize(quantize(w, name, 64, double))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[64:], w[64:], rtol=0.01)


def test_minmax_is_refused_where_its_levels_leave_float32():
    top = np.finfo(np.float32).max
    # No two numbers are too far apart, but fifteen rounded steps are.
    w = np.zeros(64 * 20, np.float32)
    w[64::64] = top
    with pytest.raises(ConfigError, match="further apart than float32 reaches"):
        quantize(w, "int4-minmax", 64, double_quant=True)
    # And here the minimum of one block is too far from the mean of all.
    w[:64], w[64:] = -top, top
    with pytest.raises(ConfigError, match=r"constant is further.*give double_quant=False"):
        quantize(w, "int4-minmax", 64, double_quant=True)
    found = dequantize(quantize(w, "int4-minmax", 64, double_quant=False))
    np.testing.assert_array_equal(found, w)


def test_a_block_below_the_smallest_inverse_gets_lower_levels():
    """The bound on errors does not hold there; bitsandbytes does the same."""
    w = np.linspace(-1, 1, 64, dtype=np.float32)
    share = {}
    for largest in (1.1e-38, 5e-39, 1e-40):
        found = dequantize(quantize(w * np.float32(largest), double_quant=False))
        share[largest] = np.abs(found).max() / largest
    assert share[1.1e-38] == pytest.approx(1, abs=1e-6)
    assert 0.4 < share[5e-39] < 0.6
    assert share[1e-40] == 0
