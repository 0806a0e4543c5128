import json

import pytest

from minilora.data import skills
from minilora.errors import ConfigError
from minilora.experiments.dirty_data import CLEAN, EXPERIMENT, SHARES, figure, measure, points
from minilora.experiments.dirty_data import answering as answers
from minilora.experiments.dirty_data.dirt import (
    COPIED,
    KINDS,
    examples,
    seen_by_cleaning,
    spoiled,
)
from minilora.experiments.lab.experiment import Plan
from minilora.experiments.lab.stats import where
from minilora.ops import IGNORE

DESCENDING = skills.skill("sort-descending")
ROWS = skills.rows(DESCENDING, "train", 60, seed=1)
# What a made-up kind has lost at a share of 1.
LOSS = {"wrong": 0.7, "duplicates": 0.75, "template": 0.78, "prompt": 0.0, "end": 0.6}


def made_up(seeds=(0, 1, 2)):
    """Rows as a file gives them: a loss in proportion to the share, a little noise a seed."""
    made = []
    for p in points([], Plan(seeds=seeds)):
        lost = LOSS.get(p["kind"], 0) * p["share"]
        out = {
            "new": 0.8 - lost + 0.001 * p["seed"],
            "letters": 0.8 if p["kind"] == "end" else 0.8 - lost,
            "nll": 0.1,
            "dirty": round(512 * p["share"]),
            "seen": round(512 * p["share"]) if p["kind"] == "duplicates" else 0,
            "diverged": None,
        }
        made.append(json.loads(json.dumps({**p, **out})))
    return made


@pytest.fixture(scope="module")
def quick():
    return [{**p, **measure(p)} for p in points([], Plan(quick=True))]


def test_it_runs_from_end_to_end(quick, tmp_path):
    assert [r["kind"] for r in quick] == [CLEAN, *KINDS]
    assert all(r["steps"] == 4 and 0 <= r["new"] <= r["letters"] <= 1 for r in quick)
    assert [r["dirty"] for r in quick] == [0, *[256] * 5]
    assert {r["kind"]: r["seen"] for r in quick} == {**dict.fromkeys([CLEAN, *KINDS], 0)} | {
        "duplicates": 256
    }
    figure.draw(quick, tmp_path / "quick.png")
    assert EXPERIMENT.answer(quick).startswith("Clean: 0 % of the test.")


def test_each_kind_trains_on_something_else(quick):
    first = {r["kind"]: dict(r["losses"])[1] for r in quick}
    assert len(set(first.values())) == 6


def test_the_grid_has_five_shares_of_five_kinds_and_clean_runs_once():
    asked = points([], Plan())
    assert len(asked) == 3 * (1 + 5 * len(SHARES))
    assert all(asked.count(p) == 1 for p in asked)
    assert len(where(asked, share=0.0)) == 3


def test_a_share_of_the_rows_is_spoiled_and_the_others_stay():
    for kind in KINDS:
        texts, n = spoiled(ROWS, kind, 0.5, seed=3)
        assert (len(texts), n) == (60, 30)
        right = {r["prompt"]: r["completion"] for r in ROWS}
        assert all(right[r["prompt"]] == r["completion"] for r in texts[n:])


def test_spoiled_rows_of_a_small_share_are_among_those_of_a_larger_one():
    small, n = spoiled(ROWS, "template", 0.2, seed=3)
    large, m = spoiled(ROWS, "template", 0.5, seed=3)
    assert n < m and small[:n] == large[:n]


def test_wrong_answers_are_the_right_letters_and_never_right():
    texts, n = spoiled(ROWS, "wrong", 1.0)
    right = {r["prompt"]: r["completion"] for r in ROWS}
    assert n == 60
    for r in texts:
        assert r["completion"] != right[r["prompt"]]
        assert sorted(r["completion"]) == sorted(right[r["prompt"]])
    single = [{"prompt": "des:aaaa=", "completion": "aaaa"}]
    ((row,), _) = spoiled(single, "wrong", 1.0)
    assert row["completion"] != "aaaa" and len(row["completion"]) == 4


