"""Full or LoRA: what is won, and is anything forgotten?

Won are bytes, measured with the ledger on one real step of each method. What is forgotten is
asked at the same accuracy on the new skill (see `forgetting`), with the adapter on; switched off,
it is the base again. Each arm has its own learning rate, chosen on seeds that are not reported on.

There are two kinds of reported points: tunings (role "report"), and one step with open books
(role "books") for full, LoRA on q and v, and LoRA on all seven matrices of a block.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from minilora import plots
from minilora.accounting import ledger, predict
from minilora.bases import save_base
from minilora.data.batches import Batches
from minilora.errors import ConfigError
from minilora.experiments.forgetting import adapter_off
from minilora.experiments.forgetting.answering import failures, helps, pairs, switched_off
from minilora.experiments.forgetting.arms import LEVEL, Arm, arms, seeds_text, share
from minilora.experiments.forgetting.figure import caption, in_words, plane
from minilora.experiments.lab.experiment import Experiment, Plan, Point, Row
from minilora.experiments.lab.stats import CHOOSING_SEEDS, best, percent, where
from minilora.experiments.lab.tuning import Setup, model_for, optimizer_for, task_of, tune
from minilora.peft import PeftModel
from minilora.training import train_step

LRS = {"full": (3.2e-4, 1e-3, 3.2e-3), "lora": (5e-3, 1e-2, 2e-2)}
REPLAYS = (0.0, 0.05)
_COMMAND = "minilora experiment compare"


def points(rows: list[Row], plan: Plan) -> list[Point]:
    """Open books; runs to choose rates from; the reported runs of arms whose rate is chosen."""
    setup = Setup(steps=plan.steps or (4 if plan.quick else 250), glances=2 if plan.quick else 25)
    books = (replace(setup, method="full"), setup, replace(setup, target_modules="all-linear"))
    wanted = [s.point(role="books", base="skills") for s in books]
    for method, lrs in LRS.items():
        for replay in REPLAYS[: 1 if plan.quick else None]:
            arm = replace(setup, method=method, replay=replay)
            choosing = [
                replace(arm, lr=lr, seed=seed, glances=1).point(role="choose", base="skills")
                for lr in (lrs[1:2] if plan.quick else lrs)
                for seed in (CHOOSING_SEEDS[:1] if plan.quick else CHOOSING_SEEDS)
            ]
            wanted += choosing
            measured = [where(rows, **point) for point in choosing]
            if all(measured):
                lr = best(r for some in measured for r in some)
                seeds = plan.seeds[: 1 if plan.quick else None]
                reported = [replace(arm, lr=lr, seed=seed) for seed in seeds]
                wanted += [s.point(role="report", base="skills", lr_by="chosen") for s in reported]
    return wanted


def measure(point: Point) -> dict[str, Any]:
    """A tuning, with its files and the adapter switched off; or one step with open books."""
    setup = Setup.of(point)
    if point["role"] == "books":
        return _books(setup)
    result, model = tune(setup)
    if point["role"] == "report":
        result |= {"file_bytes": _saved_bytes(model)}
        if isinstance(model, PeftModel):
            result |= adapter_off(model, task_of(setup.task, setup.seed))
    return result


def _books(setup: Setup) -> dict[str, Any]:
    """What a step holds, by kind, in bytes, and its multiplications and additions by purpose.

    With one thread: with more, what is held at once depends on which of them is how far.
    """
    model = model_for(setup)
    optimizer = optimizer_for(model, setup)
    batch = Batches(task_of(setup.task, setup.seed).train, setup.batch_size, seed=setup.seed)[0]
    with ledger(model, optimizer) as kept:
        train_step(model, optimizer, *batch, threads=1, max_grad_norm=1.0)
    adapter = setup.lora_config() if setup.method == "lora" else None
    flops = predict(model.config, lora=adapter, labels=batch[1]).flops
    return {
        "trainable_parameters": model.n_parameters(trainable=True),
        "total_parameters": model.n_parameters(),
        "bytes": {**kept.totals, "peak": kept.peak},
        "flops": {**asdict(flops), "total": flops.total},
        "file_bytes": _saved_bytes(model),
    }


def _saved_bytes(model: Any) -> int:
    """Bytes of the files in which the weights are kept that this method has trained."""
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(model, PeftModel):
            model.save_pretrained(folder)
        else:
            save_base(model, folder)
        return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def books(rows: Sequence[Row]) -> dict[str, Row]:
    """Name of the method → its open books: full, then LoRA by what it trains."""
    some = sorted(where(rows, role="books"), key=lambda r: r["trainable_parameters"])
    return {Arm([r]).method: r for r in sorted(some, key=lambda r: r["method"] != "full")}


def draw(rows: list[Row], path: str | Path) -> None:
    """Two panels: learned against forgotten, and what a step of each method holds."""
    every, held = arms(rows), books(rows)
    if not every and not held:
        raise ConfigError(f"there are no reported runs to draw; run `{_COMMAND}` first")
    with plots.figure(2, width=13, height=5) as (fig, axes):
        plane(axes[0], every, "Learned against forgotten")
        _off(axes[0], rows)
        _bars(axes[1], held)
        plots.save(fig, path, caption(rows, _COMMAND), _alt(rows, every, held))


def _off(ax: Any, rows: Sequence[Row]) -> None:
    off = [r for r in where(rows, role="report") if r.get("old_off") is not None]
    if off:
        x, y = (100 * sum(r[k] for r in off) / len(off) for k in ("new_off", "old_off"))
        ax.plot(x, y, "o", color=plots.INK, markerfacecolor="white", markersize=9, zorder=5)
        place = {"xytext": (9, 4), "textcoords": "offset points", "fontsize": 9}
        ax.annotate("LoRA, adapter off = the base (test)", (x, y), **place)
        ax.set_ylim(-4, 110)


def _bars(ax: Any, held: dict[str, Row]) -> None:
    ax.set_title("Held in one training step, measured")
    if not held:
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center")
        return
    bars = []
    for name, r in held.items():
        b, trained = r["bytes"], r["trainable_parameters"] / r["total_parameters"]
        parts = {
            "frozen weights": b["weights"] * (1 - trained),
            "trained weights": b["weights"] * trained,
            **{k: b[k] for k in ("gradients", "optimizer", "activations")},
        }
        bars.append((name.replace("LoRA ", "LoRA\n"), parts))
    plots.stacked_bars(ax, bars)
    ax.set_ylim(len(bars) - 0.4, -1.5)
    ax.legend(loc="upper left", ncols=2, fontsize=9, handlelength=1.4, columnspacing=1)


def _alt(rows: Sequence[Row], every: Sequence[Arm], held: dict[str, Row]) -> str:
    text = [
        "Left: new skill (x, % exactly right) against old skills (y, %); kept at "
        f"{share(LEVEL)} of the new one:",
        in_words(every),
        switched_off(rows),
        "Right: bytes held in one step, by kind, measured.",
    ]
    for name, r in held.items():
        size, unit = plots.unit(r["bytes"]["weights"])
        kinds = ("weights", "gradients", "optimizer", "activations")
        amounts = ", ".join(f"{k} {r['bytes'][k] / size:.3g} {unit}" for k in kinds)
        text.append(f"{name}: {amounts}.")
    return "\n".join(text)


def answer(rows: list[Row]) -> str:
    """What LoRA saves, and what it and full fine-tuning leave of the old skills."""
    every = arms(rows)
    parts = [_won(books(rows)), _learnt(every), _kept(every), switched_off(rows), helps(every)]
    return "\n".join(filter(None, [*parts, failures(every)]))


def _won(held: dict[str, Row]) -> str:
    if "full" not in held or len(held) == 1:
        return "Won: not measured."
    full, said = _amounts(held["full"]), []
    for name, r in held.items():
        if name != "full":
            shares = (f"{what} {share(n / full[what])}" for what, n in _amounts(r).items())
            said.append(f"{name}: {', '.join(shares)}")
    return f"Won, in percent of what full fine-tuning takes, in one step: {'; '.join(said)}."


def _amounts(r: Row) -> dict[str, int]:
    """What there is to be won, by what it is called."""
    return {
        "trained numbers": r["trainable_parameters"],
        "bytes of gradients": r["bytes"]["gradients"],
        "of the optimizer": r["bytes"]["optimizer"],
        "of activations": r["bytes"]["activations"],
        "of everything at the peak": r["bytes"]["peak"],
        "of the file": r["file_bytes"],
        "multiplications and additions": r["flops"]["total"],
    }


def _learnt(every: Sequence[Arm]) -> str:
    said = [f"{a.method}, ρ {share(a.replay)}: {percent(r['new'] for r in a.rows)}" for a in every]
    return f"Learnt (test, {seeds_text(every)}): {'; '.join(said)}." if said else ""


def _kept(every: list[Arm]) -> str:
    said = []
    for replay in sorted({a.replay for a in every}):
        texts, _ = pairs(every, replay)
        said += [f"with ρ {share(replay)}, {text}" for text in texts]
    if not said:
        return "Forgotten at equal accuracy: not measured."
    return (
        f"Old skills kept when the new one is at {share(LEVEL)} (validation, adapter on): "
        f"{'; '.join(said)}."
    )


EXPERIMENT = Experiment(
    name="compare",
    question="Full or LoRA: what is won, and is anything forgotten?",
    points=points,
    measure=measure,
    draw=draw,
    answer=answer,
    seeds=(0, 1, 2, 3, 4),
)
