"""Pieces of words: what is put around the library, held against transformers."""

import json
import sys

import pytest

from minilora.data.tokenizers import BPETokenizer, load_tokenizer
from minilora.errors import ConfigError, DataError, FormatError, MissingExtraError

tokenizers = pytest.importorskip("tokenizers", reason="needs the extra llm")

TEXT = ["the cat sat on the mat", "the dog sat on 12 mats", "naïve café 東京"] * 4
TEMPLATE = """{{ bos_token }}{% for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('no such role: ' + message['role']) }}
    {%- endif %}
    <{{ message['role'] }}>{{ message['content'] | trim }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}<assistant>{% endif %}"""
CHAT = [
    {"role": "system", "content": 'Say "yes" & <no>. '},
    {"role": "user", "content": "é\n"},
]


def trained():
    """A byte-level BPE of a few hundred tokens, with the beginning of text put first."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>", "<turn>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return tokenizer


@pytest.fixture
def folder(tmp_path):
    trained().save(str(tmp_path / "tokenizer.json"))
    said = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False},
        "chat_template": TEMPLATE,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 1]}')
    return tmp_path


def test_texts_come_back(folder):
    bpe = load_tokenizer(folder)
    assert isinstance(bpe, BPETokenizer)
    for text in ("the cat", " 12  mats\n\n", "naïve 東京 🙂", ""):
        assert bpe.decode(bpe.encode(text)) == text
    assert bpe.decode([*bpe.encode("cat"), 1]) == "cat"
    assert bpe.decode(bpe.encode("cat</s>"), skip_special=False) == "cat</s>"
    assert bpe.decode([10_000]) == ""


def test_special_tokens_of_all_files(folder):
    bpe = load_tokenizer(folder)
    assert (bpe.end_id, bpe.pad_id, bpe.stop_ids, bpe.start_ids) == (1, 1, (1, 2), (0,))
    (folder / "generation_config.json").unlink()
    assert load_tokenizer(folder).stop_ids == (1,)
    (folder / "tokenizer_config.json").unlink()
    (folder / "config.json").write_text('{"eos_token_id": 2}')
    assert load_tokenizer(folder).end_id == 2
    (folder / "config.json").write_text('{"eos_token_id": null}')
    with pytest.raises(ConfigError, match="eos_token"):
        load_tokenizer(folder).end_id  # noqa: B018
    (folder / "config.json").write_text('{"eos_token_id": "x"}')
    with pytest.raises(FormatError, match=r"config\.json.*'x'"):
        load_tokenizer(folder)


def test_nothing_is_added_unless_a_start_is_asked_for(folder):
    bpe = load_tokenizer(folder)
    ids = bpe.encode("the cat")
    assert 0 not in ids
    assert bpe.encode("the cat", start=True) == [0, *ids]
    assert bpe.encode("<s>the cat", start=True) == [0, *ids]


def test_cutting_and_padding_that_a_file_asks_for_are_left_out(folder):
    tokenizer = trained()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(folder / "tokenizer.json"))
    bpe = load_tokenizer(folder)
    assert bpe.decode(bpe.encode(TEXT[0])) == TEXT[0]
    assert len(bpe.encode("a")) == 1


def test_text_and_ids_that_cannot_be(folder):
    bpe = load_tokenizer(folder)
    for text in ("\ud800", 3):
        with pytest.raises(DataError, match="cannot be tokenized"):
            bpe.encode(text)
    for ids in ([-1], [0.5]):
        with pytest.raises(DataError, match="whole numbers"):
            bpe.decode(ids)


def test_conversations_as_transformers_writes_them(folder):
    transformers = pytest.importorskip("transformers", reason="needs the extra parity")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = load_tokenizer(folder)
    for prompt in (True, False):
        expected = theirs.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=prompt)
        assert ours.chat(CHAT, add_generation_prompt=prompt) == expected
    assert ours.encode(ours.chat(CHAT), start=True) == list(
        theirs.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"]
    )
    assert ours.encode("the cat", start=True) == theirs("the cat").input_ids


def test_the_template_may_be_a_file_or_one_of_several(folder):
    expected = load_tokenizer(folder).chat(CHAT)
    said = {"bos_token": "<s>", "eos_token": "</s>"}
    several = [{"name": "tools", "template": "no"}, {"name": "default", "template": TEMPLATE}]
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**said, "chat_template": several}))
    assert load_tokenizer(folder).chat(CHAT) == expected
    path.write_text(json.dumps(said))
    with pytest.raises(ConfigError, match="no chat template"):
        load_tokenizer(folder).chat(CHAT)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    assert load_tokenizer(folder).chat(CHAT) == expected


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "pope", "content": "x"}], "no such role: pope"),
        ([{"role": "user"}], "message 1 needs 'content'"),
        ([{"role": "user", "content": "x"}, {"role": 3, "content": "x"}], "message 2"),
        (["hello"], "message 1 should have"),
    ],
)
def test_messages_that_cannot_be(folder, messages, said):
    with pytest.raises(DataError, match=said):
        load_tokenizer(folder).chat(messages)


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ messages.append(3) }}",
        "{{ messages.__class__.__mro__ }}{{ ''.__class__.__subclasses__() }}",
    ],
)
def test_templates_that_are_broken_or_reach_too_far(template):
    with pytest.raises(FormatError, match="chat template"):
        BPETokenizer(trained(), chat_template=template).chat(CHAT)


def test_templates_may_use_json_and_loop_controls():
    template = "{% for m in messages %}{{ m | tojson }}{% break %}{% endfor %}"
    bpe = BPETokenizer(trained(), chat_template=template)
    assert bpe.chat(CHAT) == '{"role": "system", "content": "Say \\"yes\\" & <no>. "}'


def test_saved_and_loaded(folder, tmp_path):
    ours = load_tokenizer(folder)
    ours.save(tmp_path / "copy")
    again = load_tokenizer(tmp_path / "copy")
    assert (again.stop_ids, again.start_ids) == (ours.stop_ids, ours.start_ids)
    assert again.chat(CHAT) == ours.chat(CHAT)
    assert again.encode("the cat 12") == ours.encode("the cat 12")


def metadata(**changes):
    """A vocabulary as a GGUF of SmolLM2's kind has it: bytes, a few merges, special tokens."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = ["c a", "ca t", "Ġ cat", "1 2", "Ġ Ġ"]
    tokens = special + alphabet + [merge.replace(" ", "") for merge in merges]
    said = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "token_type": [3] * 3 + [1] * (len(tokens) - 3),
        "merges": merges,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        "padding_token_id": 2,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in {**said, **changes}.items()}


