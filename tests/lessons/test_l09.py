"""Lesson 09: numbers that must come out, its figures, what its checkers tell apart."""

import numpy as np
import pytest

from minilora.errors import ConfigError
from minilora.lessons import check
from minilora.lessons.checking import forget, function_of
from minilora.lessons.l09_exercises import BITS, BLOCK, LEVELS
from minilora.lessons.l09_figure import CONTROLS, FIXED, SPREADS, draw_format, draw_levels
from minilora.quant import bits_per_parameter, quantize
from minilora.quant.levels import NF4, nf4_levels
from minilora.quant.packing import unpack


def solved(exercise):
    return function_of(exercise, exercise.solution)


def test_the_levels_asked_for_are_the_published_ones():
    assert np.abs(solved(LEVELS)() - NF4).max() <= 1.2e-7
    assert np.abs(solved(LEVELS)() - nf4_levels()).max() <= 1e-15


def test_levels_with_another_last_probability_are_wrong():
    forget()
    code = LEVELS.solution.replace("0.9677083", "0.967")
    assert not check("09.1", function_of(LEVELS, code)).passed


@pytest.mark.parametrize("n", [64, 5])
def test_a_block_gets_the_codes_of_the_library(n):
    w = np.random.default_rng(3).normal(size=n).astype(np.float32)
    codes, absmax = solved(BLOCK)(w, np.array(NF4))
    q = quantize(w, "nf4", block_size=n, double_quant=False)
    assert np.array_equal(codes, unpack(q.codes, n))
    assert absmax == np.abs(w).max()


@pytest.mark.parametrize(("block", "double", "bits"), [(64, False, 4.5), (64, True, 4.126953125)])
def test_the_bits_asked_for_are_those_of_the_library(block, double, bits):
    assert solved(BITS)(block, double) == bits == bits_per_parameter("nf4", block, double)


def test_what_is_not_among_the_known_mistakes_is_told_as_well():
    forget()
    right = solved(BLOCK)
    said = check("09.2", lambda w, levels: (right(w, levels)[0] + 1, right(w, levels)[1]))
    assert not said.passed and said.wrong is None
    assert not check("09.2", lambda w, levels: (right(w, levels)[0], 1.0)).passed
    assert not check("09.3", lambda block, double: bits_per_parameter("nf4", block, True)).passed


def test_writing_into_the_block_is_no_answer():
    def in_place(w, levels):
        codes, absmax = solved(BLOCK)(w, levels)
        w *= 2
        return codes, absmax

    forget()
    assert "written to" in check("09.2", in_place).said


def test_the_levels_are_drawn_and_told(tmp_path):
    draw_levels(nf4_levels(), tmp_path / "levels.png")
    said = (tmp_path / "levels.txt").read_text(encoding="utf-8")
    assert "16 levels" in said and "-0.696" in said and "0.723" in said
    with pytest.raises(ConfigError, match="finite"):
        draw_levels(np.array([0, np.inf]), tmp_path / "none.png")


@pytest.mark.parametrize("setting", FIXED)
def test_a_setting_is_drawn_with_its_bits(setting, tmp_path):
    draw_format(**setting, path=tmp_path / "f.png")
    said = (tmp_path / "f.txt").read_text(encoding="utf-8")
    bits = bits_per_parameter(setting["data_type"], setting["block_size"])
    assert f"{bits:.3f} bits a weight" in said
    assert f"{8_030_261_248 * bits / 8e9:.2f} GB" in said


def test_settings_are_among_the_controls(tmp_path):
    for setting in FIXED:
        assert all(value in CONTROLS[name] for name, value in setting.items())
    for data_type in CONTROLS["data_type"]:
        draw_format(data_type, 4096, next(iter(SPREADS)), tmp_path / "f.png")
    with pytest.raises(ConfigError, match="normal, even"):
        draw_format("nf4", 64, "odd", tmp_path / "f.png")
