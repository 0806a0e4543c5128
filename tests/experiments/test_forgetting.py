"""Forgetting: which runs are asked for, what counts as kept, and words that follow the rows."""

import json
import math
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from minilora import plots
from minilora.bases import load_base, smollm2
from minilora.data import skills
from minilora.errors import ConfigError
from minilora.experiments import forgetting
from minilora.experiments.forgetting.answering import answer, avoids, compared, failures, helps
from minilora.experiments.forgetting.arms import Arm, arms, left, nll_at, rate, share
from minilora.experiments.forgetting.figure import beside, dots, draw, plane, spread_out
from minilora.experiments.lab.experiment import Plan, experiment
from minilora.experiments.lab.tuning import Setup, model_for, task_of
from minilora.experiments.tasks import load_task

ALL_EXAMPLES = skills.examples


@pytest.fixture
def few_examples(monkeypatch):
    """The tasks are the same, with a twentieth of the examples."""
    few = lambda which, split, n, seed=0: ALL_EXAMPLES(which, split, max(20, n // 20), seed)  # noqa: E731
    monkeypatch.setattr(skills, "examples", few)
    task_of.cache_clear()
    yield
    task_of.cache_clear()


def run(plan, measure, points=forgetting.points):
    """All rows, as the runner gets them, through JSON; and how many were asked for each time."""
    rows, rounds = [], []
    while new := [p for p in points(rows, plan) if not any(p.items() <= r.items() for r in rows)]:
        rounds.append(new)
        rows += [json.loads(json.dumps({**p, **measure(p)}, allow_nan=False)) for p in new]
    return rows, rounds


def row(old=0.2, *, end=None, top=1.0, **point):
    """A run that has 0 → `top` of the new skill, and `old` of the old ones at 90 % of it."""
    setup = Setup(**{"task": "swap-ends", "method": "full", **point})
    last = old if end is None else end
    curve = [
        {"step": 0, "new": 0.0, "old": 1.0},
        {"step": 50, "new": 0.9 * top, "old": old},
        {"step": 100, "new": top, "old": last},
    ]
    more = {"curve": curve, "new": top, "new_validation": top, "old": last}
    said = {"role": "report", "base": "skills", "lr_by": "chosen"}
    return setup.point(**said, **more, old_validation=last, diverged=None)


def several(values, **point):
    return [row(v, seed=seed, **point) for seed, v in enumerate(values)]


def language_row(method="lora", **more):
    curve = [(0, 0.0, 3.0), (10, 0.8, 3.4), (20, 1.0, 3.8)]
    said = {"role": "report", "base": "smollm2", "diverged": None}
    looks = [{"step": s, "new": n, "general_nll": g} for s, n, g in curve]
    return Setup(task="orders", method=method, lr=1e-3).point(**said, **{"curve": looks, **more})


@pytest.mark.slow
def test_a_quick_run_goes_from_points_to_answer(few_examples, tmp_path):
    rows, rounds = run(Plan(seeds=(0, 1), quick=True), forgetting.measure)
    assert [len(r) for r in rounds] == [3, 2]
    assert {r["seed"] for r in rows if r["role"] == "choose"} == {100}
    assert {r["seed"] for r in rows if r["role"] == "report"} == {0}
    assert all(r["curve"][0]["step"] == 0 for r in rows)
    off = [r for r in rows if "off_is_base" in r]
    assert [(r["method"], r["off_is_base"]) for r in off] == [("lora", True)]
    assert off[0]["old_off"] >= 0.95
    assert {r["lr_by"] for r in rows if r["role"] == "report"} == {"chosen", "fixed", "other"}
    draw(rows, tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 10_000
    assert "swap-ends, LoRA q,v r=8, ρ 5 %, lr 5e-3" in (tmp_path / "f.txt").read_text()
    said = answer(rows)
    assert "bit for bit, in 1 of 1 runs" in said
    assert "never reaches 90 %" in said


def fake(point):
    """Best is 3.2e-4 without old data and 1e-3 with; LoRA's best is 5e-3."""
    if point["base"] == "smollm2":
        return {"curve": [], "skipped": "no"}
    best = 5e-3 if point["method"] == "lora" else 1e-3 if point["replay"] else 3.2e-4
    score = 1 / (1 + abs(math.log(point["lr"] / best)))
    return {"new_validation": score, "curve": [], "diverged": None}


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    (tmp_path / "base").touch()
    monkeypatch.setattr(smollm2, "cached_file", lambda: tmp_path / "base")


def test_the_whole_grid_is_affordable_and_reports_on_other_seeds_than_it_chose(fetched):
    rows, rounds = run(Plan(seeds=forgetting.EXPERIMENT.seeds), fake)
    assert len(rows) == sum(map(len, rounds)) == 137
    assert len({json.dumps(p, sort_keys=True) for r in rounds for p in r}) == 137
    choose = [r for r in rows if r["role"] == "choose"]
    report = [r for r in rows if r["role"] == "report" and r["base"] == "skills"]
    assert (len(choose), len(report)) == (56, 77)
    assert {r["seed"] for r in choose} == {100, 101}
    assert {r["seed"] for r in report} == {0, 1, 2, 3, 4}
    assert {(r["replay"], r["lr"]) for r in report if r["arm"] == "full" and r["lr_by"] == "chosen"
            } == {(0.0, 3.2e-4), (0.01, 1e-3), (0.05, 1e-3), (0.1, 1e-3)}  # fmt: skip
    assert {r["lr"] for r in report if r["lr_by"] == "other" and r["method"] == "full"} == {
        1e-4, 1e-3
    }  # fmt: skip
    assert {(r["rank"], r["lr"]) for r in report if r["lr_by"] == "as r=8"} == {
        (1, 5e-3), (64, 5e-3)
    }  # fmt: skip
    assert [r["seed"] for r in report if r.get("off")] == [0]
    hard = {(r["method"], r["replay"]) for r in report if r["task"] == "cipher"}
    assert hard == {(m, ρ) for m in ("full", "lora") for ρ in (0.0, 0.05, 0.1)}
    assert {r["lr_by"] for r in report if r["task"] == "cipher"} == {"fixed"}


def test_two_full_runs_of_the_language_model_are_never_asked_for_at_once(fetched):
    _, rounds = run(Plan(), fake)
    full = [[p["arm"] for p in r].count("smollm2 full") for r in rounds]
    assert full == [1, 1]
    assert sum(p["base"] == "smollm2" for r in rounds for p in r) == 4


def test_without_the_file_the_language_model_is_not_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(smollm2, "cached_file", lambda: tmp_path / "none")
    _, rounds = run(Plan(), fake)
    assert {p["base"] for r in rounds for p in r} == {"skills"}


def test_steps_of_the_plan_are_those_of_every_run(fetched):
    rows, _ = run(Plan(steps=7), fake)
    assert {r["steps"] for r in rows} == {7}


def test_a_base_that_cannot_be_loaded_is_skipped_and_says_why(monkeypatch):
    def absent(name):
        raise ConfigError("it is not there")

    monkeypatch.setattr(forgetting, "load_base", absent)
    point = Setup(task="orders", steps=2).point(base="smollm2", role="report")
    result = forgetting.measure(point)
    assert result == {"skipped": "it is not there", "curve": []}
    assert "it is not there" in answer([{**point, **result}])


def test_the_language_model_is_looked_at_at_its_shares_of_the_steps(monkeypatch, few_examples):
    def with_text(name, base, seed):
        task = load_task("swap-ends", base, seed=seed)
        return replace(task, text=task.test[:3], old_validation=[])

    monkeypatch.setattr(forgetting, "load_base", lambda name: load_base("skills"))
    monkeypatch.setattr(forgetting, "load_task", with_text)
    point = Setup(task="orders", method="full", lr=1e-3, steps=10, batch_size=4).point()
    result = forgetting.measure({**point, "base": "smollm2"})
    assert [c["step"] for c in result["curve"]] == [0, 2, 3, 5, 8, 10]
    first, last = result["curve"][0], result["curve"][-1]
    assert set(first) == {"step", "new", "general_nll"}
    assert first["general_nll"] != last["general_nll"]
    assert result["diverged"] is None


def test_a_run_of_the_language_model_that_diverges_says_so(monkeypatch, few_examples):
    def with_text(name, base, seed):
        task = load_task("swap-ends", base, seed=seed)
        return replace(task, text=task.test[:3])

    monkeypatch.setattr(forgetting, "load_base", lambda name: load_base("skills"))
    monkeypatch.setattr(forgetting, "load_task", with_text)
    point = Setup(task="orders", method="full", lr=1e30, steps=4, batch_size=4, glances=1).point()
    monkeypatch.setattr(forgetting, "LANGUAGE_LOOKS", (1.0,))
    result = forgetting.measure({**point, "base": "smollm2"})
    assert "not finite" in result["diverged"] or "nan" in result["diverged"]
    assert [c["step"] for c in result["curve"]] == [0]


@pytest.mark.parametrize("spoiled", [False, True])
def test_off_is_the_base_to_the_bit_and_one_bit_is_seen(few_examples, spoiled):
    setup = Setup(task="swap-ends", rank=2)
    model, task = model_for(setup), task_of(setup.task, setup.seed)
    for name, p in model.named_parameters():
        if ".lora_B." in name:
            p.data[:] = 0.3
    if spoiled:
        weight = model.model.model.layers[1].mlp.up_proj.weight.data
        weight[0, 0] = np.nextafter(weight[0, 0], np.float32(9))
    result = forgetting.adapter_off(model, task)
    assert result["off_is_base"] is not spoiled
    assert result["old_off"] >= 0.95


def test_what_is_kept_is_read_off_where_the_new_skill_first_reaches_the_level():
    curve = [(0.0, 1.0), (0.8, 0.5), (1.0, 0.3), (0.7, 0.9)]
    r = row()
    r["curve"] = [{"step": i, "new": n, "old": o} for i, (n, o) in enumerate(curve)]
    assert left(r) == pytest.approx(0.4)
    assert left({**r, "diverged": "step 3"}) is None
    assert left({**r, "curve": []}) is None
    assert left(row(top=0.89)) is None
    assert nll_at(language_row()) == pytest.approx(3.6)


def test_an_arm_is_all_that_differs_in_the_seed_only_and_says_what_it_lacks():
    rows = [*several([0.3, 0.1]), row(seed=2, top=0.5), {**row(seed=3), "diverged": "step 1"}]
    rows += [row(method="lora", rank=4, target_modules=("q_proj", "v_proj"), replay=0.05, lr=5e-3)]
    rows += [row(method="lora", target_modules="all-linear", task="cipher", replay=0.1, lr=3e-3)]
    rows += [{**row(), "role": "choose"}]
    full, narrow, wide = arms(random.Random(0).sample(rows, len(rows)))
    assert [r["seed"] for r in full.rows] == [0, 1, 2, 3]
    assert full.left == pytest.approx([0.3, 0.1])
    assert full.kept == "20 % (10 to 30); 1 of 4 never at 90 %, 1 of 4 diverged"
    assert narrow.label == "LoRA q,v r=4, ρ 5 %, lr 5e-3"
    assert wide.label == "LoRA all seven r=8, ρ 10 %, lr 3e-3"
    assert failures([full, narrow]) == (
        "Not counted: swap-ends, full, ρ 0 %, lr 5e-3: 1 of 4 never at 90 %, 1 of 4 diverged."
    )


def test_numbers_are_written_as_one_writes_them():
    assert [rate(lr) for lr in (1e-3, 3.2e-4, 1.6e-2, 5e-5)] == ["1e-3", "3.2e-4", "1.6e-2", "5e-5"]
    assert [share(s) for s in (0.0, 0.05, 0.9)] == ["0 %", "5 %", "90 %"]


FIVE = ([0.50, 0.52, 0.54, 0.56, 0.58], [0.20, 0.22, 0.24, 0.26, 0.28])


@pytest.mark.parametrize(
    ("lora", "full", "says"),
    [
        (*FIVE, "LoRA forgets less"),
        (*FIVE[::-1], "LoRA forgets more"),
        (FIVE[0][:3], FIVE[1][:3], "which suggests that LoRA forgets less"),
        ([0.2, 0.5], [0.3, 0.4], "no difference shown"),
        ([], [0.3], "no difference shown"),
        ([0.9], [0.1], "no difference shown"),
    ],
)
def test_which_forgets_more_is_decided_by_all_seeds(lora, full, says):
    assert compared(lora, full) == says


def pair(lora, full, **point):
    return arms([*several(lora, method="lora", **point), *several(full, lr=1e-3, **point)])


def test_the_claim_about_lora_is_judged_by_the_rows():
    kept, lost = FIVE
    assert avoids(pair(kept, lost)).startswith('"LoRA largely avoids forgetting": confirmed.')
    said = avoids(pair(lost, kept))
    assert said.startswith('"LoRA largely avoids forgetting": not here.')
    assert "full 54 % (50 to 58), LoRA q,v r=8 24 % (20 to 28) (LoRA forgets more)" in said
    assert "(5 seeds)" in said
    little = [v / 10 for v in kept], [v / 10 for v in lost]  # less forgotten, but most of it is
    assert "not here" in avoids(pair(*little))
    assert "not shown" in avoids(pair(kept, kept)) and "not here" in avoids(pair(lost, lost))
    both = pair(kept, lost) + pair(lost, kept, task="cipher")
    assert "only in part" in avoids(both)
    assert "not measured" in avoids(pair(kept, [])) and "not measured" in avoids([])


def mixed(by_share, **point):
    return [r for ρ, values in by_share.items() for r in several(values, replay=ρ, **point)]


def test_the_claim_about_old_data_is_judged_by_what_comes_back():
    easy = mixed({0.0: [0.18, 0.2, 0.22], 0.05: [0.6, 0.62, 0.64], 0.1: [0.78, 0.8, 0.82]})
    said = helps(arms(easy))
    assert said.startswith('"Mixing in 5–10 % of general data helps": confirmed.')
    assert "20 % (18 to 22) at 0 %, 62 % (60 to 64) at 5 %, 80 % (78 to 82) at 10 %" in said
    assert "helps, 75 % of the loss comes back at 10 %, as far as so few seeds tell" in said
    hard = mixed(
        {0.0: [0.0, 0.01, 0.01], 0.05: [0.04, 0.05, 0.05], 0.1: [0.09, 0.1, 0.1]}, task="cipher"
    )
    assert "helps a little, 9 % of the loss" in helps(arms(hard))
    assert "only in part" in helps(arms(easy + hard))
    assert "not here" in helps(arms(hard))
    harm = mixed({0.0: [0.5, 0.55, 0.6], 0.1: [0.1, 0.15, 0.2]})
    assert "(harms, -89 % of the loss" in helps(arms(harm))
    same = mixed({0.0: [0.5, 0.6], 0.1: [0.55, 0.7]})
    assert 'helps": not shown.' in helps(arms(same)) and "(no difference shown)" in helps(
        arms(same)
    )
    assert "not measured" in helps(arms(easy[:3])) and "not measured" in helps([])


def test_the_answer_tells_of_rates_of_stopping_and_of_the_language_model():
    rows = several([0.3, 0.4, 0.5], end=0.2, lr=1e-3)
    rows += [r | {"lr_by": "other"} for r in several([0.1, 0.15, 0.2], lr=3.2e-3)]
    rows += [language_row(), language_row("full", curve=language_row()["curve"][:2])]
    said = answer(rows)
    assert "full: 40 % (30 to 50) at 1e-3, 15 % (10 to 20) at 3.2e-3" in said
    assert "full, ρ 0 %: 40 % (30 to 50) and 20 % (20 to 20) (stopping seems to keep more)" in said
    assert "full lr 1e-3: never reaches 90 %, 3.40 at the end, with 80 %" in said
    assert "LoRA q,v r=8 lr 1e-3: 3.60 at 90 %, 3.80 at the end, with 100 %" in said
    assert "single runs; 3.00 before" in said


def test_the_answer_tells_where_going_on_gives_back_what_was_lost():
    said = answer(mixed({0.05: [0.5, 0.6]}, lr=1e-3) + several([0.3] * 5, end=0.9, replay=0.1))
    assert "ρ 5 %: 55 % (50 to 60) and 55 % (50 to 60) (no difference shown)" in said
    assert "ρ 10 %: 30 % (30 to 30) and 90 % (90 to 90) (going on keeps more)" in said


def test_an_answer_without_rows_claims_nothing():
    said = answer([])
    assert said.count("not measured") >= 4
    assert "confirmed" not in said and "not here" not in said


def test_labels_in_the_margin_are_apart_in_order_and_in_range():
    rng = random.Random(1)
    for n in range(12):
        values = [rng.choice([0, 3, 50, 99, 100, rng.uniform(0, 100)]) for _ in range(n)]
        placed = spread_out(values, 5)
        order = sorted(range(n), key=lambda i: values[i])
        gaps = [placed[b] - placed[a] for a, b in pairwise(order)]
        assert all(g >= 5 - 1e-9 for g in gaps)
        assert all(-1e-9 <= p <= 100 + 1e-9 for p in placed)
    assert spread_out([20.0, 60.0, 90.0], 5) == [20.0, 60.0, 90.0]


def test_the_plane_has_a_path_for_each_seed_and_arm_and_a_label_for_each_arm():
    some = arms([*mixed({0.0: [0.1, 0.3], 0.05: [0.6, 0.8]}), row(replay=0.1, top=0.5)])
    with plots.figure(1) as (_, ax):
        plane(ax, some, "title")
        assert [t.get_text() for t in ax.texts] == [
            "ρ 0 %", "ρ 5 %", "ρ 10 % (never reaches 90 %)"
        ]  # fmt: skip
        at_level = [
            (float(np.ravel(x)[0]), round(float(np.ravel(y)[0])))
            for x, y in (line.get_data() for line in ax.lines if line.get_markersize() == 7)
        ]
        assert at_level == [(90, 20), (90, 70)]
        thin = [
            line for line in ax.lines if line.get_linewidth() == 0.5 and len(line.get_xdata()) == 3
        ]
        assert len(thin) == 5
        assert ax.get_xlabel().endswith("%") and ax.get_ylabel().endswith("%")


def test_labels_of_the_plane_name_the_method_where_there_are_two():
    some = arms([row(0.3), row(0.2, method="lora", target_modules="all-linear")])
    with plots.figure(1) as (_, ax):
        plane(ax, some, "title")
        assert [t.get_text() for t in ax.texts] == ["full, ρ 0 %", "LoRA all seven, ρ 0 %"]


def test_the_dots_list_every_arm_also_those_that_never_get_there():
    some = arms([*several([0.2, 0.4], end=0.1), row(replay=0.05, top=0.3)])
    with plots.figure(1) as (_, ax):
        dots(ax, some)
        assert [t.get_text() for t in ax.get_yticklabels()] == [
            "swap-ends: full, ρ 0 %, lr 5e-3 (chosen)", "swap-ends: full, ρ 5 %, lr 5e-3 (chosen)"
        ]  # fmt: skip
        assert [t.get_text() for t in ax.texts] == [
            "30 % (20 to 40), step 50",
            "never reaches 90 %",
        ]
        hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
        assert [round(float(np.ravel(line.get_xdata())[0])) for line in hollow] == [10]


def test_labels_beside_leave_the_axis_as_it_is():
    with plots.figure(1) as (_, ax):
        ax.set_ylim(3, 4)
        beside(ax, [(1, 3.2), (2, 3.2)], ["a", "b"])
        assert ax.get_ylim() == (3, 4)
        low, high = (t.get_position()[1] for t in ax.texts)
        assert low == pytest.approx(3.2) and high == pytest.approx(3.25)


@pytest.mark.parametrize(
    "rows",
    [
        [row()],
        [language_row()],
        [row(task="cipher", top=0.1)],
        [{**row(), "diverged": "step 3", "curve": row()["curve"][:1]}],
        [{**row(), "diverged": "step 1", "curve": []}, row(seed=1)],
        [row(), {**language_row(curve=[]), "skipped": "not there"}],
    ],
    ids=["one seed", "language only", "hard only", "diverged", "no curve", "skipped"],
)
def test_it_draws_whatever_there_is(rows, tmp_path):
    draw(rows, tmp_path / "f.svg")
    assert (tmp_path / "f.svg").stat().st_size > 10_000
    assert "90 %" in (tmp_path / "f.txt").read_text()
    assert answer(rows)


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(ConfigError, match="minilora experiment forgetting"):
        draw([{**row(), "role": "choose"}], tmp_path / "f.png")
    assert not list(tmp_path.iterdir())


def test_it_is_found_by_its_name():
    found = experiment("forgetting")
    assert found is forgetting.EXPERIMENT
    assert found.name == "forgetting" and found.question.endswith("?")
    assert Arm([row()]).method == "full"
