"""Evaluation: one forward pass counts what greedy generation would write."""

import numpy as np
import pytest

from minilora.data.batches import Batches
from minilora.data.instructions import Example
from minilora.errors import DataError
from minilora.evaluation import exact_match, mean_nll
from minilora.generation import generate
from minilora.optim import AdamW
from minilora.training import train_step

END, ARROW = 0, 1


def question(word, answer):
    """word → answer, the loss on the answer and the end token."""
    given, asked = [*word, ARROW], [*answer, END]
    return Example([*given, *asked], [-100] * len(given) + asked)


def questions(n, seed):
    """Words of one to three letters, to be written again."""
    rng = np.random.default_rng(seed)
    words = [rng.integers(2, 8, rng.integers(1, 4)).tolist() for _ in range(n)]
    return [question(word, word) for word in words]


@pytest.fixture
def half_taught(tiny):
    """A model that has learnt to copy short words, but not yet all of them."""
    model = tiny()
    optimizer = AdamW(model.parameters(), lr=5e-3)
    batches = Batches(questions(300, seed=1), 32)
    for step in range(50):
        train_step(model, optimizer, *batches[step])
    return model


def written(model, example):
    """What generation writes behind the prompt, the end token included if it comes."""
    start = next(t for t, label in enumerate(example.labels) if label != -100)
    n = len(example.ids) - start
    (text,) = generate(model, [example.ids[:start]], n, stop=[END])
    return [*text, END] if len(text) < n else text


def test_exact_match_is_what_generation_really_writes(half_taught):
    tests = questions(120, seed=2)
    right = [written(half_taught, e) == e.ids[len(e.ids) // 2 :] for e in tests]
    assert 0.1 < np.mean(right) < 0.9
    assert exact_match(half_taught, tests) == np.mean(right)
    for e, is_right in zip(tests[:40], right[:40], strict=True):
        assert exact_match(half_taught, [e]) == is_right


def test_one_wrong_token_makes_the_answer_wrong(half_taught):
    (right, *_) = [e for e in questions(120, seed=2) if exact_match(half_taught, [e])]
    for t in range(len(right.ids) // 2, len(right.ids)):
        ids, labels = right.ids.copy(), right.labels.copy()
        ids[t] = labels[t] = 9
        assert exact_match(half_taught, [Example(ids, labels)]) == 0
    assert exact_match(half_taught, [right]) == 1


def test_an_answer_that_would_go_on_is_wrong(half_taught):
    """All that is asked for is written, but instead of the end there comes another letter."""
    (right, *_) = [e for e in questions(120, seed=2) if exact_match(half_taught, [e])]
    assert len(right.ids) > 4
    short = Example([*right.ids[:-2], END], [*right.labels[:-2], END])
    assert exact_match(half_taught, [short]) == 0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_neither_batches_nor_threads_change_the_count(half_taught, threads, n):
    tests = questions(50, seed=3)
    one_by_one = np.mean([exact_match(half_taught, [e]) for e in tests])
    nll = mean_nll(half_taught, tests)
    threads(n)
    for size in (1, 7, 50, 1000):
        assert exact_match(half_taught, tests, batch_size=size) == pytest.approx(one_by_one)
        assert mean_nll(half_taught, tests, batch_size=size) == pytest.approx(nll, rel=1e-5)


def test_mean_nll_weighs_every_target_alike(tiny):
    """Not every example: one of three tokens counts three times as much as one of one."""
    model, tests = tiny(dtype=np.float64), questions(20, seed=4)
    surprises = []
    for e in tests:
        z = model([e.ids]).data[0]
        logp = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
        surprises += [-logp[t - 1, y] for t, y in enumerate(e.labels) if y != -100]
    assert mean_nll(model, tests) == pytest.approx(np.mean(surprises), rel=1e-12)


def test_mean_nll_passes_over_texts_without_a_target(tiny):
    model, tests = tiny(), questions(20, seed=4)
    silent = Example([2, 3, 4], [-100, -100, -100])
    assert mean_nll(model, [*tests, silent], batch_size=1) == pytest.approx(mean_nll(model, tests))


def test_evaluating_trains_nothing(tiny):
    model, tests = tiny(), questions(20, seed=4)
    before = [p.data.copy() for p in model.parameters()]
    exact_match(model, tests)
    mean_nll(model, tests)
    for p, a in zip(model.parameters(), before, strict=True):
        assert np.array_equal(p.data, a) and p.grad is None


def test_without_examples_there_is_no_mean(tiny):
    with pytest.raises(DataError, match="no examples to test on"):
        exact_match(tiny(), [])
    with pytest.raises(DataError, match="no text to measure the loss on"):
        mean_nll(tiny(), [])


@pytest.mark.parametrize("measure", [exact_match, mean_nll])
def test_where_nothing_is_asked_there_is_no_mean(tiny, measure):
    silent = [Example([2, 3, 4], [-100, -100, -100])]
    with pytest.raises(DataError, match=r"none .*target"):
        measure(tiny(), silent)


def test_examples_of_which_nothing_is_asked_do_not_count(tiny):
    silent, wrong = Example([2, 3, 4], [-100] * 3), Example([2, 3, 4], [-100, 3, 4])
    alone = exact_match(tiny(), [wrong])
    assert exact_match(tiny(), [wrong, silent]) == alone == 0.0
