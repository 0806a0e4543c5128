"""What can be wrong with an adapter's arrays, whether they lie in a file or in a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from minilora.diagnosing.finding import Said, some
from minilora.inspecting import pairs
from minilora.peft import LoraConfig

# A scaling above this is not among those that are used: α is mostly r or 2 r.
LOUDEST = 32


@dataclass(frozen=True)
class Adapter:
    """An adapter as it is looked at: its name, settings, and arrays by their names in PEFT's files.

    base        the fingerprint of the base it was made for, if its file has one
    untrained   True where it need not have learnt anything yet
    """

    name: str
    config: LoraConfig
    weights: Mapping[str, np.ndarray]
    base: str | None = None
    untrained: bool = False

    @cached_property
    def sides(self) -> dict[str, dict[str, np.ndarray]]:
        """path → {"A": …, "B": …}, one of them missing where the file is not whole."""
        return pairs(self.weights)[0]

    @cached_property
    def pairs(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """path → A and B, where both are there and are matrices of floats."""
        return {
            path: (both["A"], both["B"])
            for path, both in self.sides.items()
            if len(both) == 2 and all(M.ndim == 2 and M.dtype.kind == "f" for M in both.values())
        }

    @cached_property
    def sound(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """path → A (r, in) and B (out, r) that can be multiplied, and are finite."""
        return {
            path: (A, B)
            for path, (A, B) in self.pairs.items()
            if len(A) == B.shape[1]
            and not _turned(A.shape, B.shape, self.config.at(path).r)
            and np.isfinite(A).all()
            and np.isfinite(B).all()
        }


def no_matrix_of_floats(adapter: Adapter) -> Said:
    """The arrays of the pairs: of floats, and with two dimensions."""
    halves = {f"{p} {s}": array for p, both in adapter.sides.items() for s, array in both.items()}
    bad = [name for name, array in halves.items() if array.dtype.kind != "f" or array.ndim != 2]
    if bad:
        array = halves[bad[0]]
        yield (
            f"{some(bad, len(halves), 'halves')} are no matrices of floats: {array.dtype} "
            f"{array.shape}",
            "Save the adapter again, unquantized, in float16, bfloat16 or float32",
        )


def not_finite(adapter: Adapter) -> Said:
    """The arrays: any NaN or infinity."""
    bad = [name for name, array in adapter.weights.items() if not np.isfinite(array).all()]
    if bad:
        yield (
            f"NaN or infinity in {some(bad, len(adapter.weights), 'arrays')}",
            "Nothing can be saved from these numbers: train again, with a lower learning rate or "
            "max_grad_norm, and look at the data of the step at which the loss went",
        )


def b_still_zero(adapter: Adapter) -> Said:
    """lora_B, which starts at zero (of embeddings lora_embedding_A): zero after training."""
    zero = [path for path, (A, B) in adapter.pairs.items() if not (A.any() and B.any())]
    if not zero or adapter.untrained:
        return
    if len(zero) == len(adapter.pairs):
        yield (
            f"lora_B of {adapter.name!r} is still zero in all {len(zero)} matrices, so the "
            "adapter changes nothing: it was not trained, or nothing reached it",
            "Make the optimizer after the adapter is attached and set; elsewhere, gradient "
            "checkpointing over frozen inputs needs enable_input_require_grads()",
        )
    else:
        yield (
            f"lora_B of {adapter.name!r} is still zero in "
            f"{some(zero, len(adapter.pairs), 'matrices')}, which have learnt nothing",
            "Look whether these parameters are in the optimizer and get a gradient: "
            "minilora.doctor(model, optimizer, batch)",
        )


def dead_pair(adapter: Adapter) -> Said:
    """A and B: both zero, so that each takes the gradient from the other."""
    dead = [path for path, (A, B) in adapter.pairs.items() if not A.any() and not B.any()]
    if dead:
        yield (
            f"A and B are both zero in {some(dead, len(adapter.pairs), 'matrices')}: each gradient "
            "has the other one as a factor, so both stay zero for ever",
            "Start A at random (init_lora_weights=True) and only B at zero",
        )


def swapped_or_transposed(adapter: Adapter) -> Said:
    """The shapes: A should be (r, in), B (out, r); which side has r tells what was done to them."""
    seen: dict[str, list[str]] = {}
    for path, (A, B) in adapter.pairs.items():
        if what := _turned(A.shape, B.shape, adapter.config.at(path).r):
            seen.setdefault(what, []).append(path)
    for what, paths in seen.items():
        A, B = adapter.pairs[paths[0]]
        yield (
            f"{what} in {some(paths, len(adapter.pairs), 'matrices')}: A {A.shape}, B {B.shape}, "
            f"where (r, in) and (out, r) belong, r = {adapter.config.at(paths[0]).r}",
            "Put them right in the program that wrote the file: ΔW = α/r · B A",
        )


def _turned(A: tuple[int, ...], B: tuple[int, ...], r: int) -> str | None:
    """What was done to a pair of these shapes; None if they multiply and nothing shows."""
    A_right, B_right = A[0] == r, B[1] == r
    A_turned, B_turned = A[1] == r and not A_right, B[0] == r and not B_right
    if A_turned and B_turned:
        return "A and B are swapped, or both transposed"
    if A_turned and B_right:
        return "A is transposed"
    if B_turned and A_right:
        return "B is transposed"
    return None if A[0] == B[1] else "A and B are not of one pair"


def rank_contradicts(adapter: Adapter) -> Said:
    """The rank that the settings say, and the rank that the arrays have."""
    wrong = {
        path: len(A)
        for path, (A, B) in adapter.pairs.items()
        if len(A) == B.shape[1] != (r := adapter.config.at(path).r)
        and not _turned(A.shape, B.shape, r)
    }
    if wrong:
        path, rank = next(iter(wrong.items()))
        said = adapter.config.at(path).r
        yield (
            f"the settings say rank {said}, the arrays have {rank} in "
            f"{some(list(wrong), len(adapter.pairs), 'matrices')}: α/r would be wrong by a factor "
            f"of {max(rank, said) / min(rank, said):g}",
            "Settings and arrays are of two runs: find the adapter_config.json of these arrays",
        )


def incomplete(adapter: Adapter) -> Said:
    """Pairs of which one half is missing."""
    alone = [path for path, both in adapter.sides.items() if len(both) < 2]
    if alone:
        there = next(iter(adapter.sides[alone[0]]))
        yield (
            f"lora_{there} stands without the other half in "
            f"{some(alone, len(adapter.sides), 'matrices')}",
            "The file is not whole: save the adapter again",
        )


def improbable_scaling(adapter: Adapter) -> Said:
    """α and r: a scaling that nobody chooses, such as α where α/r was meant."""
    loud = {
        path: own for path in adapter.pairs if (own := adapter.config.at(path)).scaling > LOUDEST
    }
    if loud:
        own = next(iter(loud.values()))
        form = "α/√r" if own.use_rslora else "α/r"
        yield (
            f"the bypass is scaled by {own.scaling:g} ({form}, α = {own.lora_alpha:g}, "
            f"r = {own.r}) in {some(list(loud), len(adapter.pairs), 'matrices')}; 1 or 2 is usual",
            "If α was multiplied by r on the way, divide it again; if not, choose α near r",
        )


OF_ADAPTERS: tuple[Any, ...] = (
    no_matrix_of_floats,
    not_finite,
    incomplete,
    swapped_or_transposed,
    rank_contradicts,
    dead_pair,
    b_still_zero,
    improbable_scaling,
)
