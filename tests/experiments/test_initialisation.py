"""`initialisation`: which gradients are zero at first, what the start does to the base."""

import json

import numpy as np
import pytest

from minilora.errors import ConfigError
from minilora.evaluation import exact_match
from minilora.experiments import initialisation
from minilora.experiments.initialisation import ARMS, Setup, first_steps, prepared
from minilora.experiments.lab.experiment import Plan, experiment
from minilora.experiments.lab.tuning import tune


def run(plan, measure):
    """Rows of all points, as the runner makes them: through JSON."""
    rows, seen = [], []
    while new := [p for p in initialisation.points(rows, plan) if p not in seen]:
        seen += new
        rows += [json.loads(json.dumps({**p, **measure(p)}, allow_nan=False)) for p in new]
    return rows


def fake(point, **levels):
    """A result as the formulas have it; `levels`: accuracy by arm, else 0.9."""
    level = levels.get(point["arm"], 0.0 if point["arm"] == "both 0" else 0.9)
    new = level + (0.01 * point["seed"] if level and point["seed"] < 100 else 0)
    result = {"new": new, "new_validation": new if point["lr"] > 2e-3 else 0.1, "diverged": None}
    if point["role"] == "report":
        waits = initialisation.WAITS.get(point["arm"], {"A"})
        for part in "AB":
            still = point["arm"] == "both 0"
            norms = [0.0 if part in waits else 2.0] + (
                [0.0] if still else [1.0 + point["seed"]]
            ) * 20
            result |= {f"d{part}": norms, f"moved_{part}": 0.0 if still else 0.1}
        result["shift"] = {"both random": 17.0, "PiSSA": 3e-5}.get(point["arm"], 0.0)
    return result


@pytest.fixture
def rows():
    return run(Plan(), fake)


def seen_of(arm, steps=2, seed=0):
    point = initialisation._point(arm, "report", 5e-3, seed, steps)
    return first_steps(Setup.of(point), tuple(point["zero"]))


def test_it_can_be_found_by_its_name():
    assert experiment("initialisation") is initialisation.EXPERIMENT


@pytest.mark.parametrize(
    ("arm", "zero_at_first"),
    [
        (USUAL := "A random, B = 0", "A"),
        ("A = 0, B random", "B"),
        ("both random", ""),
        ("PiSSA", ""),
    ],
)
def test_beside_a_zero_the_first_gradient_is_exactly_zero_and_the_next_is_not(arm, zero_at_first):
    seen = seen_of(arm, steps=1)
    assert len(seen["dA"]) == len(seen["dB"]) == 2
    for part in "AB":
        assert (seen[f"d{part}"][0] == 0) == (part in zero_at_first)
        assert seen[f"d{part}"][1] > 1e-3
        # AdamW does not move what has no gradient.
        assert (seen[f"moved_{part}"] == 0) == (part in zero_at_first)


@pytest.mark.slow
def test_both_zero_never_move():
    seen = seen_of("both 0", steps=20)
    assert seen["dA"] == seen["dB"] == [0.0] * 21
    assert seen["moved_A"] == seen["moved_B"] == 0
    assert seen["shift"] == 0


@pytest.mark.slow
def test_only_a_product_of_two_random_ones_leaves_the_base():
    shifts = {arm: seen_of(arm, steps=1)["shift"] for arm in initialisation.WAITS}
    assert shifts.pop("both random") > 1
    assert 0 < shifts.pop("PiSSA") < initialisation.ROUNDING
    assert set(shifts.values()) == {0}


def test_each_arm_starts_as_its_name_says():
    for name, arm in ARMS.items():
        point = initialisation._point(name, "report", 1e-3, 0, 5)
        model = prepared(Setup.of(point), tuple(point["zero"]))
        layer = next(iter(model.layers().values()))
        zero = {x for x in "AB" if not getattr(layer, f"lora_{x}")["default"].weight.data.any()}
        expected = initialisation.WAITS.get(name, {"A"})
        assert zero == {{"A": "B", "B": "A"}[x] for x in expected}
        assert ("default" in layer.lora_residual) == (name == "PiSSA")
        scaling = model.peft_config["default"].scaling
        assert scaling == pytest.approx(16 / 8**0.5 if name == "rsLoRA" else 2)
        assert point["lr_ratio"] == arm.lr_ratio == (16 if name == "LoRA+" else 1)


