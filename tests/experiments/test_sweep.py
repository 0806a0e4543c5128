"""Sweeps: which points a grid has, what is refused, and what is drawn and said of the rows."""

import math
import random
import re

import pytest

from minilora import plots
from minilora.errors import ConfigError
from minilora.experiments import sweep as module
from minilora.experiments import sweep_figure
from minilora.experiments.lab.experiment import Plan
from minilora.experiments.lab.rows import append, make_row, read_rows
from minilora.experiments.sweep import (
    EXPERIMENT,
    Grid,
    answer,
    groups,
    ranked,
    sweep,
    table,
    wilson,
)

QV = ("q_proj", "v_proj")


def result_of(setup, **more):
    """A result that grows with rank, alpha and lr, and depends a little on the seed."""
    level = 0.8 if setup.method == "full" else 0.1 * math.log2(setup.rank * setup.alpha)
    level += 20 * setup.lr + random.Random(setup.seed).uniform(0, 0.05)
    level = min(1.0, max(0.0, level))
    return {
        "new": level, "old": 1 - level / 2, "new_validation": level, "old_validation": 0.5,
        "trainable_parameters": 2048 * setup.rank if setup.method == "lora" else 795_520,
        "losses": [], "curve": [], "diverged": None, "test_questions": 500, **more,
    }  # fmt: skip


def rows_of(grid, **more):
    about = {"command": "minilora sweep --some", "seconds": 1.0, "versions": {}, "machine": {},
             "finished": ""}  # fmt: skip
    plan = Plan(grid.seeds, grid.steps)
    return [
        make_row(EXPERIMENT, plan, s.point(), result_of(s, **more), **about) for s in grid.setups()
    ]


@pytest.fixture
def instantly(monkeypatch):
    """Nothing is tuned; a list of the points that were to be."""
    measured = []

    def measure(point):
        measured.append(point)
        return result_of(module.Setup.of(point))

    from dataclasses import replace

    monkeypatch.setattr(module, "EXPERIMENT", replace(EXPERIMENT, measure=measure))
    return measured


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """drawn(rows): the figure, its caption and its alternative in words, as they are saved."""
    kept = []
    save = plots.save

    def keep(fig, path, caption="", alt=""):
        kept.append((fig, caption, alt))
        save(fig, path, caption, alt)

    monkeypatch.setattr(plots, "save", keep)

    def draw(rows):
        sweep_figure.draw(rows, tmp_path / "sweep.png")
        assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
        return kept[-1]

    return draw


def titles(fig):
    return [ax.get_title(loc="left") for ax in fig.axes if ax.axison]


class TestGrid:
    def test_every_combination_once(self):
        grid = Grid(
            ranks=(1, 2), alphas=(4, 8), lrs=(1e-3, 2e-3), target_modules=(QV, "all-linear"),
            scalings=("r", "sqrt_r"), tasks=("mirror", "cipher"), seeds=(0, 1, 2),
        )  # fmt: skip
        points = [s.point() for s in grid.setups()]
        assert len(points) == 2**6 * 3
        assert len({str(point) for point in points}) == len(points)

    def test_an_axis_that_is_not_given_has_one_value(self):
        (setup,) = Grid().setups()
        assert (setup.method, setup.task, setup.rank, setup.alpha) == (
            "lora", "sort-descending", 8, 16,
        )  # fmt: skip
        assert (setup.lr, setup.seed, setup.target_modules) == (5e-3, 0, QV)
        assert [s.alpha for s in Grid(ranks=(1, 4)).setups()] == [2, 8]

    def test_full_is_not_multiplied_by_the_axes_of_lora(self):
        grid = Grid(methods=("full", "lora"), ranks=(1, 2, 4), alphas=(4, 8), seeds=(0, 1))
        setups = list(grid.setups())
        assert [s.method for s in setups].count("full") == 2
        assert [s.method for s in setups].count("lora") == 12
        assert {s.lr for s in setups if s.method == "full"} == {1e-3}
        assert "rank" not in setups[0].point()

    @pytest.mark.parametrize(
        ("axes", "said"),
        [
            ({"ranks": ()}, "ranks = .* at least one value"),
            ({"seeds": []}, "seeds = .* at least one value"),
            ({"tasks": "mirror"}, "tasks = 'mirror' .* in a list"),
            ({"ranks": (8, 129)}, "rank 129 is above min.* = 128"),
            ({"ranks": (0,)}, "rank r = 0"),
            ({"alphas": (-1,)}, "lora_alpha = -1"),
            ({"lrs": (0,)}, "learning rate 0"),
            ({"lrs": (float("nan"),)}, "learning rate nan"),
            ({"tasks": ("fly",)}, "no task 'fly'"),
            ({"tasks": ("orders",)}, "no task 'orders'"),
            ({"target_modules": (("x_proj",),)}, "target 'x_proj' matches no matrix"),
            ({"methods": ("qlora",)}, "method 'qlora' must be one of full, lora"),
            ({"scalings": ("2",)}, "scaling '2' must be one of r, sqrt_r"),
            ({"steps": 0}, "steps 0"),
            ({"batch_size": 1.5}, "batch_size 1.5"),
        ],
    )
    def test_what_there_is_not(self, axes, said):
        with pytest.raises(ConfigError, match=said):
            Grid(**axes)


