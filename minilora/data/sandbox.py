"""A place to run templates from anywhere: they read what they are given, and come to an end.

Jinja's sandbox keeps a template away from files, modules and the insides of objects, and its
`range` is limited. What it does not limit is how long a template works and how much it makes: a few
nested loops, or a text doubled forty times, and the machine hangs. So everything by which work or
text can grow is counted here before it happens: turns of loops, calls, what is printed, joined,
repeated, replaced, formatted, and the size of numbers.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

# A conversation of a thousand turns takes some ten thousand steps and a million characters.
MOST_STEPS = 1_000_000
MOST_CHARACTERS = 2**22
MOST_CHARACTERS_IN_ALL = 2**25
MOST_BITS = 4096
MOST_SECONDS = 20.0

# What conversations do not need, and what works for long on a long text or makes a longer one.
_REMOVED_FILTERS = ("urlize", "xmlattr", "pprint", "striptags", "wordwrap", "random")
_REMOVED_METHODS = ("translate", "expandtabs")
_WIDE = re.compile(r"\d{4,}")
# Names that no template can write.
_TURNS, _JOINED, _PRINTED, _CUT = "turns of a loop", "joined text", "printed text", "cut text"


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


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with bounds on work and text. Its templates are rendered by `bounded`."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.globals.pop("lipsum")
        for name in _REMOVED_FILTERS:
            self.filters.pop(name)
        self.filters = {name: _bounded(name, f) for name, f in self.filters.items()}
        self.filters |= {_TURNS: _turns, _JOINED: _joined, _PRINTED: _printed, _CUT: _cut}

    def add_filter(self, name: str, f: Callable[..., Any]) -> None:
        """A filter of one's own, with the same bounds."""
        self.filters[name] = _bounded(name, f)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        return _Counting().visit(tree)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        step()
        _check_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        step()
        if isinstance(__obj, LoopContext):  # a recursive loop goes over something else
            args = tuple(map(_turns, args))
        method = getattr(__obj, "__wrapped__", __obj)  # Jinja wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            _check_text(method.__name__, owner, args, kwargs)
        return super().call(__context, __obj, *args, **kwargs)


class Generation(Extension):
    """{% generation %} … {% endgeneration %}: marks an answer for transformers, writes nothing."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Counting(NodeTransformer):
    """Puts a filter that counts around what Jinja has no door for."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _TURNS)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), _JOINED)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _filtered(node.node, _CUT)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_filtered(_as_value(each), _PRINTED) for each in node.nodes]
        return node


def _as_value(node: nodes.Expr) -> nodes.Expr:
    if isinstance(node, nodes.TemplateData):
        return nodes.Const(node.data, lineno=node.lineno)
    return node


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _turns(items: Any) -> Any:
    """What a loop goes over, its turns counted."""
    if not hasattr(items, "__len__"):
        return _each(items)
    step(len(items))
    return items


def _each(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        step()
        yield item


@jinja2.pass_context  # so that constants, too, are printed when their turn comes
def _printed(context: Any, value: Any) -> str:
    step()
    text = str(value)
    make(len(text))
    return text


def _cut(value: Any) -> Any:
    """What a part is about to be taken of: the part may be as long."""
    step()
    if hasattr(value, "__len__"):
        make(len(value))
    return value


def _joined(parts: list[Any]) -> str:
    step()
    texts = [str(part) for part in parts]
    make(sum(map(len, texts)))
    return "".join(texts)


def _bounded(name: str, f: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that counts as a step, and is given nothing that would make too much."""
    first = 0 if getattr(f, "jinja_pass_arg", None) is None else 1

    @wraps(f)
    def within(*args: Any, **kwargs: Any) -> Any:
        step()
        value, rest = args[first], args[first + 1 :]
        if not isinstance(value, str) and hasattr(value, "__iter__"):
            value = _turns(value)
            if name in ("join", "list"):
                value = list(value)
            if name == "join":
                _check_join(str(rest[0]) if rest else str(kwargs.get("d", "")), value)
            if name == "sum" and _has_list([*rest, *kwargs.values()]):
                raise TooMuch("it sums up lists")
        _check_text(name, value if isinstance(value, str) else "", rest, kwargs)
        return f(*args[:first], value, *rest, **kwargs)

    return within


def _has_list(given: list[Any]) -> bool:
    return any(hasattr(each, "__iter__") and not isinstance(each, str) for each in given)


def _check_text(name: str, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """TooMuch for a call of a method or filter on a text that would make too much of it."""
    given = [*args, *kwargs.values()]
    numbers = [abs(each) for each in given if isinstance(each, int)]
    make(max([len(text), *numbers]))
    if name in _REMOVED_METHODS:
        raise TooMuch(f"it uses {name}, which is not allowed here")
    if name == "replace":
        longest = max((len(each) for each in given[1:] if isinstance(each, str)), default=0)
        make((len(text) + 1) * longest)
    elif name == "join" and given and hasattr(given[0], "__iter__"):
        if not hasattr(given[0], "__len__"):
            raise TooMuch("it joins what has no length; put |list behind it")
        _check_join(text, given[0])
    elif name in ("format", "format_map"):
        _check_format(text, given)
    elif name in ("indent", "tojson"):
        if max(numbers, default=0) > 1000:
            raise TooMuch(f"it indents by {max(numbers):,}, at most 1,000")
        widths = [len(each) for each in given if isinstance(each, str)] + numbers
        make((text.count("\n") + 1) * max(widths, default=0) if name == "indent" else 0)


def _check_join(between: str, parts: Iterable[Any]) -> None:
    make(sum(len(str(part)) + len(between) for part in parts))


def _check_format(form: str, given: Iterable[Any]) -> None:
    """TooMuch for a width that is no width, and for places × the longest thing put into them."""
    wide = _WIDE.search(form)
    if wide:
        raise TooMuch(f"it formats to a width of {wide[0]}")
    numbers = [abs(each) for each in given if isinstance(each, int)]
    if "*" in form and max(numbers, default=0) > 9999:
        raise TooMuch(f"it formats to a width of {max(numbers)}")
    places = form.count("%") + form.count("{")
    make(len(form) + places * max((len(str(each)) for each in given), default=0))


def _check_operation(operator: str, left: Any, right: Any) -> None:
    """TooMuch for a sum, product, power or format whose result would be too large."""
    if operator == "%":
        if isinstance(left, str):
            _check_format(left, right if isinstance(right, tuple) else [right])
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