@pytest.mark.slow
@pytest.mark.usefixtures("_few_questions")
def test_the_steps_looked_at_are_those_of_the_tuning(monkeypatch):
    """The same weights after them, to the bit: else the figure would show another run."""
    setup, kept = Setup(steps=3, lr=5e-3, glances=1), []
    monkeypatch.setattr(
        initialisation, "prepared", lambda *a: kept.append(prepared(*a)) or kept[-1]
    )
    first_steps(setup, ())
    _, tuned = tune(setup, model=prepared(setup, ()))
    ours, theirs = kept[0].adapter_weights(), tuned.adapter_weights()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert any(array.any() for name, array in theirs.items() if "lora_B" in name)


def test_a_norm_is_zero_only_if_every_number_is():
    assert initialisation._norm([np.zeros((2, 3), np.float32)] * 2) == 0
    tiny = np.array([[1e-40]], np.float32)
    assert initialisation._norm([tiny]) > 0
    assert initialisation._norm([np.full(2, 3.0), np.full(2, 4.0)]) == pytest.approx(50**0.5)
    assert initialisation._norm([np.array([np.inf], np.float32)]) is None


def test_points_are_seventy_at_most_and_every_arm_chooses_its_rate(rows):
    assert len(rows) == 6 * (4 * 2 + 3) + 3 <= 70
    assert {r["seed"] for r in rows if r["role"] == "choose"} == {100, 101}
    lrs = {r["arm"]: r["lr"] for r in rows if r["role"] == "report"}
    assert lrs[USUAL] == lrs["PiSSA"] == 5e-3
    assert lrs["LoRA+"] == 3e-3
    assert next(p["zero"] for p in rows if p["arm"] == "A = 0, B random") == ["A"]
    assert {p["steps"] for p in initialisation.points([], Plan(steps=9))} == {9}


def test_the_answer_says_what_the_rows_say(rows):
    said = initialisation.answer(rows)
    first = f"{USUAL}: at step one dA exactly 0, dB 2 (2 to 2), as the formulas say; the fresh"
    assert first in said
    assert "both random: at step one dA 2 (2 to 2), dB 2 (2 to 2), as the formulas say" in said
    assert "shifts logits by up to 17: it does not start from the base" in said
    assert "no number has moved after these steps, as the formulas say" in said
    assert "changes logits by rounding alone (at most 3e-05)" in said
    assert f"{USUAL}: 91 % (90 to 92) at the end." in said
    assert (
        "PiSSA: 91 % (90 to 92), against the usual: no difference shown; that it is better: not"
        in said
    )
    assert "both 0: 0 % (0 to 0), against the usual: suggests worse." in said
    assert "Never above 1 %: both 0." in said
    assert "edge" not in said
    least = [r for r in rows if r["role"] == "report" or r["lr"] >= 5e-3]
    assert "Best rate at the edge of those tried" in initialisation.answer(least)


def test_other_rows_give_other_verdicts():
    levels = {"PiSSA": 0.95, "LoRA+": 0.5, "both 0": 0.3}
    rows = run(Plan(), lambda p: fake(p, **levels))
    rows[-1]["diverged"] = "step 5: the loss is inf"
    for row in rows:
        if row["arm"] == USUAL and row["role"] == "report":
            row["dA"][0] = 1e-30
    said = initialisation.answer(rows)
    assert "that it is better: suggested" in said
    assert (
        "LoRA+: 51 % (50 to 52), against the usual: suggests worse; that it is better: not" in said
    )
    assert "dA 1e-30 (1e-30 to 1e-30), dB 2 (2 to 2), not as the formulas say" in said
    assert "Never" not in said
    assert f"Diverged, and counted as 0 %: {rows[-1]['arm']}, lr {rows[-1]['lr']:g}" in said
    five = run(Plan(seeds=range(5)), lambda p: fake(p, **levels))
    assert "that it is better: confirmed" in initialisation.answer(five)


def test_missing_rows_are_called_that(rows):
    assert initialisation.answer([]).count("not measured") == 5
    some = [r for r in rows if r["arm"] in (USUAL, "LoRA+")]
    said = initialisation.answer(some)
    assert said.count("not measured") == 4
    assert "LoRA+: 91 %" in said


