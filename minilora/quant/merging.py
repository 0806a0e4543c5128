"""What is left of an adapter that is merged into four bits.

An adapter ΔW that was trained beside a quantized base Ŵ can be kept in three ways:

    apart                   Ŵ in four bits, A and B beside it: exact; what QLoRA trained
    into 16 or 32 bits      Ŵ + ΔW in floats: exact up to their digits, four or eight times as large
    back into four bits     Q(Ŵ + ΔW): small, and another function

The third rounds. ΔW is small, and Ŵ stands on the levels themselves, in the middle between two
decisions: what is smaller than half a gap moves no code, and then nearly all of the adapter is
gone. `requantized` says how much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minilora.errors import ConfigError, ShapeError
from minilora.quant.blockwise import Quantized, dequantize, quantize
from minilora.quant.packing import looked_up

# Of the adapter; where less arrives, it is better kept apart.
ENOUGH = 0.9


@dataclass(frozen=True)
class Requantized:
    """A matrix after an adapter was merged into its few bits.

    merged     Q(Ŵ + ΔW)
    relative   ‖ΔW‖ / ‖Ŵ‖
    moved      share of numbers whose level is another one
    survives   share of ΔW that is in the change: ⟨change, ΔW⟩ / ‖ΔW‖², 1 if it is all there
    astray     size of what is in the change and is not ΔW: ‖change - survives·ΔW‖ / ‖ΔW‖

    The change is Q(Ŵ + ΔW) - Ŵ.
    """

    merged: Quantized
    relative: float
    moved: float
    survives: float
    astray: float

    @property
    def vanishes(self) -> bool:
        """Whether too little of the adapter arrives, or more noise than adapter."""
        return self.survives < ENOUGH or self.astray > 1

    @property
    def words(self) -> str:
        """What happened, and what to do about it."""
        told = (
            f"ΔW is {self.relative:.1%} of W; merged back into {self.merged.data_type}, "
            f"{self.moved:.1%} of the codes move, {self.survives:.0%} of ΔW arrives, and noise of "
            f"{self.astray:.1f} times its size comes with it"
        )
        if not self.vanishes:
            return told
        return f"{told}. Keep the adapter apart, or merge it into floats"


def requantized(W: Any, delta: np.ndarray) -> Requantized:
    """Merge an adapter into a matrix in few bits, and measure what of it arrives.

    W        Quantized, or what holds one as `blocks`;  delta  ΔW of its shape

    Raises ShapeError if they do not fit, and ConfigError for blocks of other programs' formats.
    """
    stored = getattr(W, "blocks", W)
    if not isinstance(stored, Quantized):
        what = getattr(stored, "data_type", type(stored).__name__)
        raise ConfigError(
            f"{what} is none of the formats that minilora quantizes to; keep the adapter apart, or "
            "merge it into floats"
        )
    delta = np.asarray(delta, np.float32)
    if delta.shape != stored.shape:
        raise ShapeError(f"ΔW of shape {delta.shape} and a matrix of shape {stored.shape}")
    before = dequantize(stored)
    merged = quantize(
        before + delta, stored.data_type, stored.block_size, stored.double_quant, name="W + ΔW"
    )
    wanted = delta.astype(np.float64).reshape(-1)
    change = (dequantize(merged) - before).astype(np.float64).reshape(-1)
    square = float(wanted @ wanted)
    # An adapter that is zero arrives whole.
    survives = float(change @ wanted) / square if square else 1.0
    astray = np.linalg.norm(change - survives * wanted) / np.sqrt(square) if square else 0.0
    whole = float(np.linalg.norm(before.reshape(-1).astype(np.float64)))
    return Requantized(
        merged,
        relative=float(np.sqrt(square)) / whole if whole else float("inf"),
        moved=float(np.mean(_levels(stored) != _levels(merged))) if stored.size else 0.0,
        survives=survives,
        astray=float(astray),
    )


def _levels(q: Quantized) -> np.ndarray:
    """The level of each number; not its code, since FP4 has two for zero."""
    return looked_up(q.codes, 0, q.size, q.data_type)
