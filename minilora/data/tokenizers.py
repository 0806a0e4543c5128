"""Text to tokens and back.

Two kinds: one token a character, for the embedded base and its string skills, which needs nothing
but this file; and the pieces of words of real language models (`bpe.py`). Both keep their
vocabulary in Hugging Face's `tokenizer.json`.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from minilora.data.bpe import BPETokenizer
from minilora.data.chat import no_template
from minilora.errors import ConfigError, DataError, FormatError
from minilora.files.atomic import locate
from minilora.files.json_files import read_json, write_json

__all__ = ["BPETokenizer", "CharTokenizer", "Tokenizer", "load_tokenizer"]

END, PAD = "<end>", "<pad>"
# Cuts a text into single characters; "." would leave out the end of a line.
_EACH_CHARACTER = {
    "type": "Split",
    "pattern": {"Regex": r"[\s\S]"},
    "behavior": "Isolated",
    "invert": False,
}


class Tokenizer(Protocol):
    """What the rest of the house asks of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""

    @property
    def end_id(self) -> int:
        """The token that closes an answer."""

    @property
    def pad_id(self) -> int:
        """The token that fills up a batch."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens at which generation ends; `end_id` is the first of them."""

    @property
    def start_ids(self) -> tuple[int, ...]:
        """The tokens that every text starts with for this base; often none."""

    def encode(self, text: str, *, start: bool = False) -> list[int]:
        """The tokens of a text; with `start`, behind `start_ids`."""

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of the tokens; special ones are left out unless wanted."""

    def chat(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text; ConfigError for a base without a chat template."""

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the files that `load_tokenizer` and transformers read."""


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer | None:
    """The tokenizer of a model folder in Hugging Face layout; None when it has none.

    Raises FormatError for files that are damaged, MissingExtraError for a tokenizer that is more
    than characters without the extra `llm`.
    """
    path = locate(folder, "tokenizer.json")
    if not path.is_file():
        return None
    said = read_json(path)
    if _is_of_characters(said):
        return CharTokenizer.from_folder(folder)
    return BPETokenizer.from_folder(folder)


class CharTokenizer:
    """One token a character, and a few special tokens that are longer than that.

    vocab: token → id. Tokens of one character are the alphabet, all longer ones are special.
    end_id: the token that closes an answer.
    pad_id: the token that fills up a batch; without one, the end token.
    """

    start_ids: tuple[int, ...] = ()

    def __init__(self, vocab: Mapping[str, int], end_id: int, pad_id: int | None = None):
        self.vocab = dict(vocab)
        self._token = {i: token for token, i in self.vocab.items()}
        if "" in self.vocab or len(self._token) < len(self.vocab) or min(self._token) < 0:
            raise ConfigError("a vocabulary gives every token, none empty, its own id from 0")
        self.end_id = end_id
        self.pad_id = end_id if pad_id is None else pad_id
        self.special = {token: i for token, i in self.vocab.items() if len(token) > 1}
        for name, i in (("end_id", self.end_id), ("pad_id", self.pad_id)):
            if i not in self.special.values():
                raise ConfigError(f"{name} {i!r} is none of the special tokens {self.special}")
        self.alphabet = "".join(token for token in self.vocab if len(token) == 1)
        longest_first = sorted(self.special, key=len, reverse=True)
        self._pieces = re.compile("|".join([*map(re.escape, longest_first), "."]), re.DOTALL)

    @classmethod
    def from_alphabet(cls, alphabet: str) -> CharTokenizer:
        """`<end>` and `<pad>` first, then the characters in their order."""
        tokens = [END, PAD, *alphabet]
        if len(set(tokens)) < len(tokens):
            raise ConfigError(f"each character of an alphabet stands once, not so in {alphabet!r}")
        return cls({token: i for i, token in enumerate(tokens)}, end_id=0, pad_id=1)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> CharTokenizer:
        """From a `tokenizer.json` as `save` writes it, also after transformers rewrote it.

        Raises FormatError for a file of another kind, or one without `<end>`.
        """
        path = locate(folder, "tokenizer.json")
        said = read_json(path)
        if not _is_of_characters(said):
            raise FormatError(f"{path}: not a tokenizer of single characters")
        vocab = {token["content"]: token["id"] for token in said["added_tokens"]}
        vocab = {**said["model"]["vocab"], **vocab}
        if END not in vocab:
            raise FormatError(f"{path}: has no token {END!r}, which closes an answer")
        try:
            return cls(vocab, vocab[END], vocab.get(PAD))
        except ConfigError as error:
            raise FormatError(f"{path}: {error}") from error

    @property
    def vocab_size(self) -> int:
        """The number of tokens, special ones included."""
        return len(self.vocab)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Generation ends at the end token alone."""
        return (self.end_id,)

    def encode(self, text: str, *, start: bool = False) -> list[int]:
        """One id a character; a special token written out becomes that token.

        start: changes nothing, as texts of this kind start with themselves.

        Raises DataError naming a character that is not in the alphabet, and where it is.
        """
        try:
            return [self.vocab[piece] for piece in self._pieces.findall(text)]
        except KeyError as error:
            unknown = error.args[0]
            raise DataError(
                f"the character {unknown!r} at position {text.index(unknown)} of {_cut(text)!r} "
                f"is not in this base's alphabet {self.alphabet!r}; write it in these, or take "
                "another base"
            ) from None

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of the tokens; ids that no token has are left out, as Hugging Face does."""
        try:
            tokens = [self._token.get(operator.index(i), "") for i in ids]
        except TypeError as error:
            raise DataError(f"token ids are whole numbers from 0, not {list(ids)!r}") from error
        return "".join(t for t in tokens if not (skip_special and t in self.special))

    def chat(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Always a ConfigError: a base that knows characters holds no conversations."""
        raise no_template()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which transformers opens, too."""
        special = [
            {
                "id": i,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token, i in sorted(self.special.items(), key=lambda item: item[1])
        ]
        said = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": special,
            "normalizer": None,
            "pre_tokenizer": _EACH_CHARACTER,
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            # The format wants an unknown token named; that there is none makes it an error.
            "model": {"type": "WordLevel", "vocab": self.vocab, "unk_token": "<unknown>"},
        }
        write_json(Path(folder) / "tokenizer.json", said)
        named = {"eos_token": self._token[self.end_id], "pad_token": self._token[self.pad_id]}
        write_json(
            Path(folder) / "tokenizer_config.json",
            {"tokenizer_class": "PreTrainedTokenizerFast", **named},
        )


def _is_of_characters(said: Mapping[str, Any]) -> bool:
    """Whether a `tokenizer.json` is of the kind that `CharTokenizer` reads."""
    model, added = said.get("model"), said.get("added_tokens")
    if not isinstance(model, dict) or not isinstance(added, list):
        return False
    vocab = model.get("vocab")
    return (
        model.get("type") == "WordLevel"
        and said.get("pre_tokenizer") == _EACH_CHARACTER
        and isinstance(vocab, dict)
        and all(type(i) is int for i in vocab.values())
        and all(
            isinstance(each, dict)
            and isinstance(each.get("content"), str)
            and type(each.get("id")) is int
            for each in added
        )
    )


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
