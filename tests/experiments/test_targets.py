"""`targets`: ranks at one budget, rates chosen first, a ranking that calls ties ties."""

import json

import pytest

from minilora.errors import ConfigError
from minilora.evaluation import exact_match
from minilora.experiments import targets
from minilora.experiments.lab.experiment import Plan, experiment
from minilora.experiments.lab.tuning import Setup, model_for

LEVEL = {"q": 0.05, "k": 0.05, "v": 0.3, "o": 0.3, "q+v": 0.5, "q+k+v+o": 0.7, "MLP": 0.8}


def run(plan, measure):
    """Rows of all points, as the runner makes them: through JSON."""
    rows, seen = [], []
    while new := [p for p in targets.points(rows, plan) if p not in seen]:
        seen += new
        rows += [json.loads(json.dumps({**p, **measure(p)}, allow_nan=False)) for p in new]
    return rows


def fake(point, *, level=LEVEL, step=0.01):
    """A result that the point decides: of each arm its level, a little more for a higher seed."""
    new = level.get(targets.set_of(point["arm"]), 0.9) + step * (point["seed"] % 3)
    new -= 0.02 if point["lr"] != 5e-3 else 0
    parameters = next(a.parameters for a in targets.arms() if a.name == point["arm"])
    return {
        "new": new,
        "new_validation": new,
        "trainable_parameters": parameters,
        "diverged": None,
    }


@pytest.fixture
def rows():
    return run(Plan(), fake)


def test_it_can_be_found_by_its_name():
    assert experiment("targets") is targets.EXPERIMENT


def test_every_set_has_the_rank_that_comes_nearest_to_the_budget():
    found = {arm.name: arm.parameters for arm in targets.arms()}
    assert found == {
        **{f"{name} r=16": 16384 for name in "qkvo"},
        **{"q+v r=8": 16384, "q+k+v+o r=4": 16384, "MLP r=3": 16992},
        **{"all r=1": 9760, "all r=2": 19520},
    }
    for arm in targets.arms()[::4]:
        model = model_for(Setup(rank=arm.rank, target_modules=arm.targets))
        assert model.n_parameters(trainable=True) == arm.parameters


@pytest.mark.parametrize(
    ("cost", "expected"),
    [(100, [10]), (300, [3]), (240, [4]), (700, [1, 2]), (450, [2]), (1000, [1]), (5000, [1])],
)
def test_a_budget_of_1000_is_hit_or_measured_on_both_sides(cost, expected):
    assert targets.ranks(cost, 1000) == expected


def test_rates_are_chosen_first_and_the_seeds_reported_on_are_others(rows):
    assert len(rows) == 2 * 9 * (4 + 3) <= 130
    assert len(targets.points([], Plan())) == 2 * 9 * 4
    assert {r["seed"] for r in rows if r["role"] == "choose"} == {100}
    assert {r["seed"] for r in rows if r["role"] == "report"} == {0, 1, 2}
    assert {r["lr"] for r in rows if r["role"] == "report"} == {5e-3}
    assert {r["alpha"] / r["rank"] for r in rows} == {2}
    assert {(r["task"], r["steps"]) for r in rows} == set(targets.TASKS.items())
    assert {r["steps"] for r in targets.points([], Plan(steps=7))} == {7}


def test_the_rate_is_chosen_for_each_arm_and_task_by_its_validation():
    def measure(point):
        best = 1.6e-2 if (point["arm"], point["task"]) == ("MLP r=3", "cipher") else 1.6e-3
        return {
            **fake(point),
            "new": 1 - (point["lr"] == best),
            "new_validation": point["lr"] == best,
        }

    reported = [r for r in run(Plan(seeds=(0,)), measure) if r["role"] == "report"]
    assert {r["lr"] for r in reported} == {1.6e-3, 1.6e-2}
    assert [(r["arm"], r["task"]) for r in reported if r["lr"] == 1.6e-2] == [("MLP r=3", "cipher")]


def test_the_answer_ranks_and_calls_ties_ties(rows):
    said = targets.answer(rows).splitlines()
    cipher = next(line for line in said if line.startswith("cipher"))
    assert "all r=1 91 % (90 to 92) = all r=2 91 % (90 to 92) (>) MLP r=3 81 %" in cipher
    assert "(>) o r=16" in cipher or "(>) v r=16" in cipher
    assert "That q+v beats each matrix alone: suggested" in cipher
    assert "That all matrices beat attention alone: suggested" in cipher
    assert any("MLP r=3: 16,992" in line and "q+v 73.7" in line for line in said)


def test_the_verdicts_come_from_the_rows():
    flat = dict.fromkeys(targets.SETS, 0.9)
    said = targets.answer(run(Plan(), lambda p: fake(p, level=flat)))
    assert said.count("not here") == 6
    assert "(>) " not in said.replace("[=: no difference shown from the first of the tie; (>)", "")
    upside_down = {**dict.fromkeys(targets.SETS, 0.5), "q+k+v+o": 0.9, "q": 0.9}
    said = targets.answer(run(Plan(), lambda p: fake(p, level=upside_down)))
    assert "That all matrices beat attention alone: not here" in said
    assert "That q+v beats each matrix alone: not here" in said
    assert "suggests worse" in said
    mixed = {**LEVEL, "k": 0.9}
    said = targets.answer(run(Plan(), lambda p: fake(p, level=mixed)))
    assert "That q+v beats each matrix alone: in part" in said
    said = targets.answer(run(Plan(seeds=range(5)), fake))
    assert "That all matrices beat attention alone: confirmed" in said


