"""low_rank: parts of ΔW, the planted rank, points, rows, answer and figures."""

import json
from dataclasses import replace

import numpy as np
import pytest

from minilora import ops, plots
from minilora.bases import load_base
from minilora.data import skills
from minilora.errors import ConfigError
from minilora.evaluation import exact_match
from minilora.experiments.lab.experiment import Plan
from minilora.experiments.lab.tuning import Setup, model_for, task_of
from minilora.experiments.low_rank import EXPERIMENT, details, figure, measuring, parts
from minilora.experiments.low_rank.planted import _fit, planted
from minilora.experiments.low_rank.rows import cut, old_of_whole
from minilora.experiments.low_rank.subspaces import _OTHER_START
from minilora.spectra import singular_values, truncate

KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ARMS = ("svd", "largest entries", "active rows", "random subspace", "random entries")


def asked(plan, measure):
    """Rows as the runner makes them: asks until nothing new comes, and goes through JSON."""
    rows, seen = [], []
    while new := [p for p in EXPERIMENT.points(rows, plan) if p not in seen]:
        seen += new
        rows += [json.loads(json.dumps({**p, **measure(p)}, allow_nan=False)) for p in new]
    return rows


@pytest.fixture(scope="module")
def quick():
    return asked(Plan(quick=True), EXPERIMENT.measure)


def synthetic(seeds=(0, 1, 2), ranks=(1, 8, 64)):
    """Rows of which every number is known."""
    rows = []
    for s in seeds:
        common = {"role": "report", "seed": s, "steps": 150, "batch_size": 64, "diverged": None}
        common["task"] = "sort-descending"
        after = {
            "intruders": [[0.5, 0.02 + 0.01 * s], [0.9, 0.7]],
            "intruders_at_level": {"step": 40, "new_validation": 0.9, "counts": [[0.5, 0.01]]},
            "scaled": [[0.0, 0.4, 0.5], [0.5, 0.8, 0.3], [1.0, 1.0, 0.1]],
            "scaled_whole": [[0.0, 0.0, 1.0], [0.5, 0.6, 0.6], [1.0, 1.0, 0.2]],
        }
        spectrum = {
            "change": {"rank_90": 10 + s, "effective": 40.0, "energy": [0.3] * 4 + [0.95] * 4},
            "weights": {"rank_90": 30, "effective": 70.0, "energy": [0.2] * 4 + [0.8] * 4},
            "random": {"rank_90": 66, "effective": 103.0, "energy": [0.1] * 4 + [0.5] * 4},
        }
        matrices = [{"layer": n, "kind": k, **spectrum} for n in range(4) for k in KINDS]
        cuts = [
            {"arm": arm, "k": k, "new": (0.8 if arm == "svd" else 0.1) + 0.02 * s, "old": 0.5}
            for arm in ARMS
            for k in (4, 8, 16)
        ]
        cuts.append({"arm": "whole", "k": None, "new": 0.97, "old": 0.1})
        full = {"kind": "full", "lr": 1e-3, "new": 1.0, "old": 0.05}
        rows.append({**common, **full, **after, "matrices": matrices, "cuts": cuts})
        for r in ranks:
            of = {"kind": "lora", "rank": r, "alpha": 2 * r, "lr": 3e-3, "new": 0.95, "old": 0.1}
            more = {"intruders": [[0.5, 0.1 + 0.01 * s], [0.9, 0.8]], "rank_90": [1, 2]}
            rows.append({**common, **after, **of, **more, "beyond_rank": 2e-16})
        rows.append(
            {
                **common,
                "kind": "planted",
                "true_rank": 8,
                "ranks": [7, 8],
                "losses": [0.02, 1e-20],
                "floors": [0.02, 0.0],
                "full_rank_found": 8,
            }
        )
        tables = [
            {"pair": pair, "of": of, "matrices": "mean", "values": [[first, 0.6], [0.3, 0.55]]}
            for pair, first in (("same data", 0.3), ("other data", 0.25), ("random", 0.01))
            for of in ("A", "change")
        ]
        pair = {"kind": "subspaces", "rank": 8, "alpha": 16, "lr": 3e-3, "wide_rank": 64}
        pair |= {"i": [1, 8], "j": [8, 64], "other": s + 1, "tables": tables}
        rows.append({**common, **pair, "chance": [[0.06, 0.5], [0.06, 0.5]]})
    return rows


