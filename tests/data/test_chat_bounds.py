"""Templates that fail, do not end or make too much are stopped, with words, and soon."""

import time

import pytest

jinja2 = pytest.importorskip("jinja2")

from minilora.data import bounds  # noqa: E402
from minilora.data.chat import ChatTemplate  # noqa: E402
from minilora.data.instructions import to_examples  # noqa: E402
from minilora.errors import DataError, FormatError  # noqa: E402

ASKED = [{"role": "user", "content": "hi"}]
LONG = "{% set a = 'a' * 4000 %}"

ENDLESS = {
    "loops in loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}"
    "{% endfor %}",
    "generators": "{% for a in range(9999) %}{{ range(9999) | map('string') | list }}{% endfor %}",
    "two calls each": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "a recursive loop": "{% for x in range(9999) recursive %}{{ loop(range(9999)) }}{% endfor %}",
}
# Texts of four million characters that differ in the last, and lists that hold themselves twice.
LARGE = "{% set x = 'a' * 4000000 %}{% set y = x[1:] ~ 'b' %}{% set z = x[1:] ~ 'c' %}"
NESTED = (
    "{% set n = namespace(a=[1], b=[1], t=(1,)) %}{% for i in range(60) %}"
    "{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% set n.t = (n.t, n.t) %}{% endfor %}"
)
HEAVY = {
    name: LARGE + "{% for i in range(99999) %}" + body + "{% endfor %}"
    for name, body in {
        "compared": "{% if y == z and z == y %}{% endif %}",
        "tested": "{% if x is lower %}{% endif %}",
        "looked for": "{% if 'a' * 2000 ~ 'b' in x %}{% endif %}",
        "tested as a filter": "{{ [x] | select('lower') | list | length }}",
    }.items()
} | {
    name: (LARGE if large else NESTED) + "{{ " + body + " }}"
    for large, name, body in (
        (1, "looked for in a list", "z in [y] * 99999"),
        (1, "counted in a list", "([y] * 99999).count(z)"),
        (1, "selected from a list", "([{'a': y}] * 99999) | selectattr('a', 'eq', z) | list"),
        (1, "sorted", "([y, z] * 49999) | sort | length"),
        (0, "nested, compared", "n.a == n.b"),
        (0, "nested, tested", "n.a is eq(n.b)"),
        (0, "nested, looked for", "n.a in [n.b]"),
        (0, "nested, a key", "{n.t: 1}"),
        (0, "nested, looked up", "{1: 1}[n.t]"),
        (0, "nested, got", "{1: 1}.get(n.t)"),
        (0, "nested, made a key", "dict([(n.t, 1)])"),
        (0, "nested, printed", "n.a"),
        (0, "nested, printed within", "n"),
        (0, "nested, joined", "n.a ~ ''"),
        (0, "nested, joined by a method", "','.join(n.a)"),
        (0, "nested, as JSON", "n.a | tojson"),
        (0, "nested, as text", "n.a | string | length"),
        (0, "nested, formatted", "'%s' % [n.a]"),
        (0, "nested, formatted by a method", "'{}'.format(n.a)"),
    )
}
TOO_LARGE = {
    "times": "{{ 'a' * 10 ** 9 }}",
    "times from the left": "{{ 10 ** 9 * [1] }}",
    "doubled by ~": "{% set n = namespace(s='ab') %}{% for i in range(60) %}"
    "{% set n.s = n.s ~ n.s %}{% endfor %}",
    "doubled by +": "{% set n = namespace(s='ab') %}{% for i in range(60) %}"
    "{% set n.s = n.s + n.s %}{% endfor %}",
    "format": "{{ '%999999999d' % 1 }}",
    "format, width given": "{{ '%*d' % (99999999, 1) }}",
    "format method": "{{ '{:>99999999}'.format(1) }}",
    "format method, width given": "{{ '{:>{}}'.format(1, 99999999) }}",
    "format, repeated": LONG + "{{ ('{0}' * 4000).format(a) }}",
    "format filter": "{{ '%999999999d' | format(1) }}",
    "center": "{{ 'a' | center(999999999) }}",
    "ljust": "{{ 'a'.ljust(999999999) }}",
    "indent": "{{ 'a' | indent(1000000000) }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "replace": LONG + "{{ a.replace('a', a).replace('a', a) }}",
    "replace filter": LONG + "{{ a | replace('a', a) | replace('a', a) }}",
    "replace nothing": LONG + "{{ a.replace('', a) }}",
    "join": LONG + "{{ ([a] * 4000) | join }}",
    "join method": LONG + "{{ ''.join([a] * 4000) }}",
    "sum of lists": "{{ ([[1] * 99999] * 9999) | sum(start=[]) }}",
    "json": "{{ messages | tojson(indent=99999999) }}",
    "printed": "{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}",
    "printed aside": LONG + "{% set b %}{% for i in range(9999) %}{{ a }}{% endfor %}{% endset %}",
    "kept": LONG + "{% set n = namespace(l=[]) %}{% for i in range(99999) %}"
    "{% set n.l = n.l + [a[1:]] %}{% endfor %}",
    "translated": "{{ 'a'.translate({97: 'xx'}) }}",
    "odd": "{{ '%999999999d' is odd }}",
    "divided": "{{ '%999999999d' is divisibleby(2) }}",
    "encoded": "{{ 'a'.encode().center(999999999) | length }}",
    "a number's bytes": "{{ (1).to_bytes(999999999, 'big') | length }}",
    "repeated in a list": "{{ ['a' * 4000000] * 2000 }}",
}
FAILING = {
    "divides by zero": ("{{ 1 / 0 }}", "division by zero"),
    "a range that is too long": ("{{ range(10 ** 7) | list }}", "Range too big"),
    "no such name": ("{{ what.is.this }}", "'what' is undefined"),
    "its own words": ("{{ raise_exception('not like this') }}", "not like this"),
    "a key that is not there": ("{{ messages[7].content.x }}", "no element 7"),
    "a method of nothing": ("{{ none.x() }}", "None"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_does_not_end_is_stopped(name):
    with pytest.raises(FormatError, match=r"template was stopped: it does not end: more than .*;"):
        ChatTemplate(ENDLESS[name]).render(ASKED)


@pytest.mark.parametrize("name", HEAVY)
def test_a_template_that_compares_or_writes_out_without_end_is_stopped(name):
    began = time.monotonic()
    with pytest.raises(FormatError, match=r"template was stopped: it .*; mend it"):
        ChatTemplate(HEAVY[name]).render(ASKED)
    assert time.monotonic() - began < 15


def test_the_time_is_looked_at_in_each_turn_of_a_loop(monkeypatch):
    monkeypatch.setattr(bounds, "MOST_SECONDS", 1e-3)
    with pytest.raises(FormatError, match=r"more than 0\.001 seconds"):
        ChatTemplate("{% for i in range(99999) %}{% set x = i %}{% endfor %}").render(ASKED)


def test_a_conversation_of_a_thousand_turns_is_within_the_bounds():
    source = (
        "{% for m in messages %}{% if m.role == 'user' and not ('<tool>' in m.content) %}"
        "<{{ m.role }}>{{ m.content }}{% elif m.content is string %}{{ m.content }}{% endif %}"
        "{{ '.' if messages | length - 1 == loop.index0 or m == messages[-1] }}{% endfor %}"
    )
    messages = [{"role": "user", "content": "word " * 200 + str(i)} for i in range(1000)]
    said = "".join(f"<user>{each['content']}" for each in messages)
    assert ChatTemplate(source).render(messages) == said + "."


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_template_that_makes_too_much_is_stopped_before_it_does(name):
    with pytest.raises(FormatError, match=r"template was stopped: it .*; mend it") as error:
        ChatTemplate(TOO_LARGE[name]).render(ASKED)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("name", FAILING)
def test_a_template_that_fails_says_how(name):
    source, said = FAILING[name]
    with pytest.raises(DataError, match=f"template refuses these messages: .*{said}"):
        ChatTemplate(source).render(ASKED)


def test_one_that_calls_itself_and_one_that_is_nested_too_deeply():
    endless = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"
    with pytest.raises(FormatError, match="calls itself without an end"):
        ChatTemplate(endless).render(ASKED)
    with pytest.raises(FormatError, match="template cannot be read"):
        ChatTemplate("{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}").render(ASKED)


def test_the_count_begins_anew_with_each_rendering():
    template = ChatTemplate("{% for i in range(99999) %}{% endfor %}{{ messages[0].content }}")
    for _ in range(12):  # 1.2 million turns in all
        assert template.render(ASKED) == "hi"


def test_what_is_bounded_still_does_what_it_did():
    source = (
        "{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }}"
        "{{ ' last' if loop.last }}{{ '\\n' }}{% endfor %}"
        "{{ 'a' ~ 1 ~ ['b'] }} {{ 'ab' * 2 }} {{ 'a' + 'b' }} {{ 7 % 3 }} {{ 2 ** 5 }}"
        " {{ '%05.1f|%s' % (2.5, 'x') }} {{ '{:>4}|{}'.format('a', 2) }} {{ 'abc'[1:] }}"
        " {{ 'a-b'.replace('-', '+') }} {{ ['a', 'b'] | join(', ') }} {{ 'x'.join(['1', '2']) }}"
        " {{ messages | map(attribute='role') | join('.') }} {{ [1, 2] | sum }}"
        " {{ 'a\\nb' | indent(2) }} {{ 'Title' | lower | trim | length }}"
        "{% macro f(x) %}<{{ x }}>{% endmacro %} {{ f('y') }}{% set b %}c{{ 1 }}{% endset %}{{ b }}"
        "{% generation %} answer{{ 1 }}{% endgeneration %}"
    )
    messages = [*ASKED, {"role": "assistant", "content": "b"}, *ASKED]
    assert ChatTemplate(source).render(messages) == (
        "1/2\n2/2 last\na1['b'] abab ab 1 32 002.5|x    a|2 bc a+b a, b 1x2 user.assistant.user 3 "
        "a\n  b 5 <y>c1 answer1"
    )


def test_it_is_told_with_the_row():
    class Tokenizer:
        stop_ids, start_ids, end_id, pad_id, vocab_size = (1,), (), 1, 0, 300
        chat = ChatTemplate(ENDLESS["loops in loops"]).render

        def encode(self, text, *, start=False):
            return list(text.encode())

    row = {"messages": [*ASKED, {"role": "assistant", "content": "b"}]}
    with pytest.raises(DataError, match=r"^rows\[0\]: the chat template was stopped: it does not"):
        to_examples([row], Tokenizer(), 99)
