"""The bills of lesson 01 as bars against a card; and the bill that a reader puts together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilora import plots
from minilora.accounting.budget import Budget, Plan, budget
from minilora.accounting.counts import Method
from minilora.accounting.fit import GIB
from minilora.accounting.presets import preset
from minilora.errors import ConfigError, MiniloraError
from minilora.experiments.budget_figure import roles
from minilora.peft import LoraConfig

GB = 10**9
# Behind a number that a line may pass.
_PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 1}
# What a reader may set in the widget: lists to choose from, (least, most) of a slider.
CONTROLS: dict[str, Any] = {
    "model": ["llama-3-8b", "llama-2-7b", "smollm2-135m", "skills"],
    "method": ["lora", "full"],
    "r": (1, 64),
    "bits": [16, 4],
    "context": [64, 512, 1024, 2048, 4096, 8192],
    "batch": (1, 16),
    "card": [6, 8, 12, 16, 24, 48, 80],
}
# Where there are no widgets, these are shown side by side.
PRESETS: tuple[dict[str, Any], ...] = (
    {},
    {"r": 64},
    {"context": 4096},
    {"bits": 4, "context": 4096},
    {"bits": 4, "context": 8192},
    {"model": "smollm2-135m", "method": "full"},
)


def lora(r: int = 8, targets: Any = ("q_proj", "v_proj"), name: str = "lora") -> Method:
    """LoRA, or QLoRA, of that rank."""
    return Method(name, LoraConfig(r=r, lora_alpha=2 * r, target_modules=targets))


def total(bill: Budget) -> int:
    """Bytes of a bill, activations too."""
    return int(sum(roles(bill).values()))


def table(bills: dict[str, Budget]) -> list[list[Any]]:
    """The numbers of the figure, in GB; the first row are headings."""
    head = ["plan, GB", *next(iter(map(roles, bills.values()))), "total"]
    rows = [
        [" ".join(name.split()), *(f"{n / GB:.4g}" for n in (*roles(bill).values(), total(bill)))]
        for name, bill in bills.items()
    ]
    return [head, *rows]


def in_words(bills: dict[str, Budget], card: float) -> str:
    """The figure for who does not see it: of each bar the total and the largest part."""
    parts = [
        f"Stacked horizontal bars, GB held in a step; a line where a card of {card:g} GiB ends"
    ]
    for name, bill in bills.items():
        role, most = max(roles(bill).items(), key=lambda part: part[1])
        within = "within the card" if total(bill) <= card * GIB else "beyond the card"
        parts.append(
            f"{' '.join(name.split())}: {total(bill) / GB:.4g} GB, {within}, "
            f"the largest part {role} with {most / GB:.4g} GB"
        )
    return ". ".join(parts) + "."


def draw(bills: dict[str, Budget], path: str | Path, *, card: float = 24) -> None:
    """A bar for each bill by its name, and a line where a card of so many GiB ends."""
    rows = [(name, {role: n / GB for role, n in roles(b).items()}) for name, b in bills.items()]
    end = card * GIB / GB
    widest = max(end, *(sum(parts.values()) for _, parts in rows))
    caption = "activations: an estimate (arXiv 2205.05198, adapted)"
    with plots.figure(1, width=9, height=1.7 + 0.55 * len(rows)) as (fig, ax):
        for y, (_, parts) in enumerate(rows):
            _bar(ax, y, parts)
            held = sum(parts.values())
            ax.text(held + 0.01 * widest, y, f"{held:.3g} GB", va="center", bbox=_PLAIN)
        ax.axvline(end, color=plots.INK, linestyle="--", linewidth=1.2)
        ax.annotate(f" {card:g} GiB", (end, -0.55), va="bottom", annotation_clip=False)
        ax.set_yticks(range(len(rows)), [name for name, _ in rows])
        ax.set_ylim(len(rows) - 0.45, -0.95)
        ax.set_xlim(0, 1.13 * widest)
        ax.set_xlabel("held in a training step, GB ($10^9$ bytes)")
        handles = [_patch(role) for role in rows[0][1]]
        fig.legend(handles=handles, loc="outside upper left", ncols=5, fontsize=10)
        plots.save(fig, path, caption, in_words(bills, card))


def _bar(ax: Any, y: int, parts: dict[str, float]) -> None:
    left = 0.0
    for role, amount in parts.items():
        colour, hatch = plots.ROLES[role]
        ax.barh(y, amount, 0.62, left, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
        left += amount


def _patch(role: str) -> Any:
    from matplotlib.patches import Patch

    colour, hatch = plots.ROLES[role]
    return Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=role)


def plan(
    model: str = "llama-3-8b",
    method: str = "lora",
    r: int = 8,
    bits: int = 16,
    context: int = 2048,
    batch: int = 1,
) -> Plan:
    """A fine-tune, as a reader puts it together: adapters are on q and v, the accounting is mixed.

    A context above the model's own is cut to that. Raises ConfigError for what does not go
    together.
    """
    if bits not in (4, 16) or (method == "full" and bits == 4):
        raise ConfigError(
            f"{method} with {bits} bits: what is trained is in 16 bits; a frozen base may be in 4"
        )
    if method not in ("lora", "full"):
        raise ConfigError(f"method {method!r} must be lora or full")
    config = preset(model)
    how = Method() if method == "full" else lora(r, name="qlora" if bits == 4 else "lora")
    return Plan(config, how, batch_size=batch, length=min(context, config.max_positions))


def label(model: str, bill: Budget) -> str:
    """What a bar is called."""
    p = bill.plan
    how = "full" if p.method.config is None else f"LoRA r={p.method.lora.r}"
    bits = 4 if p.method.name == "qlora" else 16
    return f"{model}, {how}, {bits} bits\n{p.batch_size} × {p.tokens:,} tokens"


def shower(lesson: Any) -> Any:
    """The function that a widget calls: it draws one bill, or several `side_by_side`."""

    def show(
        model: str = "llama-3-8b",
        method: str = "lora",
        r: int = 8,
        bits: int = 16,
        context: int = 2048,
        batch: int = 1,
        card: int = 24,
        **more: Any,
    ) -> None:
        one = {"model": model, "method": method, "r": r, "bits": bits, "context": context}
        bills: dict[str, Budget] = {}
        for chosen in more.get("side_by_side", [{**one, "batch": batch}]):
            try:
                bill = budget(plan(**chosen))
            except MiniloraError as error:
                print(error)
                continue
            bills[label(chosen.get("model", model), bill)] = bill
        if bills:
            lesson.figure(draw, bills, card=card, table=table(bills))
            print(_verdict(bills, card))

    return show


def _verdict(bills: dict[str, Budget], card: float) -> str:
    fit = sum(total(bill) <= card * GIB for bill in bills.values())
    room = f"a card of {card:g} GiB holds {card * GIB / GB:.2f} GB"
    if len(bills) > 1:
        return f"{room}: {fit} of {len(bills)} fit"
    (held,) = (total(bill) / GB for bill in bills.values())
    return f"{room}; needed {held:.4g} GB: it {'fits' if fit else 'does not fit'}"
