"""Splits: no question on two sides, the same side again, groups that stay together."""

import json
import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minilora.data.matching import normalized
from minilora.data.near import shingles
from minilora.data.rows import as_row, parts
from minilora.data.splitting import SIDES, Shares, split, split_file
from minilora.errors import ConfigError, DataError


@pytest.fixture(autouse=True, scope="module")
def _datasketch():
    pytest.importorskip("datasketch")


def qa(question, answer="yes", **more):
    return {"prompt": question, "completion": answer, **more}


def questions(n, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices([f"w{i}" for i in range(500)], k=8)) for _ in range(n)]


def side_of(by_side):
    """prompt → the sides it is on."""
    found = {}
    for side, rows in by_side.items():
        for row in rows:
            found.setdefault(normalized(parts(row).key), set()).add(side)
    return found


def test_every_row_is_on_one_side_in_its_order_and_shares_are_about_right():
    rows = [qa(q, str(i)) for i, q in enumerate(questions(2000))]
    by_side = split(rows, 0.2, validation=0.1)
    assert sorted(int(r["completion"]) for s in SIDES for r in by_side[s]) == list(range(2000))
    for kept in by_side.values():
        numbers = [int(row["completion"]) for row in kept]
        assert numbers == sorted(numbers)
    # The standard deviation of 2000 draws at 0.2 is 18.
    assert abs(len(by_side["test"]) - 400) < 72
    assert abs(len(by_side["validation"]) - 200) < 56


def test_seeds_differ_and_one_seed_is_the_same_in_any_order_with_any_rows_added():
    rows = [qa(q) for q in questions(300)]
    one = side_of(split(rows))
    assert side_of(split(rows)) == one
    assert side_of(split(rows, seed=1)) != one
    shuffled = random.Random(1).sample(rows, 300)
    assert side_of(split(shuffled)) == one
    more = side_of(split([*shuffled, *(qa(q) for q in questions(300, seed=2))]))
    assert {question: more[question] for question in one} == one


words = st.sampled_from(["a", "A", "b", "c", "d?", "e  f"])
asked = st.lists(words, min_size=1, max_size=4).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.one_of(st.builds(qa, asked, asked), asked.map(lambda t: {"text": t}))), st.data()
)
def test_no_question_is_on_two_sides(rows, data):
    near = data.draw(st.sampled_from([None, 0.5, 0.8]))
    try:
        by_side = split(rows, 0.4, data.draw(st.integers(0, 3)), near=near)
    except DataError:  # few rows, of which none came to one of the sides
        assume(False)
    assert all(len(sides) == 1 for sides in side_of(by_side).values())
    made = [as_row(row) for row in rows]
    for kept in by_side.values():
        assert [row for row in made if row in kept] == kept
    assert sum(map(len, by_side.values())) == len(rows)


def test_nearly_the_same_questions_stay_together_also_through_a_third():
    rng = random.Random(0)
    rows = []
    for group in range(60):
        one = [f"g{group}w{i}" for i in rng.sample(range(100), 80)]
        for i in range(9):  # each is near the one before, the last not near the first
            rows.append(qa(" ".join(one), group=group))
            one[8 * i + 3] = f"new{i}"
    first, last = (shingles(rows[i]["prompt"]) for i in (0, 8))
    assert len(first & last) / len(first | last) < 0.6
    rng.shuffle(rows)

    def groups_on_two_sides(**options):
        by_side = split(rows, 0.5, **options)
        return len({r["group"] for r in by_side["train"]} & {r["group"] for r in by_side["test"]})

    assert groups_on_two_sides() == 0
    assert groups_on_two_sides(near=None) > 30
    assert groups_on_two_sides(near=None, together="group") == 0


def test_a_row_that_does_not_say_to_what_it_belongs_is_an_error():
    with pytest.raises(DataError, match=r"rows\[1\]: has no 'id'"):
        split([qa("a", id=1), qa("b")], together="id")
    with pytest.raises(DataError, match=r"rows\[0\]: 'completion' is missing"):
        split([{"prompt": "a"}])


def test_a_side_without_rows_is_an_error_that_says_what_to_do():
    with pytest.raises(DataError, match=r"of 2 rows in 1 groups .* none came to .*larger share"):
        split([qa("a"), qa("A")])
    frame = " ".join(questions(12))
    with pytest.raises(DataError, match="near off"):
        split([qa(f"{frame} {i}") for i in range(100)])
    assert len(split([qa(f"{frame} {i}") for i in range(100)], near=None)["test"]) > 2


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"test": 1.0}, r"share for test, 1.0, must be in \[0, 1\)"),
        ({"validation": -0.1}, "share for validation, -0.1"),
        ({"test": 0.6, "validation": 0.5}, "leave nothing to train on"),
    ],
)
def test_shares_outside_of_what_is_allowed(shares, message):
    with pytest.raises(ConfigError, match=message):
        Shares(**shares)


def test_a_file_is_split_as_a_list_is(tmp_path):
    rows = [qa(q, str(i)) for i, q in enumerate(questions(200))]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = {side: tmp_path / f"{side}.jsonl" for side in SIDES}
    report = split_file(path, out, Shares(0.2, 0.1, seed=3))
    read = {s: [json.loads(line) for line in p.read_text().splitlines()] for s, p in out.items()}
    assert read == split(rows, 0.1, 3, validation=0.2)
    assert report.by_side == {side: len(kept) for side, kept in read.items()}
    assert (report.rows, report.questions, report.groups) == (200, 200, 200)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    for bad, error in (
        ({**out, "test": path}, DataError),
        ({**out, "test": out["train"]}, DataError),
        ({"train": out["train"]}, ConfigError),
    ):
        with pytest.raises(error):
            split_file(path, bad, Shares())
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(DataError, match="line 201: no form"):
        split_file(path, out, Shares())
    after = {p: p.read_bytes() for p in tmp_path.iterdir() if p != path}
    assert after == {p: raw for p, raw in before.items() if p != path}
