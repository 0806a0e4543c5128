"""String skills: each does what it says, splits share no string, the base knows the old ones."""

import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilora.bases import load_base
from minilora.data import skills
from minilora.data.skills import LETTERS, NEW, OLD, SKILLS
from minilora.errors import ConfigError
from minilora.evaluation import exact_match
from minilora.experiments.pretrain import EXAMPLES_PER_SKILL
from minilora.generation import generate

texts = st.text(LETTERS, min_size=4, max_size=8)
MOVING = ["copy", "reverse", "sort", "rotate-left", "swap-halves", "sort-descending"]
MOVING += ["rotate-right", "swap-ends", "swap-neighbours", "interleave"]
every_skill = pytest.mark.parametrize("name", SKILLS)


def apply(name, text):
    return SKILLS[name].apply(text)


# -- what each does


@given(texts)
def test_every_answer_is_of_the_same_letters_and_no_longer(text):
    for skill in SKILLS.values():
        answer = skill.apply(text)
        assert 1 <= len(answer) <= 8
        assert set(answer) <= set(LETTERS)
        assert len(skill.prompt(text)) + len(answer) + 1 <= skills.MAX_TOKENS


@given(texts)
def test_those_that_only_move_letters_keep_each(text):
    for name in MOVING:
        assert sorted(apply(name, text)) == sorted(text), name


@given(texts)
def test_copy_reverse_and_sorting(text):
    assert apply("copy", text) == text
    assert apply("reverse", text)[::-1] == text
    ordered = apply("sort", text)
    assert all(a <= b for a, b in itertools.pairwise(ordered))
    assert apply("sort-descending", text) == ordered[::-1]


@given(texts)
def test_next_letter_goes_once_around_in_twelve(text):
    answer = apply("next-letter", text)
    assert all(b == a + 1 for a, b in zip(text.encode(), answer.encode(), strict=True) if a != 108)
    for _ in range(11):
        answer = apply("next-letter", answer)
    assert answer == text


@given(texts)
def test_rotating_left_and_right_undo_each_other(text):
    assert apply("rotate-left", text) == text[1:] + text[:1]
    assert apply("rotate-right", apply("rotate-left", text)) == text
    assert apply("rotate-left", apply("rotate-right", text)) == text


@given(texts)
def test_halves(text):
    n = len(text) // 2
    assert apply("swap-halves", text) == text[n:] + text[:n]
    answer = apply("mirror", text)
    assert answer == answer[::-1]
    assert answer[:n] == text[:n]
    assert len(answer) == 2 * n


@given(texts)
def test_interleaving_is_undone_by_taking_every_second(text):
    answer = apply("interleave", text)
    assert answer[::2] + answer[1::2] == text
    assert len(answer[::2]) - len(answer[1::2]) in (0, 1)


@given(texts)
def test_drop_repeats_keeps_each_letter_where_it_first_stands(text):
    answer = apply("drop-repeats", text)
    assert len(set(answer)) == len(answer)
    assert set(answer) == set(text)
    assert [text.index(c) for c in answer] == sorted(text.index(c) for c in answer)


@given(texts)
def test_every_second_and_swaps(text):
    assert apply("every-second", text) == "".join(c for i, c in enumerate(text) if i % 2 == 1)
    assert apply("swap-ends", text) == text[-1] + text[1:-1] + text[0]
    answer = apply("swap-neighbours", text)
    assert [answer[i : i + 2] for i in range(0, len(text) - 1, 2)] == [
        text[i + 1] + text[i] for i in range(0, len(text) - 1, 2)
    ]
    assert apply("swap-neighbours", answer) == apply("swap-ends", apply("swap-ends", text)) == text


@given(texts, texts)
def test_cipher_is_letter_by_letter_and_can_be_read_again(one, other):
    assert apply("cipher", one + other) == apply("cipher", one) + apply("cipher", other)
    assert sorted(apply("cipher", LETTERS)) == list(LETTERS)


def test_cipher_is_far_from_any_shift_and_is_what_is_said_of_it():
    answer = apply("cipher", LETTERS)
    shifts = [(ord(b) - ord(a)) % 12 for a, b in zip(LETTERS, answer, strict=True)]
    assert max(shifts.count(shift) for shift in shifts) <= 3
    if "other" in SKILLS["cipher"].says:
        assert 0 not in shifts


# -- names and splits


def test_names_are_spelled_with_letters_that_pretraining_sees():
    codes = [skill.code for skill in SKILLS.values()]
    assert len(set(codes)) == len(codes) == len(OLD) + len(NEW)
    assert all(len(code) == 3 for code in codes)
    seen = {c for skill in OLD for c in skill.code} | set(LETTERS)
    assert {c for skill in NEW for c in skill.code} <= seen
    assert seen <= set(skills.ALPHABET)


