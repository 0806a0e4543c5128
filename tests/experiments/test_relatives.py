import json
import random

import numpy as np
import pytest

from minilora.bases import load_base
from minilora.errors import ConfigError
from minilora.experiments.lab.experiment import Plan
from minilora.experiments.lab.learning_rates import SCORE
from minilora.experiments.lab.stats import where
from minilora.experiments.lab.tuning import Setup
from minilora.experiments.relatives import (
    CHOOSING_SEED,
    EXPERIMENT,
    FIRST,
    MOST,
    RUNGS,
    answering,
    books,
    figure,
    measure,
    points,
)
from minilora.experiments.relatives.arms import ARMS, BUDGETS, MIDDLES, SIZES, Arm, measured

REPORTED = [arm for arm in ARMS if arm.name != "prompt p = 512"]


def drive(measuring, plan):
    """All rows, round by round, each as a file gives it; no point is asked for twice."""
    rows, seen = [], []
    while new := [p for p in points(rows, plan) if p not in seen]:
        assert all(new.count(p) == 1 for p in new)
        seen += new
        rows += [json.loads(json.dumps({**p, **measuring(p)})) for p in new]
    return rows


SCORES = {"full": 0.99, "lora": 0.8, "dora": 0.85, "prompt": 0.3, "prefix": 0.5, "adapter": 0.9}


def made_up(scores=SCORES, spread=0.02, tops=MIDDLES):
    """What points might give: accuracy rises with the budget; the best rate is the middle one."""

    def measuring(point):
        method = point["method"]
        if point["role"] == "books":
            return made_up_books(point)
        noise = spread * random.Random(repr(sorted(point.items()))).random()
        rung = BUDGETS.index(point["budget"]) if point["budget"] else 2
        new = min(1.0, scores.get(method, 0.2) + 0.05 * (rung - 2)) - noise
        likelihood = 1 - abs(RUNGS.index(point["lr"]) - RUNGS.index(tops[method])) / 20
        return {
            "new": new,
            "new_validation": new,
            SCORE: likelihood,
            "trainable_parameters": point["budget"] or 1_000,
            "diverged": None,
        }

    return measuring


def made_up_books(point):
    if point["arm"] == "prompt p = 512":
        return {"refused": "no place for a text"}
    virtual = point["method"] in ("prompt", "prefix")
    merges = not virtual and point["method"] not in ("full", "adapter")
    work = 600 if point["method"] == "prompt" else 65
    return {
        "trainable_parameters": point["budget"] or 1_000,
        "total_parameters": 800_000,
        "start_gap": 20.0 if virtual else 0.0,
        "merge_gap": 3e-5 if merges else None,
        "unmergeable": None if merges or point["method"] == "full" else "it stands before the text",
        "text_places": 256 - point.get("tokens", 0),
        "times_full": 1.0 if point["method"] == "full" else work / 100,
        "flops": {"total": 100 if point["method"] == "full" else work},
        "bytes": {"peak": 1_000 if point["method"] == "full" else 10 * work},
    }


@pytest.fixture(scope="module")
def rows():
    return drive(made_up(), Plan(seeds=EXPERIMENT.seeds))


@pytest.fixture(scope="module")
def quick():
    return drive(measure, Plan(quick=True))


def test_it_runs_from_end_to_end(quick, tmp_path):
    reported = where(quick, role="report")
    assert [r["arm"] for r in reported] == ["LoRA r = 1", "prefix p = 2"]
    assert all(r["steps"] == 4 and 0 <= r["new"] <= 1 for r in reported)
    figure.draw(quick, tmp_path / "quick.png")
    said = answering.answer(quick)
    assert "Exactly the base before the first step: LoRA. Not: prefix (" in said
    assert "Can be merged: LoRA (" in said and "Cannot: prefix." in said
    assert "Longest text, of 256 tokens without: prefix p = 2 254." in said
    assert "No room at all: prompt p = 512 (num_virtual_tokens = 512 leaves no place" in said


