"""Templates: how a row becomes the text that a base is trained on, and that it is asked with later.

    plain    prompt and completion, joined as they stand
    alpaca   the headings of Stanford Alpaca: instruction, input, response
    chat     the base's own chat template
    own      each row in its own form: the three above are those of {"prompt"}, {"instruction"} and
             {"messages"}
    base     chat if the base has a chat template, else plain

A model that was tuned on one form of text and is asked in another one answers as if it had not been
tuned. So what was used is written beside the adapter and read again where it is used
(`template_files.py`); at both ends `Template.prompt` is the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from minilora.data.chat import ROLES
from minilora.data.rows import as_row
from minilora.data.tokenizers import Tokenizer
from minilora.errors import ConfigError, DataError, FormatError

NAMES = ("plain", "alpaca", "chat")
CHOICES = ("own", "base", *NAMES)

# The text of a row in pieces, each with whether it is an answer: given, answered, given, …
Pieces = Iterator[tuple[str, bool]]
Render = Callable[[Sequence[Mapping[str, str]], bool], str]

# Taori et al., "Stanford Alpaca", 2023, word for word: it is a format.
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)
_ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


class Template:
    """How rows are written. `name` is one of NAMES, or "own"."""

    name: str

    def prompt(self, row: Mapping[str, Any] | str) -> str:
        """The text up to where an answer begins.

        row: a question as text, or a row, of which an answer at its end is left out.

        Raises DataError for a row that this template cannot write.
        """
        raise NotImplementedError

    def pieces(self, row: Mapping[str, Any]) -> Pieces:
        """The text of a row that `as_row` made: what is given, what is answered, given, …

        Raises DataError for a row without an answer, or one that this template cannot write.
        """
        yield self.prompt(row), False
        yield _answer(row), True

    def ids(self, row: Mapping[str, Any] | str, tokenizer: Tokenizer) -> list[int]:
        """The tokens of `prompt`, as every example in training began with them."""
        return tokenizer.encode(self.prompt(row), start=True)


class Plain(Template):
    """Question and answer as they stand."""

    name = "plain"

    def prompt(self, row: Mapping[str, Any] | str) -> str:
        if isinstance(row, str):
            return row
        if "instruction" in row:
            return f"{_instruction(row)}\n"
        if "messages" in row:
            before, question = _single(row)
            return f"{before}\n{question}\n" if before else f"{question}\n"
        return _text(row.get("prompt"), "'prompt'")


class Alpaca(Template):
    """Under Alpaca's headings."""

    name = "alpaca"

    def prompt(self, row: Mapping[str, Any] | str) -> str:
        if isinstance(row, str):
            return _ALPACA.format(instruction=row)
        if "messages" in row:
            before, question = _single(row)
            row = {"instruction": before or question, "input": question if before else ""}
        instruction = row["prompt"] if "prompt" in row else row.get("instruction")
        values = {"instruction": _text(instruction, "'instruction'")}
        if not row.get("input"):
            return _ALPACA.format(**values)
        return _ALPACA_WITH_INPUT.format(**values, input=_text(row["input"], "'input'"))


class Chat(Template):
    """As a conversation, through a chat template.

    render: messages and `add_generation_prompt` to text.
    """

    name = "chat"

    def __init__(self, render: Render):
        self.render = render

    def prompt(self, row: Mapping[str, Any] | str) -> str:
        messages = _messages(row)
        while messages and messages[-1].get("role") == "assistant":
            messages = messages[:-1]
        return self.render(messages, True)

    def pieces(self, row: Mapping[str, Any]) -> Pieces:
        """The template is only ever asked to render; where an answer begins and ends is seen from
        how the text grows with one more turn, so any template that only appends will do.
        """
        messages = _messages(row)
        _check_messages(messages)
        text = ""
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            for end, answered in ((i, False), (i + 1, True)):
                grown = self.render(messages[:end], not answered)
                if not grown.startswith(text):
                    raise DataError(f"messages[{i}]: {self._why(messages[:end], text, grown)}")
                yield grown[len(text) :], answered
                text = grown

    def _why(self, messages: Sequence[Mapping[str, str]], before: str, text: str) -> str:
        """Why the text of messages does not begin with the one before it, and what to do."""
        *asked, last = messages
        answered = last["role"] == "assistant"
        if answered and text.startswith(bare := self.render(asked, False)):
            at = text.find(last["content"].strip(), len(bare))
            opened = before.removeprefix(text[:at].rstrip(" ") if at > 0 else bare)
            # To learn answers behind it all the same would teach them to be thoughts.
            return (
                f"asked for an answer, the base's chat template begins it with {opened[:40]!r}, "
                "which the finished answer of this row does not have, so what is learnt would not "
                "be what is asked; begin the answer with that and what belongs behind it, if the "
                "template keeps it, or take another template: plain or alpaca"
            )
        what, todo = "earlier turns", "give each answer a row of its own"
        if all(message["role"] != "assistant" for message in asked):
            what, todo = "the question once it is answered", "take another template: plain, alpaca"
        return (
            f"the base's chat template rewrites {what}, so what was answered cannot be told apart; "
            f"{todo}"
        )


