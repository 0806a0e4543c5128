"""Streaming: the tokens of `generate`, one at a time."""

import numpy as np
import pytest

from minilora.autograd import grad_enabled
from minilora.errors import ConfigError, DataError, DTypeError
from minilora.generation import generate, stream


@pytest.fixture
def model(tiny):
    """Weights so large that texts are various."""
    model = tiny()
    rng = np.random.default_rng(3)
    for p in model.parameters():
        if p.ndim == 2:
            p.data[:] = rng.standard_normal(p.shape) * 0.5
    return model


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.8, "top_p": 0.9, "top_k": 9, "seed": 4}, {"stop": [7, 8, 9]}]
)
@pytest.mark.parametrize("n", [0, 1, 25, 100])
def test_it_gives_what_generate_gives(model, settings, n):
    prompt = [3, 1, 4]
    (whole,) = generate(model, [prompt], n, **settings)
    assert list(stream(model, prompt, n, **settings)) == whole
    assert len(whole) == min(n, 61) or "stop" in settings


def test_a_token_comes_before_the_next_one_is_computed(model, monkeypatch):
    calls = []
    hidden = model.hidden
    monkeypatch.setattr(model, "hidden", lambda *a, **k: calls.append(1) or hidden(*a, **k))
    tokens = stream(model, [3, 1, 4], 5)
    assert calls == []
    for n in range(1, 6):
        next(tokens)
        assert len(calls) == n


def test_between_two_tokens_operations_are_recorded_as_before(model):
    tokens = stream(model, [3, 1, 4], 3)
    next(tokens)
    assert grad_enabled()
    assert model.loss([[1, 2, 3]], [[1, 2, 3]]).requires_grad


@pytest.mark.parametrize(
    ("prompt", "n", "options", "error"),
    [
        ([], 5, {}, DataError),
        ([1] * 64, 5, {}, DataError),
        ([1.5], 5, {}, DTypeError),
        ([1], -1, {}, ConfigError),
        ([1], 5, {"top_p": 2}, ConfigError),
    ],
)
def test_a_mistake_is_told_at_once(model, prompt, n, options, error):
    with pytest.raises(error):
        stream(model, prompt, n, **options)
