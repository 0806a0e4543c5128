"""A few pages of plain English on many subjects, to see what a language model forgets.

The text ships with the package. It is cut in two halves of the same kinds of writing: one to mix
into the training data (replay), the other to measure on, so that no sentence is in both.
"""

from __future__ import annotations

from importlib import resources
from typing import Literal

from minilora.data.tokenizers import Tokenizer
from minilora.errors import ConfigError, DataError

Part = Literal["all", "replay", "test"]

# The pieces of the file come in pairs of one kind, a story and a story, a recipe and a recipe;
# the first of a pair is for replay, the second for the test.
_PIECES: dict[str, slice] = {
    "all": slice(None),
    "replay": slice(0, None, 2),
    "test": slice(1, None, 2),
}
_BETWEEN_PIECES = "\n\n\n"


def general_text(part: Part = "all") -> str:
    """About 15,000 characters of general English, or the half of it that `part` names.

    Raises ConfigError for a part other than "all", "replay" and "test".
    """
    if part not in _PIECES:
        raise ConfigError(f"the parts of the general text are {', '.join(_PIECES)}, not {part!r}")
    file = resources.files("minilora") / "assets" / "text" / "general.txt"
    pieces = file.read_text(encoding="utf-8").strip().split(_BETWEEN_PIECES)
    return _BETWEEN_PIECES.join(pieces[_PIECES[part]])


def general_windows(tokenizer: Tokenizer, length: int = 256, part: Part = "all") -> list[list[int]]:
    """The text's tokens cut into lists of exactly `length`, which do not overlap.

    Each begins with the base's start tokens, where it has any, as every text of its does. What is
    left over at the end is dropped, so that every window weighs the same in a mean.

    Raises ConfigError for a `length` that is not a whole number or leaves no token to predict,
    and DataError when the text does not fill one window or has characters unknown to the base.
    """
    start = list(tokenizer.start_ids)
    shortest = len(start) + 2
    if isinstance(length, bool) or not isinstance(length, int) or length < shortest:
        raise ConfigError(f"a window has {shortest} tokens or more, not {length!r}")
    ids = tokenizer.encode(general_text(part))
    step = length - len(start)
    if len(ids) < step:
        raise DataError(
            f"the general text ({part}) has {len(ids)} tokens, so no window of {length}; "
            "ask for a shorter one"
        )
    return [start + ids[at : at + step] for at in range(0, len(ids) - step + 1, step)]
