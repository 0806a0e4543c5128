import dataclasses
import math
import random

import pytest

from minilora.errors import ConfigError
from minilora.experiments import learning_rate as experiment
from minilora.experiments.lab import learning_rates, tuning
from minilora.experiments.lab.experiment import Plan
from minilora.experiments.lab.stats import percent, where
from minilora.experiments.learning_rate import EXPERIMENT, figure, measure, points
from minilora.experiments.learning_rate.rows import FULL, PLAIN, q_v, ratio

TOPS = {FULL: 5e-4, "LoRA+ λ = 16": 1.6e-3, "rsLoRA": 1.6e-3, "PiSSA": 1.6e-3}


def drive(measuring, plan):
    """All rows, round by round; each point once."""
    rows, seen = [], []
    while new := [p for p in points(rows, plan) if p not in seen]:
        assert all(new.count(p) == 1 for p in new)
        seen += new
        rows += [{**p, **measuring(p)} for p in new]
    return rows


def made_up(tops=TOPS, lost=0.2):
    """What points might give: a hump over log lr for every arm, its top where `tops` says."""

    def measuring(point):
        top = tops.get(point["arm"], 5e-3)
        noise = random.Random(repr(sorted(point.items()))).random()
        off = math.log10(point["lr"] / top)
        diverged = point["lr"] > lost
        new = 0.0 if diverged else math.exp(-1.5 * off**2) * (0.98 + 0.01 * noise)
        return {
            "new": new,
            "new_validation": new,
            "likelihood_validation": new,
            "step_90": None if new < 0.9 else 60 + noise,
            "diverged": "step 3: the loss is nan; lower the learning rate" if diverged else None,
        }

    return measuring


@pytest.fixture(scope="module")
def rows():
    return drive(made_up(), Plan())


def test_the_default_grid_is_within_its_budget(rows):
    assert len(rows) <= 150
    assert {r["seed"] for r in where(rows, role="choose")} == {100, 101}
    for arm in experiment.ARMS:
        reported = where(rows, role="report", arm=arm)
        assert {r["lr"] for r in reported} == {TOPS.get(arm, 5e-3)}
        assert [r["seed"] for r in reported] == [0, 1, 2]


def test_every_plain_arm_has_alpha_over_r_of_two():
    for name, arm in experiment.ARMS.items():
        if name != FULL:
            setup = tuning.Setup(**arm.chosen)
            assert setup.lora_config().scaling == (2 if name != "rsLoRA" else 16 / math.sqrt(8))


def test_the_ladder_goes_on_where_the_best_lies_at_an_end():
    found = drive(made_up({FULL: 1.6e-5, PLAIN: 1.6e-1}, lost=1), Plan())
    tried = {
        a: sorted({r["lr"] for r in where(found, arm=a, role="choose")}) for a in (FULL, PLAIN)
    }
    assert tried[FULL] == [1.6e-5, 5e-5, 1.6e-4, 5e-4, 1.6e-3, 5e-3]
    assert tried[PLAIN] == [5e-4, 1.6e-3, 5e-3, 1.6e-2, 5e-2, 1.6e-1, 5e-1]
    assert {r["lr"] for r in where(found, arm=PLAIN, role="report")} == {1.6e-1}
    endless = drive(lambda p: {**made_up()(p), "likelihood_validation": p["lr"]}, Plan())
    assert all(
        len({r["lr"] for r in where(endless, arm=a, role="choose")}) <= experiment.MOST
        for a in experiment.ARMS
    )


def hump(top, lrs, seeds=(0, 1), noise=0.0):
    return [
        {"lr": lr, "seed": s, learning_rates.SCORE: 1 - math.log10(lr / top) ** 2 + noise * s}
        for lr in lrs
        for s in seeds
    ]


def test_peak_is_the_top_of_a_parabola_whatever_the_spacing():
    for lrs in ([1e-3, 1e-2, 1e-1], [1e-3, 3e-3, 5e-2, 1e-1], [2e-4, 6e-3, 7e-3]):
        assert learning_rates.peak(hump(5e-3, lrs)) == pytest.approx(5e-3, rel=1e-9)
    assert learning_rates.peak(hump(5e-3, [5e-3, 1e-2])) is None
    assert learning_rates.peak([]) is None
    level = [{**r, learning_rates.SCORE: 0.5} for r in hump(5e-3, [1e-3, 1e-2, 1e-1])]
    assert learning_rates.peak(level) is None  # the lowest is as good as any


