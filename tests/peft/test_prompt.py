"""Prompt tuning: where the vectors begin, and that they are read as tokens are."""

import numpy as np
import pytest

from minilora.autograd import Tensor, no_grad
from minilora.errors import ConfigError, FormatError
from minilora.files.json_files import read_json, write_json
from minilora.peft import PeftModel, PromptTuningConfig, get_peft_model
from minilora.peft.virtual import before_text


class Letters:
    """A tokenizer: a is 1, b is 2, …"""

    def encode(self, text):
        return [ord(letter) - ord("a") + 1 for letter in text]


@pytest.fixture
def speaking(tiny):
    """speaking(): a base with a tokenizer."""

    def make(**options):
        base = tiny(**options)
        base.tokenizer = Letters()
        return base

    return make


def starting(text, p):
    return PromptTuningConfig(p, prompt_tuning_init="TEXT", prompt_tuning_init_text=text)


@pytest.mark.parametrize(
    ("text", "p", "tokens"),
    [("abc", 3, [1, 2, 3]), ("abc", 2, [1, 2]), ("abc", 7, [1, 2, 3, 1, 2, 3, 1])],
)
def test_it_may_begin_as_a_text(speaking, text, p, tokens):
    base = speaking()
    E = base.model.embed_tokens.weight.data
    (P,) = get_peft_model(base, starting(text, p)).adapter_weights().values()
    assert np.array_equal(P, E[tokens])
    P[:] = 0
    assert E[1].any()  # a copy


def test_a_prompt_of_tokens_is_read_as_these_tokens(speaking, tiny, logits):
    ids = np.random.default_rng(0).integers(0, 31, (3, 5))
    words = np.array([[1, 2, 3]] * 3)
    whole = logits(tiny(), np.concatenate([words, ids], axis=1))
    np.testing.assert_allclose(
        logits(get_peft_model(speaking(), starting("abc", 3)), ids), whole[:, 3:], atol=1e-6
    )


def test_the_loss_is_that_of_the_text_alone_after_these_tokens(speaking, tiny, tiny_batch):
    ids, labels = tiny_batch
    model = get_peft_model(speaking(), starting("abc", 3))
    words = np.broadcast_to([1, 2, 3], (len(ids), 3))
    # Of what follows the words the first token is not asked for: a text's first never is.
    unasked = np.full((len(ids), 4), -100)
    whole = tiny().loss(
        np.concatenate([words, ids], axis=1), np.concatenate([unasked, labels[:, 1:]], axis=1)
    )
    assert model.loss(ids, labels).item() == pytest.approx(whole.item(), abs=1e-6)


def test_it_may_begin_as_tokens_drawn_from_the_vocabulary(tiny):
    config = PromptTuningConfig(6, prompt_tuning_init="SAMPLE_VOCAB")
    base = tiny()
    E = base.model.embed_tokens.weight.data
    (P,) = get_peft_model(base, config, seed=1).adapter_weights().values()
    assert all((vector == E).all(axis=1).any() for vector in P)
    (same,) = get_peft_model(tiny(), config, seed=1).adapter_weights().values()
    (other,) = get_peft_model(tiny(), config, seed=2).adapter_weights().values()
    assert np.array_equal(P, same)
    assert not np.array_equal(P, other)


def test_else_it_begins_normal_with_deviation_1(tiny):
    (P,) = get_peft_model(tiny(), PromptTuningConfig(60), seed=1).adapter_weights().values()
    assert P.shape == (60, 24)
    assert P.dtype == np.float32
    assert P.std() == pytest.approx(1, rel=0.05)
    assert abs(P.mean()) < 0.1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompt_tuning_init": "WORDS"}, "'WORDS' must be 'RANDOM', 'SAMPLE_VOCAB' or 'TEXT'"),
        ({"prompt_tuning_init": "TEXT"}, "needs prompt_tuning_init_text"),
        ({"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": ""}, "needs prompt_tuning_init"),
    ],
)
def test_a_start_that_is_none(settings, said):
    with pytest.raises(ConfigError, match=said):
        PromptTuningConfig(3, **settings)


