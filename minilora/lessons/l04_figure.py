"""The figure of lesson 04: learned against forgotten, on an easy skill and on a hard one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilora import plots
from minilora.errors import ConfigError
from minilora.experiments.forgetting.arms import EASY, HARD, LEVEL, Arm, arms, share
from minilora.experiments.forgetting.figure import caption, in_words, plane

Row = dict[str, Any]


def full_arms(rows: list[Row], task: str) -> list[Arm]:
    """Full fine-tuning of a task by share of old data, each arm at the rate that was taken for it.

    Runs at other rates, that show what a rate does, are left out.
    """
    return [
        a for a in arms(rows, task=task, method="full") if a.rows[0].get("lr_by", "") != "other"
    ]


def draw_planes(rows: list[Row], path: str | Path) -> None:
    """Two planes of new skill (x) and old skills (y), a path for each share of old data.

    ConfigError if there is no reported run of either task.
    """
    some = {task: full_arms(rows, task) for task in (EASY, HARD)}
    every = [a for each in some.values() for a in each]
    if not every:
        raise ConfigError(
            "there are no reported runs to draw; run `minilora experiment forgetting` first"
        )
    with plots.figure(2, width=10.5, height=4.6) as (fig, axes):
        plane(axes[0], some[EASY], f"{EASY}, an easy skill")
        plane(axes[1], some[HARD], f"{HARD}, a hard skill")
        shown = [r for a in every for r in a.rows]
        text = caption(shown, "minilora experiment forgetting", width=150)
        plots.save(fig, path, text, _words(some, every))


def _words(some: dict[str, list[Arm]], every: list[Arm]) -> str:
    drawn = " and ".join(
        f"{task} with ρ " + ", ".join(share(a.replay) for a in each)
        for task, each in some.items()
        if each
    )
    return (
        "Planes of the new skill (x, % exactly right) and the mean of the old skills (y, %), full "
        f"fine-tuning: {drawn}. Each path begins at the base, top left, and goes right while the "
        f"new skill is learnt; a rule stands at {share(LEVEL)} of it. Old skills there, mean and "
        f"range over seeds:\n{in_words(every)}"
    )
