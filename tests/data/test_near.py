"""Near duplicates: as near as counting says, nearly all found, in bounded time and bytes."""

import random
import sys
import tracemalloc

import pytest

from minilora.data.near import FULLEST_BUCKET, NearIndex, shingles
from minilora.errors import ConfigError, MissingExtraError


@pytest.fixture(autouse=True)
def _datasketch():
    pytest.importorskip("datasketch")


WORDS = [f"w{i}" for i in range(3000)]


def text(rng, n=80):
    return rng.choices(WORDS, k=n)


def jaccard(a, b):
    a, b = shingles(" ".join(a)), shingles(" ".join(b))
    return len(a & b) / len(a | b)


def test_shingles_are_runs_of_words_or_characters():
    assert shingles("a b c d") == {"a b c", "b c d"}
    assert shingles("a, b") == {"a b"}
    assert shingles("a b c", size=2) == {"a b", "b c"}
    assert shingles("abcdef", "characters") == {"abcde", "bcdef"}
    assert shingles("ab", "characters") == {"ab"}
    assert shingles("?!") == {"?!"}
    assert shingles("") == shingles("", "characters") == set()


def test_signs_of_sums_and_programs_are_in_runs_and_marks_of_sentences_are_not():
    assert shingles("What is 12 + 7?") == {"What is 12", "is 12 +", "12 + 7"}
    assert shingles("12+7") == shingles("12 + 7") != shingles("12 - 7")
    assert shingles('He (Al) said: "go, now!" Really...?') == shingles("He Al said go now Really")


@pytest.mark.parametrize("changed", [0, 1, 2, 4, 10, 40])
def test_the_estimate_is_near_what_counting_gives(changed):
    rng = random.Random(changed)
    index = NearIndex(0.5)
    errors = []
    for _ in range(40):
        one = text(rng)
        other = list(one)
        for place in rng.sample(range(80), changed):
            other[place] = "new"
        a, b = (index.signature(" ".join(each)) for each in (one, other))
        errors.append((a == b).mean() - jaccard(one, other))
    # Of 128 minima the standard error is at most 0.044; of the mean of 40, 0.007.
    assert abs(sum(errors) / 40) < 0.03
    assert max(map(abs, errors)) < 0.18


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.9])
def test_nearly_all_that_are_near_are_found_and_nothing_that_is_far(threshold):
    rng = random.Random(0)
    index = NearIndex(threshold)
    originals = [text(rng) for _ in range(200)]
    for key, one in enumerate(originals):
        index.add(key, index.signature(" ".join(one)))
    near = found = 0
    for key, one in enumerate(originals):
        other = list(one)
        for place in rng.sample(range(80), rng.choice([0, 1, 2, 3, 6, 30])):
            other[place] = rng.choice(WORDS)
        nearness = jaccard(one, other)
        keys = [k for k, _ in index.near(index.signature(" ".join(other)))]
        assert set(keys) <= {key}
        if nearness > threshold + 0.08:
            near += 1
            found += keys == [key]
        if nearness < threshold - 0.15:
            assert keys == []
    assert near > 20
    assert found >= 0.97 * near


def test_an_item_of_two_texts_is_near_only_if_both_are():
    rng = random.Random(1)
    frame, answers = text(rng, 100), [text(rng, 20) for _ in range(2)]
    index = NearIndex(texts=2)
    index.add(7, index.signature(" ".join(frame), " ".join(answers[0])))
    nearly = " ".join([*frame[:-1], "new"])
    assert [k for k, _ in index.near(index.signature(nearly, " ".join(answers[0])))] == [7]
    assert index.near(index.signature(nearly, " ".join(answers[1]))) == []
    assert index.near(index.signature("of", " ".join(answers[0]))) == []


def test_texts_too_short_for_a_run_are_near_only_if_they_are_the_same():
    index = NearIndex(texts=2)
    index.add(0, index.signature("des:gacb=", "gcba"))
    assert index.near(index.signature("des:gacb=", "gcba")) == [(0, 1.0)]
    assert index.near(index.signature("DES:gacb=", "gcba!")) == [(0, 1.0)]
    assert index.near(index.signature("des:gacb=", "gcab")) == []
    assert index.near(index.signature("des:gacd=", "gcba")) == []


def test_to_the_letter_case_counts():
    index = NearIndex(same=str)
    index.add(0, index.signature("say A b c"))
    assert index.near(index.signature("say a b c")) == []
    assert index.near(index.signature("say A b c"))


def test_what_all_have_in_common_takes_no_quadratic_time():
    rng = random.Random(2)
    frame = " ".join(text(rng, 100))
    index = NearIndex(0.99)
    for key in range(300):
        index.add(key, index.signature(f"{frame} {' '.join(text(rng, 12))}"))
    looked_at = max(map(len, index._buckets.values()))
    assert looked_at == FULLEST_BUCKET


def test_the_bytes_of_an_item_are_bounded_whatever_its_length():
    rng = random.Random(3)
    measured = {}
    for n in (20, 800):
        index = NearIndex(texts=2)
        signatures = [index.signature(" ".join(text(rng, n)), "yes") for _ in range(400)]
        tracemalloc.start()
        for key, signature in enumerate(signatures):
            index.add(key, signature.copy())
        measured[n] = tracemalloc.get_traced_memory()[0] / 400
        tracemalloc.stop()
    assert measured[800] < 4500
    assert measured[800] == pytest.approx(measured[20], rel=0.05)


def test_a_text_of_megabytes_is_taken_in_pieces():
    index = NearIndex()
    long = " ".join(text(random.Random(4), 100_000))
    tracemalloc.start()
    index.signature(long)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80 * len(long)  # at once it would be 100,000 × 128 × 4 bytes, some 85 times


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.4}, "threshold 0.4 must be from 0.5 to 1"),
        ({"threshold": 1.1}, "threshold 1.1"),
        ({"kind": "letters"}, "'letters' must be one of words, characters"),
        ({"size": 0}, "size 0 must be a whole number from 1"),
    ],
)
def test_settings_outside_of_what_is_allowed(options, message):
    with pytest.raises(ConfigError, match=message):
        NearIndex(**options)


def test_without_the_library_it_says_which_extra_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(MissingExtraError, match=r"do without.*--near off.*minilora\[data\]"):
        NearIndex()