class TestSweep:
    def test_rows_are_returned_and_in_the_one_file(self, instantly, tmp_path):
        rows = sweep(Grid(ranks=(1, 2)), tmp_path / "out", jobs=1, progress=False)
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["sweep.jsonl"]
        assert rows == read_rows(tmp_path / "out/sweep.jsonl", EXPERIMENT)
        assert [row["rank"] for row in rows] == [1, 2]
        assert all(row["plan"]["steps"] == 150 for row in rows)

    def test_a_grid_is_extended(self, instantly, tmp_path):
        first = sweep(Grid(ranks=(1, 2)), tmp_path, jobs=1, progress=False)
        rows = sweep(Grid(ranks=(2, 4), alphas=(4.0,)), tmp_path, jobs=1, progress=False)
        assert rows[:2] == first and len(rows) == 3  # rank 2 with alpha 4 was there
        assert [p["rank"] for p in instantly] == [1, 2, 4]

    @pytest.mark.parametrize(
        ("other", "said"), [({"steps": 5}, "steps is 150"), ({"batch_size": 8}, "batch size 64")]
    )
    def test_rows_that_are_no_rivals(self, instantly, tmp_path, other, said):
        sweep(Grid(), tmp_path, jobs=1, progress=False)
        with pytest.raises(ConfigError, match=said):
            sweep(Grid(ranks=(1,), **other), tmp_path, jobs=1, progress=False)
        assert len(instantly) == 1


class TestWords:
    def test_wilson(self):
        """The example of 8 in 10, worked out by hand; ends that are no shares are cut."""
        low, high = wilson(0.8, 10)
        assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
        assert wilson(0, 10)[0] == 0 and wilson(1, 10)[1] == 1
        assert wilson(0, 10)[1] > 0.2
        narrow, wide = wilson(0.5, 1000), wilson(0.5, 10)
        assert narrow[1] - narrow[0] < wide[1] - wide[0]

    def test_only_seeds_are_put_together(self):
        rows = rows_of(Grid(ranks=(1, 2), lrs=(1e-3, 2e-3), seeds=(0, 1, 2)))
        found = groups(rows)
        assert [len(g.rows) for g in found] == [3] * 4
        other = rows_of(Grid(ranks=(1,), lrs=(1e-3,), steps=5))
        assert len(groups(rows + other)) == 5

    def test_the_best_is_chosen_by_validation_and_told_by_the_test(self):
        good, chosen = rows_of(Grid(ranks=(1, 2)))
        good |= {"new": 0.9, "new_validation": 0.1}
        chosen |= {"new": 0.6, "new_validation": 0.2, "old": 0.25}
        assert ranked([good, chosen])[0].setup.rank == 2
        text = answer([good, chosen])
        assert "best on validation is LoRA r=2 α=4 q_proj+v_proj, lr 0.005" in text
        assert "60 % over 1 seed; of 500 questions, so 95 % sure between 56 and 64 %" in text
        assert "Of the old skills is left: 25 %." in text
        assert table([good, chosen]).splitlines()[1].split()[0] == "60"

    def test_of_equal_ones_the_smaller(self):
        rows = [row | {"new_validation": 0.5} for row in rows_of(Grid(ranks=(4, 1, 2)))]
        assert [g.setup.rank for g in ranked(rows)] == [1, 2, 4]

    def test_seeds_have_a_range_and_runs_that_diverged_are_told(self):
        rows = rows_of(Grid(ranks=(1, 4), seeds=(0, 1)))
        rows[0] |= {"diverged": "the loss is nan", "new": 0.0, "new_validation": 0.0}
        text = answer(rows)
        mean, low, high = (f"{100 * v:.0f}" for v in module.spread(r["new"] for r in rows[2:]))
        assert f"{mean} % ({low} to {high}) over 2 seeds" in text
        assert "Diverged, and counted as 0: LoRA r=1 α=2 q_proj+v_proj, lr 0.005." in text

    def test_nothing(self):
        assert answer([]) == "Nothing measured yet."


