"""Several adapters made into one: added up, thinned out, put to the vote.

What training has changed is called a task vector τ: the ΔW of one matrix, say. One from each of n
adapters, with a weight w for each, become one, number by number:

    linear           Σ w τ                      arXiv 2212.04089
    magnitude_prune  Σ w keep(τ)                keep: the share `density` that is largest
    dare_linear      Σ w drop(τ)                drop: a random share, made up for; arXiv 2311.03099
    ties             mean of w keep(τ) over those that agree about the sign; arXiv 2306.01708
    dare_ties        mean of w drop(τ) over those that agree about the sign

A thin adapter should come of it, not a matrix. Either A and B are combined each by itself, which
is quick and rough (`apart`), or ΔW = s B A is combined and then cut to its largest directions
(`nearest_pair`). Only the plain sum can also be had exactly: pairs side by side are one wider pair
(`side_by_side`).

All of it is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from minilora.errors import NonFiniteError

Pair = tuple[np.ndarray, np.ndarray]
Sign = Literal["total", "frequency"]
Merge = Callable[[Sequence[np.ndarray], Sequence[float]], np.ndarray]  # τs, a weight for each


def linear(tensors: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Σ w τ, task arithmetic: Ilharco et al., arXiv 2212.04089."""
    return np.tensordot(np.asarray(weights, np.float64), np.stack(tensors), axes=1)


def magnitude_prune(
    tensors: Sequence[np.ndarray], weights: Sequence[float], *, density: float
) -> np.ndarray:
    """Σ w keep(τ): of each only its largest numbers."""
    return linear([keep_largest(t, density) for t in tensors], weights)


