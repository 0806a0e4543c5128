"""A conversation with a base and with adapters on it: the base once in memory, any number of them.

An adapter is called as its folder is. A base that has a chat template is given all that was said
so far, any other one continues each text as it stands. An adapter is asked in the template that it
was trained in, where its folder says which.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from minilora.bases import load_base
from minilora.data.template_files import template_of
from minilora.data.templates import Template
from minilora.errors import AdapterError, ConfigError
from minilora.generation import stream
from minilora.peft import PeftModel

BASE = "base"
# What a tokenizer gives for a character of which not all bytes are there yet.
_BROKEN = "\ufffd"


class Conversation:
    """A base, its adapters by name, what is in use, and what was said.

    base            as `load_base` takes it
    folders         of adapters; the first is in use at the start
    max_new_tokens  of an answer
    sampling        temperature, top_k, top_p, seed, as `generate` takes them

    in_use          the name of the adapter that answers, or "base"
    turns           every question with its answers by name

    Raises what `load_base` and `PeftModel.load_adapter` raise, ConfigError for a base without a
    tokenizer.
    """

    def __init__(
        self, base: str, folders: Sequence[str] = (), max_new_tokens: int = 256, **sampling: Any
    ):
        self.model: Any = load_base(base)
        self.tokenizer = self.model.tokenizer
        if self.tokenizer is None:
            raise ConfigError(f"base {base!r} has no tokenizer.json, which text needs")
        self.adapters: list[str] = []
        self._trained: dict[str, Template | None] = {}
        self.in_use = BASE
        self.max_new_tokens, self.sampling = max_new_tokens, sampling
        self.turns: list[dict[str, Any]] = []
        self._said: list[dict[str, str]] = []
        self._speaks = _has_template(self.tokenizer)
        if folders:
            self.model = PeftModel(self.model)
        for folder in folders:
            name = _name(folder, [BASE, *self.adapters])
            self.model.load_adapter(folder, name)
            self.adapters.append(name)
            self._trained[name] = template_of(folder, self.tokenizer)
        if folders:
            self.use(self.adapters[0])

    def use(self, name: str) -> None:
        """Let this adapter, or "base", answer from now on. AdapterError lists what there is."""
        if name not in (BASE, *self.adapters):
            there = ", ".join([BASE, *self.adapters])
            raise AdapterError(f"there is no adapter {name!r}; there are: {there}")
        if name != BASE:
            self.model.set_adapter(name, inference_mode=True)
        self.in_use = name

    def off(self) -> None:
        """Let the base answer, without any adapter."""
        self.use(BASE)

    def forget(self) -> None:
        """Begin a new conversation."""
        self._said.clear()

    def answer(self, question: str) -> Iterator[str]:
        """The answer of what is in use, piece by piece.

        It is kept, with the question, for what comes after, once it is whole. Where the context
        would overflow the oldest turns are left out.
        """
        said = [*self._said, {"role": "user", "content": question}]
        text = ""
        for piece in self._stream(self._ids(said)):
            text += piece
            yield piece
        self.turns.append({"prompt": question, "answers": {self.in_use: text}})
        if self._speaks:
            self._said = [*said, {"role": "assistant", "content": text}]

    def compare(self, question: str = "") -> dict[str, str]:
        """What the base and each adapter say to one question alone, by name.

        question   "": the last one.  ConfigError if there was none
        """
        if not question and not self.turns:
            raise ConfigError("compare on what? Nothing was asked yet: /compare TEXT")
        question = question or self.turns[-1]["prompt"]
        before, answers = self.in_use, {}
        try:
            for name in (BASE, *self.adapters):
                self.use(name)
                ids = self._ids([{"role": "user", "content": question}])
                answers[name] = "".join(self._stream(ids))
        finally:
            self.use(before)
        self.turns.append({"prompt": question, "answers": answers})
        return answers

    def _ids(self, said: list[dict[str, str]]) -> list[int]:
        trained = self._trained.get(self.in_use)
        if trained is not None and trained.name in ("plain", "alpaca"):
            # It has learnt to answer this, and no conversation: each question stands alone.
            return trained.ids(said[-1]["content"], self.tokenizer)
        if not self._speaks:
            return self.tokenizer.encode(said[-1]["content"], start=True)
        ids = self.tokenizer.encode(self.tokenizer.chat(said))
        context = self.model.config.max_positions - self.model.virtual_tokens
        room = context - self.max_new_tokens
        while len(ids) > room and len(said) > 2:
            del said[:2]  # the oldest question with its answer
            ids = self.tokenizer.encode(self.tokenizer.chat(said))
        return ids

    def _stream(self, ids: list[int]) -> Iterator[str]:
        off = self.in_use == BASE and bool(self.adapters)
        with self.model.disable_adapter() if off else nullcontext():
            stop = self.tokenizer.stop_ids
            tokens = stream(self.model, ids, self.max_new_tokens, stop=stop, **self.sampling)
            yield from as_text(tokens, self.tokenizer)


def as_text(tokens: Iterable[int], tokenizer: Any) -> Iterator[str]:
    """New text as soon as it is certain: some characters are several tokens long."""
    new: list[int] = []
    shown = text = ""
    for token in tokens:
        new.append(token)
        text = tokenizer.decode(new)
        if text != shown and not text.endswith(_BROKEN):
            yield text[len(shown) :]
            shown = text
    if text != shown:
        yield text[len(shown) :]


def _has_template(tokenizer: Any) -> bool:
    try:
        tokenizer.chat([{"role": "user", "content": "?"}])
    except ConfigError:
        return False
    return True


def _name(folder: str | os.PathLike[str], taken: list[str]) -> str:
    """The folder's name as an adapter may be called; with a number if it is taken."""
    plain = re.sub(r"[^\w-]", "-", Path(folder).resolve().name) or "adapter"
    name, n = plain, 1
    while name in taken:
        n += 1
        name = f"{plain}-{n}"
    return name
