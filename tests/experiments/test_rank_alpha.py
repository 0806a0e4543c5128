import dataclasses
import math
import random

import numpy as np
import pytest

from minilora.autograd import Parameter, Tensor, backward
from minilora.errors import ConfigError
from minilora.experiments.lab import tuning
from minilora.experiments.lab.experiment import Plan
from minilora.experiments.lab.stats import where
from minilora.experiments.rank_alpha import EXPERIMENT, figure, measure, memory, points
from minilora.experiments.rank_alpha import rows as which
from minilora.experiments.rank_alpha.first_step import first_step_change, first_steps
from minilora.ops import lora_linear


def drive(measuring, plan):
    """All rows, round by round; each point once."""
    rows, seen = [], []
    while new := [p for p in points(rows, plan) if p not in seen]:
        assert all(new.count(p) == 1 for p in new)
        seen += new
        rows += [{**p, **measuring(p)} for p in new]
    return rows


def made_up(point, *, widening=True):
    """What a point might give: a hump over α/r·lr, capacity by rank, a gap that grows with it."""
    noise = random.Random(repr(sorted(point.items()))).random()
    if point["arm"] == which.FIRST_STEP:
        return measure(point)
    if point["arm"] == which.MEMORY:
        bits = point["facts"] * memory.ANSWER * memory.LETTER_BITS
        stored = min(bits, 300 * point["rank"] * (1 if point["lr"] == 5e-3 else 0.5) + noise)
        return {
            "information_bits": bits,
            "stored_bits": stored,
            "share": stored / bits,
            "bits_per_parameter": stored / (2048 * point["rank"]),
            "exact": 0.0,
            "diverged": None,
        }
    s = point["alpha"] / point["rank"] ** (1 if point["scaling"] == "r" else 0.5)
    loud = s * math.sqrt(point["rank"]) * point["lr"]
    new = math.exp(-(math.log10(loud / 0.02) ** 2)) * (0.98 + 0.02 * noise)
    lost = loud > 0.5
    result = {
        "new": 0.0 if lost else new,
        "likelihood_validation": 0.0 if lost else new,
        "diverged": "step 3: the loss is nan; lower the learning rate" if lost else None,
    }
    if point["arm"] == which.FEW:
        lower = 0.05 * math.log2(point["rank"]) if widening else 0
        result |= {"train": 1.0, "new": 0.6 - lower + 0.01 * noise}
    return result


@pytest.fixture(scope="module")
def rows():
    return drive(made_up, Plan())


def test_the_default_grid_is_within_its_budget_and_asks_for_no_run_twice(rows):
    assert len(rows) <= 260
    tuned = [{k: v for k, v in r.items() if k in tuning.Setup().point()} for r in rows if "lr" in r]
    assert all(tuned.count(t) == 1 for t in tuned)
    assert not where(rows, arm=which.R_LR, rank=1, scaling="sqrt_r")
    assert len(where(rows, arm=which.R_LR)) == (4 + 3) * 5 * 3


def test_shared_points_are_seen_by_every_question_they_speak_to(rows):
    assert {r["rank"] for r in which.scaled(rows, "sqrt_r")} == {1, 4, 16, 64}
    ring = {(r["rank"], r["alpha"]) for r in which.rank_by_alpha(rows)}
    assert ring == {(r, a) for r in (1, 4, 8, 16, 64) for a in (4, 16, 64)}


def test_few_examples_are_tuned_at_the_best_rate_of_their_rank(rows):
    for r in (1, 4, 16, 64):
        grid = where(rows, arm=which.R_LR, rank=r, scaling="r")
        means = {}
        for row in grid:
            means.setdefault(row["lr"], []).append(row["likelihood_validation"])
        best = max(means, key=lambda lr: sum(means[lr]))
        assert {row["lr"] for row in where(rows, arm=which.FEW, rank=r)} == {best}


def test_seeds_added_later_add_points_and_move_none(rows):
    more = points(rows, Plan(seeds=range(5)))
    assert all(p in more for p in points(rows, Plan()))
    assert {p["seed"] for p in more if p["arm"] == which.FEW} == set(range(5))


def test_memory_is_reported_at_the_rate_that_stored_more_with_another_seed(rows):
    reported = where(rows, arm=which.MEMORY, role="report", rank=1)
    assert {r["lr"] for r in reported} == {5e-3}
    assert {r["seed"] for r in reported} == {0, 1, 2}
    assert {r["seed"] for r in where(rows, arm=which.MEMORY, role="choose")} == {100}