@pytest.fixture
def drawn(kept_figures, tmp_path):
    """drawn(rows): the panels as they were drawn, the caption, and the text alternative."""

    def make(rows):
        initialisation.draw(rows, tmp_path / "figure.png")
        fig, caption = kept_figures[-1]["fig"], kept_figures[-1]["caption"]
        panels = {ax.get_title("left").split("\n")[0]: ax for ax in fig.axes if ax.get_visible()}
        return panels, caption, (tmp_path / "figure.txt").read_text()

    return make


def line_of(ax, label):
    return next(line for line in ax.lines if line.get_label() == label)


def test_the_figure_has_a_panel_a_start_with_rings_for_zeros(rows, drawn):
    panels, caption, alt = drawn(rows[::-1])  # in whatever order they were measured
    assert list(panels) == [*initialisation.WAITS, "after 150 steps"]
    usual = panels[USUAL]
    assert list(line_of(usual, "dA exactly 0").get_xdata()) == [0]
    assert line_of(usual, "dA exactly 0").get_markerfacecolor() == "none"
    assert list(line_of(usual, "dB exactly 0").get_xdata()) == []
    assert list(line_of(usual, "dB").get_ydata()) == pytest.approx([2.0] + [2.0] * 20)
    assert list(line_of(panels["both 0"], "dB exactly 0").get_xdata()) == list(range(21))
    assert usual.get_yscale() == "symlog"
    assert "the start shifts no logit" in usual.get_title("left")
    assert "≤ 17" in panels["both random"].get_title("left")
    assert "≤ 3e-05 (rounding)" in panels["PiSSA"].get_title("left")
    last = panels["after 150 steps"]
    assert [t.get_text() for t in last.get_yticklabels()] == list(ARMS)
    assert last.texts[0].get_text() == "91  (lr 0.005)"
    for words in ("sort-descending", "batch 64", "0, 1, 2", "minilora experiment initialisation"):
        assert words in caption
    assert "both 0: dA from 0 to 0, exactly 0 at 21 of 21 looks" in alt
    assert "LoRA+ 91 % (90 to 92)" in alt


def test_the_figure_survives_what_rows_may_lack(rows, drawn):
    one = [r for r in rows if r["seed"] == 0 and r["arm"] in ("both random", "LoRA+")]
    one[0].update(dA=[2.0, None], dB=[1.0, 3.0], new=None, diverged="step 2: …")
    panels, caption, alt = drawn(one)
    assert list(panels) == ["both random", "after 150 steps"]
    assert list(line_of(panels["both random"], "dA").get_xdata()) == [0]
    assert panels["after 150 steps"].texts[0].get_text().startswith("0  ")
    assert "lr as written" in caption
    assert "dA from 2 to not finite" in alt
    panels, _, _ = drawn([r for r in rows if r["arm"] == "rsLoRA"])
    assert list(panels) == ["after 150 steps"]
    still = [r for r in rows if r["arm"] == "both 0"]
    assert list(drawn(still)[0]) == ["both 0", "after 150 steps"]
    with pytest.raises(ConfigError, match="no reported rows"):
        drawn([r for r in rows if r["role"] == "choose"])


@pytest.fixture
def _few_questions(monkeypatch):
    """Every test of a model on fifty examples."""
    monkeypatch.setattr(
        "minilora.experiments.lab.tuning.exact_match", lambda m, asked: exact_match(m, asked[:50])
    )


@pytest.mark.slow
@pytest.mark.usefixtures("_few_questions")
def test_a_quick_run_goes_from_points_to_figure_and_answer(drawn):
    rows = run(Plan(seeds=(0,), quick=True), initialisation.measure)
    assert [(r["role"], r["arm"]) for r in rows] == [
        ("choose", USUAL),
        ("choose", USUAL),
        ("report", "PiSSA"),
        ("report", USUAL),
    ]
    assert list(drawn(rows)[0]) == [USUAL, "PiSSA", "after 3 steps"]
    said = initialisation.answer(rows)
    assert said.count(", as the formulas say") == 2
    assert "rounding alone" in said