def test_a_quick_run_goes_from_points_to_answer(quick, tmp_path):
    kinds = [(r["kind"], r["role"]) for r in quick]
    assert {k for k, role in kinds if role == "report"} == {"full", "lora", "planted", "subspaces"}
    assert {k for k, role in kinds if role == "choose"} == {"full", "lora"}
    EXPERIMENT.draw(quick, tmp_path / "f.png")
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"f.png", "f.txt", "f_details.png", "f_details.txt"}
    text = EXPERIMENT.answer(quick)
    assert "nan" not in text.lower().split()
    assert "Below 90%: full, seed 0" in text  # after so few steps


def test_what_a_quick_run_measures(quick):
    full, lora = ([r for r in quick if r["kind"] == k][-1] for k in ("full", "lora"))
    assert len(full["matrices"]) == 28
    for m in full["matrices"]:
        assert 1 <= m["change"]["rank_90"] <= m["random"]["rank_90"]
        for what in ("change", "weights", "random"):
            assert m[what]["energy"][-1] == 1
            assert m[what]["energy"] == sorted(m[what]["energy"])
            assert 1 <= m[what]["effective"] <= 128
    # Without any direction it is the base: not one of the new strings, nearly all old ones.
    none = next(c for c in full["cuts"] if c["arm"] == "svd" and c["k"] == 0)
    assert none["new"] < 0.1 and none["old"] > 0.9
    assert full["scaled_whole"][0][1:] == [none["new"], none["old"]]
    whole = next(c for c in full["cuts"] if c["arm"] == "whole")
    assert full["scaled_whole"][-1] == full["scaled"][-1] == [1.0, whole["new"], whole["old"]]
    assert lora["beyond_rank"] <= 1e-12
    assert all(1 <= k <= 8 for k in lora["rank_90"]) and len(lora["rank_90"]) == 28


def test_random_adapters_share_directions_by_chance(quick):
    row = next(r for r in quick if r["kind"] == "subspaces")
    mean = [t for t in row["tables"] if t["pair"] == "random" and t["matrices"] == "mean"]
    assert len(row["tables"]) == 4 * 2 * 2
    for t in mean:
        np.testing.assert_allclose(t["values"], row["chance"], atol=0.06)
    assert row["chance"][-1][-1] == 16 / 128


def test_points_choose_first_and_report_at_the_best_rate():
    def chosen(point):  # each arm likes its second rate
        return {"new_validation": 0.9 if point.get("lr") in (1e-3, 3e-3) else 0.1}

    rows = asked(Plan(), chosen)
    assert len(rows) == 65
    assert {r["seed"] for r in rows if r["role"] == "choose"} == {100, 101}
    report = [r for r in rows if r["role"] == "report"]
    assert {r["lr"] for r in report if r["kind"] == "full"} == {1e-3}
    assert {r["lr"] for r in report if r["kind"] in ("lora", "subspaces")} <= {1e-3, 3e-3}
    assert [(r["seed"], r["other"]) for r in report if r["kind"] == "subspaces"] == [
        (0, 1),
        (1, 2),
        (2, 0),
    ]
    assert all(r["alpha"] / r["rank"] == 2 or r["alpha"] == 64 for r in rows if "rank" in r)


def test_nothing_is_reported_before_all_of_an_arms_rates_are_measured():
    first = EXPERIMENT.points([], Plan())
    assert {p["kind"] for p in first if p["role"] == "report"} == {"planted"}
    some = [{**p, "new_validation": 0.5} for p in first if p["role"] == "choose"][:-1]
    arms = [p for p in EXPERIMENT.points(some, Plan()) if p["role"] == "report"]
    missing = [p for p in first if p["role"] == "choose"][-1]
    assert not [p for p in arms if (p.get("rank"), p.get("alpha")) == (8, missing["alpha"])]
    assert [p for p in arms if p["kind"] == "full"]


def test_points_with_other_steps_and_seeds():
    rows = asked(Plan(seeds=(5,), steps=9), lambda p: {"new_validation": 0.5})
    tuned = [r for r in rows if r["kind"] != "planted"]
    assert {r["steps"] for r in tuned} == {9}
    assert {r["seed"] for r in rows if r["role"] == "report"} == {5}
    assert [r["other"] for r in rows if r["kind"] == "subspaces"] == [6]