def test_first_step_change_is_that_of_a_real_lora_layer():
    rng = np.random.default_rng(1)
    x, W, g = rng.normal(size=(9, 6)), rng.normal(size=(5, 6)), rng.normal(size=(9, 5))
    A, B, s, lr = rng.normal(size=(3, 6)), Parameter(np.zeros((5, 3))), 0.7, 1e-3
    h = lora_linear(Tensor(x), Tensor(W), Tensor(A), B, scaling=s)
    G = backward((h * Tensor(g)).sum())[B]
    for optimizer, step in (("sgd", G), ("adam", np.sign(G))):
        B.data = -lr * step
        moved = lora_linear(Tensor(x), Tensor(W), Tensor(A), B, scaling=s).data - h.data
        expected = -(moved * g).sum() / np.linalg.norm(g)
        assert first_step_change(x, g, A, s, optimizer, lr) == pytest.approx(expected, rel=1e-12)
        assert expected > 0
    with pytest.raises(ConfigError, match="adam"):
        first_step_change(x, g, A, s, "lion")


def test_adam_is_level_under_alpha_over_r_and_sgd_under_its_root():
    found = first_steps([1, 4, 16, 64])
    expected = {
        "adam, α/r": [1, 0.96, 0.96, 0.96],
        "adam, α/√r": [1, 1.9, 3.9, 7.7],
        "sgd, α/r": [1, 0.23, 0.06, 0.015],
        "sgd, α/√r": [1, 0.95, 0.95, 0.95],
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=0.1), name


def test_stored_bits_are_none_of_an_even_guess_and_all_of_a_certain_answer():
    letters = memory.ANSWER * math.log(12) / (memory.ANSWER + 1)
    assert memory.stored_bits(10, letters) == pytest.approx(0, abs=1e-9)
    assert memory.stored_bits(10, 0) == pytest.approx(10 * 4 * math.log2(12))
    assert memory.stored_bits(10, letters / 2) == pytest.approx(5 * 4 * math.log2(12))
    assert memory.stored_bits(10, 2 * letters) == 0


def test_facts_have_distinct_keys_and_answers_by_seed():
    one, other = memory.facts(144, 0), memory.facts(144, 1)
    assert len({tuple(e.ids[:2]) for e in one}) == 144
    assert {e.n_targets for e in one} == {memory.ANSWER + 1}
    assert one == memory.facts(144, 0) != other
    with pytest.raises(ConfigError, match="145"):
        memory.facts(145, 0)


def test_an_adapter_learns_facts_by_heart():
    point = where(points([], Plan()), arm=which.MEMORY, facts=16, rank=4, lr=5e-3)[0]
    result = measure({**point, "facts": 4, "steps": 60, "rank": 8, "alpha": 16})
    assert result["information_bits"] == pytest.approx(16 * math.log2(12))
    assert result["share"] > 0.8
    assert result["bits_per_parameter"] * result["trainable_parameters"] == pytest.approx(
        result["stored_bits"]
    )


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

    for module in ("lab.tuning", "lab.learning_rates", "rank_alpha"):
        monkeypatch.setattr(f"minilora.experiments.{module}.task_of", small)


