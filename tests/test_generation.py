"""Generation: the cache changes nothing, prompts do not meddle, draws are as they should be."""

import numpy as np
import pytest

from minilora.autograd import grad_enabled
from minilora.config import ModelConfig
from minilora.errors import ConfigError, DataError, DTypeError, ShapeError
from minilora.generation import choose, generate
from minilora.model import KVCache, Transformer

CONFIG = ModelConfig(30, 24, 40, 2, 4, n_kv_heads=2, max_positions=40)
PROMPTS = [[3], [1, 2, 3, 4, 5, 6, 7], [9, 8, 7], [4, 4, 4, 4]]


@pytest.fixture(scope="module")
def model():
    """Weights so large that texts are various and do not fall into one token at once."""
    model = Transformer(CONFIG, seed=3)
    rng = np.random.default_rng(3)
    for p in model.parameters():
        if p.ndim == 2:
            p.data[:] = rng.standard_normal(p.shape) * 0.5
    return model


def greedy_by_hand(model, prompt, n):
    """The likeliest next token, n times, each time from the whole text so far."""
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(model([ids]).data[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_is_the_likeliest_token_each_time(model, prompt, use_cache):
    expected = greedy_by_hand(model, prompt, 20)
    assert len(set(expected)) > 5
    assert generate(model, [prompt], 20, use_cache=use_cache) == [expected]


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.8, "top_p": 0.9, "seed": 4}])
def test_with_and_without_a_cache_the_same_is_written(model, settings):
    cached, uncached = (
        generate(model, PROMPTS, 25, use_cache=c, **settings) for c in (True, False)
    )
    assert cached == uncached
    assert len({tuple(text) for text in cached}) == len(PROMPTS)


def test_cached_logits_are_those_of_the_whole_text(model):
    ids = np.random.default_rng(0).integers(0, 30, (3, 20))
    whole = model(ids).data
    kv = KVCache(CONFIG, 3, 20, np.float32)
    for t in range(20):
        logits = model.lm_head(model.hidden(ids[:, t : t + 1], kv=kv)).data[:, 0]
        assert np.abs(logits - whole[:, t]).max() <= 1e-5


def test_prompts_of_unequal_length_go_on_as_if_each_were_alone(model):
    assert generate(model, PROMPTS, 25) == [generate(model, [p], 25)[0] for p in PROMPTS]


def test_a_short_prompt_beside_a_long_one_has_the_whole_context_too(model):
    """The context is each row's own: a neighbour that fills it does not cut this one off."""
    prompts = [[3], list(range(30))]
    apart = [generate(model, [p], 25)[0] for p in prompts]
    assert [len(text) for text in apart] == [25, 10]
    for use_cache in (True, False):
        assert generate(model, prompts, 25, use_cache=use_cache) == apart


def test_a_text_ends_when_the_context_is_full(model):
    for n in (1, 5, 39):
        (text,) = generate(model, [[1] * n], 1000)
        assert len(text) == 40 - n


def test_the_cache_is_as_long_as_what_can_be_written(model, monkeypatch):
    """However many tokens are allowed, there is room for the context's only."""
    lengths = []

    def watch(config, batch_size, max_length, dtype):
        lengths.append(max_length)
        return KVCache(config, batch_size, min(max_length, 100), dtype)

    monkeypatch.setattr("minilora.generation.KVCache", watch)
    generate(model, [[1] * 38], 10**9)
    generate(model, [[1] * 10], 5)
    assert lengths[0] <= 40 and lengths[1] <= 15


def test_a_text_ends_before_its_stop_token_and_the_others_go_on(model):
    free = generate(model, PROMPTS, 20)
    stop = [free[0][4], free[2][7]]
    expected = []
    for text in free:
        ends = [i for i, token in enumerate(text) if token in stop]
        expected.append(text[: ends[0]] if ends else text)
    assert generate(model, PROMPTS, 20, stop=stop) == expected
    assert len({len(text) for text in expected}) > 1


def test_a_stop_token_at_once_is_an_empty_text(model):
    first = generate(model, [[3]], 1)[0]
    assert generate(model, [[3]], 20, stop=first) == [[]]


def test_no_new_tokens_are_no_tokens(model):
    assert generate(model, PROMPTS, 0) == [[], [], [], []]


def test_tokens_are_plain_integers(model):
    (text,) = generate(model, [[3]], 3, temperature=1.0)
    assert all(type(token) is int for token in text)


def test_one_seed_one_text(model):
    first, again, other = (generate(model, PROMPTS, 20, temperature=1.0, seed=s) for s in (1, 1, 2))
    assert first == again != other


def test_nothing_is_recorded_and_nothing_is_left_behind(model):
    recorded = []

    class Watched(type(model.lm_head)):
        def forward(self, x):
            recorded.append(x.node)
            return super().forward(x)

    watched = Transformer.from_weights(CONFIG, model.state_dict())
    head = Watched(24, 30)
    head.weight = watched.lm_head.weight
    watched.lm_head = head
    generate(watched, [[3]], 3)
    assert recorded == [None] * 3
    assert grad_enabled()


