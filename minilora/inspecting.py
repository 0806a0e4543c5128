"""What an adapter holds, told from its folder alone: sizes, loudness, directions used.

Of a pair A (r, in) and B (out, r) everything about ΔW = s B A can be had without ΔW itself, which
is as large as the matrix that is adapted: with B = Q₁ R₁ and Aᵀ = Q₂ R₂ (QR, Q with orthonormal
columns) it is Q₁ (s R₁ R₂ᵀ) Q₂ᵀ, and so its singular values are those of the r×r matrix in between.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minilora.errors import FormatError
from minilora.peft import LoraConfig
from minilora.peft.folder import PREFIX, read_adapter
from minilora.spectra import effective_rank, energy_rank, singular_values

# A layer's matrices in the order in which they are used.
_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# One side of a pair in PEFT's files: of a Linear, or of the embeddings.
_SIDE = re.compile(r"(?P<path>.+)\.lora_(embedding_)?(?P<side>[AB])(\.weight)?")


@dataclass(frozen=True)
class Matrix:
    """What there is beside one matrix of the base.

    path             of the matrix in the model
    shape            (out, in) of the matrix
    rank, scaling    r, and s = α/r, or α/√r with rsLoRA
    parameters       numbers in A and B
    norm_a, norm_b, norm_delta   Frobenius norms of A, B and ΔW = s B A. With DoRA and PiSSA what is
                     added to W is something else (`Inspection.remark`)
    singular_values  of ΔW, falling: at most r
    effective_rank   of those (`spectra.effective_rank`)
    energy_rank      how many of them hold 90 % of ‖ΔW‖²
    still_zero       B, which starts at zero (of embeddings A), still is, and so is ΔW
    not_finite       how many numbers of A and B are NaN or infinite; what follows from them is NaN
    """

    path: str
    shape: tuple[int, int]
    rank: int
    alpha: float
    scaling: float
    parameters: int
    norm_a: float
    norm_b: float
    norm_delta: float
    singular_values: tuple[float, ...]
    effective_rank: float
    energy_rank: int
    still_zero: bool
    not_finite: int


@dataclass(frozen=True)
class Other:
    """An array of an adapter's file that is no A and no B: a bias, a magnitude, a whole copy."""

    name: str
    shape: tuple[int, ...]
    norm: float


@dataclass(frozen=True)
class Inspection:
    """An adapter: its settings, the pairs in the order of the model, and what else is there."""

    folder: str
    config: LoraConfig
    matrices: tuple[Matrix, ...]
    others: tuple[Other, ...]

    @property
    def remark(self) -> str | None:
        """Why s B A, which is measured here as ΔW, is not what the adapter adds to W; or None.

        Without the base it is all that can be had.
        """
        if self.config.use_dora:
            return "with DoRA the rows of W + s B A get lengths of their own besides"
        if self.config.init_lora_weights == "pissa":
            return "with PiSSA W's largest directions, with which A and B began, are taken out of W"
        return None

    @property
    def parameters(self) -> int:
        """Numbers in the file."""
        return sum(m.parameters for m in self.matrices) + sum(
            math.prod(o.shape) for o in self.others
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values; null for what is not a number."""
        settings = {name: v for name, v in asdict(self.config).items() if v is not None}
        said = {
            "folder": self.folder,
            "config": settings,
            "parameters": self.parameters,
            "matrices": [asdict(m) for m in self.matrices],
            "others": [asdict(o) for o in self.others],
        }
        return _finite_or_none(said)


def inspect_adapter(folder: str | Path) -> Inspection:
    """What the folder of an adapter holds; its base is not needed.

    Raises FormatError for a folder that is none, files that are damaged, an A and a B that do not
    belong together, and an adapter of another method than LoRA.
    """
    config, weights = read_adapter(folder)
    if not isinstance(config, LoraConfig):
        raise FormatError(
            f"{folder}: what is looked into here are the pairs A, B of LoRA, and this adapter is "
            f"of the kind {config.peft_type}"
        )
    found, others = pairs(weights)
    matrices = []
    for path in sorted(found, key=_as_in_the_model):
        A, B = found[path].get("A"), found[path].get("B")
        if A is None or B is None or A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1]:
            shapes = " and ".join(f"{side} {array.shape}" for side, array in found[path].items())
            raise FormatError(
                f"{folder}: {path} has {shapes}, where A (r, in) and B (out, r) should be; "
                "`minilora doctor` says more"
            )
        matrices.append(_matrix(path, A, B, config))
    rest = tuple(Other(name, array.shape, _norm(array)) for name, array in sorted(others.items()))
    return Inspection(str(folder), config, tuple(matrices), rest)


def pairs(
    weights: Mapping[str, np.ndarray],
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """path → {"A": …, "B": …} of an adapter's arrays by their names in PEFT's files; and the rest.

    Of a file that is not whole one of the two may be missing.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    others = {}
    for name, array in weights.items():
        side = _SIDE.fullmatch(name.removeprefix(PREFIX))
        if side is None:
            others[name] = array
        else:
            found.setdefault(side["path"], {})[side["side"]] = array
    return found, others


def product_singular_values(B: np.ndarray, A: np.ndarray) -> np.ndarray:
    """σ of B A, falling, by QR of both; B A itself is never made.

    B (out, r)   A (r, in)   σ (min(out, r, in),); NaN if anything is not finite
    """
    R1, R2 = (np.asarray(np.linalg.qr(M.astype(np.float64), "r")) for M in (B, A.T))
    with np.errstate(over="ignore", invalid="ignore"):
        core = R1 @ R2.T
    if not np.isfinite(core).all():
        return np.full(min(core.shape), np.nan)
    return singular_values(core)


def _matrix(path: str, A: np.ndarray, B: np.ndarray, config: LoraConfig) -> Matrix:
    own = config.at(path)
    s = own.scaling * product_singular_values(B, A)
    whole = bool(np.isfinite(s).all())
    return Matrix(
        path=path,
        # The bypass of the embeddings is kept as B A (C, r) (r, V): as (out, in), though the
        # embeddings themselves are (V, C).
        shape=(B.shape[0], A.shape[1]),
        rank=len(A),
        alpha=own.lora_alpha,
        scaling=own.scaling,
        parameters=A.size + B.size,
        norm_a=_norm(A),
        norm_b=_norm(B),
        norm_delta=_norm(s),
        singular_values=tuple(float(each) for each in s),
        effective_rank=effective_rank(s) if whole else math.nan,
        energy_rank=energy_rank(s) if whole else 0,
        still_zero=not (A.any() and B.any()),
        not_finite=int(A.size + B.size - np.isfinite(A).sum() - np.isfinite(B).sum()),
    )


def _norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))


def _as_in_the_model(path: str) -> tuple[Any, ...]:
    """Embeddings first, layer 2 before layer 10, the head last."""
    numbers = [int(part) for part in path.split(".") if part.isdecimal()]
    place = 1 if numbers else 0 if "embed" in path else 2
    name = path.rsplit(".", 1)[-1]
    return place, numbers, _ORDER.index(name) if name in _ORDER else len(_ORDER), path


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite_or_none(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_or_none(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
