"""Tokens of real language models: pieces of words, by the `tokenizers` library.

The library does the splitting; what it does not know is put around it here: which token closes an
answer, which ones a text starts with, how a conversation is written.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minilora.data.chat import ChatTemplate, no_template
from minilora.errors import ConfigError, DataError, FormatError, require
from minilora.files.atomic import locate, whole_file
from minilora.files.json_files import read_json, write_json
from minilora.files.reading import reading

_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
# What llama.cpp calls a token that stands for itself and is never part of a text.
_CONTROL = 3


class BPETokenizer:
    """A tokenizer of the `tokenizers` library with its special tokens and its chat template.

    tokenizer: a `tokenizers.Tokenizer`.
    special_tokens: of `bos_token`, `eos_token`, `unk_token`, `pad_token`, those it has.
    stop_ids: further tokens at which generation ends, beside the one that closes an answer.
    chat_template: Jinja source, or None.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        special_tokens: Mapping[str, str] | None = None,
        stop_ids: Iterable[int] = (),
        chat_template: str | None = None,
    ):
        # A file may ask for texts to be cut or padded, which nobody here expects of `encode`.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.special_tokens = dict(special_tokens or {})
        self.chat_template = chat_template
        self._template = ChatTemplate(chat_template, self.special_tokens) if chat_template else None
        named = [i for i in [self._id("eos_token")] if i is not None]
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys([*named, *stop_ids]))
        self.start_ids = self._start_ids()

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> BPETokenizer:
        """From `tokenizer.json`, and what the files beside it say about special tokens and chat.

        Raises FormatError for files that are damaged, MissingExtraError without `tokenizers`.
        """
        path = locate(folder, "tokenizer.json")
        library = require("tokenizers", extra="llm", purpose=f"reading {path}")
        with reading(path, "a tokenizer"):
            tokenizer = library.Tokenizer.from_file(os.fspath(path))
        said = _read_if_there(locate(folder, "tokenizer_config.json"))
        named = {key: token for key in _NAMED if (token := _content(said.get(key)))}
        stop: list[int] = []
        for name in ("config.json", "generation_config.json"):
            place = locate(folder, name)
            stop = _ids(_read_if_there(place).get("eos_token_id"), place) or stop
        return cls(
            tokenizer,
            special_tokens=named,
            stop_ids=stop,
            chat_template=_chat_template(locate(folder, "chat_template.jinja"), said),
        )

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> BPETokenizer:
        """From the vocabulary and the merges in the metadata of a GGUF file.

        Only the kind that SmolLM2 has is read: byte-level BPE, each digit a piece of its own.
        """
        library = require("tokenizers", extra="llm", purpose="the tokenizer of a GGUF file")
        kind = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
        if kind != ("gpt2", "smollm"):
            raise FormatError(f"the GGUF's tokenizer is {kind}; read is ('gpt2', 'smollm')")
        with reading("the GGUF's tokenizer", "a tokenizer"):
            tokens = metadata["tokenizer.ggml.tokens"]
            kinds = metadata["tokenizer.ggml.token_type"]
            merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
            vocab = {token: i for i, token in enumerate(tokens)}
            tokenizer = library.Tokenizer(library.models.BPE(vocab=vocab, merges=merges))
            named = {
                key: tokens[metadata[f"tokenizer.ggml.{name}_token_id"]]
                for key, name in zip(_NAMED, ("bos", "eos", "unknown", "padding"), strict=True)
            }
            control = [t for t, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
        tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence(
            [
                library.pre_tokenizers.Digits(individual_digits=True),
                library.pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        tokenizer.decoder = library.decoders.ByteLevel()
        tokenizer.add_special_tokens(control)
        # The base, before it learned to chat, ended its texts so, and now and then it still does.
        end_of_text = [vocab[token] for token in ("<|endoftext|>",) if token in control]
        return cls(
            tokenizer,
            special_tokens=named,
            stop_ids=end_of_text,
            chat_template=metadata.get("tokenizer.chat_template"),
        )

    @property
    def vocab_size(self) -> int:
        """The number of tokens; the base may have more rows than that, never fewer."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def end_id(self) -> int:
        """The token that closes an answer. Raises ConfigError when no file says which it is."""
        if not self.stop_ids:
            raise ConfigError(
                "this tokenizer does not say which token closes an answer: "
                "put it as 'eos_token' into tokenizer_config.json"
            )
        return self.stop_ids[0]

    @property
    def pad_id(self) -> int:
        """The token that fills up a batch; where there is none of its own, the end token."""
        own = self._id("pad_token")
        return self.end_id if own is None else own

    def encode(self, text: str, *, start: bool = False) -> list[int]:
        """The tokens of a text, nothing added; a special token written out becomes that token.

        start: put the tokens first that every text starts with for this base (`start_ids`, often
            none), unless the text has them, as one that the chat template made.
        """
        try:
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeError) as error:
            raise DataError(f"text that cannot be tokenized: {text!r}: {error}") from error
        if start and tuple(ids[: len(self.start_ids)]) != self.start_ids:
            return [*self.start_ids, *ids]
        return ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of the tokens; ids that no token has are left out, as Hugging Face does."""
        try:
            return self._tokenizer.decode(
                [operator.index(i) for i in ids], skip_special_tokens=skip_special
            )
        except (TypeError, OverflowError) as error:
            raise DataError(f"token ids are whole numbers from 0, not {list(ids)!r}") from error

    def chat(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as this base wants it written; see `ChatTemplate.render`.

        Raises ConfigError for a base without a chat template.
        """
        if self._template is None:
            raise no_template()
        return self._template.render(messages, add_generation_prompt)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the files that `from_folder` reads, and that transformers opens."""
        folder = Path(folder)
        with whole_file(folder / "tokenizer.json") as file:
            file.write(self._tokenizer.to_str(pretty=True).encode())
        said: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **self.special_tokens}
        if self.chat_template:
            said["chat_template"] = self.chat_template
        write_json(folder / "tokenizer_config.json", said)
        if self.stop_ids:
            write_json(folder / "generation_config.json", {"eos_token_id": list(self.stop_ids)})

    def _id(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else self._tokenizer.token_to_id(token)

    def _start_ids(self) -> tuple[int, ...]:
        """What the tokenizer itself puts before a text when asked for special tokens."""
        plain = self._tokenizer.encode("a", add_special_tokens=False).ids
        full = self._tokenizer.encode("a", add_special_tokens=True).ids
        for n in range(len(full) - len(plain) + 1):
            if full[n : n + len(plain)] == plain:
                return tuple(full[:n])
        return ()


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _content(token: Any) -> str | None:
    """A special token is given as text, or as an object with its text among other things."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _ids(said: Any, path: Path) -> list[int]:
    ids = said if isinstance(said, list) else [] if said is None else [said]
    if not all(isinstance(i, int) and i >= 0 for i in ids):
        raise FormatError(f"{path}: 'eos_token_id' is a token id or a list of them, not {said!r}")
    return ids


def _chat_template(path: Path, said: Mapping[str, Any]) -> str | None:
    """The template is a file of its own in newer folders, a setting in older ones."""
    if path.is_file():
        with reading(path, "a chat template"):
            return path.read_text(encoding="utf-8")
    template = said.get("chat_template")
    if isinstance(template, list):
        named = {
            each.get("name"): each.get("template") for each in template if isinstance(each, dict)
        }
        template = named.get("default")
    return template if isinstance(template, str) else None
