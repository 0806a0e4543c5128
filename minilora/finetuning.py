"""From a file of examples to a folder that can be used: what `minilora finetune` does.

Out comes an adapter's folder (LoRA) or a model's (full), each in Hugging Face's format. Beside it
stands what the run was (`run.json`), from which another engine can do it again. While it runs, the
output folder holds a log and the state of the last checkpoint, so that a run that was stopped can
go on.
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from minilora.bases import load_base, save_base
from minilora.data import skills
from minilora.data.batches import Batches
from minilora.data.instructions import read_examples
from minilora.data.tokenizers import Tokenizer
from minilora.errors import ConfigError, DataError, FormatError
from minilora.files.atomic import made_folder
from minilora.files.json_files import read_json, write_json
from minilora.optim import AdamW, Schedule
from minilora.peft import LoraConfig, get_peft_model
from minilora.training import History, check_count, train

RECORD = "run.json"


@dataclass(frozen=True)
class Defaults:
    """Settings with which a task is learnt on its base."""

    steps: int
    batch_size: int
    lr: float
    lr_full: float


SKILLS_DEFAULTS = Defaults(steps=250, batch_size=64, lr=5e-3, lr_full=1e-3)
LANGUAGE_DEFAULTS = Defaults(steps=75, batch_size=8, lr=2e-3, lr_full=5e-5)


def defaults_for(model: Any) -> Defaults:
    """Settings that suit a base: the small one that knows strings, or a language model."""
    return SKILLS_DEFAULTS if speaks_skills(model) else LANGUAGE_DEFAULTS


def speaks_skills(model: Any) -> bool:
    """Whether a model reads the alphabet of the embedded base."""
    return getattr(model.tokenizer, "alphabet", None) == skills.ALPHABET


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run is: with its base and its data, all that decides every one of its numbers.

    base, data     as they were given: a name or a folder, a file
    data_sha256    of the file's bytes
    lora           settings of the adapter; None: all weights are trained
    schedule, warmup   how the learning rate rises and falls; steps of its rise
    max_grad_norm  gradients are scaled down together to this norm
    accumulate     parts in which a batch is taken
    seed           of the data's order, of A, and of dropout
    """

    base: str
    data: str
    data_sha256: str
    lora: LoraConfig | None
    steps: int
    batch_size: int
    lr: float
    warmup: int
    accumulate: int = 1
    checkpointing: bool = False
    seed: int = 0
    schedule: str = "cosine"
    max_grad_norm: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """What a checkpoint must agree on before it is gone on from, under names for people."""
        names = ("base", "data", "steps", "lr", "seed", "accumulate", "checkpointing")
        chosen = {name: getattr(self, name) for name in names}
        chosen |= {"batch size": self.batch_size, "content of the data": self.data_sha256}
        return chosen | {"lora": asdict(self.lora) if self.lora else None}

    def optimizer(self, model: Any) -> AdamW:
        return AdamW(model.parameters(), self.lr, self.betas, self.eps, self.weight_decay)

    def batches(self, tokenizer: Tokenizer, context: int) -> Batches:
        """The batches of all steps, none of whose rows is longer than the context.

        Raises DataError naming file and line.
        """
        examples = read_examples(self.data, tokenizer, context)
        return Batches(examples, self.batch_size, seed=self.seed, pad_id=tokenizer.pad_id)


def write_run(folder: Path, run: Run, model: Any, batches: Batches) -> None:
    """Write `run.json`: the settings, and what followed from them."""
    rows = [row for step in range(run.steps) for row in batches.rows(step)]
    write_json(
        folder / RECORD,
        {
            "minilora": version("minilora"),
            "numpy": np.__version__,
            "python": platform.python_version(),
            "method": "lora" if run.lora else "full",
            **asdict(run),
            "examples": len(batches.examples),
            "tokens": sum(len(row.ids) for row in rows),
            "target_tokens": sum(row.n_targets for row in rows),
            "trained_parameters": model.n_parameters(trainable=True),
            "total_parameters": model.n_parameters(),
        },
    )


