"""Full or LoRA: which runs are asked for, what the books hold, and words that follow the rows."""

import json

import pytest

from minilora.bases import load_base
from minilora.data import skills
from minilora.errors import ConfigError
from minilora.experiments import verdict
from minilora.experiments.lab.experiment import Plan, experiment
from minilora.experiments.lab.tuning import Setup, task_of

ALL_EXAMPLES = skills.examples


@pytest.fixture(scope="module", autouse=True)
def _few_examples():
    """The tasks are the same, with a twentieth of the examples."""

    def few(which, split, n, seed=0):
        return ALL_EXAMPLES(which, split, max(20, n // 20), seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skills, "examples", few)
        task_of.cache_clear()
        yield
    task_of.cache_clear()


def run(plan, measure):
    """All rows, as the runner gets them, through JSON."""
    rows = []
    while new := [
        p for p in verdict.points(rows, plan) if not any(p.items() <= r.items() for r in rows)
    ]:
        rows += [json.loads(json.dumps({**p, **measure(p)}, allow_nan=False)) for p in new]
    return rows


@pytest.fixture(scope="module")
def quick():
    return run(Plan(seeds=(0, 1), quick=True), verdict.measure)


def row(old, **point):
    """A run that has `old` of the old skills at 90 % of the new one."""
    setup = Setup(**{"steps": 100, **point})
    looks = [(0, 0.0, 1.0), (50, 0.8, old + 0.1), (100, 1.0, old - 0.1)]
    said = {"role": "report", "base": "skills", "lr_by": "chosen", "diverged": None}
    off = {"off_is_base": True, "old_off": 0.99, "new_off": 0.0} if setup.method == "lora" else {}
    curve = [{"step": s, "new": n, "old": o} for s, n, o in looks]
    return setup.point(**said, **off, curve=curve, new=0.97, old_validation=old - 0.1)


def five(mean, **point):
    return [row(mean + (seed - 2) / 100, seed=seed, **point) for seed in range(5)]


def all_arms(full, lora, full_5, lora_5):
    return [
        *five(full, method="full", lr=1e-3),
        *five(lora),
        *five(full_5, method="full", lr=1e-3, replay=0.05),
        *five(lora_5, replay=0.05),
    ]


def test_a_quick_run_goes_from_points_to_answer(quick, tmp_path):
    assert sorted(r["role"] for r in quick) == ["books"] * 3 + ["choose"] * 2 + ["report"] * 2
    full, lora = (r for r in quick if r["role"] == "report")
    assert (full["method"], lora["method"]) == ("full", "lora")
    assert lora["off_is_base"] is True and "off_is_base" not in full
    assert lora["old_off"] >= 0.95
    n = load_base("skills").n_parameters()
    assert 4 * n < full["file_bytes"] < 4 * n + 10_000
    assert 4 * lora["trainable_parameters"] < lora["file_bytes"] < full["file_bytes"] / 10
    verdict.draw(quick, tmp_path / "v.png")
    assert (tmp_path / "v.png").stat().st_size > 10_000
    said = verdict.answer(quick)
    assert "bit for bit, in 1 of 1 runs" in said
    assert "never reaches 90 %" in said


def test_the_whole_grid_is_affordable_and_reports_on_other_seeds_than_it_chose():
    best = {("full", 0.0): 3.2e-4, ("full", 0.05): 1e-3, ("lora", 0.0): 1e-2, ("lora", 0.05): 5e-3}

    def fake(point):
        right = point["lr"] == best.get((point["method"], point["replay"]))
        return {"new_validation": 0.9 if right else 0.8}

    rows = run(Plan(seeds=verdict.EXPERIMENT.seeds), fake)
    assert len(rows) == 47
    by_role = {role: [r for r in rows if r["role"] == role] for role in ("choose", "report")}
    assert {r["seed"] for r in by_role["choose"]} == {100, 101}
    assert {r["seed"] for r in by_role["report"]} == {0, 1, 2, 3, 4}
    assert {(r["method"], r["replay"]): r["lr"] for r in by_role["report"]} == best
    assert all(r["glances"] >= 15 for r in by_role["report"])
    assert {r["steps"] for r in run(Plan(steps=9), fake)} == {9}


def test_books_are_those_of_a_real_step(quick):
    held = verdict.books(quick)
    assert list(held) == ["full", "LoRA q,v r=8", "LoRA all seven r=8"]
    for r in held.values():
        assert r["bytes"]["weights"] == 4 * r["total_parameters"]
        assert r["bytes"]["gradients"] == 4 * r["trainable_parameters"]
        assert r["bytes"]["optimizer"] == 8 * r["trainable_parameters"]
        assert r["flops"]["total"] == sum(v for k, v in r["flops"].items() if k != "total")
    full, narrow, wide = held.values()
    assert narrow["bytes"]["activations"] < wide["bytes"]["activations"]
    assert narrow["bytes"]["activations"] < full["bytes"]["activations"]
    assert narrow["flops"]["forward"] > full["flops"]["forward"]
    assert narrow["flops"]["backward_weights"] < 0.1 * full["flops"]["backward_weights"]


def test_the_answer_weighs_what_is_won_against_full(quick):
    held = verdict.books(quick)
    share = held["LoRA q,v r=8"]["bytes"]["activations"] / held["full"]["bytes"]["activations"]
    said = verdict.answer(quick).split("\n")[0]
    assert "LoRA q,v r=8: trained numbers 2 %, bytes of gradients 2 %, of the optimizer 2 %" in said
    assert f"of activations {100 * share:.0f} %" in said
    assert "LoRA all seven r=8: trained numbers 10 %" in said


def test_the_answer_follows_the_rows():
    said = verdict.answer(all_arms(0.3, 0.2, 0.7, 0.71))
    assert "with ρ 0 %, sort-descending: full 30 % (28 to 32), LoRA q,v r=8 20 % (18 to" in said
    assert "20 % (18 to 22) (LoRA forgets more)" in said
    assert "with ρ 5 %, sort-descending: full 70 % (68 to 72), LoRA q,v r=8 71 % (69 to" in said
    assert "71 % (69 to 73) (no difference shown)" in said
    assert "bit for bit, in 10 of 10 runs" in said
    assert '"Mixing in 5–10 % of general data helps": confirmed' in said
    assert "Learnt (test, 5 seeds): full, ρ 0 %: 97 %" in said
    other = verdict.answer(all_arms(0.2, 0.3, 0.25, 0.35))
    assert "(LoRA forgets less)" in other and "forgets more" not in other
    assert '"Mixing in 5–10 % of general data helps": not here' in other


def test_an_adapter_that_changed_the_base_is_told():
    rows = all_arms(0.3, 0.2, 0.7, 0.7)
    rows[5]["off_is_base"] = False
    assert "NOT the base bit for bit, in 9 of 10 runs" in verdict.answer(rows)


def test_an_answer_without_rows_claims_nothing():
    said = verdict.answer([])
    assert said.count("not measured") >= 4
    assert "confirmed" not in said and "not here" not in said


def test_it_draws_every_arm_the_base_and_the_bars(quick, tmp_path, monkeypatch):
    drawn = {}
    save = verdict.plots.save
    monkeypatch.setattr(
        verdict.plots, "save", lambda fig, *rest: (drawn.update(fig=fig), save(fig, *rest))
    )
    books = [r for r in quick if r["role"] == "books"]
    verdict.draw(all_arms(0.3, 0.2, 0.7, 0.71) + books, tmp_path / "v.png")
    left, right = drawn["fig"].axes
    assert {t.get_text() for t in left.texts} == {
        "full, ρ 0 %", "full, ρ 5 %", "LoRA q,v, ρ 0 %", "LoRA q,v, ρ 5 %",
        "LoRA, adapter off = the base (test)",
    }  # fmt: skip
    assert len(right.patches) == 3 * 5
    assert [t.get_text() for t in right.get_yticklabels()] == [
        "full", "LoRA\nq,v r=8", "LoRA\nall seven r=8"
    ]  # fmt: skip
    alt = (tmp_path / "v.txt").read_text()
    assert "sort-descending, LoRA q,v r=8, ρ 5 %, lr 5e-3: 71 % (69 to 73)" in alt
    assert "activations" in alt


@pytest.mark.parametrize("kind", ["tunings only", "books only", "one diverged"])
def test_it_draws_whatever_there_is(kind, quick, tmp_path):
    rows = {
        "tunings only": [row(0.3)],
        "books only": [r for r in quick if r["role"] == "books"],
        "one diverged": [{**row(0.3, method="full"), "diverged": "step 1", "curve": []}],
    }[kind]
    verdict.draw(rows, tmp_path / "v.svg")
    assert (tmp_path / "v.svg").stat().st_size > 5_000
    assert verdict.answer(rows)


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(ConfigError, match="minilora experiment compare"):
        verdict.draw([], tmp_path / "v.png")
    assert not list(tmp_path.iterdir())


def test_it_is_found_by_its_name():
    found = experiment("compare")
    assert found is verdict.EXPERIMENT
    assert found.name == "compare" and found.question.endswith("?")
