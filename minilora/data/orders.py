"""A small instruction task for a real language model: a café order → one fixed line of JSON.

    Order: Could you bring half a dozen big lattes to table four, please? JSON:
     {"item": "latte", "quantity": 6, "size": "large", "place": "table 4"}

Prompt and completion are joined as they stand (the completion begins with its space) and take, end
token included, 33 to 54 tokens of SmolLM2's. A base that has never seen the task cannot guess the
line: names and order of the fields, and what stands where the customer says nothing, are fixed by
the examples alone. All of it can be inferred from them:

- the item is in the singular, the quantity a number ("a couple of" is 2, "half a dozen" is 6);
- the size is small, regular or large ("big" is large), and regular if not said;
- the place is table 1 to 6, garden, terrace or takeaway ("to go"), and counter if not said.

There are 40 items × 12 quantities × 3 sizes × 10 places = 14,400 distinct orders, each of which can
be said in hundreds of ways. A tenth of the pairs of item and quantity is kept for the test and a
tenth for validation, so no such pair, and therefore no sentence, is in two splits; yet every item
and every quantity is in all three.
"""

from __future__ import annotations

import json
import random
from itertools import product
from typing import Literal, NamedTuple

from minilora.errors import ConfigError

Split = Literal["train", "validation", "test"]
SPLITS = ("train", "validation", "test")

# Singular | plural.
ITEMS: dict[str, str] = {
    "tea": "teas",
    "green tea": "green teas",
    "iced tea": "iced teas",
    "coffee": "coffees",
    "latte": "lattes",
    "cappuccino": "cappuccinos",
    "espresso": "espressos",
    "mocha": "mochas",
    "hot chocolate": "hot chocolates",
    "soda": "sodas",
    "apple juice": "apple juices",
    "orange juice": "orange juices",
    "smoothie": "smoothies",
    "milkshake": "milkshakes",
    "cola": "colas",
    "scone": "scones",
    "muffin": "muffins",
    "croissant": "croissants",
    "bagel": "bagels",
    "brownie": "brownies",
    "cookie": "cookies",
    "waffle": "waffles",
    "pancake": "pancakes",
    "doughnut": "doughnuts",
    "cheesecake": "cheesecakes",
    "pretzel": "pretzels",
    "sandwich": "sandwiches",
    "cheese roll": "cheese rolls",
    "wrap": "wraps",
    "salad": "salads",
    "tomato soup": "tomato soups",
    "onion soup": "onion soups",
    "quiche": "quiches",
    "omelette": "omelettes",
    "burger": "burgers",
    "hot dog": "hot dogs",
    "pizza": "pizzas",
    "apple pie": "apple pies",
    "taco": "tacos",
    "burrito": "burritos",
}

# Beside the digits; the plain number word comes first.
QUANTITIES: dict[int, tuple[str, ...]] = {
    1: ("one", "a", "a"),
    2: ("two", "a couple of", "a couple of"),
    3: ("three",),
    4: ("four",),
    5: ("five",),
    6: ("six", "half a dozen", "half a dozen"),
    7: ("seven",),
    8: ("eight",),
    9: ("nine",),
    10: ("ten",),
    11: ("eleven",),
    12: ("twelve", "a dozen", "a dozen"),
}

TABLES = range(1, 7)

# "" is said by saying nothing.
SIZES: dict[str, tuple[str, ...]] = {
    "small": ("small", "little"),
    "regular": ("", "", "", "", "regular", "medium"),
    "large": ("large", "big"),
}

PLACES: dict[str, tuple[str, ...]] = {
    "counter": ("", "", "", "at the counter"),
    "takeaway": ("to go", "to go", "to take away"),
    "garden": ("in the garden", "out in the garden", "to the garden"),
    "terrace": ("on the terrace", "out on the terrace", "to the terrace"),
} | {
    f"table {n}": tuple(
        f"{word} table {number}" for word in ("to", "for", "at") for number in (n, QUANTITIES[n][0])
    )
    for n in TABLES
}

