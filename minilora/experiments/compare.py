"""Full fine-tuning, LoRA and others, one base, one task: what does each cost, learn, forget?

Each method gets a learning rate that suits it. Bytes are measured on a real step, ability on
questions never seen. At the end the adapter is switched off, and the base must be back, bit for
bit: its logits, and a hash over all its weights.
"""

from __future__ import annotations

import hashlib
import math
import platform
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import minilora
from minilora.accounting import Flops, ledger, predict
from minilora.accounting.counts import arrays
from minilora.autograd import no_grad
from minilora.bases import load_base, save_base
from minilora.data.batches import Batches, collate
from minilora.errors import ConfigError
from minilora.experiments.lab.turns import by_turns
from minilora.experiments.tasks import Task, default_task, load_task
from minilora.method_names import METHODS
from minilora.methods import Method, rate
from minilora.model import ModelConfig, Transformer
from minilora.optim import AdamW, Schedule
from minilora.peft import LoraConfig, PeftModel
from minilora.runtime import keep_memory, n_threads
from minilora.training import History, train, train_step

_GLANCES = 10
_TURNS = 9


@dataclass(frozen=True)
class Settings:
    """What to compare. None: as the task is best learnt on its base.

    methods       to compare, in this order
    rank, alpha, target_modules   of those that are LoRA
    tokens, bottleneck            of prompt and prefix; of adapter
    lr, lr_full   the highest learning rate of LoRA, and of full fine-tuning
    lr_of         of other methods, by name
    replay        share of every batch that is old data, in [0, 1)
    """

    base: str = "skills"
    task: str | None = None
    methods: tuple[str, ...] = ("full", "lora")
    rank: int = 8
    alpha: float = 16
    target_modules: str | tuple[str, ...] = ("q_proj", "v_proj")
    tokens: int = 20
    bottleneck: int = 64
    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    lr_full: float | None = None
    lr_of: Mapping[str, float] = field(default_factory=dict)
    replay: float = 0.0
    seed: int = 0

    def method(self, name: str) -> Method:
        """One of the methods, with these settings."""
        lora = LoraConfig(self.rank, self.alpha, self.target_modules)
        return Method(name, lora, self.tokens, self.bottleneck)

    def rate(self, name: str) -> float:
        """A method's learning rate, once the settings are filled."""
        assert self.lr is not None and self.lr_full is not None
        return self.lr_of.get(name) or rate(name, self.lr, self.lr_full)

    def filled(self, task: Task) -> Settings:
        """With the task's own settings where none were given."""
        chosen = asdict(self) | {"task": task.name}
        for name, value in asdict(task.defaults).items():
            chosen[name] = value if chosen[name] is None else chosen[name]
        return Settings(**chosen)


