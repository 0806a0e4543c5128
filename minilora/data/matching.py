"""When are two texts the same? To the letter, or once case, spaces and punctuation are taken away.

A person who asks "What's the capital of France?" and "what's  the capital of France" asks once. A
model that has seen the one is not tested by the other.
"""

from __future__ import annotations

import re
import unicodedata
from hashlib import blake2b

# Marks of sentences, not of code or sums: C# is not C, 3.5 is not 35, .5 is not 5, != is not =.
_SENTENCE = r".,;:!?…'\"`´‘’“”„«»()¿¡、。「」"
_MARKS = rf"(?:(?!!=|\.\d)[{_SENTENCE}])+"
_AT_THE_EDGE_OF_A_WORD = re.compile(rf"(?<!\w){_MARKS}|{_MARKS}(?!\w)")
# Scripts that put no space between words: each character counts as one.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
# A sign is no mark of a sentence, no dash, and can be seen; a point is one before a digit.
_NO_SIGN = rf"\w\s{_SENTENCE}\xad\u0300-\u036f\u2000-\u206f\u3000-\u303f\ufe00-\ufe0f\ufeff"
_SIGN = rf"!?[^{_NO_SIGN}]+|\.(?=\d)|(?<=\d)[,:](?=\d)"
_WORD_OR_SIGN = re.compile(rf"[^\W{_UNSPACED}]+|[{_UNSPACED}]|{_SIGN}")


def normalized(text: str) -> str:
    """The text in lower case, without the punctuation around words, single spaces between them.

    Characters that only look different (full-width letters, ligatures) become one, as Unicode's
    NFKC has it. A text of punctuation alone stays, or all of those would be the same.
    """
    if text.isascii():
        plain = text.lower()
    else:
        folded = unicodedata.normalize("NFKC", text).casefold()
        plain = unicodedata.normalize("NFKC", folded)
    return " ".join(_AT_THE_EDGE_OF_A_WORD.sub(" ", plain).split()) or " ".join(plain.split())


def words(text: str) -> list[str]:
    """The words of a text without what stands between them; of Chinese and kana, each character."""
    return _WORD.findall(text)


def words_and_signs(text: str) -> list[str]:
    """The words of a text, and between them the signs that make another sum or program of it.

    12 + 7 is three, C# two, and so is -5; marks of sentences, quotes and brackets are none.
    """
    return _WORD_OR_SIGN.findall(text)


def digest(*texts: str) -> bytes:
    """16 bytes that stand for some texts: what is kept of a row in place of the row."""
    made = blake2b(digest_size=16)
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        made.update(len(raw).to_bytes(8, "little"))
        made.update(raw)
    return made.digest()
