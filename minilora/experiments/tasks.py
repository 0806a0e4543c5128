"""Tasks: what a base is tuned for, and what it must not forget meanwhile.

For the embedded base: one new string skill, against the skills it has. For a real language model:
orders to be written as JSON, against the loss on general text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from minilora.data import orders, skills
from minilora.data.general import general_windows
from minilora.data.instructions import Example, to_examples
from minilora.errors import ConfigError
from minilora.evaluation import exact_match, mean_nll
from minilora.finetuning import LANGUAGE_DEFAULTS, SKILLS_DEFAULTS, Defaults, speaks_skills

ORDERS = "orders"


@dataclass(frozen=True)
class Task:
    """What is trained on, chosen by, and tested on; no string or order is in two of them.

    train, validation, test   examples of the new task
    old        name → test examples of what the base can do already
    old_validation  a few of them, for the learning curve
    replay     training examples of what the base can do already
    text       general text to measure the loss on, where ability has no other measure
    """

    name: str
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    replay: list[Example]
    defaults: Defaults
    old: dict[str, list[Example]] = field(default_factory=dict)
    old_validation: list[Example] = field(default_factory=list)
    text: list[Example] = field(default_factory=list)

    def score(self, model: Any) -> dict[str, float | None]:
        """Test: share of new and of old answers that are right, and loss on general text."""
        by_skill = [exact_match(model, each) for each in self.old.values()]
        return {
            "new": exact_match(model, self.test),
            "old": sum(by_skill) / len(by_skill) if by_skill else None,
            "general_nll": mean_nll(model, self.text) if self.text else None,
        }

    def glance(self, model: Any) -> dict[str, float | None]:
        """The same on the smaller validation examples, often enough for a curve."""
        return {
            "new": exact_match(model, self.validation),
            "old": exact_match(model, self.old_validation) if self.old_validation else None,
            "general_nll": mean_nll(model, self.text) if self.text else None,
        }


def default_task(model: Any) -> str:
    """What a base is tuned for unless one asks for something else."""
    return "sort-descending" if speaks_skills(model) else ORDERS


def load_task(name: str, model: Any, *, seed: int = 0) -> Task:
    """The task of that name for this base.

    Raises ConfigError for a name that there is not, or a task that is none for this base.
    """
    if name == ORDERS:
        return _orders(model, seed)
    which = skills.skill(name)
    if not speaks_skills(model):
        raise ConfigError(
            f"task {name!r} is for the base 'skills'; {model.base_name!r} is tuned for {ORDERS!r}"
        )
    return _skill(which, seed)


def _skill(which: skills.Skill, seed: int) -> Task:
    old = [s for s in skills.OLD if s is not which]
    return Task(
        name=which.name,
        train=skills.examples(which, "train", 8000, seed=seed),
        validation=skills.examples(which, "validation", 200),
        test=skills.examples(which, "test", 500),
        replay=[e for s in old for e in skills.examples(s, "train", 1000, seed=seed)],
        defaults=SKILLS_DEFAULTS,
        old={s.name: skills.examples(s, "test", 500) for s in old},
        old_validation=[e for s in old for e in skills.examples(s, "validation", 50)],
    )


def _orders(model: Any, seed: int) -> Task:
    if model.tokenizer is None or speaks_skills(model):
        raise ConfigError(
            f"task {ORDERS!r} is for a language model with a tokenizer, such as the base "
            f"'smollm2'; for 'skills' there are: {', '.join(s.name for s in skills.NEW)}"
        )
    tokenizer, length = model.tokenizer, model.config.max_positions

    def some(split: orders.Split, n: int) -> list[Example]:
        drawn = orders.orders(split, n, seed if split == "train" else 0)
        return to_examples(drawn, tokenizer, length)

    def text(part: Any) -> list[Example]:
        return [Example(w, w) for w in general_windows(tokenizer, 128, part)]

    return Task(
        name=ORDERS,
        train=some("train", 2000),
        validation=some("validation", 40),
        test=some("test", 200),
        replay=text("replay"),
        defaults=LANGUAGE_DEFAULTS,
        text=text("test"),
    )
