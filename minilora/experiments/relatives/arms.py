"""The arms of `relatives`: each method at the sizes that bring it to the same four budgets.

On the embedded base (L = 4 layers, C = d_kv = 128) these are the sizes at which

    LoRA      L·2·r·(128 + 128) = 2,048·r        on q_proj and v_proj
    prompt    p·C = 128·p
    prefix    2·L·p·d_kv = 1,024·p
    adapter   2·L·(2·C·m + m + C) = 2,056·m + 1,024     so that no m gives 2,048 exactly

come to about 2 k, 4 k, 16 k and 65 k. What each arm really trains is counted in its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minilora.experiments.lab import stats
from minilora.method_names import LABELS

Row = dict[str, Any]

BUDGETS = (2_048, 4_096, 16_384, 65_536)
MIDDLE = 16_384  # at which costs are laid side by side
# A method's sizes, one a budget; the knob of each as `Setup` calls it, and as people write it.
SIZES = {
    "lora": (1, 2, 8, 32),
    "prompt": (16, 32, 128, 512),
    "prefix": (2, 4, 16, 64),
    "adapter": (1, 2, 8, 32),
}
KNOBS = {
    "lora": ("rank", "r"),
    "dora": ("rank", "r"),
    "prompt": ("tokens", "p"),
    "prefix": ("tokens", "p"),
    "adapter": ("bottleneck", "m"),
}
# The rung in the middle of a method's first learning rates.
MIDDLES = {
    "full": 1.6e-3,
    "lora": 1.6e-2,
    "dora": 1.6e-2,
    "prompt": 1.6e-1,
    "prefix": 5e-2,
    "adapter": 5e-3,
    "ia3": 5e-2,
    "bitfit": 1.6e-2,
}


@dataclass(frozen=True)
class Arm:
    """A method at one size. `budget`: which of the four it belongs to; None: it has one size."""

    method: str
    size: int | None = None
    budget: int | None = None

    @property
    def name(self) -> str:
        label = LABELS[self.method]
        return label if self.size is None else f"{label} {KNOBS[self.method][1]} = {self.size}"

    @property
    def chosen(self) -> dict[str, Any]:
        """What of a Setup decides it."""
        knobs: dict[str, Any] = {"method": self.method}
        if self.size is not None:
            knobs[KNOBS[self.method][0]] = self.size
        # α/r is 2 at every rank: otherwise a small rank would take longer steps.
        return knobs | ({"alpha": 2 * self.size} if "rank" in knobs and self.size else {})


ARMS = (
    Arm("full"),
    *(Arm(m, n, b) for m, sizes in SIZES.items() for n, b in zip(sizes, BUDGETS, strict=True)),
    Arm("dora", 8, 16_384),
    Arm("ia3"),
    Arm("bitfit"),
)
QUICK = (Arm("lora", 1, 2_048), Arm("prefix", 2, 2_048), Arm("prompt", 512, 65_536))


@dataclass(frozen=True)
class Measured:
    """What the rows say of one arm.

    books     its row with open books; None: not measured
    reports   its tunings on seeds that nothing was chosen by, at its best learning rate
    tries     the tunings that rate was chosen by
    """

    name: str
    method: str
    budget: int | None
    books: Row | None
    reports: list[Row]
    tries: list[Row]

    @property
    def new(self) -> list[float]:
        """Share of the new skill's test that is right, a number a seed."""
        return stats.column(self.reports, "new")

    @property
    def refused(self) -> str | None:
        """What was said if the method found no room in this model."""
        return self.books.get("refused") if self.books else None

    @property
    def parameters(self) -> int | None:
        """How many numbers it trains."""
        for r in ([self.books] if self.books else []) + self.reports + self.tries:
            if r.get("trainable_parameters") is not None:
                return int(r["trainable_parameters"])
        return None


def measured(rows: list[Row]) -> list[Measured]:
    """The arms that there are rows of, in the order of `ARMS`, unknown ones behind them.

    Each one's rows stand in the order of their seeds, whoever was measured first.
    """
    order = {arm.name: i for i, arm in enumerate(ARMS)}
    names = sorted({r["arm"] for r in rows}, key=lambda n: (order.get(n, len(order)), n))
    found = []
    for name in names:
        some = stats.where(rows, arm=name)
        books, reports, tries = (
            sorted(stats.where(some, role=role), key=lambda r: r["seed"])
            for role in ("books", "report", "choose")
        )
        first = some[0]
        open_books = books[0] if books else None
        found.append(Measured(name, first["method"], first["budget"], open_books, reports, tries))
    return found