class Own(Template):
    """Each row in its own form."""

    name = "own"

    def __init__(self, chat: Chat):
        self._by_form = {"messages": chat, "instruction": Alpaca()}

    def of(self, row: Mapping[str, Any] | str) -> Template:
        """The template of a row's form."""
        forms = [form for form in self._by_form if not isinstance(row, str) and form in row]
        return self._by_form[forms[0]] if forms else Plain()

    def prompt(self, row: Mapping[str, Any] | str) -> str:
        return self.of(row).prompt(row)

    def pieces(self, row: Mapping[str, Any]) -> Pieces:
        return self.of(row).pieces(row)


def template(name: str | None, tokenizer: Tokenizer) -> Template:
    """The template of that name for a base's tokenizer; None: "own".

    Raises ConfigError for an unknown name, and for "chat" with a base that has no chat template.
    """
    if name not in (None, *CHOICES):
        raise ConfigError(f"the template {name!r} must be one of {', '.join(CHOICES)}")
    chat = Chat(tokenizer.chat)
    if name in (None, "own"):
        return Own(chat)
    if name == "base":
        name = "chat" if has_chat(tokenizer) else "plain"
    elif name == "chat" and not has_chat(tokenizer):
        raise ConfigError(
            "this base has no chat template for --template chat; take plain or alpaca, or a base "
            "that was tuned for conversations, such as smollm2"
        )
    return {"plain": Plain(), "alpaca": Alpaca(), "chat": chat}[name]


def has_chat(tokenizer: Tokenizer) -> bool:
    """Whether a base has a chat template."""
    try:
        tokenizer.chat([{"role": "user", "content": "?"}])
    except ConfigError:
        return False
    except (DataError, FormatError):
        return True  # one that does not like this conversation
    return True


def _messages(row: Mapping[str, Any] | str) -> Sequence[Mapping[str, str]]:
    """A row as a conversation."""
    if isinstance(row, str):
        return [{"role": "user", "content": row}]
    if "messages" in row:
        messages = row["messages"]
        as_row({"messages": messages})
        return messages
    question = _instruction(row) if "instruction" in row else _text(row.get("prompt"), "'prompt'")
    asked = {"role": "user", "content": question}
    if "output" not in row and "completion" not in row:
        return [asked]
    return [asked, {"role": "assistant", "content": _answer(row)}]


def _instruction(row: Mapping[str, Any]) -> str:
    given = [row.get("instruction"), row.get("input") or ""]
    return "\n".join(text for text in (_text(each, "'instruction'") for each in given) if text)


def _single(row: Mapping[str, Any]) -> tuple[str, str]:
    """System message and question of a conversation with one question and one answer."""
    messages = _messages(row)
    roles = [message["role"] for message in messages]
    asked = roles[1:] if roles[:1] == ["system"] else roles
    if asked not in (["user"], ["user", "assistant"]):
        raise DataError(
            f"a conversation of {len(messages)} messages has no place in this template, only one "
            "question and one answer; take chat"
        )
    said = {message["role"]: message["content"] for message in messages}
    return said.get("system", ""), said["user"]


def _answer(row: Mapping[str, Any]) -> str:
    if "messages" in row:
        last = _messages(row)[-1]
        if last["role"] != "assistant":
            raise DataError("no message has the role 'assistant', so there is nothing to learn")
        return _text(last["content"], "the answer", blank=False)
    key = "output" if "instruction" in row else "completion"
    return _text(row.get(key), repr(key), blank=False)


def _check_messages(messages: Sequence[Mapping[str, str]]) -> None:
    for i, message in enumerate(messages):
        blank = message["role"] != "assistant"
        _text(message["content"], f"messages[{i}]: 'content'", blank=blank)
    if messages[0]["role"] == "assistant":
        raise DataError("messages[0]: the assistant answers, so a 'user' message comes first")
    if all(message["role"] != ROLES[-1] for message in messages):
        raise DataError("no message has the role 'assistant', so there is nothing to learn")


def _text(value: object, name: str, *, blank: bool = True) -> str:
    """`value` if it is text that can be tokenized; with `blank=False` it must say something."""
    if not isinstance(value, str):
        raise DataError(f"{name} is text, not {str(value)[:60]}")
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