def test_a_text_needs_a_tokenizer_and_tokens(tiny, speaking, monkeypatch):
    base = tiny()
    with pytest.raises(ConfigError, match="needs a base with a tokenizer"):
        get_peft_model(base, starting("abc", 3))
    assert all(p.requires_grad for p in base.parameters())
    monkeypatch.setattr(Letters, "encode", lambda self, text: [])
    with pytest.raises(ConfigError, match="'abc' has no tokens"):
        get_peft_model(speaking(), starting("abc", 3))


def test_once_saved_it_needs_no_tokenizer_however_it_began(speaking, tiny, tmp_path, logits):
    ids = np.random.default_rng(0).integers(0, 31, (3, 5))
    one = get_peft_model(speaking(), starting("abc", 3))
    one.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny(), tmp_path)
    assert again.peft_config["default"].prompt_tuning_init_text == "abc"
    assert np.array_equal(logits(again, ids), logits(one, ids))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_virtual_tokens", 0),
        ("num_virtual_tokens", None),
        ("num_transformer_submodules", 2),
        ("modules_to_save", ["lm_head"]),
        ("prompt_tuning_init", "WORDS"),
    ],
)
def test_a_setting_that_no_file_has(tiny, tmp_path, name, value):
    get_peft_model(tiny(), PromptTuningConfig(3)).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    write_json(file, read_json(file) | {name: value})
    with pytest.raises(FormatError, match=f"{name} = {value!r}".replace("[", r"\[")):
        PeftModel.from_pretrained(tiny(), tmp_path)


def test_a_file_that_does_not_say_how_many(tiny, tmp_path):
    get_peft_model(tiny(), PromptTuningConfig(3)).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    write_json(file, {k: v for k, v in read_json(file).items() if k != "num_virtual_tokens"})
    with pytest.raises(FormatError, match="num_virtual_tokens must be given"):
        PeftModel.from_pretrained(tiny(), tmp_path)


def test_virtual_tokens_stand_between_padding_and_text():
    text = Tensor(np.array([[1, 2, 3, 4], [0, 0, 5, 6], [0, 7, 8, 9]])[..., None] * 1.0)
    virtual = Tensor(np.full((3, 2, 1), -1.0) * [[[1], [2]]])
    rows = before_text(virtual, text, np.array([0, 2, 1])).data[..., 0]
    assert rows.tolist() == [
        [-1, -2, 1, 2, 3, 4],
        [0, 0, -1, -2, 5, 6],
        [0, -1, -2, 7, 8, 9],
    ]
    keys = Tensor(text.data[:, None].repeat(2, axis=1))  # with an axis of heads
    before = Tensor(virtual.data[:, None].repeat(2, axis=1))
    rows_of_heads = before_text(before, keys, np.array([0, 2, 1])).data[..., 0]
    assert np.array_equal(rows_of_heads, rows[:, None].repeat(2, axis=1))


def test_a_gradient_reaches_the_prompt_from_every_row(tiny, tiny_batch):
    ids, labels = tiny_batch
    model = get_peft_model(tiny(dtype=np.float64), PromptTuningConfig(3))
    (P,) = model.trainable_parameters()
    n = (labels[:, 1:] != -100).sum()
    sums = np.zeros(P.shape)
    for row in range(len(ids)):
        model.loss(ids[row : row + 1], labels[row : row + 1], n_targets=n).backward()
        sums += P.grad
        P.grad = None
    model.loss(ids, labels).backward()
    np.testing.assert_allclose(P.grad, sums, rtol=1e-9, atol=1e-15)


def test_an_adapter_without_a_prompt_reads_the_text_alone(tiny, logits):
    ids = np.random.default_rng(0).integers(0, 31, (3, 5))
    model = get_peft_model(tiny(), PromptTuningConfig(3))
    assert model.virtual_tokens == 3
    with model.disable_adapter(), no_grad():
        assert model.virtual_tokens == 0
        assert np.array_equal(model(ids).data, logits(tiny(), ids))