def test_a_rate_is_as_good_if_its_mean_is_within_the_spread_of_the_best():
    some = hump(5e-3, [5e-4, 1.6e-3, 5e-3, 1.6e-2], noise=-0.3)
    assert learning_rates.best_lr(some) == 5e-3
    assert learning_rates.as_good(some) == [5e-3]
    wide = [
        {"lr": lr, "seed": s, learning_rates.SCORE: v}
        for lr, both in ((1, (0.5, 0.9)), (2, (0.65, 0.69)), (3, (0.4, 0.5)))
        for s, v in enumerate(both)
    ]
    assert learning_rates.as_good(wide) == [1, 2]
    assert learning_rates.as_good([]) == []


def test_one_rate_for_all_is_told_from_one_that_moves():
    lrs = [5e-4, 1.6e-3, 5e-3, 1.6e-2, 5e-2]
    same = {r: hump(5e-3, lrs) for r in (1, 4)}
    assert learning_rates.steady(same) == "confirmed"
    assert learning_rates.steady({r: hump(5e-3, lrs, [0]) for r in (1, 4)}) == "suggests"
    assert learning_rates.steady({1: same[1], 4: hump(1.6e-2, lrs)}) == "suggests"
    assert learning_rates.steady({1: same[1], 4: hump(5e-2, lrs)}) == "not here"
    assert learning_rates.steady({1: same[1]}) == "not measured"


def test_ratio_is_known_to_a_rung_at_best(rows):
    mine, full = (where(rows, role="choose", arm=a) for a in (PLAIN, FULL))
    guess, low, high, inside = ratio(mine, full)
    assert low < guess < high and inside
    assert guess == pytest.approx(10, rel=0.05)
    assert high / low == pytest.approx(10)
    assert ratio(mine, []) is None
    assert not ratio(where(mine, lr=5e-3), full)[3]


def test_answer_says_what_the_rows_say(rows):
    ten, rank, best, variants, lost = EXPERIMENT.answer(rows).split("\n")
    assert "about ten times full's\": confirmed: full's best is 0.0005" in ten
    assert '"whatever the rank": confirmed' in rank and "r = 64 0.005" in rank
    full = where(rows, role="report", arm=FULL)
    steps = [r["step_90"] for r in full]
    assert (
        f"full {percent(r['new'] for r in full)} (lr 0.0005; 90 % after {sum(steps) / 3:.0f} steps "
        f"({min(steps):.0f} to {max(steps):.0f}))" in best
    )
    assert "confirmed" in variants and "PiSSA" in variants
    assert "Collapsed or diverged: none" in lost and lost.endswith("none.")


def test_verdicts_turn_with_the_rows():
    moved = drive(made_up({**TOPS, q_v(1): 5e-2, q_v(64): 5e-4}), Plan())
    ten, rank, *_ = EXPERIMENT.answer(moved).split("\n")
    assert "not here" in ten and "not here" in rank
    assert "LoRA r = 64 1 times" in ten or "LoRA r = 64 0.9" in ten

    def weak(point):
        result = made_up()(point)
        return {**result, "new": result["new"] * 0.8} if point["arm"] == "PiSSA" else result

    found = drive(weak, Plan())
    said = EXPERIMENT.answer(found).split("\n")[3]
    pissa, plain = (
        [r["new"] for r in where(found, role="report", arm=a)] for a in ("PiSSA", PLAIN)
    )
    assert "not here" in said
    assert f"PiSSA {100 * (sum(pissa) - sum(plain)) / 3:+.1f} points" in said
    alone = EXPERIMENT.answer(drive(made_up(), Plan(seeds=[0])))
    assert "undecided" in alone.split("\n")[3]
    lost = EXPERIMENT.answer(drive(made_up(lost=1e-2), Plan())).split("\n")[4]
    assert "LoRA r = 8 lr 0.05 (2×)" in lost


