"""Merging an adapter into its base, and what rounding to fewer bits does to the adapter.

ΔW is often a hundredth of W, or less. float16 keeps 11 significant bits of each entry and bfloat16
8: what ΔW adds to an entry of W may be less than half of the last bit that is kept. Then rounding
gives the old entry back, and the adapter is swallowed there.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minilora.autograd import Parameter
from minilora.errors import AdapterError, ConfigError
from minilora.files.atomic import whole_folder
from minilora.files.json_files import write_json
from minilora.files.narrow import rounded
from minilora.files.safetensors import NARROW, write_rounded
from minilora.model import Transformer
from minilora.peft import LoraLinear, PeftModel
from minilora.peft.adapted import only_rounding
from minilora.quant.linear import PackedMatrix, unpacked
from minilora.quant.merging import Requantized, requantized


class MergedArray(NamedTuple):
    """What merging and rounding did to one array of the base.

    name       of the array, as in the file that is written
    change     ‖ΔW‖, the root of the sum of squares of what the adapter adds, in float64
    error      ‖W' - (W + ΔW)‖ / ‖ΔW‖, where W' is rounded; None where ΔW = 0
    unmoved    share of the entries with ΔW ≠ 0 that are, rounded, the same as without ΔW
    """

    name: str
    change: float
    error: float | None
    unmoved: float


def merge(model: PeftModel, dtype: str = "float32") -> tuple[Transformer, list[MergedArray]]:
    """The base as a plain model with the active adapter in its weights; adapters are gone.

    dtype   what it is going to be written in: "float32", "float16" or "bfloat16". The model that
            comes back is not rounded yet; the list says what rounding will do, array by array.

    Of a base in few bits all weights become the floats that the bits stand for.

    Warns where more than half of the entries of an array would not move (`only_rounding` apart).
    Raises ConfigError for another dtype, NonFiniteError for weights that would not be finite,
    AdapterError for an adapter on only one of the embeddings and a head that are one array. The
    model is then as it was.
    """
    if dtype not in NARROW:
        raise ConfigError(f"dtype {dtype!r} is not one a model is written in: {', '.join(NARROW)}")
    # Before merging: the merged weights have lost already what is lost in their own type.
    told = dict(_told(model, dtype))
    merged = model.merge_and_unload(dequantize=True)
    found = [
        (p, told[p][0]._replace(name=name)) for name, p in merged.named_parameters() if p in told
    ]
    swallowed = [array for p, array in found if told[p][1]]
    if swallowed:
        worst = max(swallowed, key=lambda array: array.unmoved)
        wider = "" if dtype == "float32" else "merge into float32, or "
        warnings.warn(
            f"{dtype} swallows the adapter: in {len(swallowed)} of {len(found)} matrices more "
            f"than half of the entries do not move, in {worst.name} {worst.unmoved:.0%}; {wider}"
            "use the adapter unmerged",
            stacklevel=2,
        )
    return merged, [array for _, array in found]


def _told(model: PeftModel, dtype: str) -> Iterator[tuple[Parameter, tuple[MergedArray, bool]]]:
    """Each array that the active adapter changes → what merging will do to it; is it swallowed?

    One module at a time. Where two change one array, the later is merged over the earlier, and
    comes later here.
    """
    name = model.active_adapter
    if name is None:
        return  # which merging refuses
    for _, layer in model.adapted(name):
        for p, total in layer.changed(name).items():
            W = unpacked(layer.switch.original(p))
            array = compare("", W, total, dtype)
            noise = only_rounding(layer, name, array.change, W)
            yield p, (array, array.unmoved > 0.5 and not noise)


def merge_packed(model: PeftModel) -> tuple[Transformer, list[tuple[str, Requantized]]]:
    """The same beside a base in few bits, and back into them: a plain model as small as the base.

    The list says, matrix by matrix, how many codes moved and how much of the adapter arrived. Warns
    where too little did. Raises AdapterError for an adapter that has more than pairs A, B beside
    packed matrices, or whose numbers are not finite. The model is then as it was.
    """
    name = model.active_adapter
    if name is None:
        raise AdapterError("no adapter is active; set_adapter(name) chooses one")
    found: list[tuple[str, Parameter, Requantized]] = []
    for path, layer in model.adapted(name):
        W = delta = None
        if isinstance(layer, LoraLinear) and name not in layer.trained_bias:
            W, delta = layer.base_layer.weight, layer.delta(name)
        if W is None or not isinstance(W.data, PackedMatrix) or not np.isfinite(delta).all():
            raise AdapterError(
                f"adapter {name!r} has at {path or 'the model'} something else than a finite ΔW "
                "beside a matrix in few bits; merge it into floats (--dtype float32, "
                "merge_and_unload(dequantize=True)), or use it unmerged"
            )
        found.append((f"{path}.weight", W, requantized(W.data, delta)))
    for _, W, result in found:
        packed: Any = PackedMatrix(result.merged, W.data.dtype)
        W.data = packed
    _warn_of_vanished([(path, result) for path, _, result in found])
    return model.unload(), [(path, result) for path, _, result in found]


def _warn_of_vanished(found: list[tuple[str, Requantized]]) -> None:
    lost = [(path, result) for path, result in found if result.vanishes]
    if lost:
        path, worst = min(lost, key=lambda each: each[1].survives)
        warnings.warn(
            f"the adapter is lost in {len(lost)} of {len(found)} matrices, most of all in {path}: "
            f"{worst.words}",
            stacklevel=3,
        )


def compare(name: str, W: np.ndarray, total: np.ndarray, dtype: str) -> MergedArray:
    """W and W + ΔW, rounded to W's own type and then to `dtype`, held against each other.

    total   W + ΔW in float64, or in W's type if that loses nothing of it
    """
    with np.errstate(invalid="ignore", over="ignore"):  # merging and writing refuse what that makes
        delta = total.astype(np.float64) - W
        written = rounded(total.astype(W.dtype), dtype)
        change = float(np.linalg.norm(delta))
        error = (
            float(np.linalg.norm(written - total.astype(np.float64))) / change if change else None
        )
    touched = delta != 0
    still = touched & (written == rounded(W, dtype))
    return MergedArray(name, change, error, float(still.sum() / max(1, touched.sum())))


def save_merged(model: Transformer, folder: str | os.PathLike[str], dtype: str = "float32") -> None:
    """Write a model as a Hugging Face folder, its weights rounded to `dtype`: all files or none.

    `config.json`, `model.safetensors` and, if the model has one, its tokenizer. A tied head is not
    written a second time.

    Raises NonFiniteError for weights that this type cannot hold, OSError if the folder cannot be
    written.
    """
    with whole_folder(folder) as place:
        write_json(place / "config.json", model.config.to_hf(dtype))
        weights = place / "model.safetensors"
        write_rounded(weights, model.state_dict(), dtype, {"format": "pt"})
        if model.tokenizer is not None:
            model.tokenizer.save(place)