TEMPLATES = (
    "{what}",
    "{what}, please.",
    "{what}, thanks!",
    "{what} pls",
    "Please bring {what}.",
    "Please bring us {what}.",
    "Please make it {what}.",
    "Could I have {what}?",
    "Could I get {what}, please?",
    "Could you bring {what}, please?",
    "Can I have {what}?",
    "Can I get {what} please",
    "Can we get {what}?",
    "Can you do {what}?",
    "May I order {what}?",
    "May we have {what}, please?",
    "I'd like {what}.",
    "I'd like {what}, please.",
    "I would love {what}.",
    "I want {what}.",
    "I need {what}, thank you.",
    "I'll have {what}.",
    "I'll take {what}, thanks.",
    "I think I'll go for {what}.",
    "We'd like {what}.",
    "We'll have {what}, please.",
    "We need {what}.",
    "Let's have {what}.",
    "Let me get {what}.",
    "Get me {what}, will you?",
    "Give me {what}, please.",
    "gimme {what} thx",
    "Hi, {what} please.",
    "Hello! I'd like {what}.",
    "Good morning, {what}, please.",
    "Hey, can I get {what}?",
    "Sorry, could we also have {what}?",
    "Make that {what}.",
    "Just {what} today, thanks.",
    "My order is {what}.",
    "One order: {what}.",
    "Is it possible to get {what}?",
)


class Order(NamedTuple):
    """What was ordered, field by field as in the line of JSON."""

    item: str
    quantity: int
    size: str
    place: str


def distinct_orders(split: Split) -> list[Order]:
    """Every order of a split, in a fixed order: 11,520 to train, 1,440 each for the others.

    Raises ConfigError for an unknown split.
    """
    if split not in SPLITS:
        raise ConfigError(f"the splits of the orders are {', '.join(SPLITS)}, not {split!r}")
    return [
        Order(item, quantity, size, place)
        for (i, item), quantity in product(enumerate(ITEMS), QUANTITIES)
        # On diagonals, so that each item and each quantity gives the same share to every split.
        if {0: "test", 1: "validation"}.get((i + quantity) % 10, "train") == split
        for size, place in product(SIZES, PLACES)
    ]


def orders(split: Split, n: int, seed: int = 0) -> list[dict[str, str]]:
    """`n` different orders in free words as rows `{"prompt": str, "completion": str}`.

    The same seed gives the same rows, and fewer rows are the beginning of more.

    Raises ConfigError for an unknown split, and for `n` that is not between 1 and the number of
    distinct orders.
    """
    chosen = distinct_orders(split)
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= len(chosen):
        raise ConfigError(
            f"the {split} split has {len(chosen)} distinct orders; "
            f"ask for a whole number from 1 to that, not {n!r}"
        )
    rng = random.Random(f"orders {split} {seed}")
    rng.shuffle(chosen)
    return [
        {"prompt": f"Order: {_sentence(order, rng)} JSON:", "completion": _json(order)}
        for order in chosen[:n]
    ]


def _json(order: Order) -> str:
    """The completion. Its space belongs to it, since " {" is one token and "{" another."""
    return " " + json.dumps(order._asdict())


def _sentence(order: Order, rng: random.Random) -> str:
    """The order said in one of its many ways."""
    what = _goods(order, rng)
    place = rng.choice(PLACES[order.place])
    leads = order.place.startswith("table") and rng.random() < 0.25
    if place and not leads:
        what = f"{what}, {place}" if ", " in what else f"{what} {place}"
    sentence = rng.choice(TEMPLATES).format(what=what)
    if leads:
        # Behind the table "Could" becomes small, "I'd" stays.
        keeps = sentence.startswith(("I ", "I'"))
        sentence = f"{place}: {sentence if keeps else sentence[0].lower() + sentence[1:]}"
    sentence = sentence[0].upper() + sentence[1:]
    if rng.random() < 0.15:
        # Typed in a hurry.
        sentence = sentence.lower().rstrip(".?!")
    return sentence


def _goods(order: Order, rng: random.Random) -> str:
    """Quantity, size and item: "a large latte", "two lattes, large", "2x large latte"."""
    size = rng.choice(SIZES[order.size])
    style = rng.random()
    if style < 0.1:
        return " ".join(filter(None, (f"{order.quantity}x", size, order.item)))
    noun = order.item if order.quantity == 1 else ITEMS[order.item]
    quantity = rng.choice((str(order.quantity), *QUANTITIES[order.quantity]))
    if style < 0.25 and size:
        return f"{_with_article(quantity, noun)}, {size}"
    return _with_article(quantity, f"{size} {noun}" if size else noun)


def _with_article(quantity: str, noun: str) -> str:
    if quantity == "a" and noun[0] in "aeiou":
        quantity = "an"
    return f"{quantity} {noun}"
