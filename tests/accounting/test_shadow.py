"""Shadows give the shapes, types, views and copies that NumPy gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilora.accounting.shadow import Shadow, books, shadow
from minilora.errors import MiniloraError

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


@pytest.fixture(autouse=True)
def account():
    with books() as opened:
        yield opened


def same(made, array):
    assert isinstance(made, Shadow)
    assert (made.shape, made.dtype, made.nbytes) == (array.shape, array.dtype, array.nbytes)


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x + 1,
        lambda x: 2.0 * x - x / 3,
        lambda x: -x,
        lambda x: np.exp(x) * np.sqrt(x),
        lambda x: x @ x.swapaxes(-1, -2),
        lambda x: np.vecdot(x, x)[..., None],
        lambda x: x.sum(axis=(0, 2)),
        lambda x: x.max(axis=-1, keepdims=True),
        lambda x: x.sum(dtype=np.float64),
        lambda x: x.reshape(-1, 4).T,
        lambda x: x.transpose(2, 0, 1).reshape(8, -1),
        lambda x: x[:, 1:, ::2],
        lambda x: x[np.array([0, 1, 1])],
        lambda x: x[..., np.array([0, 3])],
        lambda x: x == x,
        lambda x: np.concatenate([x, x], axis=1),
        lambda x: np.zeros((5, 2), x.dtype, like=x),
        lambda x: np.empty_like(x),
        lambda x: x.astype(np.float64),
        lambda x: np.add.reduceat(x, np.array([0, 1]), axis=0),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_comes_out_is_as_of_an_array(work, dtype):
    same(work(shadow((2, 3, 4), dtype)), work(np.ones((2, 3, 4), dtype)))


@given(shapes, st.randoms())
def test_reshaping_is_a_view_exactly_where_numpys_is(shape, random):
    axes = list(range(len(shape)))
    random.shuffle(axes)
    with books() as account:
        x, array = shadow(shape), np.zeros(shape, np.float32)
        before = account.held
        flat, real = x.transpose(axes).reshape(-1), array.transpose(axes).reshape(-1)
        assert (account.held == before) == np.shares_memory(real, array)
        assert (flat.block is x.block) == np.shares_memory(real, array)


def test_the_books_hold_what_is_held_and_remember_the_most(account):
    x = shadow((10, 10))
    assert (account.held, account.peak) == (400, 400)
    y = x.reshape(100)[5:]  # a view costs nothing, and keeps the whole
    del x
    assert account.held == 400
    z = y * 2
    assert (account.held, account.peak) == (400 + 380, 780)
    del y, z
    assert (account.held, account.peak) == (0, 780)


def test_in_place_makes_nothing(account):
    x = shadow((8, 8))
    same_one = x
    x += 1
    np.multiply(x, 2, out=x)
    assert x is same_one
    assert account.held == account.peak == 256


def test_a_large_temporary_is_written_over_as_numpy_does(account):
    x = shadow((600, 600))
    y = x * 2 + 1
    assert account.peak == 2 * x.nbytes
    small = shadow((6, 6))
    del y
    before = account.held
    made = small * 2 + 1
    assert account.held == before + made.nbytes


def test_products_are_counted(account):
    a, b = shadow((5, 2, 3)), shadow((3, 4))
    assert (a @ b).product == account.flops == 2 * 5 * 2 * 3 * 4
    assert (2 * (a @ b)).reshape(-1).product == 240


def test_what_is_not_known_is_said():
    with pytest.raises(MiniloraError, match=r"np\.sort has no shadow"):
        np.sort(shadow((3,)))
