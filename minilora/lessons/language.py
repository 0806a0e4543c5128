"""English or Chinese: which of both a reader is spoken to in."""

from __future__ import annotations

from minilora.errors import ConfigError
from minilora.lessons.content import Both

_chosen = "en"


def language(which: str) -> None:
    """Speak English ("en") or Chinese ("zh") from now on."""
    global _chosen
    if which not in Both._fields:
        raise ConfigError(f"language {which!r} must be one of {', '.join(Both._fields)}")
    _chosen = which


def pick(text: Both) -> str:
    """The text in the language that was chosen."""
    return getattr(text, _chosen)
