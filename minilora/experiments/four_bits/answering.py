"""What the rows of `four_bits` say, in sentences."""

from __future__ import annotations


def answer(rows):
    return ""
