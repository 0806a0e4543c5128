"""Chat templates: the little programs in Jinja by which a model wants its conversations written.

Templates come with models from anywhere, so they run in a sandbox (`sandbox.py`), set up as
transformers sets it up: the same whitespace rules, the same helpers, the same variables. One that
fails, does not end or makes too much is stopped, and it is said what it did.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from minilora.errors import ConfigError, DataError, FormatError, require

ROLES = ("system", "user", "assistant")


class ChatTemplate:
    """A template and the special tokens it may name, as `bos_token`, `eos_token` and so on."""

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None):
        self.source = source
        self.special_tokens = dict(special_tokens or {})

    def render(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text; with `add_generation_prompt`, up to where an answer begins.

        messages: each with `role` and `content`, both text.

        Raises DataError for messages that are not of that form or that the template refuses,
        FormatError for a template that is no Jinja, reaches for what the sandbox forbids, does not
        end, or makes more text than any conversation has.
        """
        for position, message in enumerate(messages, 1):
            _check(message, position)
        compiled = self._compiled
        # Here it is installed, or compiling would have said so.
        import jinja2

        from minilora.data.sandbox import TooMuch, bounded

        try:
            return bounded(
                compiled,
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.special_tokens,
            )
        except jinja2.exceptions.SecurityError as error:
            raise FormatError(f"the chat template does what it must not: {error}") from error
        except TooMuch as error:
            raise FormatError(
                f"the chat template was stopped: {error}; mend it, or take another base"
            ) from error
        except RecursionError as error:
            raise FormatError("the chat template calls itself without an end; mend it") from error
        except Exception as error:  # a program of someone else's: whatever it raises
            said = str(error) or type(error).__name__
            raise DataError(f"the chat template refuses these messages: {said}") from error

    @cached_property
    def _compiled(self) -> Any:
        jinja2 = require("jinja2", extra="llm", purpose="rendering a chat template")
        from minilora.data.sandbox import Generation, Sandbox

        def raise_exception(message: str) -> None:
            raise jinja2.TemplateError(message)

        environment = Sandbox(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", Generation],
        )
        # Jinja's own filter escapes the characters of HTML, which no model was trained on.
        environment.add_filter("tojson", _to_json)
        environment.globals["raise_exception"] = raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            return environment.from_string(self.source)
        except Exception as error:  # also Python's own, for one that is nested too deeply
            said = str(error) or type(error).__name__
            raise FormatError(f"the chat template cannot be read: {said}") from error


def no_template() -> ConfigError:
    """The error for a conversation that meets a base without a template."""
    return ConfigError(
        "this base has no chat template: give it plain prompts, or use a base that was tuned "
        "for conversations, such as smollm2"
    )


def _check(message: Any, position: int) -> None:
    if not isinstance(message, Mapping):
        raise DataError(f"message {position} should have 'role' and 'content', is {message!r}")
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            raise DataError(f"message {position} needs {key!r} as text, has {message.get(key)!r}")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