def compare(
    settings: Settings,
    *,
    adapter_folder: str | Path | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Tune by each method, and report: see `README.md` for the fields.

    adapter_folder   where the last method's adapter is to be kept
    say              is told what is being done

    Raises ConfigError for settings outside of what is allowed.
    """
    keep_memory()
    check_settings(settings)
    base = load_base(settings.base)
    methods = [settings.method(name) for name in settings.methods]
    for method in methods:  # what this base has not is refused before anything is tuned
        method.check(base)
        arrays(base.config, method)
    task = load_task(settings.task or default_task(base), base, seed=settings.seed)
    settings = settings.filled(task)
    before = task.score(base)
    say(f"{settings.base} before tuning: {_ability(before)}")
    rows = []
    for method in methods:
        model = method.load(settings.base)
        start = task.score(model) if method.quantize else before  # four bits answer otherwise
        kept = _folder(adapter_folder, method, methods)
        row = _run(method, model, task, settings, start, kept, progress)
        after = {name: row[f"{name}_after"] for name in before}
        say(f"{method.label} after tuning: {_ability(after)}")
        rows.append(row)
        if row["interrupted"]:
            break
    else:
        for row, seconds in zip(rows, _in_turns(settings, task, methods), strict=True):
            row["step_seconds"] = seconds
    return {
        "settings": asdict(settings),
        "methods": rows,
        "versions": {
            "minilora": minilora.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "threads": n_threads(),
    }


def _folder(folder: str | Path | None, method: Method, methods: Sequence[Method]) -> Path | None:
    """Where a method's adapter is kept: in the folder, or, if there are several, in one inside."""
    if folder is None or method.config is None:
        return None
    alone = sum(m.config is not None for m in methods) == 1
    return Path(folder) if alone else Path(folder) / method.name


def _run(
    method: Method,
    base: Transformer,
    task: Task,
    s: Settings,
    before: dict[str, float | None],
    kept: Path | None,
    progress: bool,
) -> dict[str, Any]:
    """One method, from attaching to the file it leaves."""
    probe, fingerprint = _probe(base, task), weights_hash(base)
    model: Any = method.attach(base, seed=s.seed)
    lr = s.rate(method.name)
    assert s.batch_size is not None
    optimizer = AdamW(model.parameters(), lr=lr)
    batches = Batches(task.train, s.batch_size, seed=s.seed, old=task.replay, replay=s.replay)
    trainable, total = model.n_parameters(trainable=True), model.n_parameters()
    history, curve = _tune(method, model, optimizer, batches, task, s, progress)
    row: dict[str, Any] = {
        "method": method.name,
        "lr": lr,
        "trainable_parameters": trainable,
        "total_parameters": total,
        **{f"{k}_before": v for k, v in before.items()},
        **{f"{k}_after": v for k, v in task.score(model).items()},
        **{f"{k}_adapter_off": None for k in before},
        "base_restored": None,
        "file_bytes": _saved_bytes(model, kept),
        "step_seconds": statistics.median(history.seconds),
        "flops": asdict(_flops(method, base.config, batches[0][1])),
        "losses": history.losses,
        "curve": curve,
        "interrupted": history.interrupted,
    }
    if isinstance(model, PeftModel):
        with model.disable_adapter():
            row |= {f"{k}_adapter_off": v for k, v in task.score(model).items()}
            row["base_restored"] = np.array_equal(_probe(model, task), probe)
    row |= _books(model, optimizer, batches[0])
    model.gradient_checkpointing_enable()
    row["checkpointing"] = _books(model, optimizer, batches[0])
    model.gradient_checkpointing_enable(False)
    if isinstance(model, PeftModel):
        row["base_restored"] &= weights_hash(model.unload()) == fingerprint
    return row


def _books(model: Any, optimizer: AdamW, batch: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """One more step, with the ledger open: bytes by kind, and over the course of the step.

    With one thread: with more, what is held at once depends on which of them is how far.
    """
    with ledger(model, optimizer) as kept:
        train_step(model, optimizer, *batch, threads=1, max_grad_norm=1.0)
    return {"bytes": {**kept.totals, "peak": kept.peak}, "timeline": kept.curve()}


def _flops(method: Method, model: ModelConfig, labels: np.ndarray) -> Flops:
    """What a step on a batch of these labels multiplies and adds."""
    return predict(model, peft=method.config, labels=labels).flops


def _in_turns(s: Settings, task: Task, methods: Sequence[Method]) -> list[float]:
    """Seconds of a step by each method, the median of several that take turns.

    While each method trains, minutes apart, the machine is busy in different ways.
    """
    assert s.batch_size is not None
    batch = Batches(task.train, s.batch_size, seed=s.seed)[0]

    def step_of(method: Method) -> Callable[[int], float]:
        model = method.attach(method.load(s.base), seed=s.seed)
        optimizer = AdamW(model.parameters(), lr=1e-6)
        return lambda turn: train_step(model, optimizer, *batch, max_grad_norm=1.0)

    taken = by_turns([step_of(method) for method in methods], _TURNS)
    return [statistics.median(each) for each in zip(*taken, strict=True)]


def _tune(
    method: Method,
    model: Any,
    optimizer: AdamW,
    batches: Batches,
    task: Task,
    s: Settings,
    progress: bool,
) -> tuple[History, list[dict[str, Any]]]:
    """Train, and look at what is learnt and forgotten some ten times on the way."""
    assert s.steps is not None
    total, curve = s.steps, [{"step": 0, **task.glance(model)}]

    def glance(step: int, loss: float) -> None:
        if step * _GLANCES // total > (step - 1) * _GLANCES // total:
            curve.append({"step": step, **task.glance(model)})

    history = train(
        model,
        optimizer,
        batches,
        steps=total,
        seed=s.seed,
        after_step=glance,
        schedule=Schedule("cosine", total, warmup=total // 20),
        progress=f"{method.label:>4} fine-tuning" if progress else None,
    )
    return history, curve


def weights_hash(model: Transformer) -> str:
    """A hash over the bits of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, array in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _probe(model: Any, task: Task) -> np.ndarray:
    """Last vectors of some test questions, to see whether a model is the same to the bit."""
    with no_grad():
        return model.hidden(collate(task.test[:16])[0]).data


def _saved_bytes(model: Any, kept: Path | None) -> int:
    """Save what one would keep of this method, and count the bytes of its files."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if isinstance(model, PeftModel):
            folder = kept or folder
            model.save_pretrained(folder)
            names = ["adapter_config.json", "adapter_model.safetensors"]
            return sum((folder / name).stat().st_size for name in names)
        save_base(model, folder)
        return (folder / "model.safetensors").stat().st_size


def _ability(scores: dict[str, float | None]) -> str:
    says = {"new": "new task {:.0%}", "old": "old skills {:.0%}", "general_nll": "text {:.3f} nats"}
    return ", ".join(says[k].format(v) for k, v in scores.items() if v is not None)


def check_settings(s: Settings) -> None:
    """ConfigError for what no run can have, before a base is loaded."""
    if not s.methods or len(set(s.methods)) < len(s.methods):
        raise ConfigError(f"methods {s.methods!r} must be some of {', '.join(METHODS)}, each once")
    for name in s.methods:
        s.method(name)
    for name in ("steps", "batch_size"):
        value = getattr(s, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} {value} must be 1 or more")
    rates = {"lr": s.lr, "lr_full": s.lr_full, **{f"lr of {k}": v for k, v in s.lr_of.items()}}
    for name, value in rates.items():
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{name} {value} must be above 0 and finite")
    if not 0 <= s.replay < 1:
        raise ConfigError(f"replay {s.replay} must be a share in [0, 1), e.g. 0.05")