Z = np.array([2.0, -1.0, 3.0, 0.5, 3.0 - 1e-3, -4.0])
RANKED = [2, 4, 0, 3, 1, 5]


def shares(n=4000, temperature=1.0, top_k=None, top_p=None):
    """How often each token is chosen."""
    rng = np.random.default_rng(0)
    drawn = [choose(Z, temperature, top_k, top_p, rng) for _ in range(n)]
    return np.bincount(drawn, minlength=len(Z)) / n


def softmax(z):
    return np.exp(z) / np.exp(z).sum()


def assert_like(found, expected, n=4000):
    """Within five standard deviations of what n draws give, and never what has no share."""
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / n)).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_are_drawn_by_the_softmax_of_logits_over_temperature(temperature):
    assert_like(shares(temperature=temperature), softmax(Z / temperature))


def test_temperature_zero_is_the_likeliest_and_draws_nothing():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert {choose(Z, 0.0, None, None, rng) for _ in range(10)} == {2}
    assert rng.bit_generator.state == before


def test_a_tiny_temperature_is_greedy_without_overflowing():
    assert choose(Z * 1e3, 1e-6, None, None, np.random.default_rng(0)) == 2


@pytest.mark.parametrize("k", [1, 2, 4, 6, 100])
def test_top_k_draws_from_the_k_likeliest(k):
    kept = np.isin(np.arange(6), RANKED[:k])
    expected = np.where(kept, np.exp(Z), 0)
    assert_like(shares(top_k=k), expected / expected.sum())


@pytest.mark.parametrize(
    ("p", "kept"), [(0.01, 1), (0.40, 1), (0.45, 2), (0.8, 2), (0.85, 3), (0.99, 4), (1.0, 6)]
)
def test_top_p_draws_from_the_fewest_likeliest_that_have_p_together(p, kept):
    mass = np.cumsum(softmax(Z)[RANKED])
    assert kept == 1 + int((mass < p - 1e-9).sum())
    expected = np.where(np.isin(np.arange(6), RANKED[:kept]), softmax(Z), 0)
    assert_like(shares(top_p=p), expected / expected.sum())


def test_a_sum_that_is_p_exactly_is_enough():
    z = np.log(np.array([0.5, 0.25, 0.125, 0.125]))
    rng = np.random.default_rng(0)
    assert {choose(z, 1.0, None, 0.75, rng) for _ in range(200)} == {0, 1}


def test_top_p_is_of_what_top_k_and_temperature_have_left():
    expected = np.where(np.isin(np.arange(6), RANKED[:3]), np.exp(Z / 2), 0)
    expected /= expected.sum()
    assert expected[[2, 4]].sum() < 0.9  # so that top_p = 0.9 leaves all three
    assert_like(shares(temperature=2.0, top_k=3, top_p=0.9), expected)
    assert softmax(Z / 2)[RANKED[:3]].sum() < 0.9  # of all tokens it would leave a fourth


class TestBadInput:
    @pytest.mark.parametrize("prompts", [[], [[]], [[1], []]])
    def test_no_prompt(self, model, prompts):
        with pytest.raises(DataError, match=r"at least one token.*there must be a prompt"):
            generate(model, prompts, 5)

    @pytest.mark.parametrize("n", [40, 100])
    def test_a_prompt_that_fills_the_context(self, model, n):
        with pytest.raises(DataError, match=rf"prompt has {n} tokens.*context 40.*shorten"):
            generate(model, [[1], [1] * n], 5)

    @pytest.mark.parametrize("token", [30, -1])
    def test_a_token_outside_of_the_vocabulary(self, model, token):
        with pytest.raises(ShapeError, match=rf"token id {token} .*0 to 29.*tokenizer"):
            generate(model, [[1, token]], 5)

    def test_a_token_that_is_no_integer(self, model):
        with pytest.raises(DTypeError, match=r"integers, not float64"):
            generate(model, [[1.0, 2.5]], 5)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"max_new_tokens": -1}, r"max_new_tokens -1 must be .*0 or more"),
            ({"max_new_tokens": 2.5}, r"max_new_tokens 2\.5 must be a whole number"),
            ({"temperature": -0.5}, r"temperature -0\.5 must be 0 \(greedy\) or above"),
            ({"temperature": float("nan")}, r"temperature nan must be"),
            ({"temperature": float("inf")}, r"temperature inf must be"),
            ({"top_k": 0}, r"top_k 0 must be .*1 or more, or left out"),
            ({"top_k": 2.5}, r"top_k 2\.5 must be a whole number"),
            ({"top_p": 0.0}, r"top_p 0\.0 must be above 0 and at most 1, or left out"),
            ({"top_p": 1.5}, r"top_p 1\.5 must be above 0"),
            ({"top_p": float("nan")}, r"top_p nan must be above 0"),
        ],
    )
    def test_settings(self, model, settings, words):
        with pytest.raises(ConfigError, match=words):
            generate(model, [[1]], **{"max_new_tokens": 5, "temperature": 1.0, **settings})
