"""Where a base comes from: out of the package, out of the cache, or out of a folder.

skills    the embedded teaching model, shipped with the package
smollm2   SmolLM2-135M-Instruct, fetched once into the cache
a folder  any model of the Llama family in Hugging Face layout
"""

from __future__ import annotations

import os
from pathlib import Path

from minilora.bases import folder, smollm2
from minilora.bases.fetch import fetch
from minilora.bases.saving import save_base
from minilora.errors import ConfigError
from minilora.model import Transformer

__all__ = ["BASES", "fetch", "load_base", "save_base", "skills_folder"]

BASES = ("skills", "smollm2")


def load_base(name_or_folder: str | os.PathLike[str], *, dtype: str = "float32") -> Transformer:
    """A base by its name, "skills" or "smollm2", or by a local folder in Hugging Face layout.

    dtype: "float32"; "float64" for checks of gradients.

    The model comes back with `tokenizer` (None when the folder has none) and `base_name`. A folder
    that is called like a base is written `./skills`.

    Raises ConfigError for what is neither a name nor a folder, and for a base that has to be
    fetched first; FormatError for files that are missing or damaged; MissingExtraError where the
    extra `llm` is needed.
    """
    name = os.fspath(name_or_folder)
    if dtype not in ("float32", "float64"):
        raise ConfigError(f"dtype {dtype!r} is not one a model is held in: 'float32', 'float64'")
    if name == "skills":
        model = _load_skills(dtype)
    elif name == "smollm2":
        model = smollm2.load(dtype)
    elif os.path.isdir(name):
        model = folder.load(name, dtype)
    else:
        raise ConfigError(_unknown(name))
    model.base_name = name
    return model


def skills_folder() -> Path:
    """Where the package keeps the embedded base, and `minilora pretrain` puts it."""
    return Path(__file__).parent.parent / "assets" / "skills"


def _load_skills(dtype: str) -> Transformer:
    place = skills_folder()
    if not (place / "model.safetensors").is_file():
        raise ConfigError(
            f"the base 'skills' is not in {place}: make it with `minilora pretrain` (minutes)"
        )
    return folder.load(place, dtype)


def _unknown(name: str) -> str:
    allowed = f"allowed are {' and '.join(BASES)}, and folders in Hugging Face layout"
    if os.path.exists(name):
        return f"base {name!r} is a file; {allowed}"
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return (
            f"base {name!r} is no folder here, and models are not downloaded by name; {allowed}: "
            f"`hf download {name} --local-dir DIR`, then give DIR"
        )
    return f"base {name!r} is neither a known name nor a folder; {allowed}"
