"""What the rows of `dirty_data` say, in sentences."""

from __future__ import annotations

def answer(rows):  # type: ignore[no-untyped-def]
    return ""