def test_parts_keep_what_they_say():
    D = np.random.default_rng(0).normal(size=(6, 4))
    n = parts.budget(D, 1)
    assert n == 10 and parts.budget(D, 5) == 24
    largest = parts.largest_entries(D, n)
    assert (largest != 0).sum() == n
    assert np.abs(D[largest == 0]).max() <= np.abs(largest[largest != 0]).min()
    rows = parts.active_rows(D, n, np.array([0, 5, 1, 9, 2, 3.0]))
    assert list(np.flatnonzero(rows.any(axis=1))) == [1, 3]  # 10 entries are 2.5 rows: 2
    np.testing.assert_array_equal(rows[3], D[3])
    rng = np.random.default_rng(1)
    entries = parts.random_entries(D, n, rng)
    assert (entries != 0).sum() == n and np.isin(entries[entries != 0], D).all()
    for M in (D, D.T):
        assert np.linalg.matrix_rank(parts.random_subspace(M, 2, rng)) == 2
        np.testing.assert_allclose(parts.random_subspace(M, 4, rng), M, atol=1e-12)
        # A projection of a projection's difference has nothing left of it.
        P = parts.random_subspace(M, 2, rng)
        assert abs(((M - P) * P).sum()) < 1e-10


def test_of_all_parts_the_strongest_directions_leave_the_least():
    D = truncate(np.random.default_rng(2).normal(size=(16, 12)), 6)
    rng = np.random.default_rng(3)
    best = np.linalg.norm(D - truncate(D, 3))
    assert np.linalg.norm(D - parts.random_subspace(D, 3, rng)) > best


def test_row_activity_is_the_mean_size_of_what_comes_out():
    examples = skills.examples(skills.NEW[0], "train", 12)
    base = load_base("skills")
    path = "model.layers.0.self_attn.k_proj"
    W = base.get_submodule(path).weight.data
    norm = base.model.layers[0].input_layernorm
    out = []
    for e in examples:
        x = ops.rms_norm(base.model.embed_tokens(np.array(e.ids)), norm.weight, eps=norm.eps)
        out.append(np.abs(x.data @ W.T))
    found = parts.row_activity(load_base("skills"), examples)
    assert len(found) == 28
    np.testing.assert_allclose(found[path], np.concatenate(out).mean(axis=0), rtol=1e-5)


def test_a_change_put_back_whole_is_the_changed_model():
    model, rng = load_base("skills"), np.random.default_rng(0)
    before = {n: p.data.copy() for n, p in model.named_parameters()}
    for p in model.parameters():
        p.data += 0.01 * rng.normal(size=p.shape).astype(np.float32)
    task = task_of("sort-descending", 0)
    scores = measuring._Scores(task, before, 50)
    change = measuring._change(model, before)
    after = model.state_dict()
    few = [e for each in task.old.values() for e in each[:5]]
    assert len(scores.old) == 40
    assert scores.with_change(change, after) == [
        exact_match(model, task.test[:50]),
        exact_match(model, few),
    ]
    assert scores({}) == scores.with_change({path: 0 * D for path, D in change.items()})


def test_a_planted_rank_reaches_the_floor_of_eckart_and_young():
    """With inputs of covariance exactly 1 the floor is the tail of ΔW* itself."""
    rng = np.random.default_rng(0)
    d, n = 16, 64
    X = np.linalg.qr(rng.normal(size=(n, d)))[0] * np.sqrt(n)
    W0, target = rng.normal(size=(d, d)) / 4, truncate(rng.normal(size=(d, d)), 4)
    s = singular_values(target)
    for r in (1, 2, 3, 4, 6):
        change, loss = _fit(W0, target, X, r, steps=800, lr=2e-2, seed=0)
        assert abs(loss - (s[r:] ** 2).sum()) < 1e-6
        assert np.linalg.matrix_rank(change, tol=1e-8) <= r
    change, loss = _fit(W0, target, X, None, steps=1600, lr=2e-2, seed=0)
    assert loss < 1e-6
    assert (singular_values(change) > 1e-3 * s[0]).sum() == 4


