"""An example as the base sees it, token by token: what is given, and what it is to learn.

Nearly every mistake in training data can be seen here and nowhere else: a question that counts in
the loss, an answer without an end, a space on the wrong side, a conversation that went through no
template. Grey is given, orange and marked is learnt; special tokens are written out.
"""

from __future__ import annotations

import html as escaping
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from minilora.data.instructions import Example
from minilora.data.tokenizers import Tokenizer
from minilora.ops.cross_entropy import IGNORE

# Of the figures' roles: frozen, trainable.
GREY, ORANGE = "#4D4D4D", "#D55E00"
# A terminal's own grey, which can be read on its background, and an orange that most have.
_GIVEN, _LEARNT, _FAINT, _END = "\x1b[90m", "\x1b[1;4;38;5;208m", "\x1b[2m", "\x1b[0m"
_BROKEN = "\ufffd"


@dataclass(frozen=True)
class Token:
    """One token of an example.

    text     of this token alone; a part of a character is shown as its number, `‹id›`
    special  it stands for no text
    target   it counts in the loss
    """

    id: int
    text: str
    special: bool
    target: bool


def tokens(example: Example, tokenizer: Tokenizer) -> list[Token]:
    """The tokens of an example in their order."""
    found = []
    for t, (i, label) in enumerate(zip(example.ids, example.labels, strict=True)):
        text = tokenizer.decode([i], skip_special=False)
        special = bool(text) and not tokenizer.decode([i], skip_special=True)
        if not text or _BROKEN in text:
            text = f"‹{i}›"
        # Nothing foretells the first token, whatever its label.
        found.append(Token(i, text, special, t > 0 and label != IGNORE))
    return found


def summary(example: Example, context: int) -> dict[str, Any]:
    """How long an example is, and how much of it is learnt.

    context: of the base, in tokens. `too_long_by` is 0 for an example that fits; one that does not
    is refused by fine-tuning, never cut.
    """
    n = len(example.ids)
    return {
        "template": example.template,
        "n_tokens": n,
        "n_targets": example.n_targets,
        "context": context,
        "too_long_by": max(0, n - context),
    }


def text(
    example: Example, tokenizer: Tokenizer, *, colour: bool = False, context: int | None = None
) -> str:
    """An example for a terminal: tokens divided by │, targets in ⟦ ⟧, or in colour.

    context: of the base; where it ends is marked, if the example is longer.
    """
    return "".join(_lines(tokens(example, tokenizer), colour, context))


def _lines(shown: Sequence[Token], colour: bool, context: int | None) -> Iterator[str]:
    for t, token in enumerate(shown):
        if t == context:
            yield "\n✂ here the context ends ✂\n"
        drawn, broken = visible(token.text), "\n" if "\n" in token.text else ""
        if colour:
            bar = f"{_FAINT}│{_END}" if t and not shown[t - 1].text.endswith("\n") else ""
            yield f"{bar}{_LEARNT if token.target else _GIVEN}{drawn}{_END}{broken}"
        elif token.target:
            yield f"⟦{drawn}⟧{broken}"
        else:
            after = t + 1 < len(shown) and not shown[t + 1].target and not broken
            yield f"{drawn}{'│' if after else ''}{broken}"


def html(example: Example, tokenizer: Tokenizer) -> str:
    """An example for a notebook: a block of spans, each with its number, escaped.

    Given tokens are grey; targets orange, bold and underlined, so that it is not colour alone.
    """
    spans = []
    for token in tokens(example, tokenizer):
        drawn = escaping.escape(visible(token.text))
        if "\n" in token.text:
            drawn += "<br>"
        style = f"color:{GREY}"
        if token.target:
            style = f"color:{ORANGE};font-weight:bold;text-decoration:underline"
        border = ";border:1px solid" if token.special else ""
        kind = "target" if token.target else "given"
        spans.append(
            f'<span style="{style}{border};margin-right:2px" title="{token.id}, {kind}">'
            f"{drawn}</span>"
        )
    n, learnt = len(spans), example.n_targets
    return (
        '<div style="font-family:monospace;line-height:1.7;white-space:pre-wrap">'
        f"{''.join(spans)}"
        f'<div style="color:{GREY}">{n} tokens, {learnt} of them targets (orange, underlined)</div>'
        "</div>"
    )


def visible(piece: str) -> str:
    """A text on one line in which each character is seen; control characters act no more."""
    return "".join(_seen(c) for c in piece)


def _seen(c: str) -> str:
    if c == "\n":
        return "↵"
    if c == "\t":
        return "⇥"
    if c.isprintable():
        return c
    return f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}"
