"""All diagnoses together: of a model, and of a folder that a run has left."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minilora.diagnosing.adapter import OF_ADAPTERS, Adapter
from minilora.diagnosing.base import BESIDE_A_BASE, untied_by_the_adapter
from minilora.diagnosing.finding import Finding, Findings, findings
from minilora.diagnosing.log import OF_LOGS, read_log
from minilora.diagnosing.model import OF_ADAPTED_MODELS, merge_swallowed, weights_not_finite
from minilora.diagnosing.training import OF_BATCHES, OF_OPTIMIZERS
from minilora.diagnosing.whole import merge_moved_little, model_not_finite
from minilora.errors import AdapterError, ConfigError, FormatError
from minilora.files.atomic import locate
from minilora.peft import LoraConfig, PeftModel
from minilora.peft.folder import read_adapter, read_fingerprint

CONFIG, MODEL = "adapter_config.json", "model.safetensors"
LOG, CHECKPOINT = "log.jsonl", "checkpoint.safetensors"


def doctor(
    model: Any, optimizer: Any = None, batch: Any = None, *, merge_dtype: str | None = None
) -> Findings:
    """Look a model over, with its optimizer and a batch (ids, labels) if they are given.

    merge_dtype   float32, float16 or bfloat16: what it would be merged into; None: the narrowest
                  that holds the base's weights exactly

    Nothing is changed. With a batch one forward and one backward pass are run. An adapter whose
    lora_B is zero is in order only while the optimizer has not taken a step.

    Raises ConfigError for a batch that is something else, and for another merge_dtype.
    """
    if batch is not None:
        _check_batch(batch)
    found = list(findings((weights_not_finite, *OF_ADAPTED_MODELS), model))
    untrained = optimizer is not None and optimizer.t == 0
    for name, config in getattr(model, "peft_config", {}).items():
        adapter = Adapter(name, config, model.adapter_weights(name), untrained=untrained)
        found += findings(OF_ADAPTERS, adapter)
        found += findings((untied_by_the_adapter,), adapter, model)
    found += findings((merge_swallowed,), model, merge_dtype)
    if optimizer is not None:
        found += findings(OF_OPTIMIZERS, model, optimizer)
    if batch is not None:
        found += findings(OF_BATCHES, model, batch)
    return Findings(found)


def _check_batch(batch: Any) -> None:
    """ConfigError for what is not ids and labels, and with packed rows start, all (rows, time)."""
    try:
        shapes = [np.shape(array) for array in batch if array is not None]
    except (TypeError, ValueError):  # a number, rows of unequal length
        shapes = []
    if not 2 <= len(shapes) <= 3 or any(len(s) != 2 or s != shapes[0] for s in shapes):
        has = " and ".join(map(str, shapes)) if 0 < len(shapes) <= 3 else "something else"
        raise ConfigError(
            f"batch ({type(batch).__name__}) must hold ids and labels, both (rows, time) and "
            f"alike, and holds {has}; give batch=(ids, labels)"
        )


def examine_folder(
    folder: str | Path, base: Any = None, *, merge_dtype: str | None = None
) -> Findings:
    """Look over a folder: an adapter's, a whole model's, or that of a run, which has a log besides.

    base   a model that is free of adapters: what was tuned, or what the adapter is to be used on.
           It is given back as it was, but frozen.

    Raises FormatError for a folder that holds none of these, and for files that are damaged.
    """
    folder = Path(folder)
    adapter, whole, log = (locate(folder, name).is_file() for name in (CONFIG, MODEL, LOG))
    if not (adapter or whole or log):
        read_adapter(folder)  # which says what is missing
    found: list[Finding] = []
    if log:
        found += findings(OF_LOGS, read_log(folder / LOG))
    if adapter:
        found += _adapter(folder, base, merge_dtype)
    if whole:
        found += findings((model_not_finite,), folder)
        found += findings((merge_moved_little,), folder, base) if base is not None else []
    found += findings((unfinished,), folder)
    return Findings(found)


def _adapter(folder: Path, base: Any, merge_dtype: str | None) -> Iterator[Finding]:
    config, weights = read_adapter(folder)
    if not isinstance(config, LoraConfig):  # no pairs A, B to be looked at
        yield from _opened(folder, base, merge_dtype, known=False) if base is not None else ()
        return
    adapter = Adapter(folder.name, config, weights, read_fingerprint(folder))
    found = list(findings(OF_ADAPTERS, adapter))
    if base is not None:
        found += findings((weights_not_finite,), base)
        found += findings(BESIDE_A_BASE, adapter, base)
    yield from found
    if base is not None:
        yield from _opened(folder, base, merge_dtype, known=bool(found))


def _opened(folder: Path, base: Any, merge_dtype: str | None, *, known: bool) -> Iterator[Finding]:
    """What is seen once the adapter is in use; or that it does not open, if nobody knows why."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of another base's name, which is a diagnosis of its own
        try:
            model = PeftModel.from_pretrained(base, folder)
        except (AdapterError, FormatError) as error:
            if not known:
                yield Finding("does_not_open", str(error), "Use it on the base it was made for")
            return
    try:
        yield from findings(OF_ADAPTED_MODELS, model)
        if isinstance(model.peft_config["default"], LoraConfig):
            yield from findings((merge_swallowed,), model, merge_dtype)
    finally:
        model.unload()


def unfinished(folder: Path) -> Iterator[tuple[str, str]]:
    """A checkpoint, which is removed when a run is done."""
    if (folder / CHECKPOINT).is_file():
        yield (
            f"{folder / CHECKPOINT} is there: the run was stopped, and what it had learnt is saved "
            "in no adapter",
            "The same `minilora finetune` with --resume goes on",
        )
