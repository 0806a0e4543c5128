"""From a file of examples to a folder that can be used: what `minilora finetune` does.

Out comes an adapter's folder or, of full fine-tuning, a model's, each in Hugging Face's format.
Beside it stand what the run was (`run.json`, see `runs.py`) and the template of its examples. While
it runs, the output folder holds a log and the state of the last checkpoint, so that a run that was
stopped can go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilora.bases import save_base
from minilora.data import skills
from minilora.data.instructions import template_used
from minilora.data.template_files import save_template
from minilora.errors import ConfigError
from minilora.files.atomic import made_folder
from minilora.method_names import LORAS
from minilora.methods import Method, rate
from minilora.optim import Schedule
from minilora.peft import LoraConfig
from minilora.runs import RECORD, Run, sha256, write_run
from minilora.runtime import n_threads
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
    lora: LoraConfig | None = None,
    method: Method | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    accumulate: int = 1,
    checkpointing: bool = False,
    seed: int = 0,
    optimizer: str = "adamw",
    template: str | None = None,
    mask: str = "answers",
    replay_data: str | Path | None = None,
    replay: float = 0.0,
    bucket: bool = False,
    pack: int | None = None,
    resume: bool = False,
    progress: bool = True,
) -> tuple[History, Any]:
    """Tune a base on a file of examples, and save what was tuned into `out`.

    method   how; None: LoRA with the settings `lora`, or full fine-tuning without any
    steps, batch_size, lr    None: as suits the base
    accumulate, checkpointing   take each batch in parts; compute blocks again: less memory
    optimizer   one of `minilora.optim.OPTIMIZERS`
    template, mask   in which the examples are written (None: as suits the base), what is learnt
    replay_data, replay   a file of old examples, and their share of every batch
    bucket, pack   rows of similar length together; several examples in rows of so many tokens
    resume   go on from the checkpoint of a run that was stopped

    Returns the history and the model. If it was interrupted, only log, `run.json` and checkpoint
    are saved.
    Raises DataError naming file and line, ConfigError, NonFiniteError, OSError.
    """
    n_threads()  # refuses a MINILORA_THREADS that is none, before anything is written
    if method is None:
        method = Method("lora", lora) if lora else Method("full")
    model: Any = method.load(base)
    method.check(model)
    if model.tokenizer is None:
        raise ConfigError(f"base {base!r} has no tokenizer.json, which text needs; put one there")
    chosen = defaults_for(model)
    steps = chosen.steps if steps is None else steps
    check_count("steps", steps)
    check_count("accumulate", accumulate)
    if replay_data is not None and not replay:
        raise ConfigError(
            f"of the old examples in {replay_data} nothing is replayed: say their share of every "
            "batch, e.g. replay 0.1, or leave them out"
        )
    run = Run(
        base=str(base),
        data=str(data),
        data_sha256=sha256(data) if Path(data).is_file() else "",
        method=method.name,
        lora=method.lora if method.name in LORAS else None,
        tokens=method.tokens,
        bottleneck=method.bottleneck,
        steps=steps,
        batch_size=chosen.batch_size if batch_size is None else batch_size,
        lr=rate(method.name, chosen.lr, chosen.lr_full) if lr is None else lr,
        warmup=steps // 20,
        accumulate=accumulate,
        checkpointing=checkpointing,
        seed=seed,
        optimizer_name=optimizer,
        template=template,
        mask=mask,
        replay_data=None if replay_data is None else str(replay_data),
        replay=replay,
        bucket=bucket,
        pack=pack,
    )
    batches = run.batches(model.tokenizer, model.config.max_positions)
    model = method.attach(model, seed=seed)
    model.gradient_checkpointing_enable(checkpointing)
    moved_by = run.optimizer(model)
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
            moved_by,
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
            if method.config is not None:
                model.save_pretrained(folder)
            else:
                save_base(model, folder)
            save_template(folder, template_used(batches.examples), model.tokenizer)
            if not (folder / RECORD).exists():  # what began it may have written none
                write_run(folder, run, model, batches)
            checkpoint.unlink(missing_ok=True)
    return history, model
