"""In which template an adapter's examples were written, kept in its folder.

A file of its own, `minilora_template.json`: PEFT opens the folder as before. A chat template is
kept whole, as bases change theirs.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from minilora.data.chat import ChatTemplate
from minilora.data.templates import NAMES, Chat, Own, Template, template
from minilora.data.tokenizers import Tokenizer
from minilora.errors import FormatError
from minilora.files.atomic import locate
from minilora.files.json_files import read_json, write_json

FILE = "minilora_template.json"


def save_template(folder: str | os.PathLike[str], name: str, tokenizer: Tokenizer) -> None:
    """Write into an adapter's folder in which template its examples were.

    name: one of NAMES; "mixed" (examples of several forms) is written as "own".
    """
    said: dict[str, Any] = {"template": "own" if name == "mixed" else name}
    source = getattr(tokenizer, "chat_template", None)
    if name not in ("plain", "alpaca") and source:
        said["chat_template"] = source
    write_json(Path(folder) / FILE, said)


def template_of(folder: str | os.PathLike[str], tokenizer: Tokenizer) -> Template | None:
    """The template in which the examples of an adapter were; None if its folder does not say.

    Its own chat template is used if the base has another one now, with a warning.

    Raises FormatError for a file that says something else.
    """
    path = locate(folder, FILE)
    if not path.is_file():
        return None
    said = read_json(path)
    name, source = said.get("template"), said.get("chat_template")
    if name not in ("own", *NAMES) or not isinstance(source, str | None):
        raise FormatError(
            f"{path}: 'template' is one of {', '.join(NAMES)}, own, and 'chat_template' text; "
            "tune again, or remove the file"
        )
    if source is None or source == getattr(tokenizer, "chat_template", None):
        return template(name, tokenizer)
    warnings.warn(
        f"{folder} was trained with another chat template than this base has; its own is used",
        stacklevel=2,
    )
    own = ChatTemplate(source, getattr(tokenizer, "special_tokens", None))
    chat = Chat(own.render)
    return chat if name == "chat" else Own(chat)


def differs(used: str, trained: Template | None) -> str | None:
    """What to tell a person who asks in one template an adapter that was trained in another.

    used: one of NAMES. None if there is nothing to tell.
    """
    if trained is None or trained.name in (used, "own"):
        return None
    return (
        f"the adapter was trained with --template {trained.name} and is asked with {used}: it may "
        f"answer as if it had not been trained; ask it with {trained.name}"
    )
