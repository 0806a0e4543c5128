"""Lesson 03: the numbers that must come out, and its figures on edge data."""

import math

import numpy as np
import pytest

import minilora
from minilora.accounting.presets import preset
from minilora.data import skills
from minilora.data.batches import Batches
from minilora.errors import ConfigError
from minilora.lessons import check
from minilora.lessons.l03_figure import chance, draw_block, draw_skills, wilson


@pytest.fixture(scope="module")
def base():
    return minilora.load_base("skills")


def row(skill="copy", new=False, n=500, base=500, untrained=0, chance=0.0):
    return locals()


@pytest.mark.parametrize("seed", range(3))
def test_the_first_loss_is_that_of_a_guess(base, seed):
    old = [e for s in skills.OLD for e in skills.examples(s, "train", 30)]
    untrained = minilora.Transformer(base.config, seed=seed)
    loss = untrained.loss(*Batches(old, 240, seed=0)[0]).item()
    assert loss == pytest.approx(math.log(base.config.vocab_size), rel=0.05)


def test_the_base_knows_the_old_skills_and_not_the_new_one(base):
    for each in skills.OLD:
        assert minilora.exact_match(base, skills.examples(each, "test", 500)) >= 0.98, each.name
    missing = skills.examples(skills.skill("sort-descending"), "test", 500)
    assert minilora.exact_match(base, missing) <= 0.05


def test_no_logit_changes_before_a_changed_token(base):
    ids = np.array([base.tokenizer.encode("rev:abcdefgh=hgfedcba")])
    logits = base(ids).data
    for t in range(ids.shape[1]):
        changed = ids.copy()
        changed[0, t] = base.tokenizer.encode("z")[0]
        after = base(changed).data
        assert np.array_equal(after[:, :t], logits[:, :t])
        assert not np.array_equal(after[:, t], logits[:, t])


def test_wilsons_interval():
    assert wilson(0, 500) == (0, pytest.approx(0.0076, abs=1e-4))
    assert wilson(500, 500) == (pytest.approx(0.9924, abs=1e-4), 1)
    assert wilson(5, 10) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    for right, n in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(ConfigError, match="n must be at least 1"):
            wilson(right, n)


def test_chance_is_that_of_a_guesser_who_knows_the_length():
    examples = skills.examples(skills.skill("every-second"), "test", 50)
    answers = skills.rows(skills.skill("every-second"), "test", 50)
    expected = np.mean([12.0 ** -len(r["completion"]) for r in answers])
    assert chance(examples) == pytest.approx(expected)
    with pytest.raises(ConfigError, match="no examples"):
        chance([])


@pytest.mark.parametrize(
    "rows",
    [
        [row()],
        [row(new=True, base=0)],
        [row("x", new=True, n=1, base=1, untrained=1, chance=1.0), row(n=7, base=3, untrained=7)],
    ],
    ids=["one old", "one new", "odd shares"],
)
def test_skills_are_drawn_with_their_words(rows, tmp_path):
    draw_skills(rows, tmp_path / "f.png")
    words = (tmp_path / "f.txt").read_text(encoding="utf-8")
    assert (tmp_path / "f.png").stat().st_size > 5000
    assert all(f"{r['skill']} (" in words for r in rows)
    assert f"base {100 * rows[0]['base'] / rows[0]['n']:.1f}" in words


def test_no_skills_are_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no skill"):
        draw_skills([], tmp_path / "f.png")


def test_a_block_is_drawn_with_the_shapes_of_its_config(base, tmp_path):
    draw_block(base.config, tmp_path / "a.png")
    words = (tmp_path / "a.txt").read_text(encoding="utf-8")
    assert "A block of 4" in words and "gate, up: T × 344" in words
    draw_block(preset("llama-3-8b"), tmp_path / "b.svg")
    words = (tmp_path / "b.txt").read_text(encoding="utf-8")
    assert "4096 × 4096, twice 1024 × 4096" in words and "k, v: 8 × T × 128" in words


def test_a_loss_that_refuses_without_a_word_or_always_is_not_right():
    def mute(logits, labels):
        raise ValueError

    def always(logits, labels):
        raise ValueError("no")

    for answer in (mute, always):
        assert not check("03.2", answer).passed
