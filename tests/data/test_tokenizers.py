"""One token a character: exact, strict about its alphabet, and open to Hugging Face."""

import json
import subprocess
import sys

import pytest

from minilora.data.tokenizers import BPETokenizer, CharTokenizer, load_tokenizer
from minilora.errors import ConfigError, DataError, FormatError

ALPHABET = "abcxyz01 :>\né東"


@pytest.fixture
def chars():
    return CharTokenizer.from_alphabet(ALPHABET)


def test_a_character_is_a_token(chars):
    ids = chars.encode("cab: 東\n")
    assert len(ids) == 7
    assert chars.decode(ids) == "cab: 東\n"
    assert chars.vocab_size == len(ALPHABET) + 2
    assert chars.stop_ids == (chars.end_id,)
    assert chars.encode("a", start=True) == chars.encode("a")
    assert chars.encode("") == []


def test_special_tokens_are_read_where_written_and_left_out_of_texts(chars):
    ids = chars.encode("ab<end>")
    assert ids[-1] == chars.end_id
    assert len(ids) == 3
    assert chars.decode([*ids, chars.pad_id]) == "ab"
    assert chars.decode(ids, skip_special=False) == "ab<end>"


def test_an_unknown_character_is_named_with_its_place(chars):
    with pytest.raises(DataError, match=r"'Q' at position 2 of 'abQd' .* alphabet 'abcxyz01"):
        chars.encode("abQd")
    with pytest.raises(DataError, match="'<' at position 0"):
        chars.encode("<END>")


def test_ids_that_no_token_has(chars):
    assert chars.decode([2, 10_000, -1]) == "a"
    with pytest.raises(DataError, match="whole numbers"):
        chars.decode([1.5])


def test_a_vocabulary_must_make_sense():
    with pytest.raises(ConfigError, match="stands once"):
        CharTokenizer.from_alphabet("aa")
    with pytest.raises(ConfigError, match="its own id"):
        CharTokenizer({"a": 0, "<end>": 0}, end_id=0)
    with pytest.raises(ConfigError, match="end_id 5"):
        CharTokenizer({"a": 0, "<end>": 1}, end_id=5)


def test_there_are_no_conversations(chars):
    with pytest.raises(ConfigError, match="no chat template"):
        chars.chat([{"role": "user", "content": "a"}])


def test_saved_and_loaded_without_the_library(chars, tmp_path):
    chars.save(tmp_path)
    script = f"""
import sys
sys.modules["tokenizers"] = None
from minilora.data.tokenizers import CharTokenizer, load_tokenizer
loaded = load_tokenizer({str(tmp_path)!r})
assert isinstance(loaded, CharTokenizer)
print(loaded.vocab == {chars.vocab!r}, loaded.end_id, loaded.pad_id)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["True", str(chars.end_id), str(chars.pad_id)], done.stderr


def test_the_library_reads_the_same_tokens(chars, tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra llm")
    chars.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("cab: 東\n\n  é", "a<end>b<pad>", ""):
        ids = chars.encode(text)
        assert theirs.encode(text).ids == ids
        assert theirs.decode(ids) == chars.decode(ids)
        assert theirs.decode(ids, skip_special_tokens=False) == text


def test_transformers_opens_it_and_what_it_saves_opens_here(chars, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra parity")
    chars.save(tmp_path / "ours")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert theirs("cab: 1\n").input_ids == chars.encode("cab: 1\n")
    assert theirs.decode(chars.encode("ab c")) == "ab c"
    assert (theirs.eos_token_id, theirs.pad_token_id) == (chars.end_id, chars.pad_id)
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_tokenizer(tmp_path / "theirs")
    assert isinstance(loaded, CharTokenizer)
    assert (loaded.vocab, loaded.end_id, loaded.pad_id) == (chars.vocab, 0, 1)


def test_folders_without_and_with_damaged_tokenizers(chars, tmp_path):
    assert load_tokenizer(tmp_path) is None
    chars.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match=r"tokenizer\.json, line"):
        load_tokenizer(tmp_path)
    said = json.loads(whole)
    for vocab in ({}, {"a": -1, "<end>": 0}, {"a": 0}):
        said["added_tokens"], said["model"]["vocab"] = [], vocab
        path.write_text(json.dumps(said))
        with pytest.raises(FormatError, match=r"tokenizer\.json"):
            load_tokenizer(tmp_path)
    said["pre_tokenizer"] = None
    path.write_text(json.dumps(said))
    with pytest.raises(FormatError, match="single characters"):
        CharTokenizer.from_folder(tmp_path)


def test_a_damaged_tokenizer_of_the_library_is_a_typed_error(chars, tmp_path):
    pytest.importorskip("tokenizers", reason="needs the extra llm")
    path = tmp_path / "tokenizer.json"
    for text in ("{}", '{"model": {}}', '{"model": {"type": "BPE", "vocab": {}, "merges": 3}}'):
        path.write_text(text)
        with pytest.raises(FormatError, match="not a tokenizer"):
            load_tokenizer(tmp_path)
        with pytest.raises(FormatError, match="not a tokenizer"):
            BPETokenizer.from_folder(tmp_path)
