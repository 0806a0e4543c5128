"""The orders: every split its own, the same for the same seed, and only one way to read them."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.data.orders import (
    ITEMS,
    PLACES,
    QUANTITIES,
    SIZES,
    SPLITS,
    TABLES,
    TEMPLATES,
    distinct_orders,
    orders,
)
from minilora.errors import ConfigError

seeds = st.integers(0, 2**32)


def answer(row):
    return json.loads(row["completion"])


def read(prompt):
    """What a careful reader who knows the rules, but not how prompts are made, takes down."""
    text = re.fullmatch(r"Order: (.*) JSON:", prompt)[1].lower()
    text = text.replace("one order:", "")

    place = "counter"
    for n in TABLES:
        if re.search(rf"\btable ({n}|{QUANTITIES[n][0]})\b", text):
            place = f"table {n}"
    for name, sign in (("garden", "garden"), ("terrace", "terrace")):
        if sign in text:
            place = name
    if re.search(r"\bto go\b|\bto take away\b", text):
        place = "takeaway"
    text = re.sub(r"\b(to|for|at) table \w+|\bto take away\b", "", text)

    # The longest name wins: an iced tea is no tea.
    names = [(name, item) for item, plural in ITEMS.items() for name in (item, plural)]
    found = [(len(name), item) for name, item in names if re.search(rf"\b{name}\b", text)]
    size = "regular"
    if re.search(r"\b(small|little)\b", text):
        size = "small"
    if re.search(r"\b(large|big)\b", text):
        size = "large"

    words = {"half a dozen": 6, "a dozen": 12, "a couple of": 2, "an": 1, "a": 1}
    words |= {QUANTITIES[n][0]: n for n in QUANTITIES}
    digits = re.search(r"\b(\d+)x?\b", text)
    quantity = int(digits[1]) if digits else None
    for word, n in words.items():
        if quantity is None and re.search(rf"\b{word}\b", text):
            quantity = n
    return {"item": max(found)[1], "quantity": quantity, "size": size, "place": place}


@pytest.mark.parametrize("split", SPLITS)
def test_every_order_can_be_read_in_one_way_only(split):
    for row in orders(split, len(distinct_orders(split)), seed=5):
        assert read(row["prompt"]) == answer(row), row["prompt"]


@settings(deadline=None, max_examples=10)
@given(seeds, seeds)
def test_no_pair_and_no_sentence_of_one_split_is_in_another(seed, other_seed):
    rows = {
        split: orders(split, 1000, s)
        for split, s in zip(SPLITS, (seed, other_seed, seed), strict=True)
    }
    for split in SPLITS:
        for other in set(SPLITS) - {split}:
            pairs = [
                {(a["item"], a["quantity"]) for a in map(answer, rows[s])} for s in (split, other)
            ]
            assert not pairs[0] & pairs[1]
            assert not {r["prompt"] for r in rows[split]} & {r["prompt"] for r in rows[other]}


def test_the_splits_share_all_orders_and_each_has_every_item_and_quantity():
    split_orders = {split: distinct_orders(split) for split in SPLITS}
    assert {s: len(o) for s, o in split_orders.items()} == {
        "train": 11_520,
        "validation": 1_440,
        "test": 1_440,
    }
    assert len(set().union(*split_orders.values())) == 14_400
    for chosen in split_orders.values():
        assert {o.item for o in chosen} == set(ITEMS)
        assert {o.quantity for o in chosen} == set(QUANTITIES)
        assert {o.size for o in chosen} == set(SIZES)
        assert {o.place for o in chosen} == set(PLACES)


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(SPLITS), st.integers(1, 300), seeds)
def test_one_seed_gives_the_same_rows_and_fewer_are_the_beginning_of_more(split, n, seed):
    rows = orders(split, n, seed)
    assert rows == orders(split, n, seed)
    assert rows == orders(split, 300, seed)[:n]
    assert len({row["prompt"] for row in rows}) == len({row["completion"] for row in rows}) == n


def test_another_seed_gives_other_rows():
    first, second = ({r["prompt"] for r in orders("train", 200, seed)} for seed in (0, 1))
    assert len(first & second) < 10


def test_the_completion_is_one_fixed_line():
    for row in orders("train", 200):
        assert row["completion"] == " " + json.dumps(answer(row))
        assert list(answer(row)) == ["item", "quantity", "size", "place"]
        assert "\n" not in row["prompt"] + row["completion"]


def test_phrasing_varies_and_every_rule_is_seen_often_enough_to_be_learned():
    # 60 steps of 8 examples, the least that a tune is meant to take.
    prompts = [row["prompt"].lower() for row in orders("train", 480)]
    said = "\n".join(prompts)
    for words in ("a couple of", "half a dozen", " a dozen", "little", "big", "medium", "to go"):
        assert said.count(words) >= 5, words
    begin = {" ".join(prompt.split()[1:3]) for prompt in prompts}
    assert len(TEMPLATES) >= 36 and len(begin) > 80


def test_articles_fit():
    prompts = " ".join(row["prompt"] for row in orders("train", 11_520)).lower()
    assert " an iced tea" in prompts and " an omelette" in prompts
    assert not re.search(r"\ba [aeiou]", prompts)
    assert not re.search(r"\ban [^aeiou]", prompts)


@pytest.mark.parametrize("n", [0, -1, 1441, 2.5, True, "10"])
def test_a_number_that_cannot_be_had_is_refused(n):
    with pytest.raises(ConfigError, match=r"1440 distinct orders.*whole number from 1") as error:
        orders("test", n)
    assert repr(n) in str(error.value)


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigError, match="train, validation, test, not 'dev'"):
        orders("dev", 3)
