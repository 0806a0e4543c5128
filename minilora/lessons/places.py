"""Where notebooks and rows lie: in the repository, or where an installed wheel has put them."""

from __future__ import annotations

import sys
from pathlib import Path

import minilora
from minilora.errors import ConfigError


def _place(name: str) -> Path:
    for root in (Path(minilora.__file__).parents[1], Path(sys.prefix) / "share" / "minilora"):
        if (root / name).is_dir():
            return root / name
    raise ConfigError(
        f"the folder {name} is missing here; install minilora again, or work in a clone of it"
    )


def notebooks_folder() -> Path:
    """The notebooks, with their sources in `src`."""
    return _place("notebooks")


def rows_folder() -> Path:
    """Rows of experiments, NAME.jsonl."""
    return _place("figures")
