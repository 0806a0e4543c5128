"""What a run is, and the file beside its adapter that says so.

With its base and its data a `Run` decides every number of a fine-tune: so it can be gone on from,
compared, and done again by another engine. `run.json` holds it, and what followed from it.
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from minilora.data.batches import Batches
from minilora.data.instructions import read_examples
from minilora.data.templates import template
from minilora.data.tokenizers import Tokenizer
from minilora.errors import DataError, FormatError
from minilora.files.json_files import read_json, write_json
from minilora.methods import Method
from minilora.ops import IGNORE
from minilora.optim import AdamW, make
from minilora.peft import LoraConfig

RECORD = "run.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run is: with its base and its data, all that decides every one of its numbers.

    base, data     as they were given: a name or a folder, a file
    data_sha256    of the file's bytes
    method         one of `minilora.methods`, with its settings: lora (None where it has none),
                   tokens, bottleneck
    optimizer_name one of `minilora.optim.OPTIMIZERS`
    template, mask in which the examples are written, and what of them is learnt
    replay         share of every batch that comes from the file replay_data
    bucket, pack   rows of similar length together; several examples in rows of so many tokens
    schedule, warmup   how the learning rate rises and falls; steps of its rise
    max_grad_norm  gradients are scaled down together to this norm
    accumulate     parts in which a batch is taken
    seed           of the data's order, of A, and of dropout
    """

    base: str
    data: str
    data_sha256: str
    method: str
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
    tokens: int = 20
    bottleneck: int = 64
    optimizer_name: str = "adamw"
    template: str | None = None
    mask: str = "answers"
    replay_data: str | None = None
    replay: float = 0.0
    bucket: bool = False
    pack: int | None = None

    @property
    def tuned_by(self) -> Method:
        """The method, with its settings."""
        return Method(self.method, self.lora or LoraConfig(), self.tokens, self.bottleneck)

    @property
    def settings(self) -> dict[str, Any]:
        """What a checkpoint must agree on before it is gone on from, under names for people."""
        names = (
            *("base", "data", "method", "tokens", "bottleneck", "steps", "lr", "seed"),
            *("accumulate", "checkpointing", "template", "mask", "replay", "bucket", "pack"),
        )
        chosen = {name: getattr(self, name) for name in names}
        chosen |= {"batch size": self.batch_size, "content of the data": self.data_sha256}
        chosen |= {"optimizer": self.optimizer_name, "replayed data": self.replay_data}
        return chosen | {"lora": asdict(self.lora) if self.lora else None}

    def optimizer(self, model: Any) -> AdamW:
        settings = {"betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        return make(self.optimizer_name, model.parameters(), self.lr, **settings)

    def batches(self, tokenizer: Tokenizer, context: int) -> Batches:
        """The batches of all steps, none of whose examples is longer than the context.

        Raises DataError naming file and line; ConfigError for a template or mask there is not.
        """
        read = partial(
            read_examples,
            tokenizer=tokenizer,
            max_length=context - self.tuned_by.context,
            taken=self.tuned_by.context,
            written=template(self.template, tokenizer),
            mask=self.mask,
        )
        return Batches(
            read(self.data),
            self.batch_size,
            seed=self.seed,
            pad_id=tokenizer.pad_id,
            old=read(self.replay_data) if self.replay_data else [],
            replay=self.replay,
            bucket=self.bucket,
            pack=self.pack,
        )


def write_run(folder: Path, run: Run, model: Any, batches: Batches) -> None:
    """Write `run.json`: the settings, and what followed from them."""
    rows = [row for step in range(run.steps) for row in batches.rows(step)]
    write_json(
        folder / RECORD,
        {
            "minilora": version("minilora"),
            "numpy": np.__version__,
            "python": platform.python_version(),
            **asdict(run),
            "examples": len(batches.examples),
            "seen_tokens": sum(len(row.ids) for row in rows),
            "target_tokens": sum(t != IGNORE for row in rows for t in row.labels[1:]),
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
    now = sha256(run.data)
    if now != run.data_sha256:
        raise DataError(
            f"{run.data} is not what the run was trained on: its SHA-256 is {now[:12]}…, not "
            f"{run.data_sha256[:12]}…; give that file with --data, or tune again on this one"
        )


def sha256(path: str | Path) -> str:
    """Of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
