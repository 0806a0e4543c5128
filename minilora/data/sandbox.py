"""A place to run templates from anywhere: they read what they are given, and come to an end.

Jinja's sandbox keeps a template away from files, modules and the insides of objects, and its
`range` is limited. What it does not limit is how long a template works and how much it makes: a few
nested loops, or a text doubled forty times, and the machine hangs. So everything by which work or
text can grow is counted here before it happens (`bounds.py`): turns of loops, calls, what is
compared, tested, printed, joined, repeated, replaced, formatted, and the size of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from minilora.data.bounds import (
    TooMuch,
    bounded,
    check_join,
    check_method,
    check_operation,
    check_text,
    make,
    step,
    through,
)

__all__ = ["Generation", "Sandbox", "TooMuch", "bounded"]

# What conversations do not need, and what works for long on a long text or makes a longer one.
_REMOVED_FILTERS = ("urlize", "xmlattr", "pprint", "striptags", "wordwrap", "random")
# Those that take a value as a whole; all other filters and tests look at what is inside of it.
_WHOLE_FILTERS = {
    *("abs", "attr", "batch", "count", "d", "default", "first", "float", "int", "items", "last"),
    *("length", "list", "map", "reject", "rejectattr", "reverse", "round", "select"),
    *("selectattr", "slice", "sum"),
}
# Those that take no longer for a long list than for a short one.
_AT_ONCE = {"count", "d", "default", "first", "last", "length"}
_WHOLE_TESTS = {
    *("boolean", "callable", "defined", "escaped", "false", "filter", "float", "integer"),
    *("iterable", "mapping", "none", "number", "sameas", "sequence", "string", "test", "true"),
    "undefined",
}
# Names that no template can write.
_TURNS, _JOINED, _PRINTED, _CUT = "turns of a loop", "joined text", "printed text", "cut text"
_COMPARED = "a compared value"


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
        self.filters |= {_COMPARED: _compared}
        self.tests = {name: _tested(name, f) for name, f in self.tests.items()}

    def add_filter(self, name: str, f: Callable[..., Any]) -> None:
        """A filter of one's own, with the same bounds."""
        self.filters[name] = _bounded(name, f)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        return _Counting().visit(tree)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        step()
        check_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        step()
        if isinstance(__obj, LoopContext):  # a recursive loop goes over something else
            args = tuple(map(_turns, args))
        method = getattr(__obj, "__wrapped__", __obj)  # Jinja wraps str.format
        check_method(getattr(method, "__self__", None), _name(method), args, kwargs)
        if __obj is dict:
            through(*args)
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
        elif not isinstance(node.arg, nodes.Const):  # a key's hash is that of all that is in it
            node.arg = _filtered(node.arg, _COMPARED)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _filtered(node.key, _COMPARED)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filtered(node.expr, _COMPARED)
        for each in node.ops:
            each.expr = _filtered(each.expr, _COMPARED)
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


def _turns(items: Any) -> Iterator[Any]:
    """What a loop goes over, its turns counted, and the time looked at in each of them."""
    known = hasattr(items, "__len__")
    if known:
        step(len(items))
    return _each(items, 0 if known else 1)


def _each(items: Iterable[Any], steps: int = 1) -> Iterator[Any]:
    for item in items:
        step(steps)
        yield item


def _compared(value: Any) -> Any:
    """What is about to be held against something else, or looked up."""
    step()
    through(value)
    return value


@jinja2.pass_context  # so that constants, too, are printed when their turn comes
def _printed(context: Any, value: Any) -> str:
    step()
    through(value)
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
    through(parts)
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
        if name not in _WHOLE_FILTERS:
            through(value, *rest, *kwargs.values())
        if not isinstance(value, str) and hasattr(value, "__iter__"):
            if hasattr(value, "__len__"):
                step(0 if name in _AT_ONCE else len(value))
            else:
                value = _each(value)
            if name in ("join", "list"):
                value = list(value)
            if name == "join":
                check_join(str(rest[0]) if rest else str(kwargs.get("d", "")), value)
            if name == "sum" and _has_list([*rest, *kwargs.values()]):
                raise TooMuch("it sums up lists")
        check_text(name, value if isinstance(value, str) else "", rest, kwargs)
        return f(*args[:first], value, *rest, **kwargs)

    return within


def _tested(name: str, f: Any) -> Callable[..., Any]:
    """A test, such as `is lower`, that counts as a step, and what it looks at."""
    first = 0 if getattr(f, "jinja_pass_arg", None) is None else 1

    @wraps(f)
    def within(*args: Any) -> Any:
        step()
        if name not in _WHOLE_TESTS:
            through(*args[first:])
        if name in ("odd", "even", "divisibleby"):  # remainders, which of a text are formats
            check_operation("%", args[0], args[-1])
        return f(*args)

    return within


def _name(method: Any) -> str:
    return getattr(method, "__name__", "")


def _has_list(given: list[Any]) -> bool:
    return any(hasattr(each, "__iter__") and not isinstance(each, str) for each in given)
