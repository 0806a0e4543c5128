"""From a file of examples to a folder that can be used: what `minilora finetune` does.

Out comes an adapter's folder (LoRA) or a model's (full), each in Hugging Face's format. While it
runs, the output folder holds a log and the state of the last checkpoint, so that a run that was
stopped can go on.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minilora.bases import load_base, save_base
from minilora.data import skills
from minilora.data.batches import Batches
from minilora.data.instructions import read_examples
from minilora.errors import ConfigError
from minilora.files.atomic import made_folder
from minilora.optim import AdamW, Schedule
from minilora.peft import LoraConfig, get_peft_model
from minilora.training import History, check_count, train


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

    Returns the history and the model. If it was interrupted, only log and checkpoint are saved.
    Raises DataError naming file and line, ConfigError, NonFiniteError, OSError.
    """
    model: Any = load_base(base)
    if model.tokenizer is None:
        raise ConfigError(f"base {base!r} has no tokenizer.json, which text needs; put one there")
    chosen = defaults_for(model)
    steps = chosen.steps if steps is None else steps
    batch_size = chosen.batch_size if batch_size is None else batch_size
    if lr is None:
        lr = chosen.lr if lora else chosen.lr_full
    examples = read_examples(data, model.tokenizer, model.config.max_positions)
    if lora:
        model = get_peft_model(model, lora, seed=seed)
    model.gradient_checkpointing_enable(checkpointing)
    optimizer = AdamW(model.parameters(), lr=lr)
    batches = Batches(examples, batch_size, seed=seed, pad_id=model.tokenizer.pad_id)
    check_count("steps", steps)
    check_count("accumulate", accumulate)
    schedule = Schedule("cosine", steps, warmup=steps // 20)
    settings = {"base": str(base), "data": str(data), "steps": steps, "lr": lr, "seed": seed}
    settings |= {"batch size": batch_size, "accumulate": accumulate}
    settings |= {"checkpointing": checkpointing, "lora": asdict(lora) if lora else None}
    settings["content of the data"] = hashlib.sha256(Path(data).read_bytes()).hexdigest()
    with made_folder(out) as folder:
        checkpoint = folder / "checkpoint.safetensors"
        if checkpoint.exists() and not resume:
            raise ConfigError(
                f"{folder} holds a run that was stopped: go on with --resume, take another --out, "
                f"or remove {checkpoint}"
            )
        history = train(
            model,
            optimizer,
            batches,
            steps=steps,
            schedule=schedule,
            accumulate=accumulate,
            seed=seed,
            log=folder / "log.jsonl",
            checkpoint=checkpoint,
            resume=resume,
            settings=settings,
            progress="fine-tuning" if progress else None,
        )
        if not history.interrupted:
            if lora:
                model.save_pretrained(folder)
            else:
                save_base(model, folder)
            checkpoint.unlink(missing_ok=True)
    return history, model
