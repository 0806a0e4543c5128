"""An experiment: a question, the points that would answer it, and the answer, from their rows."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minilora.errors import ConfigError

Point = dict[str, Any]
Row = dict[str, Any]

# name on the command line → module
EXPERIMENTS = {
    "rank_alpha": "minilora.experiments.rank_alpha",
    "learning_rate": "minilora.experiments.learning_rate",
    "low_rank": "minilora.experiments.low_rank",
    "forgetting": "minilora.experiments.forgetting",
    "targets": "minilora.experiments.targets",
    "initialisation": "minilora.experiments.initialisation",
    "relatives": "minilora.experiments.relatives",
    "dirty_data": "minilora.experiments.dirty_data",
    "four_bits": "minilora.experiments.four_bits",
    "compare": "minilora.experiments.verdict",
}


@dataclass(frozen=True)
class Plan:
    """How much of an experiment is wanted.

    seeds   of data order and adapter that are reported on; learning rates are chosen on others
    steps   of each training; None: as the experiment has them
    quick   a small grid, to see that it runs; its rows answer nothing
    """

    seeds: Sequence[int] = (0, 1, 2)
    steps: int | None = None
    quick: bool = False


@dataclass(frozen=True)
class Experiment:
    """A question that points answer.

    name       on the command line and in every row
    question   one sentence
    points     (rows so far, plan) → every point that can be asked for by now. Called again when
               those are measured, until it asks for nothing new. A point is what JSON can say
    measure    point → what came out, as JSON can say it. A function that another process can
               import, and that takes nothing else from this one
    draw       (rows, path) draws the figure
    answer     rows → what came out, in sentences with numbers, agreement with the claim included
    seeds      that are reported on unless others are asked for
    version    is raised when what a point means has changed: rows of before are then not mixed in
    """

    name: str
    question: str
    points: Callable[[list[Row], Plan], list[Point]]
    measure: Callable[[Point], dict[str, Any]]
    draw: Callable[[list[Row], str | Path], None]
    answer: Callable[[list[Row]], str]
    seeds: Sequence[int] = field(default=(0, 1, 2))
    version: int = 1


def experiment(name: str) -> Experiment:
    """The experiment of that name. ConfigError, which lists them, if there is none."""
    if name not in EXPERIMENTS:
        raise ConfigError(f"there is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
    return importlib.import_module(EXPERIMENTS[name]).EXPERIMENT
