"""Lesson 01: the numbers that must come out, its bars on edge data, and the bill of a reader."""

import math

import pytest

from minilora.accounting.budget import Plan, budget
from minilora.accounting.counts import Method, arrays
from minilora.accounting.presets import preset
from minilora.errors import ConfigError
from minilora.lessons import check, l01_exercises, open_lesson
from minilora.lessons.checking import function_of
from minilora.lessons.l01_figure import CONTROLS, PRESETS, draw, in_words, lora, plan, shower, table

GB, CARD = 10**9, 24 * 2**30
LLAMA = preset("llama-3-8b")


def test_of_the_8b_model_every_number_of_the_lesson_comes_out():
    full, mixed = (budget(Plan(LLAMA, accounting=a)) for a in ("tutorial", "mixed"))
    assert full.total_parameters == 8_030_261_248
    assert round(full.bytes.total / GB, 2) == 64.24
    assert round(mixed.bytes.total / GB, 2) == 128.48
    assert [math.ceil(b.bytes.total / CARD) for b in (full, mixed)] == [3, 5]
    thin = budget(Plan(LLAMA, lora()))
    assert thin.trainable_parameters == 3_407_872
    assert round(thin.frozen_bytes / GB, 2) == 16.06


def test_lora_on_q_and_v_fits_with_2048_tokens_and_not_with_4096():
    short, long = (budget(Plan(LLAMA, lora(), length=n)).needed for n in (2048, 4096))
    assert 23 <= short / GB < 24 and short <= CARD < long


def test_of_qlora_the_linears_alone_are_in_four_bits():
    parts = arrays(LLAMA, Method())
    linears = sum(a.size for a in parts if a.linear)
    four = linears * (4 + 8 / 64 + 32 / (64 * 256)) / 8 / GB
    sixteen = 2 * (8_030_261_248 - linears) / GB
    assert (round(four, 2), round(sixteen, 2)) == (3.60, 2.10)
    assert round(budget(Plan(LLAMA, lora(name="qlora"))).frozen_bytes / GB, 2) == 5.70


def test_the_wrong_answers_go_wrong_as_the_lesson_says():
    tied, wide, bare = (function_of(l01_exercises.COUNT, w.code) for w in l01_exercises.COUNT.wrong)
    small = preset("smollm2-135m")
    assert tied(small) == 162_826_560 and wide(small) > 134_515_008
    assert 134_515_008 - bare(small) == (2 * small.n_layers + 1) * small.hidden_size


def test_the_longest_context_is_the_librarys():
    """The sizes of 01.3 are those of the bill: T fits, T + 1 does not."""
    longest = function_of(l01_exercises.CONTEXT, l01_exercises.CONTEXT.solution)
    fixed, token, square = l01_exercises._STANDING, l01_exercises._TOKEN, l01_exercises._PAIR
    for b, kept in ((0, False), (square, True)):
        T = longest(24, fixed, token, b)
        needs = [
            budget(Plan(LLAMA, lora(), length=n, attention_weights=kept)).needed for n in (T, T + 1)
        ]
        assert needs[0] <= CARD < needs[1]
        assert needs[0] == fixed + token * T + b * T * T


def test_a_context_found_in_closed_form_is_right_too():
    def closed(card_gib, fixed, a, b):
        room = card_gib * 2**30 - fixed
        if room < 0:
            return 0
        return room // a if not b else (math.isqrt(a * a + 4 * b * room) - a) // (2 * b)

    assert check("01.3", closed).passed


def test_a_loop_that_forgets_what_stands_there_is_told_at_once():
    def slow(card_gib, fixed, a, b):
        T = 0
        while a * (T + 1) + b * (T + 1) ** 2 <= 2 * card_gib * 2**30:
            T += 1
            assert T < 100_000
        return T

    assert "AssertionError" not in check("01.3", slow).said

    def strictly(card_gib, fixed, a, b):
        T = 0
        while fixed + a * (T + 1) + b * (T + 1) ** 2 < card_gib * 2**30:
            T += 1
        return T

    assert "999, expected 1000" in check("01.3", strictly).said  # what just fits, fits


def test_the_bars_say_their_totals_and_largest_parts(tmp_path):
    bills = {"all": budget(Plan(LLAMA)), "few": budget(Plan(LLAMA, lora()))}
    words = in_words(bills, 24)
    assert "all: 138.7 GB, beyond the card, the largest part optimizer with 96.36 GB" in words
    assert "few: 23.91 GB, within the card, the largest part frozen weights" in words
    draw(bills, tmp_path / "bills.png")
    assert (tmp_path / "bills.png").stat().st_size > 10_000
    assert (tmp_path / "bills.txt").read_text(encoding="utf-8").strip() == words
    head, *rows = table(bills)
    assert head[0] == "plan, GB" and head[-1] == "total"
    assert [row[0] for row in rows] == ["all", "few"] and rows[1][-1] == "23.91"


def test_one_bill_is_drawn_however_small(tmp_path):
    draw({"tiny": budget(plan("skills", context=64))}, tmp_path / "one.svg", card=80)
    assert "80 GiB" in (tmp_path / "one.svg").with_suffix(".txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", CONTROLS["method"])
@pytest.mark.parametrize("model", CONTROLS["model"])
def test_whatever_is_set_has_a_bill_or_a_reason(model, method):
    for bits in CONTROLS["bits"]:
        for context in (CONTROLS["context"][0], CONTROLS["context"][-1]):
            for r in CONTROLS["r"]:
                chosen = {"model": model, "method": method, "r": r, "bits": bits}
                if method == "full" and bits == 4:
                    with pytest.raises(ConfigError, match="what is trained is in 16 bits"):
                        plan(**chosen)
                else:
                    bill = budget(plan(**chosen, context=context, batch=CONTROLS["batch"][1]))
                    assert bill.plan.tokens <= preset(model).max_positions


def test_a_plan_of_no_known_kind_is_refused():
    with pytest.raises(ConfigError, match="must be lora or full"):
        plan(method="prefix")
    with pytest.raises(ConfigError, match="2 bits"):
        plan(bits=2)


def test_the_widget_shows_one_bill_and_its_fallback_all_in_one_figure(monkeypatch, capsys):
    lesson = open_lesson("01")
    drawn = []
    monkeypatch.setattr(lesson, "figure", lambda draw, bills, **more: drawn.append(bills))
    show = shower(lesson)
    show(model="smollm2-135m", method="full", card=6)
    assert "needed 3.598 GB: it fits" in capsys.readouterr().out
    show(context=4096)
    assert "does not fit" in capsys.readouterr().out
    show(side_by_side=PRESETS)
    assert [len(bills) for bills in drawn] == [1, 1, len(PRESETS)]
    show(method="full", bits=4)
    assert len(drawn) == 3 and "what is trained is in 16 bits" in capsys.readouterr().out