def test_the_vocabulary_of_a_gguf():
    bpe = BPETokenizer.from_gguf({**metadata(), "tokenizer.chat_template": TEMPLATE})
    pieces = [bpe.decode([i], skip_special=False) for i in bpe.encode("cat cat 12\n<|im_end|>")]
    assert pieces == ["cat", " cat", " ", "1", "2", "\n", "<|im_end|>"]
    assert (bpe.end_id, bpe.pad_id, bpe.stop_ids, bpe.start_ids) == (2, 2, (2, 0), ())
    assert bpe.chat(CHAT).startswith("<|im_start|>")


@pytest.mark.parametrize(
    "changes",
    [
        {"pre": "llama-bpe"},
        {"merges": ["cat"]},
        {"merges": ["c zz"]},
        {"eos_token_id": 10**6},
        {"token_type": [1]},
        {"tokens": None},
    ],
)
def test_a_vocabulary_that_does_not_fit_together(changes):
    with pytest.raises(FormatError, match="the GGUF's tokenizer"):
        BPETokenizer.from_gguf(metadata(**changes))


def test_without_the_extra_the_pip_command_is_named(folder, monkeypatch):
    ours = load_tokenizer(folder)
    for name in ("tokenizers", "jinja2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'minilora\[llm\]'"):
        load_tokenizer(folder)
    with pytest.raises(MissingExtraError, match=r"pip install 'minilora\[llm\]'"):
        ours.chat(CHAT)
