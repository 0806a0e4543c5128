"""Small models and batches that most rooms are tested with."""

import hashlib

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from minilora.config import ModelConfig
from minilora.model import Transformer

# No size of an array that is made on the way is a size of a weight: rows, heads and rank are
# apart from widths.
TINY = ModelConfig(31, 24, 40, 2, 4, n_kv_heads=2, max_positions=64)
TIED = ModelConfig(31, 24, 40, 2, 4, n_kv_heads=2, max_positions=64, tie_word_embeddings=True)


@pytest.fixture(autouse=True, scope="session")
def _blas_at_one_thread():
    """Products here are tiny; shared out to cores that are busy, they wait for each other."""
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture
def tiny():
    """tiny(tied=False, dtype=np.float32, seed=1): a Llama of two layers, a few thousand numbers."""

    def make(*, tied=False, dtype=np.float32, seed=1):
        return Transformer(TIED if tied else TINY, seed=seed, dtype=dtype)

    return make


@pytest.fixture
def tiny_batch():
    """ids and labels (5, 7); each row asks for another number of tokens."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 30, (5, 7))
    labels = ids.copy()
    for row, given in enumerate((2, 4, 1, 3, 5)):
        labels[row, :given] = -100
    return ids, labels


@pytest.fixture
def fingerprint():
    """fingerprint({name: array}): name → hash over the bits, so that equal means bit-equal."""

    def hashes(arrays):
        return {
            name: hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
            for name, array in arrays.items()
        }

    return hashes


@pytest.fixture
def threads(monkeypatch):
    """threads(n): how many threads share a batch, for the rest of the test."""
    return lambda n: monkeypatch.setenv("MINILORA_THREADS", str(n))
