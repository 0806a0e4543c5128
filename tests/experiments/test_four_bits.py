"""`four_bits`: numbers that must come out, a quick run, and rows of all kinds."""

import json

import numpy as np
import pytest

from minilora.errors import ConfigError
from minilora.experiments.four_bits import EXPERIMENT, answering, figure, measure, points, reading
from minilora.experiments.four_bits.measuring import merged_at, normal, rounding_error
from minilora.experiments.lab.experiment import Plan
from minilora.experiments.lab.stats import where


def as_row(point, **changed):
    return json.loads(json.dumps({**point, **measure(point), **changed}))


@pytest.fixture(scope="module")
def quick():
    return [as_row(p) for p in points([], Plan(quick=True))]


@pytest.fixture(scope="module")
def gaussian():
    return [normal(2**18)]


def test_it_runs_from_end_to_end(quick, tmp_path):
    figure.draw(quick, tmp_path / "quick.png")
    assert "not measured" not in (tmp_path / "quick.txt").read_text(encoding="utf-8")
    said = answering.answer(quick)
    assert '"merging back into four bits keeps the adapter", ΔW of up to 3% of W: not here' in said
    assert "0.373 bits saved" in said and said.endswith("Diverged: none.")


def test_what_a_tuning_keeps_in_each_way_is_of_one_and_the_same_adapter(quick):
    lora, qlora = where(quick, role="tune")
    assert list(lora["merged"]) == ["base", "apart", "float32", "bfloat16"]
    assert list(qlora["merged"]) == ["base", "apart", "float32", "bfloat16", "nf4"]
    for r in (lora, qlora):
        ways = r["merged"]
        assert ways["apart"]["new"] == r["new"]
        assert ways["float32"]["nll"] == pytest.approx(ways["apart"]["nll"], rel=1e-5)
        assert ways["apart"]["nll"] < ways["base"]["nll"] - 0.1
    assert len(qlora["arrives"]) == 8 and lora["arrives"] == []


def test_a_step_holds_fewer_weights_and_else_the_same(quick):
    (r,) = where(quick, role="step")
    lora, qlora = r["bytes"]["lora"], r["bytes"]["qlora"]
    assert qlora["weights"] < lora["weights"] / 6
    for kind in ("gradients", "optimizer", "activations"):
        assert qlora[kind] == lora[kind]


@pytest.mark.parametrize(("data_type", "mae"), [("nf4", 0.0728), ("fp4", 0.0965), ("int4", 0.0917)])
def test_the_mean_error_on_normal_numbers(gaussian, data_type, mae):
    assert rounding_error(gaussian, data_type, 64, False)["mae"] == pytest.approx(mae, abs=0.001)


def test_no_format_wins_by_both_measures(gaussian):
    nf4, minmax = (rounding_error(gaussian, f, 64, False) for f in ("nf4", "int4-minmax"))
    assert nf4["snr"] == pytest.approx(20.7, abs=0.05)
    assert minmax["snr"] == pytest.approx(20.9, abs=0.05)
    assert nf4["mae"] < minmax["mae"] and (nf4["bits"], minmax["bits"]) == (4.5, 5.0)


