"""How far an array in few bits is from what it was.

    MAE = mean |ŵ - w|              SNR = 10 log₁₀ (Σ w² / Σ (ŵ - w)²)   in dB

Each further bit of a code halves the steps and so brings about 6 dB. What an error does to a model
is another question: it is asked by the model's loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minilora.quant.blockwise import PIECE, Quantized


@dataclass(frozen=True)
class RoundingError:
    """What rounding did to some numbers, or to those of several arrays: errors add up with +.

    size       how many;  absolute  Σ |ŵ - w|;  squared  Σ (ŵ - w)²;  energy  Σ w²
    nbytes     what they are held in
    """

    size: int = 0
    absolute: float = 0.0
    squared: float = 0.0
    energy: float = 0.0
    nbytes: int = 0

    @classmethod
    def of(cls, w: np.ndarray, q: Quantized) -> RoundingError:
        """The error of q, which was made of w."""
        flat, total = np.asarray(w, np.float32).reshape(-1), cls(0, nbytes=q.nbytes)
        for start in range(0, flat.size, PIECE):
            # float64, since a sum of squares of many small numbers loses its own digits.
            exact = flat[start : start + PIECE].astype(np.float64)
            error = q.part(start, start + len(exact)) - exact
            total += cls(
                len(exact), np.abs(error).sum(), float(error @ error), float(exact @ exact)
            )
        return total

    def __add__(self, other: RoundingError) -> RoundingError:
        return RoundingError(
            self.size + other.size,
            float(self.absolute + other.absolute),
            self.squared + other.squared,
            self.energy + other.energy,
            self.nbytes + other.nbytes,
        )

    @property
    def mae(self) -> float:
        """Mean absolute error, in the units of the weights."""
        return self.absolute / max(self.size, 1)

    @property
    def snr(self) -> float:
        """Signal to noise in dB; infinite if nothing was lost."""
        if not self.squared:
            return float("inf")
        return float(10 * np.log10(self.energy / self.squared)) if self.energy else float("-inf")

    @property
    def bits(self) -> float:
        """Bits that are really held, for each number."""
        return 8 * self.nbytes / max(self.size, 1)
