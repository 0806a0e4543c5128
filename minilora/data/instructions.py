"""Instruction data: one example is a token list and a label list of the same length.

A label is -100 on what is given and the token itself on what is to be answered, end token
included. The labels are not shifted: the model compares the logits at t with the label at t + 1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from minilora.data.tokenizers import Tokenizer
from minilora.errors import ConfigError, DataError, FormatError
from minilora.files.json_files import read_json_lines
from minilora.ops.cross_entropy import IGNORE

ROLES = ("system", "user", "assistant")
ROW_FORMS = (
    '{"prompt": "…", "completion": "…"} or {"messages": [{"role": "user", "content": "…"}, …]}'
)


@dataclass(frozen=True)
class Example:
    """One example: `ids` and `labels`, two lists of T token ids; a label is -100 where given."""

    ids: list[int]
    labels: list[int]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.labels):
            raise DataError(
                f"an example has as many labels as tokens, not {len(self.labels)} labels "
                f"for {len(self.ids)} tokens"
            )

    @property
    def n_targets(self) -> int:
        """Tokens that count in the loss; the first one never does, as nothing predicts it."""
        return sum(label != IGNORE for label in self.labels[1:])


def prompt_completion(prompt: str, completion: str, tokenizer: Tokenizer) -> Example:
    """Prompt and completion joined as they stand and closed by the end token.

    The loss is on the completion and the end token. The example always begins with the tokens of
    the prompt alone, behind the base's start tokens, since those are what generation will be
    given; see `_tokens_after`. An empty prompt makes plain text to continue, whose first token is
    learned only if the base has a start token to predict it from.

    Raises DataError for a completion that is blank, and for text that is not a string.
    """
    prompt = _text(prompt, "'prompt'")
    completion = _text(completion, "'completion'", blank=False)
    ids, labels = _tokenized([(prompt, False), (completion, True)], tokenizer)
    return Example([*ids, tokenizer.end_id], [*labels, tokenizer.end_id])


def chat_example(messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> Example:
    """A conversation through the base's chat template, the loss on the assistant's turns only.

    `messages` are `{"role": "system" | "user" | "assistant", "content": str}`. A target is every
    token of an assistant's content and the token that ends the turn, not the header before it
    (generation is given that) and nothing behind it (generation has stopped by then), which is
    why the example ends with its last target.

    Raises DataError for messages of another form, for a conversation in which the assistant says
    nothing or speaks first, and for a template that hides answers or rewrites earlier turns;
    ConfigError for a base without a template.
    """
    _check_messages(messages)
    ids, labels = _tokenized(
        _turns(messages, tokenizer), tokenizer, stop_ids=frozenset(tokenizer.stop_ids)
    )
    end = 1 + max((t for t, label in enumerate(labels) if label != IGNORE), default=-1)
    if end == 0:
        raise DataError("the base's chat template shows nothing of what the assistant says")
    ids, labels = ids[:end], labels[:end]
    if ids[-1] not in tokenizer.stop_ids:
        # The template closes a turn with plain text; without an end it would never learn to stop.
        ids, labels = [*ids, tokenizer.end_id], [*labels, tokenizer.end_id]
    return Example(ids, labels)


def to_examples(
    rows: Iterable[Mapping[str, Any]], tokenizer: Tokenizer, max_length: int
) -> list[Example]:
    """Examples from rows in memory, in their order; `max_length` is the base's context in tokens.

    A row is `{"prompt": str, "completion": str}` or `{"messages": [...]}`; other keys are ignored.
    Raises DataError, which names the row as `rows[i]`, and says what is allowed.
    """
    located = ((f"rows[{i}]", row) for i, row in enumerate(rows))
    examples = [_example(row, where, tokenizer, max_length) for where, row in located]
    if not examples:
        raise DataError(f"there are no rows to train on; give at least one: {ROW_FORMS}")
    return examples


def read_examples(
    path: str | PathLike[str], tokenizer: Tokenizer, max_length: int
) -> list[Example]:
    """Examples from a JSONL file, one row a line, as `to_examples` makes them.

    Raises DataError, which names the file, the line, the field and what is allowed.
    """
    examples = [
        _example(row, f"{path}, line {number}", tokenizer, max_length)
        for number, row in _lines(path)
    ]
    if not examples:
        raise DataError(f"{path} is empty; it needs at least one line: {ROW_FORMS}")
    return examples


def _lines(path: str | PathLike[str]) -> Iterator[tuple[int, object]]:
    try:
        yield from read_json_lines(path)
    except FormatError as error:
        raise DataError(str(error)) from error


def _example(row: object, where: str, tokenizer: Tokenizer, max_length: int) -> Example:
    """The example of one row, not longer than the context; errors begin with `where`."""
    try:
        example = _from_row(row, tokenizer)
    except (DataError, ConfigError) as error:
        raise DataError(f"{where}: {error}") from error
    n = len(example.ids)
    if n > max_length:
        given = sum(label == IGNORE for label in example.labels)
        raise DataError(
            f"{where}: {n} tokens ({given} given, {n - given} to answer), but the context has "
            f"{max_length}; shorten this row or leave it out"
        )
    return example


def _from_row(row: object, tokenizer: Tokenizer) -> Example:
    if not isinstance(row, Mapping):
        raise DataError(f"a row is an object, not {_shown(row)}; write {ROW_FORMS}")
    is_pair = "prompt" in row or "completion" in row
    if "messages" in row:
        if is_pair:
            raise DataError(f"'messages' beside 'prompt' or 'completion'; write {ROW_FORMS}")
        return chat_example(row["messages"], tokenizer)
    missing = [key for key in ("prompt", "completion") if key not in row]
    if missing:
        wanted = f"{missing[0]!r} is missing" if is_pair else "no field to train on"
        raise DataError(f"{wanted} (the keys are {_shown(list(row))}); write {ROW_FORMS}")
    return prompt_completion(row["prompt"], row["completion"], tokenizer)


def _check_messages(messages: object) -> None:
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise DataError(
            f"'messages' is a list with at least one message, not {_shown(messages)}; "
            f"write {ROW_FORMS}"
        )
    for i, message in enumerate(messages):
        name = f"messages[{i}]"
        if not isinstance(message, Mapping):
            raise DataError(
                f'{name} is an object {{"role": …, "content": …}}, not {_shown(message)}'
            )
        for key in ("role", "content"):
            if key not in message:
                raise DataError(
                    f"{name}: {key!r} is missing (the keys are {_shown(list(message))})"
                )
        role = message["role"]
        if role not in ROLES:
            raise DataError(f"{name}: 'role' is one of {', '.join(ROLES)}, not {_shown(role)}")
        _text(message["content"], f"{name}: 'content'", blank=role != "assistant")
    if messages[0]["role"] == "assistant":
        raise DataError("messages[0]: the assistant answers, so a 'user' message comes first")
    if all(message["role"] != "assistant" for message in messages):
        raise DataError("no message has the role 'assistant', so there is nothing to learn")


def _text(value: object, name: str, *, blank: bool = True) -> str:
    """`value` if it is text that can be tokenized; with `blank=False` it must say something."""
    if not isinstance(value, str):
        raise DataError(f"{name} is a string, not {_shown(value)}")
    if not blank and not value.strip():
        raise DataError(f"{name} is {'blank' if value else 'empty'}, so there is nothing to learn")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair; no tokenizer has bytes for it.
        raise DataError(
            f"{name} has half of a surrogate pair, \\u{ord(value[error.start]):04x}, "
            f"at character {error.start}; write the whole character"
        ) from error
    return value


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"


def _turns(
    messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer
) -> Iterable[tuple[str, bool]]:
    """The rendered conversation in pieces: what is given, what is answered, given, answered, …

    The template is only ever asked to render; where an answer begins and ends is seen from how
    the text grows with one more turn, so any template that only appends will do.
    """
    text = ""
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        for end, answered in ((i, False), (i + 1, True)):
            grown = tokenizer.chat(messages[:end], add_generation_prompt=not answered)
            if not grown.startswith(text):
                raise DataError(
                    f"messages[{i}]: the base's chat template rewrites earlier turns, so what was "
                    "answered cannot be told apart; give each answer a row of its own"
                )
            yield grown[len(text) :], answered
            text = grown


def _tokenized(
    pieces: Iterable[tuple[str, bool]],
    tokenizer: Tokenizer,
    stop_ids: Collection[int] = (),
) -> tuple[list[int], list[int]]:
    """The ids and labels of pieces `(text, answered)` that stand one behind the other.

    In an answered piece nothing behind its last stop token is a target.
    """
    text = ""
    ids: list[int] = []
    labels: list[int] = []
    for piece, answered in pieces:
        new = _tokens_after(text, ids, piece, tokenizer)
        stops = [t for t, token in enumerate(new) if token in stop_ids]
        n_targets = (stops[-1] + 1 if stops else len(new)) if answered else 0
        labels += new[:n_targets] + [IGNORE] * (len(new) - n_targets)
        ids += new
        text += piece
    return ids, labels


def _tokens_after(text: str, ids: list[int], piece: str, tokenizer: Tokenizer) -> list[int]:
    """The tokens of `piece` behind `text`, whose tokens `ids` stay as they are.

    Tokenized whole, the text may hold one token that straddles the boundary: "to" and "day" are
    "today". If none does, the whole decides, because some tokenizers treat the beginning of a text
    differently. If one does, the piece is tokenized apart: generation starts from the tokens of
    the prompt alone and can only continue them, so this is what it must learn.
    """
    whole = tokenizer.encode(text + piece, start=True)
    return whole[len(ids) :] if whole[: len(ids)] == ids else tokenizer.encode(piece)