def test_a_relative_error_has_no_unit(gaussian):
    once, twice = (rounding_error(a, "nf4", 64, False) for a in (gaussian, [4 * gaussian[0]]))
    assert twice["relative"] == pytest.approx(once["relative"], rel=1e-6)
    assert twice["mae"] == pytest.approx(4 * once["mae"], rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_small_change_moves_no_code_and_a_tenth_moves_a_fifth(seed):
    one, three, tenth, whole = merged_at("nf4", [0.01, 0.03, 0.1, 1.0], seed)
    assert one["moved"] == 0 and one["survives"] < 0.05
    assert three["moved"] < 0.005 and three["survives"] < 0.1
    assert tenth["moved"] == pytest.approx(0.21, abs=0.03)
    assert whole["moved"] > 0.8 and whole["survives"] == pytest.approx(1, abs=0.02)
    assert three["relative"] == pytest.approx(0.03, rel=1e-3)


def test_the_grid_has_every_kind_of_point_once_and_is_small_enough():
    grid = points([], Plan(seeds=EXPERIMENT.seeds))
    assert len(grid) <= 60 and all(grid.count(p) == 1 for p in grid)
    assert {p["role"] for p in grid} == {"error", "base", "step", "merge", "tune", "small"}
    assert len(where(grid, role="tune", seed=2)) == 5
    assert all(p["steps"] == 7 for p in points([], Plan(steps=7)) if "steps" in p)


def made_up(arm="QLoRA nf4", seed=0, new=0.9, *, role="tune", kept=0.8, size=0.5, lr=5e-3, **more):
    data_type = arm.removeprefix("QLoRA ") if arm != "LoRA" else None
    left = 8 - 7 * kept
    ways = {"base": (0.0, 8.0), "apart": (new, 1.0), "float32": (new, 1.0), "bfloat16": (new, 1.0)}
    if data_type:
        ways[data_type] = (new - 0.1, left)
        more["quantize"] = data_type
    merged = {way: {"new": right, "nll": nll} for way, (right, nll) in ways.items()}
    arrives = [{"relative": size, "moved": 0.5, "survives": 0.9, "astray": 0.1}]
    settings = {"task": "sort-descending", "steps": 150, "batch_size": 64, "lr": lr}
    return {"role": role, "arm": arm, "seed": seed, "new": new, "merged": merged, **settings,
            "arrives": arrives if data_type else [], "diverged": None} | more  # fmt: skip


def test_gains_are_what_is_left_of_a_likelihood():
    rows = [
        made_up(kept=0.8),
        made_up("LoRA"),
        made_up(kept=0.25, role="small", lr=1e-4, size=0.02),
    ]
    rows += [made_up("QLoRA int8", kept=0.1)]  # another format is not drawn among those of nf4
    found = reading.gains(rows)
    assert list(found) == [1e-4, 5e-3]
    assert found[1e-4] == [(0.02, pytest.approx(0.25))]
    said = answering.trained(rows)
    assert "of one of 2% of W (lr 0.0001) 25 % is left" in said
    assert "QLoRA nf4 apart 90 %, into 32 bits 90 %, into 16 90 %, back 80 %" in said


@pytest.mark.parametrize(
    ("other", "verdict"), [(0.5, "suggests worse"), (0.91, "no difference shown")]
)
def test_verdicts_on_formats_follow_the_seeds(other, verdict):
    rows = [made_up("LoRA", s, 0.9 + s / 100) for s in range(3)]
    rows += [made_up("QLoRA nf4", s, other + s / 100) for s in range(3)]
    assert f"({verdict})" in answering.learnt(rows)


@pytest.mark.parametrize(
    ("survives", "verdict"), [(0.02, "not here"), (0.95, "confirmed"), ((0.02, 0.95), "partly")]
)
def test_the_verdict_on_merging_follows_the_rows(survives, verdict):
    low, high = survives if isinstance(survives, tuple) else (survives, survives)
    each = {"relative": 0, "moved": 0.0, "astray": 0.1}
    merges = [{"size": 0.01, "survives": low, **each}, {"size": 0.03, "survives": high, **each}]
    rows = [{"role": "merge", "data_type": "nf4", "seed": 0, "merges": merges}]
    assert f"of W: {verdict}: nf4" in answering.small_merges(rows)


@pytest.mark.parametrize(("times", "verdict"), [(1.2, "not here"), (0.8, "confirmed")])
def test_the_verdict_on_time_follows_the_row(times, verdict):
    held = {"weights": 100, "peak": 200}
    row = {"role": "step", "times_lora": times, "bytes": {"lora": held, "qlora": held}}
    assert f'so a faster step": {verdict}: a step takes {times:.2f} times' in answering.costs([row])


def test_what_there_is_is_drawn(quick, tmp_path):
    path = tmp_path / "f.png"
    lost = made_up(seed=1, new=0.0) | {"diverged": "the loss is nan", "merged": None,
                                       "arrives": None}  # fmt: skip
    for rows, there in (
        ([made_up("LoRA"), lost], "LoRA: 90 %; none"),
        (where(quick, role="merge"), "nf4, share of ΔW in a Gaussian matrix: 1% 1"),
        (where(quick, role="error", source="skills"), "  nf4: 4.500 bits"),
    ):
        figure.draw(rows, path)
        said = path.with_suffix(".txt").read_text(encoding="utf-8")
        assert there in said and "not measured" in said
    assert "Diverged: QLoRA nf4 lr 0.005 seed 1." in answering.answer([lost])
    for draw in (figure.draw, figure.draw_errors, figure.draw_merges):
        with pytest.raises(ConfigError, match="minilora experiment four_bits"):
            draw([], path)
    assert answering.answer([]).count("not measured") == 8


def test_a_panel_has_a_line_for_each_format_and_constants_in_8_bits_open(tmp_path):
    from minilora import plots

    rows = [
        as_row({"role": "error", "source": "normal", "data_type": f, "numbers": 4096,
                "block_sizes": [64, 256]})
        for f in ("nf4", "int4", "int8")
    ]  # fmt: skip
    with plots.figure(1) as (fig, ax):
        figure._errors(ax, rows, "normal")
        faces = [line.get_markerfacecolor() for line in ax.lines]
        assert faces == [plots.INK, "white"] * 2  # int8 has a code of eight bits: not here
        assert np.allclose(ax.lines[1].get_xdata(), [8 / 64 + 32 / 2**14, 8 / 256 + 32 / 2**16])
        assert [t.get_text() for t in ax.texts] == ["int4", "nf4"]
        fig.canvas.draw()
