"""The rival's side of each job: PyTorch, transformers and PEFT, at their best.

Both of its attention implementations are tried and the faster is taken, the optimizer is the fused
one, gradients are set to None, and it has as many threads as there are cores.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from minilora.experiments.bench.jobs import NEW_TOKENS, SWEEP_STEPS, Job
from minilora.runtime import n_threads

Work = Callable[[], Any]


def set_up(job: Job, folder: Path) -> tuple[Work, dict[str, Any]]:
    """What is to be timed, and what to say beforehand."""
    import peft
    import torch
    import transformers

    torch.set_num_threads(n_threads())
    transformers.logging.set_verbosity_error()
    ids = torch.from_numpy(np.load(folder / "ids.npy"))
    fastest = min(("sdpa", "eager"), key=lambda kind: _try(job, folder, ids, kind))
    model = _load(job, folder, fastest)
    with torch.no_grad():
        first = model(input_ids=ids, labels=ids).loss.item()
    weight = {"peak_bytes": _peak_bytes(job, folder, ids, fastest)} if job.weighed else {}
    if job.compiled:
        model = torch.compile(model)
    said = {
        "first_loss": first,
        "version": f"torch {torch.__version__}, "
        f"transformers {transformers.__version__}, peft {peft.__version__}, {fastest}"
        + (", compiled" if job.compiled else "")
        + f", {torch.get_num_threads()} threads",
        **weight,
    }
    return _WORK[job.kind](model, ids, folder), said


def _try(job: Job, folder: Path, ids: Any, attention: str) -> float:
    """Seconds of the job with one kind of attention, after warming up."""
    if job.kind not in ("step", "prefill"):
        return 0.0 if attention == "sdpa" else 1.0
    work = _WORK[job.kind](_load(job, folder, attention), ids, folder)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _peak_bytes(job: Job, folder: Path, ids: Any, attention: str) -> int:
    """The most bytes of arrays that PyTorch holds at once in a step, by its own account.

    What comes and goes is what its profiler saw in two steps of a new optimizer, whose moments are
    made in the first; the model was there before.
    """
    from torch.profiler import ProfilerActivity, profile

    model = _load(job, folder, attention)
    work = _step(model, ids, folder)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
        work()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    held = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    return max(accumulate((event.nbytes() for event in events), initial=held))


def _load(job: Job, folder: Path, attention: str) -> Any:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        folder / "base", attn_implementation=attention, dtype="float32"
    )
    if job.method == "lora" and job.kind in ("step", "merge"):
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder / "adapter"), is_trainable=True)
    return model.train() if job.kind == "step" else model.eval()


def _step(model: Any, ids: Any, folder: Path) -> Work:
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def work() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        loss.item()

    return work


def _generate(model: Any, ids: Any, folder: Path) -> Work:
    return lambda: model.generate(
        ids,
        attention_mask=ids * 0 + 1,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
    )


def _prefill(model: Any, ids: Any, folder: Path) -> Work:
    import torch

    def work() -> None:
        with torch.no_grad():
            model(input_ids=ids, use_cache=True, logits_to_keep=1)

    return work


def _load_adapter(model: Any, ids: Any, folder: Path) -> Work:
    from peft import PeftModel

    return lambda: PeftModel.from_pretrained(model, str(folder / "adapter")).unload()


def _merge(model: Any, ids: Any, folder: Path) -> Work:
    def work() -> None:
        model.merge_adapter()
        model.unmerge_adapter()

    return work


def _sweep_point(model: Any, ids: Any, folder: Path) -> Work:
    job = Job("sweep-point", "step", "skills", "lora", (0, 0), None)

    def work() -> None:
        with contextlib.redirect_stdout(None):
            step = _step(_load(job, folder, "sdpa"), ids, folder)
        for _ in range(SWEEP_STEPS):
            step()

    return work


_WORK: dict[str, Callable[[Any, Any, Path], Work]] = {
    "step": _step,
    "generate": _generate,
    "prefill": _prefill,
    "load-adapter": _load_adapter,
    "merge": _merge,
    "sweep-point": _sweep_point,
}