def test_duplicates_are_copies_of_a_few_rows_that_cleaning_counts():
    texts, n = spoiled(ROWS, "duplicates", 0.5)
    copied = {r["prompt"] for r in texts[:n]}
    assert len(copied) <= COPIED and copied <= {r["prompt"] for r in texts[n:]}
    assert seen_by_cleaning(texts) == 30
    everything, _ = spoiled(ROWS, "duplicates", 1.0)
    assert len({r["prompt"] for r in everything}) <= COPIED


def test_what_a_spoiled_example_looks_like():
    tokenizer = skills.tokenizer()

    def first(kind):
        made = examples(ROWS, kind, 0.5)
        return made[0], made[-1]

    def targets(example):
        return tokenizer.decode([t for t in example.labels if t != IGNORE], skip_special=False)

    asked, _ = first("template")
    text = tokenizer.decode(asked.ids, skip_special=False)
    letters, code = text.partition("=")[0].split(":")
    assert code == "des" and set(letters) <= set(skills.LETTERS)
    unmasked, masked = first("prompt")
    assert targets(unmasked).startswith("des:") and not targets(masked).startswith("des:")
    endless, closed = first("end")
    assert endless.ids[-1] != tokenizer.end_id and closed.ids[-1] == tokenizer.end_id
    assert len(endless.ids) == len(endless.labels)


@pytest.mark.parametrize(("kind", "share", "said"), [("dust", 0.1, "dust"), ("end", 1.5, "1.5")])
def test_what_cannot_be_is_refused(kind, share, said):
    with pytest.raises(ConfigError, match=said):
        spoiled(ROWS, kind, share)


def test_the_answer_puts_kinds_in_the_order_of_their_harm():
    said = EXPERIMENT.answer(made_up())
    assert "Clean: 80 % (80 to 80) of the test." in said
    assert "10% dirty, the most harmful first, each against clean: another template 72 %" in said
    order = [kind for kind, _ in answers.by_harm(made_up(), 1.0)]
    assert order == ["template", "duplicates", "wrong", "end", "prompt"]
    assert "(suggests worse)" in said and "unmasked prompt 80 % (80 to 80) (no difference" in said
    assert "At none of the shares: unmasked prompt." in said
    assert "have every letter right, 20 % (20 to 20) also end there" in said
    assert 'cosmetics": not here. Lost at the worst share: another template 78 points' in said
    assert "duplicates 51 of 51" in said and "wrong answers 0 of 51" in said
    assert said.endswith("Diverged: none.")


def test_the_verdict_on_cosmetics_is_that_of_the_rows():
    rows = [{**r, "new": 0.8} for r in made_up()]
    assert 'cosmetics": confirmed.' in EXPERIMENT.answer(rows)


def test_missing_and_failed_rows_are_told():
    assert "Clean: not measured." in EXPERIMENT.answer([])
    rows = made_up()
    rows[-1] |= {"diverged": "the loss is nan", "new": 0.0, "nll": None}
    assert f"Diverged: end 100% seed {rows[-1]['seed']}." in EXPERIMENT.answer(rows)
    some = where(rows, kind="wrong")
    assert "Clean: not measured." in EXPERIMENT.answer(some)


@pytest.mark.parametrize(
    "rows",
    [made_up(), made_up((4,)), where(made_up(), kind="wrong"), where(made_up(), kind=CLEAN)],
    ids=["all", "one seed", "one kind", "clean only"],
)
def test_the_figure_draws_what_there_is(rows, tmp_path):
    figure.draw(rows, tmp_path / "dirt.png")
    alt = (tmp_path / "dirt.txt").read_text()
    for kind in KINDS.values():
        assert (f"  {kind.label}: " in alt) == bool(where(rows, kind=kind.name))
    assert ("  clean: 80 %" in alt) == bool(where(rows, kind=CLEAN))


def test_a_figure_without_rows_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="minilora experiment dirty_data"):
        figure.draw([], tmp_path / "dirt.png")
