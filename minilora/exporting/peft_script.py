"""A run of `minilora finetune` as one script for transformers, PEFT and accelerate.

Two engines do the same run only if nothing is left to either of them: the adapter's start, which
rows a step sees, what a loss is divided by, and every number of the optimizer. The script says the
numbers; beside it, in a folder, stand the arrays and the rows.

    cluster.py
    cluster-files/base/            the base as a Hugging Face folder, if it was one of minilora's
    cluster-files/adapter/         the adapter before the first step, as PEFT opens it
    cluster-files/examples.jsonl   a line for each example: ids and labels
    cluster-files/order.jsonl      a line for each step: numbers of lines of that file, from 0
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from minilora.bases import BASES, load_base, save_base
from minilora.data.batches import Batches
from minilora.errors import ConfigError
from minilora.files.atomic import made_folder, whole_file
from minilora.peft import get_peft_model
from minilora.runs import Run, check_data, read_run

TEMPLATE = files("minilora") / "assets" / "peft_script.py"

# What a run has that its script shows; the schedule, a cosine, is in the script's code.
_SETTINGS = (
    *("steps", "batch_size", "accumulate", "lr", "warmup", "betas", "eps", "weight_decay"),
    *("max_grad_norm", "checkpointing", "seed"),
)


class WrittenScript(NamedTuple):
    """What was written: a run of which method, steps, examples; where the base and the rest are."""

    method: str
    steps: int
    examples: int
    base: str
    files: str


def export_peft_script(
    folder: str | Path, out: str | Path, *, data: str | Path | None = None
) -> WrittenScript:
    """Write the run that `folder` is of as the script `out`, and what it needs into OUT-files/.

    data   where the examples are now; None: where they were

    A base that is a folder is named, not copied; the script's --base takes another place of it.
    Weights are written in float32, those of smollm2 as they are once out of their 4 bits. What was
    exported to the same place before is replaced.

    Raises FormatError for a folder without a `run.json`, DataError for examples that are gone or
    are others, ConfigError for an adapter that PEFT would begin otherwise, OSError.
    """
    run = read_run(folder)
    if data is not None:
        run = replace(run, data=str(data))
    check_data(run)
    _refuse_what_differs(run)
    if run.lora is not None and run.lora.init_lora_weights == "pissa":
        raise ConfigError(
            "an adapter of PiSSA begins by changing the base, and there is no script for that; "
            "tune with init_lora_weights=True"
        )
    out = Path(out)
    beside = out.with_name(f"{out.stem}-files")
    model: Any = load_base(run.base)
    batches = run.batches(model.tokenizer, model.config.max_positions)
    base = "" if run.base in BASES else str(Path(run.base).resolve())
    text = script(run, base, model.tokenizer.pad_id)
    with made_folder(beside):
        if not base:
            save_base(model, beside / "base")
        if run.lora is not None:
            get_peft_model(model, run.lora, seed=run.seed).save_pretrained(beside / "adapter")
        _write_rows(beside, run, batches)
        with whole_file(out) as file:
            file.write(text.encode())
    where = base or str(beside / "base")
    return WrittenScript(run.method, run.steps, len(batches.examples), where, str(beside))


def _refuse_what_differs(run: Run) -> None:
    """ConfigError for settings that the script has not."""
    if run.method not in ("full", "lora"):
        raise ConfigError(
            f"there is no script for method {run.method!r}, only for lora and full; its adapter "
            "goes over as it is, if PEFT has the method"
        )
    if run.optimizer_name != "adamw" or run.pack:
        raise ConfigError(
            f"there is no script for a run with optimizer {run.optimizer_name} and pack "
            f"{run.pack}, only for adamw and rows of one example; tune with these"
        )


def script(run: Run, base: str, pad_id: int) -> str:
    """The script's text: the template with the settings of a run in it."""
    settings = {"base": base, "method": run.method}
    settings |= {name: getattr(run, name) for name in _SETTINGS} | {"pad_id": pad_id}
    lines = "".join(f'    "{name}": {_literal(value)},\n' for name, value in settings.items())
    return TEMPLATE.read_text(encoding="utf-8").replace(
        "RUN: dict = {}\n", f"RUN = {{\n{lines}}}\n", 1
    )


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _write_rows(folder: Path, run: Run, batches: Batches) -> None:
    """The examples, and for each step which of them it sees, in their order."""
    examples = [*batches.examples, *batches.old]
    number = {id(example): i for i, example in enumerate(examples)}
    order = ([number[id(row)] for row in batches.rows(step)] for step in range(run.steps))
    rows = ({"ids": example.ids, "labels": example.labels} for example in examples)
    _write_lines(folder / "examples.jsonl", rows)
    _write_lines(folder / "order.jsonl", order)


def _write_lines(path: Path, values: Iterable[Any]) -> None:
    with whole_file(path) as file:
        file.writelines(json.dumps(value).encode() + b"\n" for value in values)
