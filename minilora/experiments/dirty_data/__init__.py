"""Does data decide: how much of a skill does each kind of dirt cost, by the share of dirty rows?

LoRA learns a skill from 512 rows, few enough for copies to matter: 19 epochs in 150 steps. A share
of the rows is spoiled in one of five ways (`dirt`); the test is always clean. All runs have the
learning rate that is the default for the embedded base: dirt is met by people who do not know of
it, and so do not search for another one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minilora.data import skills
from minilora.data.batches import Batches
from minilora.evaluation import exact_match, mean_nll
from minilora.experiments.dirty_data.answering import answer
from minilora.experiments.dirty_data.dirt import KINDS, examples, seen_by_cleaning, spoiled
from minilora.experiments.dirty_data.figure import draw
from minilora.experiments.lab.experiment import Experiment, Plan, Point, Row
from minilora.experiments.lab.tuning import Setup, model_for, optimizer_for, task_of, trained

STEPS, EXAMPLES = 150, 512
SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)
QUICK_SHARES = (0.5,)
# Of a run with no dirt at all, which every kind begins with.
CLEAN = "clean"


def points(rows: list[Row], plan: Plan) -> list[Point]:
    """Clean runs, and of each kind one a share, for every seed."""
    steps = plan.steps or (4 if plan.quick else STEPS)
    cells = [(CLEAN, 0.0)]
    cells += [(kind, s) for kind in KINDS for s in (QUICK_SHARES if plan.quick else SHARES)]
    return [
        Setup(steps=steps, examples=EXAMPLES, glances=1, seed=seed).point(
            role="report", kind=kind, share=share
        )
        for kind, share in cells
        for seed in list(plan.seeds)[: 1 if plan.quick else None]
    ]


def measure(point: Point) -> dict[str, Any]:
    """What was learnt from dirty rows, as JSON can say it.

    new        share of the clean test that is right, end token included
    letters    the same, whatever stands behind the last letter
    nll        mean cross entropy of the test's answers, nats a token; None: diverged
    dirty      how many rows were spoiled
    seen       how many of all rows `data.cleaning` would have dropped
    """
    setup = Setup.of(point)
    kind = "wrong" if point["kind"] == CLEAN else point["kind"]
    skill = skills.skill(setup.task)
    rows = skills.rows(skill, "train", setup.examples, seed=setup.seed)
    texts, n = spoiled(rows, kind, point["share"], setup.seed)
    batches = Batches(
        examples(rows, kind, point["share"], setup.seed), setup.batch_size, seed=setup.seed
    )
    model = model_for(setup)
    history, diverged = trained(setup, model, optimizer_for(model, setup), batches)
    told: dict[str, Any] = {"new": 0.0, "letters": 0.0, "nll": None}
    if diverged is None:
        test = task_of(setup.task, setup.seed).test
        endless = [replace(e, ids=e.ids[:-1], labels=e.labels[:-1]) for e in test]
        told = {
            "new": exact_match(model, test),
            "letters": exact_match(model, endless),
            "nll": mean_nll(model, test),
        }
    return {
        **told,
        "dirty": n,
        "seen": seen_by_cleaning(texts),
        "losses": [
            [s, x] for s, x in enumerate(history.losses, 1) if s in (1, 2, 5) or s % 10 == 0
        ],
        "diverged": diverged,
    }


EXPERIMENT = Experiment(
    name="dirty_data",
    question="Does data decide: what does each kind of dirt cost, by the share of dirty rows?",
    points=points,
    measure=measure,
    draw=draw,
    answer=answer,
)
