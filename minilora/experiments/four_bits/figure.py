"""The figure of `four_bits`."""

from __future__ import annotations


def draw(rows, path):
    pass