def test_each_skill_is_known_by_its_name_and_others_are_listed():
    assert len(OLD) >= 7
    assert len(NEW) >= 4
    assert skills.skill("mirror") is SKILLS["mirror"]
    with pytest.raises(ConfigError, match="no task 'fly'") as said:
        skills.skill("fly")
    assert all(name in str(said.value) for name in SKILLS)


@given(texts)
def test_a_string_is_in_one_split_whatever_the_skill(text):
    assert skills.split_of(text) == skills.split_of(text) in ("train", "validation", "test")


def test_splits_share_no_string_over_all_skills_and_seeds():
    seen = {
        split: {
            row["prompt"].split(":")[1]
            for seed, skill in enumerate(SKILLS.values())
            for row in skills.rows(skill, split, 300, seed)
        }
        for split in ("train", "validation", "test")
    }
    assert all(len(each) > 1000 for each in seen.values())
    for one, other in itertools.combinations(seen.values(), 2):
        assert not one & other


def test_pretraining_has_seen_no_string_that_is_tested():
    seen = {
        row["prompt"].split(":")[1]
        for i, skill in enumerate(OLD[:2])
        for row in skills.rows(skill, "train", EXAMPLES_PER_SKILL, i)
    }
    tested = {row["prompt"].split(":")[1] for row in skills.rows(OLD[0], "test", 500)}
    assert len(seen) > EXAMPLES_PER_SKILL
    assert len(tested) == 500
    assert not seen & tested


def test_of_ten_strings_eight_train_and_lengths_are_evenly_mixed():
    some = ["".join(letters) for letters in itertools.product("abcdef", repeat=5)]
    shares = [
        sum(skills.split_of(s) == split for s in some) / len(some)
        for split in ("train", "validation", "test")
    ]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    lengths = [len(s) for s in itertools.islice(skills.strings("test", 0), 2000)]
    assert [lengths.count(n) / 2000 for n in range(4, 9)] == pytest.approx([0.2] * 5, abs=0.04)


@every_skill
def test_rows_are_distinct_right_and_the_same_for_a_seed(name):
    skill = SKILLS[name]
    rows = skills.rows(skill, "test", 200)
    assert rows == skills.rows(skill, "test", 200)
    assert rows[:50] == skills.rows(skill, "test", 50)
    assert rows != skills.rows(skill, "test", 200, seed=1)
    assert len({row["prompt"] for row in rows}) == 200
    for row in rows:
        code, _, text = row["prompt"].removesuffix("=").partition(":")
        assert code == skill.code
        assert skills.split_of(text) == "test"
        assert row["completion"] == skill.apply(text)


def test_examples_ask_for_answer_and_end_alone():
    tokenizer = skills.tokenizer()
    for example, row in zip(
        skills.examples(SKILLS["reverse"], "train", 20),
        skills.rows(SKILLS["reverse"], "train", 20),
        strict=True,
    ):
        assert tokenizer.decode(example.ids) == row["prompt"] + row["completion"]
        asked = [label for label in example.labels if label != -100]
        assert asked == [*tokenizer.encode(row["completion"]), tokenizer.end_id]
        assert example.ids[len(row["prompt"]) :] == asked


def test_the_tokenizer_knows_the_alphabet():
    assert skills.tokenizer().alphabet == string.ascii_lowercase + ":="
    assert skills.tokenizer().vocab_size == 30


# -- the embedded base


@pytest.fixture(scope="module")
def base():
    return load_base("skills")


@pytest.mark.parametrize("skill", OLD, ids=lambda skill: skill.name)
def test_the_base_knows_the_old_skills_on_strings_it_never_saw(base, skill):
    assert exact_match(base, skills.examples(skill, "test", 500)) >= 0.98


@pytest.mark.parametrize("skill", NEW, ids=lambda skill: skill.name)
def test_the_base_does_not_know_the_new_skills(base, skill):
    assert exact_match(base, skills.examples(skill, "test", 500)) <= 0.05


def test_the_base_is_small_and_has_room(base):
    assert 700_000 < base.n_parameters() < 900_000
    assert base.config.max_positions >= 256
    assert base.tokenizer.alphabet == skills.ALPHABET


def test_the_example_prompt_is_answered(base):
    prompt = skills.example_prompt()
    assert prompt == "rev:abcdefgh="
    tokenizer = base.tokenizer
    (answer,) = generate(base, [tokenizer.encode(prompt)], 12, stop=tokenizer.stop_ids)
    assert tokenizer.decode(answer) == "hgfedcba"