def test_the_default_grid_is_within_its_budget(rows):
    assert len(rows) == 20 + FIRST * len(REPORTED) + 5 * len(REPORTED)
    assert {r["seed"] for r in where(rows, role="choose")} == {CHOOSING_SEED}
    for arm in REPORTED:
        reported = where(rows, role="report", arm=arm.name)
        assert [r["seed"] for r in reported] == [0, 1, 2, 3, 4]
        assert {r["lr"] for r in reported} == {MIDDLES[arm.method]}
    assert not [r for r in rows if r["arm"] == "prompt p = 512" and r["role"] != "books"]


def test_every_size_comes_to_its_budget():
    config = load_base("skills").config
    for method, sizes in SIZES.items():
        for n, budget in zip(sizes, BUDGETS, strict=True):
            if (method, n) == ("prompt", 512):
                continue
            model = books.model_for(Setup(**Arm(method, n).chosen))
            trained = model.n_parameters(trainable=True)
            assert trained == (2_056 * n + 1_024 if method == "adapter" else budget)
    assert (config.n_layers, config.hidden_size, config.K * config.D) == (4, 128, 128)


def test_every_lora_has_alpha_over_r_of_two():
    for arm in ARMS:
        if arm.method in ("lora", "dora"):
            assert Setup(**arm.chosen).lora_config().scaling == 2


def test_the_ladder_goes_on_where_the_best_lies_at_an_end():
    tops = {**MIDDLES, "prompt": RUNGS[-1], "prefix": RUNGS[0]}
    found = drive(made_up(tops=tops), Plan())
    tried = {
        arm: sorted({r["lr"] for r in where(found, arm=arm, role="choose")})
        for arm in ("prompt p = 16", "prefix p = 4", "adapter m = 2")
    }
    assert tried["prompt p = 16"] == list(RUNGS[7:12]), "to the end of the ladder"
    assert len(tried["prefix p = 4"]) == MOST and tried["prefix p = 4"][0] == RUNGS[2]
    assert len(tried["adapter m = 2"]) == FIRST
    assert f"prefix p = 4 (lr {RUNGS[2]:g})" in answering.answer(found).splitlines()[-1]


def test_the_longest_text_is_found_by_trying():
    class Reads:
        config = load_base("skills").config

        def __init__(self, most):
            self.most = most

        def __call__(self, ids):
            if ids.shape[1] > self.most:
                raise ConfigError("too long")
            return type("Tensor", (), {"data": ids})

    for most in (1, 17, 256, 511, 512):
        assert books.longest_text(Reads(most)) == most


def test_only_the_very_same_bits_are_no_gap():
    a = np.ones(3, np.float32)
    b = np.nextafter(a, np.float32(2))
    assert books.gap(a, a.copy()) == 0 < books.gap(a, b) < 1e-6


def test_bottlenecks_begin_at_the_base_and_do_not_merge():
    adapter = books.open_books(Setup(method="adapter", bottleneck=1, lr=1e-2), turns=1)
    assert adapter["start_gap"] == 0 and adapter["merge_gap"] is None
    assert "cannot be merged" in adapter["unmergeable"]
    assert adapter["trainable_parameters"] == 3_080 and adapter["text_places"] == 256
    assert adapter["bytes"]["gradients"] == 4 * 3_080
    prefix = books.open_books(Setup(method="prefix", tokens=2, lr=1e-2), turns=1)
    assert prefix["start_gap"] > 1 and prefix["text_places"] == 254
    assert prefix["flops"]["total"] < adapter["flops"]["total"] * 1.1


def test_rows_of_an_arm_are_in_the_order_of_their_seeds(rows):
    arm = next(a for a in measured(rows[::-1]) if a.name == "prefix p = 4")
    assert [r["seed"] for r in arm.reports] == [0, 1, 2, 3, 4]
    assert [a.name for a in measured(rows[::-1])] == [a.name for a in ARMS]


def test_ties_are_called_ties(rows):
    said = answering.answer(rows)
    assert "adapter m = 8 is best." in said and "a tie" not in said
    level = drive(made_up({**SCORES, "lora": 0.9, "dora": 0.9}, spread=0.05), Plan(seeds=range(5)))
    assert "a tie for the first place" in answering.ranking(measured(level), BUDGETS[2])
    three = drive(made_up(), Plan(seeds=(0, 1, 2)))
    assert answering.ranking(measured(three), BUDGETS[0]).endswith("suggests adapter m = 1.")
    one = answering.ranking(measured(drive(made_up(), Plan(seeds=(0,)))), BUDGETS[0])
    assert "a tie for the first place" in one, "a single seed tells nothing apart"