def read_run(folder: str | Path) -> Run:
    """The run that a folder is of.

    Raises FormatError if its `run.json` is missing, damaged, or of a version that knew less or
    more.
    """
    path = Path(folder) / RECORD
    if not path.is_file():
        raise FormatError(
            f"{folder}: there is no {RECORD} in it. `minilora finetune` writes it; a run of an "
            "older version is done again with the same options, and then has it"
        )
    said = read_json(path)
    try:
        chosen = {each.name: said[each.name] for each in fields(Run)}
        if chosen["lora"] is not None:
            chosen["lora"] = LoraConfig(**chosen["lora"])
        return Run(**{**chosen, "betas": tuple(chosen["betas"])})
    except KeyError as error:
        raise FormatError(f"{path} does not say {error}; run `minilora finetune` again") from error
    except TypeError as error:
        raise FormatError(f"{path} is not what `minilora finetune` writes: {error}") from error


def check_data(run: Run) -> None:
    """DataError unless the file of examples is there and is the one that was trained on."""
    if not Path(run.data).is_file():
        raise DataError(
            f"{run.data!r}, the data of the run, is not there; call from the folder in which it "
            "was tuned, or say where the file is now with --data"
        )
    now = _sha256(run.data)
    if now != run.data_sha256:
        raise DataError(
            f"{run.data} is not what the run was trained on: its SHA-256 is {now[:12]}…, not "
            f"{run.data_sha256[:12]}…; give that file with --data, or tune again on this one"
        )


def _sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finetune(
    base: str,
    data: str | Path,
    out: str | Path,
    *,
    lora: LoraConfig | None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    accumulate: int = 1,
    checkpointing: bool = False,
    seed: int = 0,
    resume: bool = False,
    progress: bool = True,
) -> tuple[History, Any]:
    """Tune a base on a JSONL file, and save what was tuned into `out`.

    lora     settings of the adapter; None: all weights are trained
    steps, batch_size, lr    None: as suits the base
    accumulate, checkpointing   take each batch in parts; compute blocks again: less memory
    resume   go on from the checkpoint of a run that was stopped

    Returns the history and the model. If it was interrupted, only log, `run.json` and checkpoint
    are saved.
    Raises DataError naming file and line, ConfigError, NonFiniteError, OSError.
    """
    model: Any = load_base(base)
    if model.tokenizer is None:
        raise ConfigError(f"base {base!r} has no tokenizer.json, which text needs; put one there")
    chosen = defaults_for(model)
    steps = chosen.steps if steps is None else steps
    check_count("steps", steps)
    check_count("accumulate", accumulate)
    run = Run(
        base=str(base),
        data=str(data),
        data_sha256=_sha256(data) if Path(data).is_file() else "",
        lora=lora,
        steps=steps,
        batch_size=chosen.batch_size if batch_size is None else batch_size,
        lr=(chosen.lr if lora else chosen.lr_full) if lr is None else lr,
        warmup=steps // 20,
        accumulate=accumulate,
        checkpointing=checkpointing,
        seed=seed,
    )
    batches = run.batches(model.tokenizer, model.config.max_positions)
    if lora:
        model = get_peft_model(model, lora, seed=seed)
    model.gradient_checkpointing_enable(checkpointing)
    optimizer = run.optimizer(model)
    with made_folder(out) as folder:
        checkpoint = folder / "checkpoint.safetensors"
        if checkpoint.exists() and not resume:
            raise ConfigError(
                f"{folder} holds a run that was stopped: go on with --resume, take another --out, "
                f"or remove {checkpoint}"
            )
        if not checkpoint.exists():
            write_run(folder, run, model, batches)
        history = train(
            model,
            optimizer,
            batches,
            steps=steps,
            schedule=Schedule(run.schedule, steps, run.warmup),
            max_grad_norm=run.max_grad_norm,
            accumulate=accumulate,
            seed=seed,
            log=folder / "log.jsonl",
            checkpoint=checkpoint,
            resume=resume,
            settings=run.settings,
            progress="fine-tuning" if progress else None,
        )
        if not history.interrupted:
            if lora:
                model.save_pretrained(folder)
            else:
                save_base(model, folder)
            write_run(folder, run, model, batches)  # what began it may have written none
            checkpoint.unlink(missing_ok=True)
    return history, model