def test_the_planted_point_falls_off_a_cliff_at_its_rank():
    point = {"kind": "planted", "seed": 3, "size": 24, "true_rank": 3, "ranks": [1, 2, 3, 4]}
    result = planted({**point, "steps": 500, "lr": 2e-2})
    np.testing.assert_allclose(result["losses"], result["floors"], atol=1e-6)
    assert result["floors"][1] > 0.01 > 1e-6 > result["losses"][2]
    assert result["full_rank_found"] == 3 and result["full_loss"] < 1e-6


def test_a_diverged_run_is_a_row_and_is_listed(tmp_path):
    setup = Setup(method="full", lr=1e30, steps=2, glances=1)
    extent = {"ks": [0], "factors": [1.0], "strings": 10, "every": 10}
    point = setup.point(kind="full", role="report", **extent)
    row = {**point, **measuring.measure(point)}
    assert row["diverged"] and row["new"] == 0
    text = EXPERIMENT.answer([row])
    assert "Diverged: full, lr 1e+30, seed 0." in text
    assert text.count("not measured") == 8
    EXPERIMENT.draw([row], tmp_path / "f.png")


def test_the_answer_says_the_numbers_of_the_rows():
    text = EXPERIMENT.answer(synthetic())
    for said in (
        "Of low rank: confirmed",
        "in 10 to 12 (median 11) directions; of W's in 30 to 30",
        "84 of 84 matrices",
        "82 % (80 to 84) at k = 8",
        "largest entries 12 % (10 to 14) (suggests a difference)",
        "the strongest directions are the best part",
        "95 % (95 to 95) against 82 % (80 to 84) at 8 (suggests a difference: training is ahead)",
        "at most 2e-16",
        "A planted ΔW of rank 8: found by LoRA; the loss is first gone at r = 8, 8, 8",
        "φ(1, 8) = 0.30 (0.30 to 0.30) on the same data",
        "(arXiv 2106.09685, GPT-3): in part",
        "LoRA r=1 α=2 11 % (10 to 12), 1 % (1 to 1) when 90 %",
        "as in arXiv 2410.21228: here, too",
        "full: old 10 % (10 to 10) → 30 % (30 to 30), new 100 % (100 to 100) → 80 % (80 to 80); "
        "some of the old comes back",
        # 0.8 of the new is half way between the whole change times 0.5 and times 1.
        "leaves of the old 40 % (40 to 40)",
        "not here: the median is 0.7 times 16",
    ):
        assert said in text, (said, text)


def test_the_answer_turns_where_the_rows_do():
    rows = synthetic()
    for r in rows:
        for m in r.get("matrices", []):
            m["change"] = {**m["change"], "rank_90": 320}
            m["random"] = {**m["random"], "rank_90": 330}
        for c in r.get("cuts", []):
            c["new"] = 0.99 if c["arm"] == "largest entries" else 0.5
        if r["kind"] == "planted":
            r["losses"] = [0.3, 0.2]
        if "scaled" in r:
            r["scaled"] = [[0.5, 0.8, 0.05], [1.0, 1.0, 0.1]]
        if "intruders" in r:
            r["intruders"] = [[0.5, 0.3 if r["kind"] == "full" else 0.0]]
        for t in r.get("tables", []):
            t["values"] = [[0.7, 0.7], [0.7, 0.7]]
    text = EXPERIMENT.answer(rows)
    for said in (
        "Of low rank: not here",
        "are not shown to be the best part",
        "not found by LoRA; the loss is first gone at r = none, none, none",
        "At no r it is more than 0.3 of",
        "no gain is shown",
        "as in arXiv 2410.21228: not shown here",
        "(arXiv 2106.09685, GPT-3): confirmed",
        "so it is here: the median is 20.0 times 16",
    ):
        assert said in text, (said, text)


def test_one_seed_shows_no_difference_and_arms_may_be_missing():
    text = EXPERIMENT.answer(synthetic(seeds=(0,)))
    assert "suggests" not in text and "differ" not in text.replace("difference", "")
    assert "one seed shows no difference" in text
    assert EXPERIMENT.answer([]).count("not measured") == 8
    lora = [r for r in synthetic() if r["kind"] == "lora"]
    assert "LoRA r=1" in EXPERIMENT.answer(lora)
    short = [{**lora[0], "new": None, "beyond_rank": None, "scaled": None}]
    assert "Below 90%: lora r=1 α=2, seed 0, none." in EXPERIMENT.answer(short)


