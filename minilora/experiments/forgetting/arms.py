"""Rows of tunings as arms, and what each keeps of the old skills at 90 % of the new one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from minilora.experiments.lab.stats import old_at, percent, spread, step_at, where

Row = dict[str, Any]

LEVEL = 0.9
EASY, HARD = "swap-ends", "cipher"


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seeds only."""

    rows: list[Row]

    @property
    def method(self) -> str:
        """`full`, or the adapter: `LoRA q,v r=8`."""
        r = self.rows[0]
        return "full" if r["method"] == "full" else f"LoRA {_matrices(r)} r={r['rank']}"

    @property
    def replay(self) -> float:
        return self.rows[0]["replay"]

    @property
    def lr(self) -> float:
        return self.rows[0]["lr"]

    @property
    def label(self) -> str:
        return f"{self.method}, ρ {share(self.replay)}, lr {rate(self.lr)}"

    @property
    def left(self) -> list[float]:
        """Old skills at 90 % of the new one, of the seeds that get there."""
        return [v for v in map(left, self.rows) if v is not None]

    @property
    def at_end(self) -> list[float]:
        """Old skills at the end (validation), of the same seeds."""
        return [r["old_validation"] for r in self.rows if left(r) is not None]

    @property
    def step(self) -> float | None:
        """The step at which these seeds get there, on average; None: no seed does."""
        steps = [step_at(r["curve"], LEVEL) for r in self.rows if left(r) is not None]
        return spread(steps)[0] if steps else None

    @property
    def missed(self) -> str:
        """Which of its seeds have no such number, and why; empty if all have one."""
        n, diverged = len(self.rows), sum(bool(r.get("diverged")) for r in self.rows)
        never = n - len(self.left) - diverged
        said = []
        if never:
            said.append("never reaches 90 %" if never == n else f"{never} of {n} never at 90 %")
        if diverged:
            said.append(f"{diverged} of {n} diverged")
        return ", ".join(said)

    @property
    def kept(self) -> str:
        """`28 % (20 to 35)`, with what is missing."""
        return "; ".join(filter(None, [percent(self.left) if self.left else "", self.missed]))


def left(row: Row, level: float = LEVEL) -> float | None:
    """What is left of the old skills at that much of the new; None: never reached, or diverged."""
    return None if row.get("diverged") or not row.get("curve") else old_at(row["curve"], level)


def arms(rows: Iterable[Row], **wanted: Any) -> list[Arm]:
    """The reported runs on the embedded base by arm, in one order; `wanted` as for `where`."""
    groups: dict[Any, list[Row]] = {}
    for r in where(rows, role="report", base="skills", **wanted):
        targets = str(r.get("target_modules", ""))
        key = (r["task"] != EASY, r["task"], r["method"], targets == "all-linear", targets)
        groups.setdefault((*key, r.get("rank", 0), r["replay"], r["lr"]), []).append(r)
    return [Arm(sorted(groups[key], key=lambda r: r["seed"])) for key in sorted(groups)]


def share(value: float) -> str:
    """`5 %`."""
    return f"{100 * value:.0f} %"


def rate(lr: float) -> str:
    """A learning rate as one writes it: `3.2e-4`."""
    mantissa, exponent = f"{lr:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _matrices(row: Row) -> str:
    targets = row["target_modules"]
    if targets == "all-linear":
        return "all seven"
    names = [targets] if isinstance(targets, str) else targets
    return ",".join(name.removesuffix("_proj") for name in names)


def language_rows(rows: Iterable[Row]) -> list[Row]:
    """The runs of SmolLM2 that took place and have something to show."""
    some = [r for r in where(rows, role="report", base="smollm2") if r.get("curve")]
    return sorted(some, key=lambda r: (r["method"], -r["lr"]))


def nll_at(row: Row, level: float = LEVEL) -> float | None:
    """The loss on general text where the new task first reaches `level`; None: never."""
    return old_at([{**c, "old": c["general_nll"]} for c in row["curve"]], level)


def seeds_text(every: Sequence[Arm]) -> str:
    """`5 seeds`, `3 to 5 seeds`, over arms; the brackets that follow are their ranges."""
    counts = sorted({len(a.rows) for a in every})
    text = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{text} seed{'' if counts == [1] else 's'}"