def test_ties_are_with_the_first_of_the_group():
    values = {
        "a": [0.9, 0.8, 0.8],
        "b": [0.85, 0.7, 0.7],
        "c": [0.75, 0.6, 0.6],
        "d": [0.1, 0.2, 0.1],
    }
    assert targets.tiers(values) == [["a", "b"], ["c"], ["d"]]


def test_failures_edges_and_what_never_learnt_are_told(rows):
    for row in rows:
        if row["arm"] == "k r=16" and row["task"] == "cipher":
            row.update(new=None, diverged="step 3: the loss is nan")
        if row["arm"] == "o r=16" and row["role"] == "report":
            row["lr"] = 5e-2
    said = targets.answer(rows)
    assert "cipher: never above 1 %: k r=16" in said
    assert "k r=16 on cipher, lr 0.005, seed 0" in said
    assert "at the edge" in said
    assert "o r=16 on sort-descending (0.05); o r=16 on cipher (0.05)" in said


def test_missing_rows_are_called_that(rows):
    assert targets.answer([]) == "sort-descending: not measured.\ncipher: not measured."
    chosen = [r for r in rows if r["role"] == "choose"]
    assert targets.answer(chosen).count("not measured") == 2
    some = [r for r in rows if r["arm"] in ("q r=16", "all r=1") and r["task"] == "cipher"]
    said = targets.answer(some)
    assert "sort-descending: not measured" in said
    assert "all r=1 91 %" in said
    assert "beats" not in said


@pytest.fixture
def drawn(kept_figures, tmp_path):
    """drawn(rows): the panels as they were drawn, and the text alternative."""

    def make(rows):
        targets.draw(rows, tmp_path / "targets.png")
        fig, caption = kept_figures[-1]["fig"], kept_figures[-1]["caption"]
        assert (tmp_path / "targets.png").stat().st_size > 10_000
        return fig.axes, caption, (tmp_path / "targets.txt").read_text()

    return make


def texts(ax):
    return [t.get_text() for t in ax.texts]


def test_the_figure_has_a_panel_a_task_and_the_published_numbers(rows, drawn):
    (left, cipher, table), caption, alt = drawn(rows[::-1])  # in whatever order they were measured
    assert left.get_title("left").startswith("sort-descending")
    names = [t.get_text() for t in left.get_yticklabels()]
    assert names[0] == "q r=16: 16,384"
    assert names[-1] == "all r=2: 19,520"
    assert texts(cipher)[4] == "51  (lr 0.005)"
    assert texts(table) == ["70.4", "70.0", "73.0", "73.2", "73.7", "73.7"] + 2 * [
        "not in the table"
    ]
    means = [line.get_xdata()[0] for line in cipher.lines if line.get_marker() == "D"]
    assert means == pytest.approx([6, 6, 31, 31, 51, 71, 81, 91, 91])
    assert all(ax.get_xlabel() for ax in (left, cipher, table))
    for words in ("α = 2r", "0.0016, 0.005, 0.016, 0.05", "0, 1, 2", "minilora experiment targets"):
        assert words in caption
    assert "MLP r=3: 16,992 parameters, 81 % (80 to 82)" in alt


@pytest.mark.slow
def test_the_figure_survives_what_rows_may_lack(rows, drawn):
    one = [r for r in rows if r["seed"] in (0, 100) and r["task"] == "cipher"]
    for row in one:
        if row["arm"] == "q r=16":
            row.update(new=None, trainable_parameters=None, diverged="step 1: …")
    one = [r for r in one if r["arm"] != "MLP r=3"]
    axes, _, _ = drawn(one)
    assert len(axes) == 2
    assert axes[0].get_yticklabels()[0].get_text() == "q r=16"
    assert texts(axes[0])[0] == "0  (lr 0.005)"
    apart = [r for r in rows if (r["arm"], r["task"]) != ("o r=16", "cipher")]
    assert "not measured" in texts(drawn(apart)[0][1])
    for nothing in ([], [r for r in rows if r["role"] == "choose"]):
        with pytest.raises(ConfigError, match="no reported rows"):
            drawn(nothing)


@pytest.fixture
def _few_questions(monkeypatch):
    """Every test of a model on fifty examples."""
    monkeypatch.setattr(
        "minilora.experiments.lab.tuning.exact_match", lambda m, asked: exact_match(m, asked[:50])
    )


@pytest.mark.slow
@pytest.mark.usefixtures("_few_questions")
def test_a_quick_run_goes_from_points_to_figure_and_answer(drawn):
    rows = run(Plan(seeds=(0,), quick=True), targets.measure)
    assert [(r["role"], r["arm"]) for r in rows] == [
        (role, arm) for role in ("choose", "report") for arm in ("q r=16", "q+v r=8")
    ]
    assert {r["trainable_parameters"] for r in rows} == {16384}
    assert all(r["old_validation"] > 0.9 and r["diverged"] is None for r in rows)
    assert all(("old" in r) == (r["role"] == "report") for r in rows)
    assert len(drawn(rows)[0]) == 2
    assert targets.answer(rows).startswith("sort-descending: q")
