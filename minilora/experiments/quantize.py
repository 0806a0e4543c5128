"""What does a base lose in few bits: of its numbers, and of what it can do?

Its matrices are quantized one by one and held against what they were. An error of a number is not
yet one of the model, so the model is asked, too, before and after: the embedded base for its
skills, a language model for its loss on general text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minilora.bases import load_base, quantize_base
from minilora.bases.quantizing import refuse_packed
from minilora.data import skills
from minilora.data.general import general_windows
from minilora.data.instructions import Example
from minilora.evaluation import exact_match, mean_nll
from minilora.finetuning import speaks_skills
from minilora.model import Transformer
from minilora.quant import bits_per_parameter
from minilora.quant.blockwise import DATA_TYPES, Quantized
from minilora.quant.levels import levels
from minilora.quant.linear import layer_matrices, packed_weights
from minilora.quant.measuring import RoundingError
from minilora.quant.packing import unpack

# Test examples of each skill, as in `compare`, and tokens of a window of text.
EXAMPLES, WINDOW = 500, 128


@dataclass(frozen=True)
class Settings:
    """base   a name or a folder;  data_type, block_size, double_quant   as `quantize` takes them"""

    base: str = "skills"
    data_type: str = "nf4"
    block_size: int = 64
    double_quant: bool = True


def measure(
    settings: Settings, say: Callable[[str], None] = lambda line: None
) -> tuple[dict[str, Any], Transformer]:
    """A report, and the model in few bits.

    Raises ConfigError for a base or a format that there is not, NonFiniteError for weights that
    are not numbers.
    """
    s = settings
    model = load_base(s.base)
    refuse_packed(model, f"quantize to {s.data_type}")
    say(f"asking {s.base} what it can do")
    before, floats = ability(model), _nbytes(model)
    matrices = {name: p.data for name, p in layer_matrices(model).items()}
    if s.base == "smollm2":
        say("its file has four bits a number already: what follows is lost besides")
    say(f"quantizing {len(matrices)} matrices to {s.data_type}")
    quantize_base(model, s.data_type, block_size=s.block_size, double_quant=s.double_quant)
    rows, used = [], np.zeros(len(levels(s.data_type)), np.int64)
    for name, packed in packed_weights(model).items():
        blocks: Any = packed.blocks
        rows.append((name, RoundingError.of(matrices[name], blocks)))
        used += code_counts(blocks)
    say("asking it again")
    total = sum((error for _, error in rows), RoundingError())
    report = {
        "settings": asdict(s),
        "bits_by_formula": bits_per_parameter(s.data_type, s.block_size, s.double_quant),
        "matrices": [_place(name) | _numbers(error) for name, error in rows],
        "by_kind": _summed(rows, "kind"),
        "by_layer": _summed(rows, "layer"),
        "total": _numbers(total),
        "bytes": {
            "matrices_before": 4 * total.size,
            "matrices_after": total.nbytes,
            "model_before": floats,
            "model_after": _nbytes(model),
        },
        "code_shares": (used / max(int(used.sum()), 1)).tolist(),
        "before": before,
        "after": ability(model),
    }
    return report, model


def ability(model: Transformer) -> dict[str, float]:
    """What the model is asked: each skill's share of right answers, or its loss on general text.

    Nothing, for a base that has no tokenizer.
    """
    if speaks_skills(model):
        tests = {s.name: skills.examples(s, "test", EXAMPLES) for s in skills.OLD}
        return {name: exact_match(model, test) for name, test in tests.items()}
    if model.tokenizer is None:
        return {}
    windows = general_windows(model.tokenizer, WINDOW, "test")
    return {"general_nll": mean_nll(model, [Example(w, w) for w in windows])}


def code_counts(q: Quantized) -> np.ndarray:
    """How many numbers each code stands for, in the order of the levels: (16,) or (256,) int64."""
    codes = unpack(q.codes, q.size) if DATA_TYPES[q.data_type] == 4 else q.codes
    counts = np.bincount(codes, minlength=2 ** DATA_TYPES[q.data_type])
    return counts[np.argsort(levels(q.data_type), kind="stable")]


def _nbytes(model: Transformer) -> int:
    return sum(p.data.nbytes for p in model.parameters())


def _place(name: str) -> dict[str, Any]:
    """The layer and the kind of a matrix: model.layers.3.mlp.up_proj.weight → 3, up_proj."""
    parts = name.split(".")
    return {"name": name, "layer": int(parts[parts.index("layers") + 1]), "kind": parts[-2]}


def _numbers(error: RoundingError) -> dict[str, Any]:
    finite = error.snr if np.isfinite(error.snr) else None
    return {"parameters": error.size, "mae": error.mae, "snr": finite, "bits": error.bits}


def _summed(rows: list[tuple[str, RoundingError]], what: str) -> list[dict[str, Any]]:
    """All matrices of a kind, or of a layer, together."""
    sums: dict[Any, RoundingError] = {}
    for name, error in rows:
        key = _place(name)[what]
        sums[key] = sums.get(key, RoundingError()) + error
    return [{what: key} | _numbers(error) for key, error in sums.items()]
