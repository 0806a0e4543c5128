"""Rows from tables: templates see columns and nothing else, are drawn by a seed, sums add up."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilora.data.building import BuildReport, Pair, TableTemplate, build, build_file
from minilora.data.building import read_templates as read
from minilora.errors import ConfigError, DataError, FormatError


def pair(prompt, completion="{b}"):
    return Pair(TableTemplate(prompt), TableTemplate(completion))


TABLE = [{"a": f"x{i}", "b": str(i)} for i in range(60)]
THREE = [pair("one {a}"), pair("two {a}"), pair("three {a}", "it is {b}")]


def test_a_template_takes_values_as_they_stand():
    made = TableTemplate("{{{a}}} {my column}!{a}")
    assert made.columns == ("a", "my column")
    assert made.fill({"a": "{b}", "my column": "{0}%s"}) == "{{b}} {0}%s!{b}"
    assert TableTemplate("{a}").fill({"a": 3}) == "3"
    assert TableTemplate("{a}").fill({"a": ["ü", None]}) == '["ü", null]'


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_value_is_read_as_a_template(before, value):
    literal = before.replace("{", "{{").replace("}", "}}")
    assert TableTemplate(literal + "{a}").fill({"a": value}) == before + value


@pytest.mark.parametrize(
    "text", ["{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "{}", "{a", "a}", "{a:{b}}", '{"a": 1}']
)
def test_anything_but_a_column_between_braces_is_refused(text):
    with pytest.raises(ConfigError, match=r"the template .*nothing else.*\{\{ \}\}"):
        TableTemplate(text)


def test_one_template_makes_a_row_of_each_record_in_order():
    report = BuildReport()
    rows = list(build(TABLE, [pair("q {a}")], report=report))
    assert rows == [{"prompt": f"q x{i}", "completion": str(i)} for i in range(60)]
    assert (report.records, report.used, report.rows, report.distinct_prompts) == (60, 60, 60, 60)


def test_templates_are_drawn_by_seed_and_place_alone():
    whole = list(build(TABLE, THREE, seed=1))
    assert list(build(TABLE[:20], THREE, seed=1)) == whole[:20]
    assert list(build(TABLE, THREE, seed=2)) != whole
    kinds = [row["prompt"].split()[0] for row in whole]
    assert {kinds.count(kind) > 8 for kind in ("one", "two", "three")} == {True}
    assert all(
        ("it is" in r["completion"]) == (k == "three") for r, k in zip(whole, kinds, strict=True)
    )


def test_several_rows_of_a_record_come_from_different_templates_and_say_of_which():
    report = BuildReport()
    rows = list(build(TABLE, THREE, each=2, report=report))
    assert len(rows) == report.rows == 2 * report.used == 120
    assert [row["record"] for row in rows] == [n for n in range(1, 61) for _ in range(2)]
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        assert one["prompt"].split()[0] != two["prompt"].split()[0]
    assert sum(report.by_template.values()) == 120
    with pytest.raises(ConfigError, match="4 rows of each record need as many templates, not 3"):
        list(build(TABLE, THREE, each=4))


def test_records_with_nothing_in_a_column_are_left_out_and_counted():
    table = [{"a": "x", "b": "y"}, {"a": " ", "b": "y"}, {"a": "x", "b": None}, {"a": "x"}]
    report = BuildReport()
    rows = list(build(table, [pair("{a}")], report=report))
    assert len(rows) == 1
    assert report.records == report.used + sum(report.left_out.values()) == 4
    assert report.left_out == {"a": 1, "b": 2}
    assert len(list(build(table, [pair("{a}")], keep_blank=True))) == 2
    assert "  1 left out: nothing in column 'a'" in report.lines()


def test_a_column_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(ConfigError, match=r"no column 'c' for .*the columns are a, b"):
        list(build(TABLE, [pair("{c}")]))


def test_unused_columns_and_distinct_prompts_are_reported():
    report = BuildReport()
    list(build(TABLE, [pair("always the same")], report=report))
    assert report.unused_columns == ("a",)
    assert report.distinct_prompts == 1
    assert report.as_json()["distinct_prompts"] == 1


def test_templates_from_a_file(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text('Say {a}\n\n"{a}?\\n"\n{"prompt": "{a}:", "completion": " {b}"}\n')
    made = read(path, "{b}")
    texts = [(each.prompt.text, each.completion.text) for each in made]
    assert texts == [("Say {a}", "{b}"), ("{a}?\n", "{b}"), ("{a}:", " {b}")]
    path.write_text('{a} is it?\n"{a}" is said by\n')
    assert [each.prompt.text for each in read(path, "{b}")] == ["{a} is it?", '"{a}" is said by']
    path.write_text(json.dumps(["Say {a}", {"prompt": "{a}:", "completion": " {b}"}]))
    assert [each.prompt.text for each in read(path, "{b}")] == ["Say {a}", "{a}:"]


def test_lines_that_begin_with_a_bracket_are_text_unless_they_are_an_array(tmp_path):
    path = tmp_path / "t.txt"

    def prompts(content):
        path.write_bytes(content.encode())
        return [each.prompt.text for each in read(path, "{b}")]

    assert prompts("[INST] {a}? [/INST]\n") == ["[INST] {a}? [/INST]"]
    assert prompts("[INST] {a}? [/INST]\n\nSay {a}\n") == ["[INST] {a}? [/INST]", "Say {a}"]
    assert prompts("[1] {a}") == ["[1] {a}"]
    assert prompts('[\n"{a}?",\n"Say {a}"]\n') == ["{a}?", "Say {a}"]


def test_only_a_line_feed_ends_a_line(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes("a {a}\u2028b\u0085c\x0bd\r\ne {a}".encode())
    assert [each.prompt.text for each in read(path, "{b}")] == ["a {a}\u2028b\u0085c\x0bd", "e {a}"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no templates; write one a line"),
        ("a {x}\n{y.z}\n", "t.txt, template 2: .*nothing else"),
        ('["a", 3]', "template 2: is text, or an object"),
        ('{"prompt": "a"}', "template 1: is text, or an object"),
        ('{"prompt": "a", "completion": 3}', "prompt and completion are text"),
        ('{"prompt": "a", ', "line 1.*malformed JSON"),
        ('["{a}?",\n"Say {a}",]', "line 2.*malformed JSON.* a line of text, write it as a JSON"),
    ],
)
def test_templates_that_cannot_be_used_are_told_with_their_place(tmp_path, content, message):
    path = tmp_path / "t.txt"
    path.write_text(content)
    with pytest.raises((ConfigError, FormatError), match=message):
        read(path, "{b}")


def test_a_template_without_completion_says_what_to_give(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("a {x}\n")
    with pytest.raises(ConfigError, match="template 1: has no completion; give --completion"):
        read(path)


def test_a_file_is_built_whole_or_not_at_all(tmp_path):
    table, out = tmp_path / "t.csv", tmp_path / "r.jsonl"
    table.write_text("a,b\nü,1\n")
    report = build_file(table, out, [pair("{a}")])
    assert out.read_text() == '{"prompt": "ü", "completion": "1"}\n'
    assert report.rows == 1
    table.write_text("a,b\nx,1\ny\n")
    with pytest.raises(DataError, match="line 3: 1 cells"):
        build_file(table, out, [pair("{a}")])
    assert out.read_text() == '{"prompt": "ü", "completion": "1"}\n'
    table.write_text("a,b\n")
    with pytest.raises(DataError, match="has no records"):
        build_file(table, out, [pair("{a}")])
    with pytest.raises(DataError, match="would be written over"):
        build_file(table, table, [pair("{a}")])
