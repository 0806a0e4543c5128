"""How much a template may do: steps, seconds and characters, counted before they are spent.

`bounded` opens an account, and whatever the sandbox lets a template do counts on it: `step` for
work, `make` for a text or list about to be made, `through` for a value that is about to be compared
or written out. One thing alone never takes long, so the seconds are looked at between two of them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Mapping
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2.utils import Namespace

# A conversation of a thousand turns takes some ten thousand steps and a million characters.
MOST_STEPS = 1_000_000
MOST_CHARACTERS = 2**22
MOST_CHARACTERS_IN_ALL = 2**25
MOST_BITS = 4096
MOST_SECONDS = 20.0
# What takes about as long as a step: to compare so many characters, to look at so many items.
_CHARACTERS_A_STEP = 1000
_ITEMS_A_STEP = 10

# What conversations do not need, and what works for long on a long text or makes a longer one.
_REMOVED_METHODS = ("translate", "expandtabs", "encode", "to_bytes")
_WIDE = re.compile(r"\d{4,}")


class TooMuch(jinja2.TemplateRuntimeError):
    """A template works for too long, or makes too much; the message says which."""


class _Account:
    def __init__(self) -> None:
        self.steps = self.characters = 0
        self.deadline = time.monotonic() + MOST_SECONDS


_open: ContextVar[_Account | None] = ContextVar("template_account", default=None)


def bounded(template: jinja2.Template, **variables: Any) -> str:
    """The text that a template of `Sandbox` makes. TooMuch if it passes the bounds."""
    before = _open.set(_Account())
    try:
        text = template.render(**variables)
        make(len(text))
        return text
    finally:
        _open.reset(before)


def step(n: int = 1) -> None:
    """Count n steps. TooMuch once there are too many, or they take too long."""
    account = _open.get()
    if account is None:  # while it is compiled, constants are computed
        return
    account.steps += n
    if account.steps > MOST_STEPS:
        raise TooMuch(f"it does not end: more than {MOST_STEPS:,} steps for one conversation")
    if time.monotonic() > account.deadline:
        raise TooMuch(f"it does not end: more than {MOST_SECONDS:g} seconds for one conversation")


def make(n: int) -> None:
    """Count a text or list of that length that is about to be made. TooMuch for too long ones."""
    if n > MOST_CHARACTERS:
        raise TooMuch(f"it makes a text or list of {n:,} pieces, at most {MOST_CHARACTERS:,}")
    account = _open.get()
    if account is not None:
        account.characters += n
        if account.characters > MOST_CHARACTERS_IN_ALL:
            raise TooMuch(f"it makes more than {MOST_CHARACTERS_IN_ALL:,} characters in all")


def through(*values: Any) -> None:
    """Count what is gone through when values are compared or written out, in all their depth.

    A list that holds another one twice, which does so in turn, is short and has no end. TooMuch if
    it takes more steps, or is of more characters, than there may be.
    """
    waiting, characters = list(values), 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            characters += len(value)
            step(1 + len(value) // _CHARACTERS_A_STEP)
            if characters > MOST_CHARACTERS:
                raise TooMuch(f"it goes through more than {MOST_CHARACTERS:,} characters at once")
        elif isinstance(value, Namespace):
            waiting.append(value._Namespace__attrs)
        elif isinstance(value, Collection):
            step(1 + len(value) // _ITEMS_A_STEP)
            waiting += value
            if isinstance(value, Mapping):
                waiting += value.values()


def check_method(owner: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """TooMuch for a call of a method that would make too much, or not come to an end."""
    if name in _REMOVED_METHODS:
        raise TooMuch(f"it uses {name}, which is not allowed here")
    if isinstance(owner, str):
        check_text(name, owner, args, kwargs)
    elif isinstance(owner, Collection):  # looks for something in itself, or by its hash
        through(*args, *([owner] if name in ("count", "index") else []))


def check_text(name: str, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """TooMuch for a call of a method or filter on a text that would make too much of it."""
    given = [*args, *kwargs.values()]
    numbers = [abs(each) for each in given if isinstance(each, int)]
    make(max([len(text), *numbers]))
    if name == "replace":
        longest = max((len(each) for each in given[1:] if isinstance(each, str)), default=0)
        make((len(text) + 1) * longest)
    elif name == "join" and given and hasattr(given[0], "__iter__"):
        if not hasattr(given[0], "__len__"):
            raise TooMuch("it joins what has no length; put |list behind it")
        check_join(text, given[0])
    elif name in ("format", "format_map"):
        check_format(text, given)
    elif name in ("indent", "tojson"):
        if max(numbers, default=0) > 1000:
            raise TooMuch(f"it indents by {max(numbers):,}, at most 1,000")
        widths = [len(each) for each in given if isinstance(each, str)] + numbers
        make((text.count("\n") + 1) * max(widths, default=0) if name == "indent" else 0)


def check_join(between: str, parts: Iterable[Any]) -> None:
    """TooMuch for parts that would be too long once joined."""
    through(parts)
    make(sum(len(str(part)) + len(between) for part in parts))


def check_format(form: str, given: Iterable[Any]) -> None:
    """TooMuch for a width that is no width, and for places × the longest thing put into them."""
    wide = _WIDE.search(form)
    if wide:
        raise TooMuch(f"it formats to a width of {wide[0]}")
    numbers = [abs(each) for each in given if isinstance(each, int)]
    if "*" in form and max(numbers, default=0) > 9999:
        raise TooMuch(f"it formats to a width of {max(numbers)}")
    through(given)
    places = form.count("%") + form.count("{")
    make(len(form) + places * max((len(str(each)) for each in given), default=0))


def check_operation(operator: str, left: Any, right: Any) -> None:
    """TooMuch for a sum, product, power or format whose result would be too large."""
    if operator == "%":
        if isinstance(left, str):
            check_format(left, right if isinstance(right, tuple) else [right])
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() + right.bit_length()
        _check_bits(left.bit_length() * abs(right) if operator == "**" else bits)
    elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
        make(len(left) + len(right))
    elif operator == "*":
        n, many = (left, right) if isinstance(left, int) else (right, left)
        if isinstance(n, int) and hasattr(many, "__len__"):
            make(len(many) * max(n, 0))


def _check_bits(n: int) -> None:
    if n > MOST_BITS:
        raise TooMuch(f"it computes a number of {n:,} bits, at most {MOST_BITS:,}")
