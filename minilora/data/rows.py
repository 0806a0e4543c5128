"""A row is one thing to be learnt, in whichever of the usual forms a person wrote it.

    {"prompt": …, "completion": …}               joined as they stand
    {"instruction": …, "input": …, "output": …}  Alpaca's; `input` may be left out
    {"messages": [{"role": …, "content": …}]}    a conversation
    {"conversations": [{"from": …, "value": …}]} the same, as ShareGPT writes it
    {"text": …}                                  to be continued

`as_row` makes the first three of them, which training takes, from all five; `parts` sees in each
of them the same three things: what stands before the question, the question, the answer. Only
these are compared when rows are checked, cleaned and split.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minilora.data.chat import ROLES
from minilora.errors import DataError

Row = dict[str, Any]

FORMS = (
    '{"prompt", "completion"}, {"instruction", "input", "output"}, {"messages"}, '
    '{"conversations"} or {"text"}'
)
# The keys by which a form is known, the first of them naming it.
_KEYS = {
    "messages": ("messages",),
    "conversations": ("conversations",),
    "completion": ("prompt", "completion"),
    "output": ("instruction", "output"),
    "text": ("text",),
}
_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}


@dataclass(frozen=True)
class Parts:
    """What a row says: `before` (a system message), the `question`, the `answer`; all text.

    The question of a conversation is what the user says first, its answer everything after that.
    """

    before: str
    question: str
    answer: str

    @property
    def key(self) -> str:
        """What decides whether two rows ask the same; a text that asks nothing is its own key."""
        return self.question if self.question.strip() else self.answer


def as_row(record: object) -> Row:
    """A record in a form that training takes; keys that belong to no form stay as they are.

    Raises DataError for a record that is none of the forms, or has something else than text where
    text belongs.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"a row is an object, not {_shown(record)}; write {FORMS}")
    form = _form(record)
    row = dict(record)
    if form == "text":
        return {"prompt": "", "completion": _text(row.pop("text"), "'text'"), **row}
    if form == "conversations":
        return {"messages": _messages_of(row.pop("conversations")), **row}
    if form == "messages":
        _check_messages(row["messages"], "messages", "role", "content")
        return row
    if form == "output" and row.get("input") is None:
        row.pop("input", None)
    for key in _KEYS[form] + (("input",) if form == "output" and "input" in row else ()):
        if key not in row:
            raise DataError(f"{key!r} is missing (the keys are {_shown(list(row))})")
        _text(row[key], repr(key))
    return row


def parts(row: Mapping[str, Any]) -> Parts:
    """What a row that `as_row` made says."""
    if "messages" in row:
        return _parts_of(row["messages"])
    if "instruction" in row:
        question = "\n".join(text for text in (row["instruction"], row.get("input", "")) if text)
        return Parts("", question, row["output"])
    return Parts("", row["prompt"], row["completion"])


def _form(record: Mapping[str, Any]) -> str:
    found = [form for form, keys in _KEYS.items() if any(key in record for key in keys)]
    if len(found) > 1 and "text" in found:
        # Alpaca's own file has each row a second time as one text.
        found.remove("text")
    if len(found) == 1:
        return found[0]
    if found:
        both = " and ".join(repr(next(k for k in _KEYS[f] if k in record)) for f in found)
        raise DataError(f"{both} in one row; a row has one form: {FORMS}")
    raise DataError(
        f"no form that is known (the keys are {_shown(list(record))}); write {FORMS}, or make rows "
        "of it with minilora data build"
    )


def _messages_of(turns: object) -> list[dict[str, str]]:
    _check_messages(turns, "conversations", "from", "value")
    assert isinstance(turns, Sequence)
    return [{"role": _SHAREGPT_ROLES[turn["from"]], "content": turn["value"]} for turn in turns]


def _check_messages(messages: object, name: str, role: str, content: str) -> None:
    roles = tuple(_SHAREGPT_ROLES) if role == "from" else ROLES
    if isinstance(messages, str) or not isinstance(messages, Sequence) or not messages:
        raise DataError(f"{name!r} is a list with at least one message, not {_shown(messages)}")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise DataError(f"{name}[{i}] is an object, not {_shown(message)}")
        if message.get(role) not in roles:
            raise DataError(
                f"{name}[{i}]: {role!r} is one of {', '.join(roles)}, "
                f"not {_shown(message.get(role))}"
            )
        _text(message.get(content), f"{name}[{i}]: {content!r}")


def _parts_of(messages: Sequence[Mapping[str, str]]) -> Parts:
    roles = [message["role"] for message in messages]
    first = roles.index("assistant") if "assistant" in roles else len(roles)

    def said(turns: Sequence[Mapping[str, str]], *who: str) -> str:
        return "\n".join(turn["content"] for turn in turns if turn["role"] in who)

    asked, answered = messages[:first], messages[first:]
    answer = said(answered, *ROLES) if said(answered, "assistant").strip() else ""
    return Parts(said(asked, "system"), said(asked, "user"), answer)


def _text(value: object, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None or not isinstance(value, int | float):
        raise DataError(f"{name} is text, not {_shown(value)}")
    raise DataError(f"{name} is text, not the number {value}; put it in quotes: {str(value)!r}")


def _shown(value: object) -> str:
    try:
        shown = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