def test_rates_at_the_edge_of_the_grid_are_named():
    rows = synthetic()
    choose = [
        {"role": "choose", "kind": "lora", "rank": 1, "alpha": 2, "lr": lr} for lr in (1e-3, 3e-3)
    ]
    assert "edge of the rates tried: lora r=1 α=2 (0.003)" in EXPERIMENT.answer(rows + choose)
    assert "edge" not in EXPERIMENT.answer([*rows, *choose, {**choose[0], "lr": 1e-2}])


def test_old_accuracy_of_the_whole_change_is_read_between_its_points():
    row = {"scaled_whole": [[0.5, 0.2, 0.8], [1.0, 1.0, 0.0]]}
    assert old_of_whole(row, 0.6) == pytest.approx(0.4)
    assert old_of_whole(row, 0.1) is None and old_of_whole({}, 0.5) is None
    assert cut(synthetic(), "svd", 8) == pytest.approx([0.8, 0.82, 0.84])


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines() if line.get_label()[0] != "_"}


def test_the_panels_hold_the_rows():
    rows = synthetic()
    with plots.figure(4) as (_, axes):
        figure._accuracy(axes[0], rows)
        figure._energy(axes[1], rows)
        figure._ranks(axes[2], rows)
        figure._shared(axes[3], rows)
        drawn = lines(axes[0])
        assert len(drawn) == 6
        np.testing.assert_allclose(drawn["strongest k directions"].get_ydata(), [82, 82, 82])
        np.testing.assert_allclose(drawn["LoRA trained at r = k"].get_xdata(), [0, 3, 6])
        assert set(lines(axes[1])) == {"ΔW: 90 % in 11", "W: 90 % in 30", "random: 90 % in 66"}
        assert len(lines(axes[2])) == 8  # four layers of ΔW and of W
        texts = [t.get_text() for t in axes[3].texts]
        assert texts == ["25", "chance 6", "60", "chance 50", "30", "chance 6", "55", "chance 50"]


def test_the_panels_of_details_hold_the_rows():
    rows = synthetic()
    with plots.figure(3) as (_, axes):
        details._planted(axes[0], rows)
        details._intruders(axes[1], rows)
        details._scaled(axes[2], rows)
        loss = lines(axes[0])["LoRA at r, end of training"].get_ydata()
        np.testing.assert_allclose(loss, [0.02, 1e-16])  # what is below is rounding
        names = ["LoRA r=1 α=2", "LoRA r=8 α=16", "LoRA r=64 α=128", "full"]
        assert list(lines(axes[1])) == names
        assert len(lines(axes[2])) == 6
        whole = lines(axes[2])["full, all of ΔW"]
        np.testing.assert_allclose(whole.get_xydata(), [[0, 100], [60, 60], [100, 20]])


@pytest.mark.parametrize("kind", ["full", "lora", "planted", "subspaces"])
def test_figures_of_one_kind_and_one_seed_alone(kind, tmp_path):
    rows = [r for r in synthetic(seeds=(0,), ranks=(8,)) if r["kind"] == kind]
    EXPERIMENT.draw(rows, tmp_path / "f.svg")
    main, details = ((tmp_path / f).read_text() for f in ("f.svg", "f_details.svg"))
    assert "not measured" in main and "not measured" in details
    assert "seeds 0" in main and "minilora experiment low_rank" in details


def test_without_rows_there_is_no_figure(tmp_path):
    with pytest.raises(ConfigError, match="minilora experiment low_rank"):
        EXPERIMENT.draw([], tmp_path / "f.png")
    assert not list(tmp_path.iterdir())


def test_the_other_adapter_of_a_seed_starts_elsewhere():
    """Were the wide adapter drawn by the same seed, its first rows would be the thin one's."""
    thin = Setup(rank=2, target_modules="all-linear")
    wide = replace(thin, rank=4)
    A, same, other = (
        next(iter(model_for(s).layers().values())).lora_A["default"].weight.data
        for s in (thin, wide, replace(wide, seed=_OTHER_START))
    )
    assert (same[:2] == A).all()
    assert not np.isclose(A, other[:2]).any(axis=1).all()