class TestFigure:
    def test_all_panels(self, drawn):
        grid = Grid(
            methods=("full", "lora"), ranks=(1, 2, 4), alphas=(4, 8), lrs=(1e-3, 5e-3),
            target_modules=(QV, "all-linear"), seeds=(0, 1),
        )  # fmt: skip
        rows = rows_of(grid)
        fig, caption, alt = drawn(rows)
        assert titles(fig) == [
            "New task right, %: rank and α", "New task right, %: rank and lr",
            "Accuracy against rank, spread over seeds", "The best 8 of 26",
        ]  # fmt: skip
        heat, by_lr, lines, best = fig.axes[:4]
        for ax in (heat, by_lr):
            assert len(ax.patches) == 1  # the best is framed
        assert (heat.get_xlabel(), heat.get_ylabel()) == ("α", "rank r")
        assert [t.get_text() for t in heat.get_xticklabels()] == ["4", "8"]
        assert [t.get_text() for t in lines.get_xticklabels()] == ["1", "2", "4"]
        names = [t.get_text() for t in lines.get_legend().get_texts()]
        assert names[:2] == ["all-linear", "q_proj+v_proj"] and names[2].startswith("full, ")
        assert len(best.texts) == 8
        assert "150 steps of 64, seeds 0, 1" in caption
        assert "minilora sweep --some" in caption
        assert "of 500 questions" in caption
        assert alt.count("\n  ") == 26

    def test_a_cell_shows_its_best_by_validation(self, drawn):
        """Two learning rates share the cell of rank and alpha; the chosen one's test is shown."""
        rows = rows_of(Grid(ranks=(1, 2), alphas=(4, 8), lrs=(1e-3, 5e-3)))
        for row in rows:
            slow = row["lr"] == 1e-3
            row |= {"new": 0.37 if slow else 0.88, "new_validation": 0.9 if slow else 0.1}
        fig, _, _ = drawn(rows)
        assert {t.get_text() for t in fig.axes[0].texts} == {"37"}

    @pytest.mark.parametrize(
        ("axes", "expected"),
        [
            ({}, ["The one setting"]),
            ({"methods": ("full",), "lrs": (1e-3, 2e-3)}, ["The best 2"]),
            ({"ranks": (1, 2)}, ["Accuracy against rank, spread over seeds", "The best 2"]),
            ({"alphas": (4, 8)}, ["New task right, %: rank and α", "The best 2"]),
            ({"lrs": (1e-3, 2e-3)}, ["New task right, %: rank and lr", "The best 2"]),
        ],
    )
    def test_only_the_panels_that_the_axes_allow(self, drawn, axes, expected):
        fig, _, _ = drawn(rows_of(Grid(**axes)))
        assert titles(fig) == expected

    def test_a_line_of_panels_for_each_task(self, drawn):
        fig, caption, alt = drawn(rows_of(Grid(tasks=("mirror", "cipher"), ranks=(1, 2))))
        assert [t.split(":")[0] for t in titles(fig)] == ["mirror"] * 2 + ["cipher"] * 2
        assert "best (mirror)" in caption and "best (cipher)" in caption
        assert "cipher: best is" in alt

    def test_holes_and_runs_without_result(self, drawn):
        rows = rows_of(Grid(ranks=(1, 2, 4), alphas=(4, 8), seeds=(0, 1)))
        rows = [r for r in rows if (r["rank"], r["alpha"]) != (2, 8)]
        for row in rows[:4]:
            row |= {"new": None, "new_validation": None, "old": None, "diverged": "nan"}
        fig, _, alt = drawn(rows)
        numbers = [t.get_text() for t in fig.axes[0].texts if re.fullmatch(r"\d+", t.get_text())]
        assert len(numbers) == 3
        assert "new none" in alt

    def test_nothing_to_draw(self, tmp_path):
        with pytest.raises(ConfigError, match="without rows"):
            sweep_figure.draw([], tmp_path / "x.png")


def test_rows_survive_the_file(tmp_path, drawn):
    rows = rows_of(Grid(ranks=(1, 2), target_modules=(QV, "all-linear"), seeds=(0, 1)))
    for row in rows:
        append(tmp_path / "rows.jsonl", row)
    again = read_rows(tmp_path / "rows.jsonl", EXPERIMENT)
    assert drawn(again)[1:] == drawn(rows)[1:]
    assert answer(again) == answer(rows)
