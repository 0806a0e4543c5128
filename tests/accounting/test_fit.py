"""Does it fit: every claim of a verdict is tried."""

from dataclasses import replace

import pytest

from minilora.accounting.budget import Plan, budget
from minilora.accounting.counts import Method
from minilora.accounting.fit import GIB, largest_within, verdict
from minilora.accounting.presets import preset
from minilora.config import ModelConfig
from minilora.peft import LoraConfig

LLAMA = preset("llama-3-8b")
TINY = ModelConfig(31, 24, 40, 2, 4, n_kv_heads=2, max_positions=64)
QV = Method("lora")


def judged(plan, gpu=24):
    return verdict(budget(plan), gpu)


@pytest.mark.slow
def test_a_card_of_24_gib_has_25_77_gb():
    v = judged(Plan(LLAMA, QV))
    assert v.card == 24 * 2**30
    assert round(v.card / 1e9, 2) == 25.77
    assert v.fits and v.changes == ()


def test_what_is_in_the_way_comes_first():
    v = judged(Plan(LLAMA))
    assert not v.fits
    assert next(iter(v.in_the_way)) == "optimizer"
    assert list(v.in_the_way.values()) == sorted(v.in_the_way.values(), reverse=True)
    assert sum(v.in_the_way.values()) == v.needed
    assert next(iter(judged(Plan(LLAMA, QV, length=4096)).in_the_way)) == "frozen weights"


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan",
    [
        Plan(LLAMA, QV),
        Plan(LLAMA, QV, length=512, checkpointing=True),
        Plan(LLAMA, QV, length=1024, attention_weights=True),
        Plan(LLAMA, Method("qlora"), batch_size=2),
    ],
)
def test_the_largest_fit_and_the_next_do_not(plan):
    v = judged(plan)
    assert v.fits
    lora = plan.method.lora
    for name, n in v.largest.items():

        def with_(n, name=name):
            if name == "rank":
                method = replace(plan.method, lora=replace(lora, r=n))
                return budget(replace(plan, method=method)).needed
            return budget(replace(plan, **{name: n})).needed

        top = {"length": 8192, "rank": 1024}.get(name)
        assert n >= (lora.r if name == "rank" else getattr(plan, name))
        assert with_(n) <= v.card
        assert n == top or with_(n + 1) > v.card


def test_of_an_exact_step():
    plan = Plan(TINY, Method("lora", LoraConfig(4)), "exact", batch_size=2, length=16)
    needed = budget(plan).needed
    v = judged(plan, 3 * needed / GIB)
    assert v.fits
    n = v.largest["batch_size"]
    assert budget(replace(plan, batch_size=n)).needed <= v.card
    assert budget(replace(plan, batch_size=n + 1)).needed > v.card
    assert v.largest["rank"] == 12  # v_proj is (12, 24)


def test_nothing_fits_on_too_small_a_card():
    assert judged(Plan(LLAMA, QV), 8).largest == {"batch_size": 0, "length": 0, "rank": 0}


def test_what_is_not_counted_has_no_largest():
    v = judged(Plan(LLAMA, accounting="tutorial"))
    assert v.largest == {"batch_size": None, "length": None, "rank": None}


@pytest.mark.parametrize(
    "plan",
    [
        Plan(LLAMA),
        Plan(LLAMA, QV, length=4096),
        Plan(LLAMA, QV, batch_size=8, length=4096, attention_weights=True),
        Plan(LLAMA, Method("prefix"), length=8192),
        Plan(LLAMA, accounting="tutorial"),
        Plan(preset("gpt3-175b"), QV),
    ],
)
def test_every_change_makes_it_fit(plan):
    v = judged(plan)
    assert not v.fits
    assert 1 <= len(v.changes) <= 3
    for change in v.changes:
        assert budget(change.plan).needed == change.needed <= v.card
        assert change.plan != plan


def test_changes_that_change_no_result_come_first():
    words = [c.words for c in judged(Plan(LLAMA, QV, length=4096)).changes]
    assert words == ["--checkpointing", "--method qlora", "--length 2048"]
    words = [c.words for c in judged(Plan(LLAMA)).changes]
    assert words[:2] == ["--method lora", "--method qlora"]


def test_an_exact_step_can_be_checkpointed():
    plan = Plan(TINY, accounting="exact", batch_size=8, length=64)
    least = budget(replace(plan, checkpointing=True)).needed
    v = judged(plan, (least + 1) / GIB)
    assert v.changes[0].words == "--checkpointing"


@pytest.mark.parametrize("need", [lambda n: 7 * n, lambda n: n * n + 3 * n, lambda n: n // 10])
@pytest.mark.parametrize("start", [1, 5, 40, 100])
@pytest.mark.parametrize("most", [0, 3, 70, 71, 340, 10**6])
def test_the_search_finds_what_trying_all_finds(need, start, most):
    tried = [n for n in range(1, 101) if need(n) <= most]
    assert largest_within(need, most, start, 1, 100) == max(tried, default=0)


def test_the_search_tries_few():
    asked = []

    def need(n):
        asked.append(n)
        return 1000 + 5 * n + n * n

    assert largest_within(need, 1000 + 5 * 4393 + 4393**2, 2048, 2, 8192) == 4393
    assert len(set(asked)) < 12