def test_the_answer_says_who_comes_near_full_and_at_what_cost(rows):
    arms = measured(rows)
    near = answering.first_near(arms)
    assert near["adapter"].name == "adapter m = 32" and near["lora"] is None
    reached = answering.reached(arms)
    assert (
        "adapter m = 32 (65,536 numbers; worse)" in reached and "LoRA" in reached.split("none")[-1]
    )
    costs = answering.costs(arms)
    assert "not here" in costs and "prompt p = 128 9.23, 9.23, 9.23" in costs
    alike = [r for r in rows if r["method"] != "prompt"]
    assert '"equal parameters, equal cost": confirmed' in answering.answer(alike)
    assert "Not: prompt (a logit is off by up to 20), prefix" in answering.starts(arms)
    assert "Cannot: adapter, prefix, prompt." in answering.merges(arms)


def test_what_went_wrong_is_listed(rows):
    lost = [dict(r) for r in rows]
    for r in where(lost, arm="IA³", role="report")[:1]:
        r.update(new=0.0, diverged="step 3: the loss is nan")
    assert "Diverged: IA³ lr 0.05." in answering.answer(lost)
    assert "Diverged: none." in answering.answer(rows)


def test_missing_rows_are_said_to_be_missing(rows):
    assert answering.answer([]).count("not measured") >= 8
    only_books = where(rows, role="books")
    said = answering.answer(only_books)
    assert "Exactly the base" in said and f"About {BUDGETS[0]:,} numbers: not measured." in said
    without_books = [r for r in rows if r["role"] != "books"]
    assert "Merging: not measured." in answering.answer(without_books)


@pytest.fixture
def drawn(drawn_by):
    """drawn(rows): the panels of the figure, its caption and its words."""

    def make(rows):
        kept = drawn_by(figure.draw)(rows)
        return kept["fig"].axes, kept

    return make


def test_the_figure_names_every_method_once(rows, drawn):
    (left, right), kept = drawn(rows)
    names = ["BitFit", "DoRA", "IA³", "LoRA", "adapter", "prefix", "prompt"]
    assert sorted(t.get_text() for t in left.texts) == sorted([*names, "full, 1,000"])
    ticks = [t.get_text().split("\n")[0] for t in right.get_yticklabels()]
    assert ticks == [a.name for a in ARMS if a.budget in (None, BUDGETS[2])]
    assert [t.get_text() for t in right.texts].count("6.00") == 1, "prompt's work, as made up"
    assert "prompt p = 512: no room" in kept["caption"]
    assert "  adapter: 2,048 79 % (78 to 79)" in kept["alt"]


def test_names_that_are_near_one_another_are_moved_apart(rows, drawn):
    axes, _ = drawn(rows)
    for ax in axes:
        boxes = [t.get_window_extent() for t in ax.texts]
        for i, a in enumerate(boxes):
            assert not any(a.overlaps(b) for b in boxes[i + 1 :]), ax.get_title()


@pytest.mark.parametrize("kept", ["one seed", "books", "no books", "full alone", "None"])
def test_the_figure_survives_what_rows_may_lack(rows, kept, tmp_path):
    some = {
        "one seed": [r for r in rows if r["seed"] in (0, CHOOSING_SEED)],
        "books": where(rows, role="books"),
        "no books": where(rows, role="report"),
        "full alone": where(rows, arm="full"),
        "None": [{**r, "new": None} if "new" in r else r for r in rows],
    }[kept]
    figure.draw(some, tmp_path / "figure.png")
    words = (tmp_path / "figure.txt").read_text()
    assert ("not measured" in words) == (kept != "one seed")


def test_without_rows_there_is_nothing_to_draw(tmp_path):
    with pytest.raises(ConfigError, match="minilora experiment relatives"):
        figure.draw([], tmp_path / "figure.png")
