"""Our side of each job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import minilora
from minilora.autograd import no_grad
from minilora.bases import load_base
from minilora.experiments.bench.jobs import NEW_TOKENS, SWEEP_STEPS, Job
from minilora.generation import generate
from minilora.model import KVCache
from minilora.optim import AdamW
from minilora.peft import PeftModel
from minilora.runtime import keep_memory, n_threads
from minilora.training import train_step

Work = Callable[[], Any]


def set_up(job: Job, folder: Path) -> tuple[Work, dict[str, Any]]:
    """What is to be timed, and what to say beforehand."""
    keep_memory()
    ids = np.load(folder / "ids.npy")
    model: Any = load_base(folder / "base")
    if job.method == "lora" and job.kind in ("step", "merge"):
        model = PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True)
    with no_grad():
        first = model.loss(ids, ids).item()
    said = {
        "first_loss": first,
        "version": f"minilora {minilora.__version__}, "
        f"numpy {np.__version__}, {n_threads()} threads",
    }
    return _WORK[job.kind](model, ids, folder), said


def _step(model: Any, ids: np.ndarray, folder: Path) -> Work:
    optimizer = AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    return lambda: train_step(model, optimizer, ids, ids)


def _generate(model: Any, ids: np.ndarray, folder: Path) -> Work:
    return lambda: generate(model, ids.tolist(), NEW_TOKENS)


def _prefill(model: Any, ids: np.ndarray, folder: Path) -> Work:
    batch, length = ids.shape

    def work() -> None:
        with no_grad():
            kv = KVCache(model.config, batch, length, model.dtype)
            model.lm_head(model.hidden(ids, kv=kv)[:, -1:])

    return work


def _load_adapter(model: Any, ids: np.ndarray, folder: Path) -> Work:
    return lambda: PeftModel.from_pretrained(model, folder / "adapter").unload()


def _merge(model: Any, ids: np.ndarray, folder: Path) -> Work:
    def work() -> None:
        model.merge_adapter()
        model.unmerge_adapter()

    return work


def _sweep_point(model: Any, ids: np.ndarray, folder: Path) -> Work:
    def work() -> None:
        tuned: Any = PeftModel.from_pretrained(
            load_base(folder / "base"), folder / "adapter", is_trainable=True
        )
        optimizer = AdamW(tuned.parameters(), lr=1e-3)
        for _ in range(SWEEP_STEPS):
            train_step(tuned, optimizer, ids, ids)

    return work


_WORK = {
    "step": _step,
    "generate": _generate,
    "prefill": _prefill,
    "load-adapter": _load_adapter,
    "merge": _merge,
    "sweep-point": _sweep_point,
}
