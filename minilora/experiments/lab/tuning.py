"""One tuning of the embedded base, and what it learnt and forgot: the unit of most experiments.

A `Setup` is a point: it says everything that decides the outcome. Two things are drawn by its seed,
the order of the data and the adapter's start; the base is one and the same checkpoint, so the
spread over seeds says nothing about other bases.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

from minilora.bases import load_base
from minilora.data.batches import Batches
from minilora.errors import ConfigError, NonFiniteError
from minilora.evaluation import exact_match
from minilora.experiments.tasks import Task, load_task
from minilora.method_names import KNOBS, LORAS
from minilora.methods import Method
from minilora.optim import AdamW, Schedule
from minilora.peft import LoraConfig
from minilora.peft.loraplus import loraplus_groups
from minilora.training import History, train

SCALINGS = ("r", "sqrt_r")


@dataclass(frozen=True)
class Setup:
    """Everything that decides a tuning.

    method          one of `minilora.methods`
    rank, alpha, scaling, target_modules, init, lr_ratio   LoRA's: α/r or α/√r; how A and B
                    start, as LoraConfig's `init_lora_weights`; B's learning rate over A's (LoRA+)
    tokens          of prompt and prefix;  bottleneck  of adapter
    quantize        the format of the base's matrices where it is not the method's own choice
    lr              the highest one; it rises over 1/20 of the steps and falls as a cosine
    examples        how many different ones there are to learn from, at most 8,000
    replay          share of every batch that is old data
    glances         how often one looks on the way at what is learnt and forgotten
    """

    task: str = "sort-descending"
    method: str = "lora"
    rank: int = 8
    alpha: float = 16
    scaling: str = "r"
    target_modules: str | tuple[str, ...] = ("q_proj", "v_proj")
    init: bool | str = True
    lr_ratio: float = 1.0
    tokens: int = 20
    bottleneck: int = 64
    quantize: str | None = None
    lr: float = 5e-3
    steps: int = 150
    batch_size: int = 64
    examples: int = 8000
    replay: float = 0.0
    glances: int = 5
    seed: int = 0

    @classmethod
    def of(cls, point: dict[str, Any]) -> Setup:
        """The setup that a point holds; what else is in the point is not for us."""
        known = {f.name for f in fields(cls)}
        chosen = {k: v for k, v in point.items() if k in known}
        if isinstance(chosen.get("target_modules"), list):
            chosen["target_modules"] = tuple(chosen["target_modules"])
        return cls(**chosen)

    def point(self, **more: Any) -> dict[str, Any]:
        """As JSON says it, and what else belongs to the point.

        Knobs are left out where the method has none, so that one run is one point.
        """
        values = asdict(self)
        for name, methods in _KNOBS.items():
            if self.method not in methods:
                del values[name]
        if self.quantize is None:
            del values["quantize"]
        if not isinstance(values.get("target_modules", ""), str):
            values["target_modules"] = list(self.target_modules)
        return {**values, **more}

    def lora_config(self) -> LoraConfig:
        if self.scaling not in SCALINGS:
            raise ConfigError(f"scaling {self.scaling!r} must be one of {', '.join(SCALINGS)}")
        return LoraConfig(
            self.rank,
            self.alpha,
            self.target_modules,
            use_rslora=self.scaling == "sqrt_r",
            init_lora_weights=self.init,  # type: ignore[arg-type]
        )


_OF_LORA = ("rank", "alpha", "scaling", "target_modules", "init", "lr_ratio")
_KNOBS = {**dict.fromkeys(_OF_LORA, LORAS), **KNOBS}


@lru_cache(maxsize=4)
def task_of(name: str, seed: int) -> Task:
    """A task with the training data of a seed; validation and test are the same for all seeds."""
    return load_task(name, load_base("skills"), seed=seed)


def model_for(setup: Setup, base: Any = None) -> Any:
    """The base as the setup keeps it, with what is trained beside it put there."""
    lora = setup.lora_config() if setup.method in LORAS else LoraConfig()
    method = Method(setup.method, lora, setup.tokens, setup.bottleneck)
    if base is None:
        base = load_base("skills", quantize=setup.quantize or method.quantize)
    return method.attach(base, seed=setup.seed)


def optimizer_for(model: Any, setup: Setup) -> AdamW:
    """AdamW; with LoRA+ B learns `lr_ratio` times as fast as A (arXiv 2402.12354)."""
    if setup.method == "full" or setup.lr_ratio == 1:
        return AdamW(model.parameters(), lr=setup.lr)
    return AdamW(loraplus_groups(model, setup.lr, setup.lr_ratio))


def tune(
    setup: Setup,
    *,
    model: Any = None,
    after_step: Callable[[int, float], None] | None = None,
    test: bool = True,
) -> tuple[dict[str, Any], Any]:
    """Tune, look, test: what came out as JSON can say it, and the tuned model.

    model        to go on with, prepared as `model_for` does; None: the base, prepared so
    after_step   called after each step with its number, from 1, and its loss
    test         False: only the smaller validation, where a setting is chosen; no new, old

    In the result: new, old, old_by_skill (test, shares in [0, 1]), new_validation,
    old_validation; curve (validation, on the way, step 0 included); losses as [step, loss];
    parameters, bytes, seconds. A run that left the finite numbers has
    `diverged`, a message, and counts as having learnt nothing.
    """
    task = task_of(setup.task, setup.seed)
    model = model_for(setup) if model is None else model
    optimizer = optimizer_for(model, setup)
    batches = Batches(
        task.train[: setup.examples],
        setup.batch_size,
        seed=setup.seed,
        old=task.replay,
        replay=setup.replay,
    )
    curve = [{"step": 0, **_glance(task, model)}]

    def look(step: int, loss: float) -> None:
        if after_step is not None:
            after_step(step, loss)
        if step * setup.glances // setup.steps > (step - 1) * setup.glances // setup.steps:
            curve.append({"step": step, **_glance(task, model)})

    began = time.perf_counter()
    history, diverged = trained(setup, model, optimizer, batches, look)
    result: dict[str, Any] = {
        "trainable_parameters": model.n_parameters(trainable=True),
        "total_parameters": model.n_parameters(),
        "bytes": _bytes(model, optimizer),
        "seconds_training": time.perf_counter() - began,
        "losses": [
            [s, x] for s, x in enumerate(history.losses, 1) if s in (1, 2, 5) or s % 10 == 0
        ],
        "curve": curve,
        "diverged": diverged,
        **score(task, model, failed=diverged is not None, test=test),
    }
    return result, model


def trained(
    setup: Setup,
    model: Any,
    optimizer: AdamW,
    batches: Batches,
    after_step: Callable[[int, float], None] | None = None,
) -> tuple[History, str | None]:
    """Train as a setup says: the history, and what was said if the numbers left the finite ones.

    Raises KeyboardInterrupt for Ctrl-C: a point is measured whole, or not at all.
    """
    try:
        history = train(
            model,
            optimizer,
            batches,
            steps=setup.steps,
            seed=setup.seed,
            schedule=Schedule("cosine", setup.steps, warmup=setup.steps // 20),
            after_step=after_step,
            progress=None,
        )
    except NonFiniteError as error:
        return History(), str(error)
    if history.interrupted:
        raise KeyboardInterrupt
    return history, None


def score(task: Task, model: Any, *, failed: bool = False, test: bool = True) -> dict[str, Any]:
    """Shares of right answers, test and validation. `failed`: 0 for all, and none is asked."""
    if failed:
        by_skill = dict.fromkeys(task.old, 0.0)
        return {"new": 0.0, "old": 0.0, "old_by_skill": by_skill} | {
            f"{k}_validation": 0.0 for k in ("new", "old")
        }
    validation = {f"{k}_validation": v for k, v in _glance(task, model).items()}
    if not test:
        return validation
    by_skill = {name: exact_match(model, each) for name, each in task.old.items()}
    return {
        "new": exact_match(model, task.test),
        "old": sum(by_skill.values()) / len(by_skill),
        "old_by_skill": by_skill,
        **validation,
    }


def _glance(task: Task, model: Any) -> dict[str, float | None]:
    return {k: v for k, v in task.glance(model).items() if k in ("new", "old")}


def _bytes(model: Any, optimizer: AdamW) -> dict[str, int]:
    """What the weights, the gradients of what is trained, and its moments take."""
    trained = sum(p.data.nbytes for p in optimizer.parameters())
    return {
        "weights": sum(p.data.nbytes for p in model.parameters()),
        "gradients": trained,
        "optimizer": optimizer.state_bytes,
    }