@pytest.mark.slow
def test_quick_run_end_to_end(small_task, tmp_path):
    found = drive(measure, Plan(quick=True))
    assert {r["arm"] for r in found} == {
        which.R_LR, which.ALPHA_LR, which.R_ALPHA, which.FEW, which.MEMORY, which.FIRST_STEP
    }  # fmt: skip
    assert {r["seed"] for r in found if r.get("role") == "report" and "seed" in r} == {0}
    assert max(r["steps"] for r in found if "steps" in r) <= 6
    assert all(0 < r["likelihood_validation"] <= 1 for r in where(found, arm=which.R_LR))
    assert all(0 <= r["train"] <= 1 for r in where(found, arm=which.FEW))
    EXPERIMENT.draw(found, tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 10_000
    assert "not measured" in EXPERIMENT.answer(found)


def lines(text):
    return dict(zip(("capacity", "overfits", "alpha", "lr", "knob", "root", "first", "lost"),
                    text.split("\n"), strict=True))  # fmt: skip


def test_answer_says_what_the_rows_say(rows):
    said = lines(EXPERIMENT.answer(rows))
    assert '"r is capacity": confirmed' in said["capacity"]
    assert "of 16 facts (229 bits) r = 1 stores 229 bits" in said["capacity"]
    assert "r = 8 is enough for 95 %" in said["capacity"]
    assert "confirmed" in said["overfits"] and "at r = 64" in said["overfits"]
    assert "not here" in said["lr"].split(".")[0]  # the made-up best moves by 1/√r under α/r
    assert "confirmed" in said["lr"].split("α/√r: ")[1]
    assert "confirmed" in said["knob"] and "differs by 0 points" in said["knob"]
    assert "suggests" in said["root"] or "not here" in said["root"]
    assert "adam, α/r and sgd, α/√r" in said["first"]
    lost = where([r for r in rows if r.get("diverged")], arm=which.R_LR, rank=1, lr=5e-2)
    assert f"r = 1 α = 16 α/r lr 0.05 ({len(lost)}×)" in said["lost"]


def test_verdicts_turn_with_the_rows(rows):
    flat = [
        {**r, "stored_bits": 100.0, "share": 0.1 + 0.001 * r["seed"]}
        if r["arm"] == which.MEMORY
        else r
        for r in rows
    ]
    assert '"r is capacity": not here' in EXPERIMENT.answer(flat)
    level = drive(lambda p: made_up(p, widening=False), Plan())
    assert '"a high r overfits": not here' in EXPERIMENT.answer(level)
    loud = [{**r, "new": min(1, r["lr"] * 10)} if "new" in r else r for r in rows]
    assert 'one knob, α·lr": not here' in EXPERIMENT.answer(loud)


def test_with_too_few_seeds_nothing_is_confirmed():
    said = lines(EXPERIMENT.answer(drive(made_up, Plan(seeds=[0]))))
    assert "undecided" in said["capacity"] and "undecided" in said["overfits"]
    assert "undecided" in said["alpha"]
    assert "suggests" in said["knob"]
    assert "confirmed" not in said["lr"]


@pytest.fixture
def drawn(drawn_by):
    """drawn(rows): a figure as matplotlib has it, its caption and its words."""
    return drawn_by(figure.draw)


def test_figure_has_every_cell_line_and_ring(rows, drawn):
    kept = drawn(rows)
    left, right, alpha, knob, capacity, gaps = kept["fig"].axes
    assert [t.get_text() for t in left.get_yticklabels()] == ["1", "4", "16", "64"]
    assert len(left.texts) == 2 * 4 * 5 and len(alpha.texts) == 2 * 5 * 3
    assert len(left.patches) == len(right.patches) == 4
    columns = [round(p.get_x() + 0.47) for p in right.patches]
    assert len(set(columns)) == 1  # the made-up best is the same for every rank under α/√r
    for ax, labels in (
        (knob, ["α = 4", "α = 16", "α = 64"]),
        (capacity, ["16 facts, 229 bits", "128 facts, 1,836 bits", "sort-descending, right"]),
        (gaps, ["32 examples", "128 examples"]),
    ):
        assert [t.get_text() for t in ax.get_legend().get_texts()] == labels
        box = ax.get_legend().get_window_extent()
        assert all(
            not box.contains(*ax.transData.transform(point))
            for line in ax.lines
            for point in line.get_xydata()
        )
    assert "minilora experiment rank_alpha" in kept["caption"]
    assert "150 steps of 64, seeds 0, 1, 2" in kept["caption"]
    lr = where(rows, arm=which.FEW, rank=64)[0]["lr"]
    assert f"{lr:g} at r = 64" in kept["caption"]
    assert "0.05" in kept["alt"] and "points" in kept["alt"]


@pytest.mark.slow
def test_figure_and_answer_survive_what_is_missing(rows, drawn, tmp_path):
    cases = {
        "one rank": where(rows, arm=which.R_LR, rank=4),
        "one seed": where(rows, seed=0),
        "memory alone": where(rows, arm=which.MEMORY),
        "no accuracy": [
            {**r, "new": None, "likelihood_validation": None, "train": None} for r in rows
        ],
        "all diverged": [
            {**r, "new": 0.0, "likelihood_validation": 0.0, "diverged": "step 1"}
            for r in where(rows, arm=which.R_LR)
        ],
    }
    for name, some in cases.items():
        kept = drawn(some)
        assert len(kept["fig"].axes) == 6, name
        assert "nan" not in (EXPERIMENT.answer(some) + kept["alt"]).replace("is nan", ""), name
    kept = drawn(cases["memory alone"])
    texts = [t.get_text() for ax in kept["fig"].axes for t in ax.texts]
    assert texts.count("not measured") == 5
    for nothing in ([], where(rows, arm=which.FIRST_STEP)):
        with pytest.raises(ConfigError, match="minilora experiment rank_alpha"):
            figure.draw(nothing, tmp_path / "f.png")
    assert EXPERIMENT.answer([]).count("not measured") == 7
