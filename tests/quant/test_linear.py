"""A matrix of which only the bits are held multiplies, and passes gradients, as its floats do."""

import numpy as np
import pytest

from minilora import ops
from minilora.autograd import Parameter, Tensor, gradcheck
from minilora.errors import ConfigError, DTypeError, ShapeError
from minilora.quant import dequantize, quantize
from minilora.quant.linear import PackedMatrix, spread, unpacked
from minilora.quant.stored_gguf import StoredBlocks


def matrix(n_out=7, n_in=10, dtype=np.float64, data_type="nf4", block_size=16):
    """A packed matrix, whose blocks straddle rows, and its floats."""
    W = np.random.default_rng(0).normal(size=(n_out, n_in)).astype(np.float32)
    q = quantize(W, data_type, block_size)
    return PackedMatrix(q, dtype), dequantize(q).astype(dtype)


@pytest.fixture(params=[1, 30, 2**18])
def piece(request, monkeypatch):
    """Pieces of one row, of three, of all."""
    monkeypatch.setattr("minilora.quant.linear.PIECE", request.param)


def test_its_products_are_those_of_its_floats(piece):
    packed, W = matrix()
    rng = np.random.default_rng(1)
    x, dy = rng.normal(size=(5, 10)), rng.normal(size=(5, 7))
    np.testing.assert_allclose(x @ packed.T, x @ W.T, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(dy @ packed, dy @ W, rtol=1e-14, atol=1e-14)
    np.testing.assert_array_equal(packed.whole(), W)
    np.testing.assert_array_equal(np.asarray(packed), W)


def test_rows_are_looked_up_by_ids_of_any_shape_and_by_slices():
    packed, W = matrix()
    ids = np.array([[6, 0], [0, 3]])
    np.testing.assert_array_equal(packed[ids], W[ids])
    np.testing.assert_array_equal(packed[2:5], W[2:5])
    np.testing.assert_array_equal(packed[-1], W[-1])
    assert packed[ids].dtype == W.dtype


def test_gradients_go_through_it_and_none_into_it(piece):
    packed, _ = matrix()
    W = Parameter(packed, requires_grad=False)
    x = np.random.default_rng(1).normal(size=(2, 3, 10))
    assert gradcheck(lambda x: ops.linear(x, W), x)
    A, B = np.random.default_rng(2).normal(size=(2, 10)), np.ones((7, 2))
    assert gradcheck(lambda x, A, B: ops.lora_linear(x, W, A, B, scaling=0.5), x, A, B)
    labels = np.array([[0, 6, -100], [3, 1, 2]])
    assert gradcheck(lambda x: ops.linear_cross_entropy(x, W, labels=labels), x)


def test_what_is_not_a_number_stays_so():
    packed, _ = matrix(dtype=np.float32)
    x = np.ones((2, 10), np.float32)
    x[1, 3] = np.nan
    y = x @ packed.T
    assert np.isfinite(y[0]).all() and np.isnan(y[1]).all()


def test_never_more_than_a_piece_is_in_floats(monkeypatch):
    monkeypatch.setattr("minilora.quant.linear.PIECE", 50)
    packed, _ = matrix(dtype=np.float32)
    seen = []
    rows = packed.blocks.rows
    monkeypatch.setattr(packed.blocks, "rows", lambda a, b: seen.append((b - a) * 10) or rows(a, b))
    np.ones((3, 10), np.float32) @ packed.T
    np.ones((3, 7), np.float32) @ packed
    assert max(seen) <= 50
    assert sum(seen) == 2 * 70


def test_training_it_is_refused_and_why_is_said():
    packed, _ = matrix(dtype=np.float32)
    with pytest.raises(ConfigError, match=r"packed as nf4 cannot be trained.*adapter beside it"):
        Parameter(packed)
    W = Parameter(packed, requires_grad=False)
    with pytest.raises(ConfigError, match="full fine-tuning"):
        W.requires_grad = True
    assert not W.requires_grad


def test_what_it_cannot_do_is_said_in_words():
    packed, _ = matrix(dtype=np.float32)
    with pytest.raises(DTypeError, match=r"np\.concatenate is not for a matrix packed as nf4"):
        np.concatenate([packed, packed])
    with pytest.raises(ShapeError, match=r"\(5, 9\) @ \(10, 7\)"):
        np.ones((5, 9), np.float32) @ packed.T
    with pytest.raises(ShapeError, match=r"\(7,\) @ \(7, 10\)"):
        np.ones(7, np.float32) @ packed
    with pytest.raises(DTypeError, match="float32 and float64"):
        ops.linear(Tensor(np.ones((2, 10))), Parameter(packed, requires_grad=False))


def test_it_says_what_it_holds():
    packed, W = matrix(64, 128, np.float32, block_size=64)
    assert packed.shape == (64, 128) and packed.ndim == 2 and len(packed) == 64
    assert packed.size == W.size
    # 4 bits each; of 128 blocks a byte; one float32 for all of these, and their mean.
    assert packed.nbytes == 64 * 128 // 2 + 128 + 4 + 4
    assert repr(packed) == "PackedMatrix((64, 128), nf4, 4,232 bytes)"


def test_it_is_recognized_by_the_numbers_of_before():
    W = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    q = quantize(W)
    assert spread(W).shape == (286,)
    np.testing.assert_array_equal(spread(PackedMatrix(q, origin=spread(W))), spread(W))
    np.testing.assert_array_equal(spread(PackedMatrix(q)), spread(dequantize(q)))
    assert not np.array_equal(spread(PackedMatrix(q)), spread(W))
    np.testing.assert_array_equal(unpacked(PackedMatrix(q)), dequantize(q))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_blocks_of_a_gguf_are_undone_to_the_bit(kind):
    gguf = pytest.importorskip("gguf")
    size = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34}[kind]
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (6, 3 * size), np.uint8)
    # Scales and minimums that are numbers: a half with its highest exponent bit cleared.
    blocks = raw.reshape(6, 3, size)
    blocks[..., 1] &= 0xBF
    if kind == "Q4_1":
        blocks[..., 3] &= 0xBF
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
    found = StoredBlocks.from_bytes(kind, raw)
    np.testing.assert_array_equal(found.rows(0, 6), expected)
    np.testing.assert_array_equal(found.rows(2, 4), expected[2:4])
    np.testing.assert_array_equal(found.take(np.array([5, 0, 5])), expected[[5, 0, 5]])
    order = rng.permutation(6)
    np.testing.assert_array_equal(found.reordered(order).rows(0, 6), expected[order])
    assert found.nbytes == raw.nbytes
    packed = PackedMatrix(found)
    np.testing.assert_array_equal(packed[np.array([[1, 4]])], expected[[[1, 4]]])
