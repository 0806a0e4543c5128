"""Spectra: how many directions a matrix really uses, and whether two matrices use the same ones.

Any matrix is a sum M = Σ σᵢ uᵢ vᵢᵀ over orthonormal directions: vᵢ is what it looks for in its
input, uᵢ what it then writes, σᵢ ≥ 0, falling, how strongly. Its energy Σ σᵢ² is the sum of the
squares of its entries. Cutting the sum after k terms leaves the nearest matrix of rank k (Eckart
and Young 1936), which can be kept as two thin factors of k (out + in) numbers.

Matrices are (out, in); all is computed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minilora.errors import ConfigError

# A direction that carries less than this share of the first one is rounding, and points anywhere.
_NOTHING = 1e-12


def singular_values(M: np.ndarray) -> np.ndarray:
    """σ of M, falling (min(out, in),)."""
    return np.linalg.svd(np.asarray(M, np.float64), compute_uv=False)


def truncate(M: np.ndarray, k: int) -> np.ndarray:
    """The matrix of rank at most k that is nearest to M, its Frobenius norm off by √(Σ_{i>k} σᵢ²).

    k from 0; from min(out, in) on it is M. ConfigError for a k below 0.
    """
    if k < 0:
        raise ConfigError(f"k = {k} must be a number of directions to keep, from 0")
    U, s, Vt = np.linalg.svd(np.asarray(M, np.float64), full_matrices=False)
    return (U[:, :k] * s[:k]) @ Vt[:k]


def energy(s: np.ndarray) -> np.ndarray:
    """The share of the energy Σ σ² that the first 1, 2, … directions hold; all 0 for a zero M."""
    squares = np.asarray(s, np.float64) ** 2
    total = squares.sum()
    return np.cumsum(squares) / total if total else np.zeros(len(squares))


def energy_rank(s: np.ndarray, share: float = 0.9) -> int:
    """The fewest directions that hold this share of the energy Σ σ²; 0 for a matrix of zeros.

    s   singular values, falling.  ConfigError for a share outside of (0, 1].
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share {share} must be in (0, 1], e.g. 0.9")
    held = energy(s)
    if not held.size or held[-1] == 0:
        return 0
    # All of the energy, up to rounding, is reached where the rest is rounding.
    return int(np.argmax(held >= min(share, held[-1]) - _NOTHING)) + 1


def effective_rank(s: np.ndarray) -> float:
    """exp of the entropy of σ/Σσ: r for r equal ones, less the more uneven they are.

    Roy and Vetterli, "The effective rank", EUSIPCO 2007. Small directions count for more here than
    in the energy, which squares them. 0 for a matrix of zeros.
    """
    s = np.asarray(s, np.float64)
    p = s[s > 0] / (s.sum() or 1)
    return float(np.exp(-(p * np.log(p)).sum())) if len(p) else 0.0


def random_like(M: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian matrix of M's shape and Frobenius norm: what no structure at all looks like."""
    G = rng.normal(size=np.shape(M))
    return G * (np.linalg.norm(np.asarray(M, np.float64)) / np.linalg.norm(G))


def overlaps(
    A1: np.ndarray, A2: np.ndarray, firsts: Sequence[int], seconds: Sequence[int]
) -> np.ndarray:
    """φ for every i of `firsts` and j of `seconds` (len(firsts), len(seconds)), each in [0, 1].

        φ(A1, A2, i, j) = ‖Vᵢᵀ Vⱼ‖² / min(i, j)

    Vᵢ (d, i): A1's strongest i directions in its input, Vⱼ A2's j: its right singular vectors
    (LoRA's section 7.2, arXiv 2106.09685). 1: the smaller space lies in the larger one; 0: they
    are at right angles. Two random spaces of d dimensions have max(i, j)/d on average.

    A1 (·, d), A2 (·, d). ConfigError for more directions than a matrix has.
    """
    if A1.shape[1] != A2.shape[1]:
        raise ConfigError(
            f"matrices {A1.shape} and {A2.shape} have inputs of different size, and no overlap"
        )
    V1, V2 = _inputs(A1, max(firsts)), _inputs(A2, max(seconds))
    shared = np.cumsum(np.cumsum((V1 @ V2.T) ** 2, axis=0), axis=1)
    i, j = np.asarray(firsts)[:, None], np.asarray(seconds)[None]
    return shared[i - 1, j - 1] / np.minimum(i, j)


def overlap(A1: np.ndarray, A2: np.ndarray, i: int, j: int) -> float:
    """φ(A1, A2, i, j) of `overlaps`."""
    return float(overlaps(A1, A2, [i], [j])[0, 0])


def chance_overlap(i: int, j: int, d: int) -> float:
    """The mean φ of two random spaces of i and j of d dimensions: max(i, j)/d.

    A fixed unit vector has i/d of its square in a random space of i dimensions; j of them i·j/d.
    """
    return max(i, j) / d


def likeness(W: np.ndarray, W_new: np.ndarray, top: int = 10) -> np.ndarray:
    """How much each of W_new's strongest directions resembles one of W's (top,), in [0, 1].

    The greatest |cosine| of uⱼ of W_new with all uᵢ of W (left singular vectors, what is written).
    """
    U, _, _ = np.linalg.svd(np.asarray(W, np.float64), full_matrices=False)
    U_new, _, _ = np.linalg.svd(np.asarray(W_new, np.float64), full_matrices=False)
    return np.abs(U.T @ U_new[:, :top]).max(axis=0)


def intruders(
    W: np.ndarray, W_new: np.ndarray, threshold: float = 0.5, top: int = 10
) -> np.ndarray:
    """Which of W_new's `top` strongest directions resemble none of W's: indices, from 0.

    Those are the intruder dimensions of arXiv 2410.21228: `likeness` below `threshold`.
    """
    return np.flatnonzero(likeness(W, W_new, top) < threshold)


def rescale(M: np.ndarray, which: Sequence[int] | np.ndarray, factor: float) -> np.ndarray:
    """M with the singular values of these indices multiplied by `factor`."""
    U, s, Vt = np.linalg.svd(np.asarray(M, np.float64), full_matrices=False)
    s[which] *= factor
    return (U * s) @ Vt


def _inputs(A: np.ndarray, n: int) -> np.ndarray:
    """A's strongest n directions in its input (n, d)."""
    _, s, Vt = np.linalg.svd(np.asarray(A, np.float64), full_matrices=False)
    rank = int((s > _NOTHING * s[0]).sum())
    if not 1 <= n <= rank:
        raise ConfigError(f"{n} directions of a matrix {A.shape} of rank {rank}: 1 to {rank} exist")
    return Vt[:n]