@pytest.fixture
def small_task(monkeypatch):
    """The task with few tests, so that a run takes no time."""
    full = tuning.task_of

    def small(name, seed):
        task = full(name, seed)
        return dataclasses.replace(
            task,
            validation=task.validation[:20],
            test=task.test[:20],
            old={n: e[:4] for n, e in list(task.old.items())[:2]},
            old_validation=task.old_validation[:8],
        )

    monkeypatch.setattr(tuning, "task_of", small)
    monkeypatch.setattr(learning_rates, "task_of", small)


def test_quick_run_end_to_end(small_task, tmp_path):
    found = drive(measure, Plan(quick=True))
    assert len(found) == 6 and {r["steps"] for r in found} == {4}
    assert all(0 < r["likelihood_validation"] <= 1 and r["step_90"] is None for r in found)
    EXPERIMENT.draw(found, tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 10_000
    assert "full's best is 0.0005" in EXPERIMENT.answer(found)


def test_a_run_that_diverges_has_no_likelihood(small_task):
    setup = tuning.Setup(method="full", lr=1e30, steps=6, glances=1)
    result, _ = learning_rates.tuned(setup)
    assert result["diverged"] and result["likelihood_validation"] == 0.0


def test_every_arm_can_be_built():
    for arm in experiment.ARMS.values():
        setup = tuning.Setup(**arm.chosen)
        tuning.optimizer_for(tuning.model_for(setup), setup)


@pytest.fixture
def drawn(drawn_by):
    """drawn(rows): a figure as matplotlib has it, its caption and its words."""
    return drawn_by(figure.draw)


def test_figure_shows_every_arm(rows, drawn):
    kept = drawn(rows)
    rates, by_rank, variants = kept["fig"].axes
    names = [FULL, *(q_v(r) for r in (1, 4, 8, 16, 64)), figure.ALL_LINEAR]
    assert [t.get_text() for t in rates.get_legend().get_texts()] == names
    assert {t.get_text() for t in rates.texts} == {
        "full", "all\nr = 64\nr = 16\nr = 8\nr = 4\nr = 1"
    }  # fmt: skip
    assert rates.get_legend().get_window_extent().x0 >= rates.get_window_extent().x1
    labels = [t.get_text() for t in by_rank.get_legend().get_texts()]
    assert labels == ["q, v", "all-linear, r = 8", "full", "10 × full"]
    level = [line.get_ydata()[0] for line in by_rank.lines if line.get_label() == "10 × full"]
    assert level == [pytest.approx(5e-3)]
    ticks = [t.get_text().split("\n")[0] for t in variants.get_yticklabels()]
    assert ticks == [PLAIN, "rsLoRA", "LoRA+ λ = 16", "PiSSA"]
    assert "minilora experiment learning_rate" in kept["caption"]
    assert "seeds 100, 101 on validation" in kept["caption"] and "0.005*" in kept["alt"]


@pytest.mark.slow
def test_figure_and_answer_survive_what_is_missing(rows, drawn, tmp_path):
    cases = {
        "full alone": where(rows, arm=FULL),
        "one LoRA": where(rows, arm=PLAIN),
        "one seed": where(rows, seed=100),
        "reports alone": where(rows, role="report"),
        "nothing finite": [
            {**r, "new": None, "new_validation": None, "likelihood_validation": None} for r in rows
        ],
        "all diverged": [
            {**r, "new": 0.0, "likelihood_validation": 0.0, "diverged": "step 1"} for r in rows
        ],
    }
    for name, some in cases.items():
        kept = drawn(some)
        assert len(kept["fig"].axes) == 3, name
        assert "nan" not in EXPERIMENT.answer(some) + kept["alt"], name
    said = EXPERIMENT.answer(cases["all diverged"])
    assert f"{PLAIN} lr 0.005 (2×)" in said
    with pytest.raises(ConfigError, match="minilora experiment learning_rate"):
        figure.draw([], tmp_path / "f.png")
    assert EXPERIMENT.answer([]).count("not measured") == 4
