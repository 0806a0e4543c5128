"""Instruction data: one example is a token list and a label list of the same length.

A label is -100 on what is given and the token itself on what is to be answered, end token
included. The labels are not shifted: the model compares the logits at t with the label at t + 1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

from minilora.data.chat import ROLES
from minilora.data.reading import format_or_lines, read_rows
from minilora.data.rows import FORMS, as_row
from minilora.data.templates import Own, Pieces, Template, template
from minilora.data.tokenizers import Tokenizer
from minilora.errors import ConfigError, DataError, FormatError
from minilora.ops.cross_entropy import IGNORE

__all__ = [
    "IGNORE",
    "MASKS",
    "ROLES",
    "Example",
    "chat_example",
    "example_of",
    "prompt_completion",
    "read_examples",
    "template_used",
    "to_examples",
]

# What does not count in the loss: all but answers, all but the last answer, nothing.
MASKS = ("answers", "last", "none")


@dataclass(frozen=True)
class Example:
    """One example: `ids` and `labels`, two lists of T token ids; a label is -100 where given.

    template: in which one it was written; where: of its row, as messages say it.
    """

    ids: list[int]
    labels: list[int]
    template: str = field(default="plain", compare=False, repr=False)
    where: str = field(default="", compare=False, repr=False)

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
    return example_of({"prompt": prompt, "completion": completion}, tokenizer)


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
    return example_of({"messages": messages}, tokenizer)


def example_of(
    row: Mapping[str, Any],
    tokenizer: Tokenizer,
    written: Template | None = None,
    mask: str = "answers",
) -> Example:
    """The example of one row, of whatever length.

    row       any form of `rows.as_row`
    written   how it is written; None: each row in its own form
    mask      what does not count in the loss: "answers": all but the answers; "last": all but the
              last answer; "none": everything counts, questions too

    Raises DataError, FormatError for a chat template that is broken, ConfigError for an unknown
    mask and for a base without a template that is given a conversation.
    """
    if mask not in MASKS:
        raise ConfigError(f"the mask {mask!r} must be one of {', '.join(MASKS)}")
    row = as_row(row)
    written = written or template(None, tokenizer)
    if isinstance(written, Own):
        written = written.of(row)
    in_chat = written.name == "chat"
    ids, labels = _tokenized(
        written.pieces(row),
        tokenizer,
        stop_ids=frozenset(tokenizer.stop_ids) if in_chat else (),
        last_only=mask == "last",
    )
    if in_chat:
        end = 1 + max((t for t, label in enumerate(labels) if label != IGNORE), default=-1)
        if end == 0:
            raise DataError("the base's chat template shows nothing of what the assistant says")
        ids, labels = ids[:end], labels[:end]
    if not in_chat or ids[-1] not in tokenizer.stop_ids:
        # Without an end it would never learn to stop; some chat templates close with plain text.
        ids, labels = [*ids, tokenizer.end_id], [*labels, tokenizer.end_id]
    return Example(ids, list(ids) if mask == "none" else labels, written.name)


def to_examples(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    max_length: int,
    *,
    written: Template | None = None,
    mask: str = "answers",
) -> list[Example]:
    """Examples from rows in memory, in their order; `max_length` is the base's context in tokens.

    Otherwise as `example_of`. Raises DataError, which names the row as `rows[i]`, and says what is
    allowed.
    """
    located = ((f"rows[{i}]", row) for i, row in enumerate(rows))
    written = written or template(None, tokenizer)
    examples = [_example(row, at, tokenizer, max_length, written, mask) for at, row in located]
    if not examples:
        raise DataError(f"there are no rows to train on; give at least one: {FORMS}")
    return examples


def read_examples(
    path: str | PathLike[str],
    tokenizer: Tokenizer,
    max_length: int,
    *,
    written: Template | None = None,
    mask: str = "answers",
    taken: int = 0,
) -> list[Example]:
    """Examples from a file of rows, as `to_examples` makes them; the formats are `reading`'s.

    taken   places of the context that an adapter has taken already, for the message

    Raises DataError, which names the file, the line, the field and what is allowed.
    """
    written = written or template(None, tokenizer)
    try:
        examples = [
            _example(row, str(where), tokenizer, max_length, written, mask, taken)
            for where, row in read_rows(path, format_or_lines(path))
        ]
    except FormatError as error:
        raise DataError(str(error)) from error
    if not examples:
        raise DataError(f"{path} is empty; it needs at least one row: {FORMS}")
    return examples


def template_used(examples: Iterable[Example]) -> str:
    """The template in which all of these are written; "mixed" if it is not one."""
    names = {example.template for example in examples}
    return names.pop() if len(names) == 1 else "mixed"


def _example(
    row: Mapping[str, Any],
    where: str,
    tokenizer: Tokenizer,
    max_length: int,
    written: Template,
    mask: str,
    taken: int = 0,
) -> Example:
    """The example of one row, not longer than the context; errors begin with `where`."""
    try:
        example = example_of(row, tokenizer, written, mask)
    except (DataError, ConfigError, FormatError) as error:
        raise DataError(f"{where}: {error}") from error
    n = len(example.ids)
    if n > max_length:
        less = f" ({max_length + taken} less {taken} of the adapter's own)" if taken else ""
        given = sum(label == IGNORE for label in example.labels)
        raise DataError(
            f"{where}: {n} tokens ({given} given, {n - given} to answer), but the context has "
            f"{max_length}{less}; shorten this row or leave it out"
        )
    return replace(example, where=where)


def _tokenized(
    pieces: Pieces, tokenizer: Tokenizer, stop_ids: Collection[int], last_only: bool
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
        if last_only and answered:
            labels = [IGNORE] * len(ids)
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