def dare_linear(
    tensors: Sequence[np.ndarray],
    weights: Sequence[float],
    *,
    density: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Σ w drop(τ), DARE ("drop and rescale"): Yu et al., arXiv 2311.03099, section 3.2."""
    return linear([drop_random(t, density, rng) for t in tensors], weights)


def ties(
    tensors: Sequence[np.ndarray],
    weights: Sequence[float],
    *,
    density: float,
    majority: Sign = "total",
) -> np.ndarray:
    """Trim, elect a sign, merge what agrees: Yadav et al., arXiv 2306.01708, section 4."""
    return _elected_mean([keep_largest(t, density) for t in tensors], weights, majority)


def dare_ties(
    tensors: Sequence[np.ndarray],
    weights: Sequence[float],
    *,
    density: float,
    majority: Sign = "total",
    rng: np.random.Generator,
) -> np.ndarray:
    """TIES, thinned out at random as in DARE and not by size."""
    return _elected_mean([drop_random(t, density, rng) for t in tensors], weights, majority)


def keep_largest(tensor: np.ndarray, density: float) -> np.ndarray:
    """τ with all but its ⌊density · size⌋ largest numbers, by magnitude, set to zero."""
    flat = tensor.reshape(-1)
    n_zeros = flat.size - int(density * flat.size)
    kept = flat.copy()
    if n_zeros:
        kept[np.argpartition(np.abs(flat), n_zeros - 1)[:n_zeros]] = 0
    return kept.reshape(tensor.shape)


def drop_random(tensor: np.ndarray, density: float, rng: np.random.Generator) -> np.ndarray:
    """τ / density where a coin of that chance falls so, else 0: on average it is τ itself."""
    return tensor * (rng.random(tensor.shape) < density) / density


def agrees_with_majority(stack: np.ndarray, majority: Sign) -> np.ndarray:
    """Which numbers of n task vectors (n, …) have the sign that was elected for their place.

    majority   "total": the sign of their sum, so that large numbers have more to say;
               "frequency": one number, one vote. A draw is a plus. Zeros do not agree.
    """
    sign = np.sign(stack)
    votes = (stack if majority == "total" else sign).sum(axis=0)
    return sign == np.where(votes >= 0, 1, -1)


def _elected_mean(
    tensors: Sequence[np.ndarray], weights: Sequence[float], majority: Sign
) -> np.ndarray:
    """The mean of w τ over those alone that agree; 0 where none does."""
    stack = np.stack(tensors)
    agree = agrees_with_majority(stack, majority)
    total = linear(stack * agree, weights)
    return total / np.maximum(agree.sum(axis=0), 1)


def merge_by(
    kind: str, *, density: float | None, majority: Sign, rng: np.random.Generator
) -> Merge:
    """One of the functions above by its name, with what it needs besides tensors and weights."""
    thin: dict[str, Any] = {"density": density}
    merges: dict[str, Merge] = {
        "linear": linear,
        "magnitude_prune": partial(magnitude_prune, **thin),
        "ties": partial(ties, **thin, majority=majority),
        "dare_linear": partial(dare_linear, **thin, rng=rng),
        "dare_ties": partial(dare_ties, **thin, majority=majority, rng=rng),
    }
    return merges[kind]


def delta(pair: Pair, factor: float = 1.0) -> np.ndarray:
    """s B A (out, in) of a pair A (r, in), B (out, r)."""
    A, B = (part.astype(np.float64) for part in pair)
    return factor * (B @ A)


def apart(pairs: Sequence[Pair], factors: Sequence[float], merge: Merge) -> Pair:
    """A from all A, B from all B, each with √|f| for a weight; f, which is w s, gives A its sign.

    With `linear` and two adapters the product is not f₁ B₁ A₁ + f₂ B₂ A₂: of
    (√f₁ B₁ + √f₂ B₂)(√f₁ A₁ + √f₂ A₂) there are also the mixed terms √(f₁ f₂) (B₁ A₂ + B₂ A₁),
    which nobody has trained. What is gained: the rank stays what it is.
    """
    roots = [abs(f) ** 0.5 for f in factors]
    signed = [root if f >= 0 else -root for root, f in zip(roots, factors, strict=True)]
    A = merge([A.astype(np.float64) for A, _ in pairs], signed)
    B = merge([B.astype(np.float64) for _, B in pairs], roots)
    return A, B


def side_by_side(pairs: Sequence[Pair], factors: Sequence[float]) -> Pair:
    """[f₁ A₁; f₂ A₂; …] (Σr, in) and [B₁, B₂, …] (out, Σr): their product is Σ f B A, exactly."""
    A = [f * A.astype(np.float64) for f, (A, _) in zip(factors, pairs, strict=True)]
    return np.concatenate(A), np.concatenate([B for _, B in pairs], axis=1).astype(np.float64)


def nearest_pair(change: np.ndarray, rank: int) -> Pair:
    """A, B of a rank, and B A as near to ΔW (out, in) as can be: its largest directions.

    Raises NonFiniteError for a ΔW that has none.
    """
    if not np.isfinite(change).all():  # LAPACK may look for its directions without end
        raise NonFiniteError("a ΔW that is not finite has no largest directions")
    U, S, Vt = np.linalg.svd(change, full_matrices=False)
    return Vt[:rank], U[:, :rank] * S[:rank]


def narrowed(pair: Pair, rank: int) -> Pair:
    """The same of ΔW = B A, without making that large matrix.

    With B = Q R and Aᵀ = P T, both orthonormal times small, ΔW = Q (R Tᵀ) Pᵀ: the middle has the
    singular values of the whole.
    """
    A, B = pair
    Q, R = np.linalg.qr(B)
    P, T = np.linalg.qr(A.T)
    middle_A, middle_B = nearest_pair(R @ T.T, rank)
    return middle_A @ P.T, Q @ middle_B


def widened(pair: Pair, rank: int) -> Pair:
    """The same ΔW with as many rows of zeros in A, and columns in B, as a rank asks for."""
    A, B = pair
    more = rank - len(A)
    return np.pad(A, ((0, more), (0, 0))), np.pad(B, ((0, 0), (0, more)))
