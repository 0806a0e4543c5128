"""What can be wrong between an adapter's file and the base that it is to be used on."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from minilora.diagnosing.adapter import Adapter
from minilora.diagnosing.finding import Said, some
from minilora.inspecting import product_singular_values
from minilora.nn import Embedding, Linear
from minilora.peft.adapted import Switch
from minilora.peft.fitting import fingerprint
from minilora.peft.folder import PREFIX
from minilora.quant.linear import unpacked

# ‖ΔW‖/‖W‖ of a tuned matrix is mostly 0.01 to 1; above this the change drowns the matrix.
DROWNS = 1.5

EMBEDDINGS, HEAD = "model.embed_tokens", "lm_head"


def matrices(base: Any) -> dict[str, tuple[tuple[int, int], Any]]:
    """path → the (out, in) that an adapter beside it has, and the weight.

    Embeddings (V, C) are taken as (C, V).
    """
    found = {}
    for path, module in base.named_modules():
        if isinstance(module, Linear | Embedding):
            W = module.weight.data
            found[path] = (W.shape[::-1] if isinstance(module, Embedding) else W.shape), W
    return found


def another_base_by_name(adapter: Adapter, base: Any) -> Said:
    """The name of the base that the adapter's settings keep."""
    made_for, here = adapter.config.base_model_name_or_path, base.base_name
    if made_for and here and Path(made_for).name != Path(here).name:
        yield (
            f"the adapter was made for {made_for!r}, and this is {here!r}",
            "On another base it means nothing, even where the shapes fit: use the one it names, or "
            "ignore this if they are two names of one model",
        )


def another_base_by_weights(adapter: Adapter, base: Any) -> Said:
    """The fingerprint of the base's weights that minilora writes into the adapter's file."""
    if adapter.base is not None and adapter.base != fingerprint(base, Switch()):
        yield (
            "the adapter was made beside other weights than this base's: the fingerprint in its "
            "file is another one",
            "Use the base as it was then; if that was tuned or converted since, tune the adapter "
            "again",
        )


def another_base_by_shape(adapter: Adapter, base: Any) -> Said:
    """The paths and shapes of its matrices, beside those of the base."""
    there = matrices(base)
    wrong = {}
    for path, (A, B) in adapter.pairs.items():
        shape = (len(B), A.shape[1])
        if path not in there:
            wrong[path] = f"the base has no {path}"
        elif path in adapter.sound and there[path][0] != shape:
            wrong[path] = f"{path} is {there[path][0]} in the base, {shape} in the adapter"
    if wrong:
        yield (
            f"{some(list(wrong), len(adapter.pairs), 'matrices')} do not fit: "
            f"{next(iter(wrong.values()))}",
            "The adapter was made for another base; --base must name that one",
        )


def louder_than_the_base(adapter: Adapter, base: Any) -> Said:
    """‖ΔW‖ beside ‖W‖: an adapter that drowns its base was scaled by α, or is of another one."""
    there = matrices(base)
    ratios = [
        adapter.config.at(path).scaling
        * float(np.linalg.norm(product_singular_values(B, A)))
        / (float(np.linalg.norm(unpacked(there[path][1]).astype(np.float64))) or math.inf)
        for path, (A, B) in adapter.sound.items()
        if path in there and there[path][0] == (len(B), A.shape[1])
    ]
    if ratios and (middle := statistics.median(ratios)) > DROWNS:
        yield (
            f"ΔW is {middle:.3g} times as large as the matrix it is added to, in the middle of "
            f"{len(ratios)}; a share of it is usual",
            "Look at α: was the adapter trained with α/r and is α now r times too large? Or is it "
            "another base's, or was the learning rate far too high?",
        )


def untied_by_the_adapter(adapter: Adapter, base: Any) -> Said:
    """Whole copies of embeddings or head, where the base has one array for both."""
    if not base.config.tie_word_embeddings:
        return
    copies = {
        path: array
        for path in (EMBEDDINGS, HEAD)
        if (array := adapter.weights.get(f"{PREFIX}{path}.weight")) is not None
    }
    if len(copies) == 1:
        (path,) = copies
        what = f"holds a trained copy of {path} only"
    elif len(copies) == 2 and not np.array_equal(copies[EMBEDDINGS], copies[HEAD]):
        what = f"holds trained copies of {EMBEDDINGS} and {HEAD} that differ"
    else:
        return
    yield (
        f"the base's embeddings and head are one array (tied), but the adapter {what}: with it "
        "they are two",
        "Merge into an untied base only (tie_word_embeddings false); to keep them one, leave both "
        "out of modules_to_save",
    )


BESIDE_A_BASE: tuple[Any, ...] = (
    another_base_by_name,
    another_base_by_weights,
    another_base_by_shape,
    louder_than_the_base,
    untied_by_the_adapter,
)
