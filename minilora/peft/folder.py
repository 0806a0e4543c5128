"""An adapter as a folder, in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

Only the adapter is written, some kilobytes; the base is named, not stored. Arrays are called as in
PEFT's files, e.g. `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`, with
A (r, in) and B (out, r); the adapter's own name is not part of it. Virtual tokens belong to the
model as a whole: PEFT calls theirs `prompt_embeddings`, without a path. What the base was, its name
and a fingerprint of its weights, and in which format of few bits it was held, is also noted in the
file of the arrays, where PEFT asks nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minilora.errors import FormatError
from minilora.files.atomic import locate, whole_folder
from minilora.files.json_files import read_json, write_json
from minilora.files.safetensors import read_metadata, read_tensors, write_tensors
from minilora.peft.config import PeftConfig
from minilora.peft.settings import from_json, ties_the_ends, to_json

PREFIX = "base_model.model."
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_FINGERPRINT, _PACKED = "minilora_base", "minilora_base_packed"
# Ours, and PEFT's.
_VIRTUAL = (f"{PREFIX}model.prompt_embeddings", "prompt_embeddings")


def write_adapter(
    folder: str | Path,
    config: PeftConfig,
    weights: dict[str, np.ndarray],
    base: str,
    packed: str = "",
) -> None:
    """Write both files, or neither. OSError if the folder cannot be written.

    base     the base's fingerprint
    packed   the format in which it was held, if that was one of few bits
    """
    noted = {"format": "pt", _FINGERPRINT: base} | ({_PACKED: packed} if packed else {})
    with whole_folder(folder) as place:
        write_json(place / _CONFIG, to_json(config))
        weights = _renamed(weights, *_VIRTUAL)
        write_tensors(place / _WEIGHTS, weights, noted)


def read_adapter(folder: str | Path) -> tuple[PeftConfig, dict[str, np.ndarray]]:
    """The settings and arrays of an adapter's folder.

    Raises FormatError for a folder that is none, files that are damaged or lie elsewhere, and
    settings that would change the result in a way that is not computed here.
    """
    folder = Path(folder)
    for name in (_CONFIG, _WEIGHTS):
        _check_file(folder, name)
    config = from_json(read_json(locate(folder, _CONFIG)), folder / _CONFIG)
    return config, _renamed(read_tensors(locate(folder, _WEIGHTS)), *reversed(_VIRTUAL))


def _renamed(weights: dict[str, np.ndarray], old: str, new: str) -> dict[str, np.ndarray]:
    return {new if name == old else name: array for name, array in weights.items()}


def read_fingerprint(folder: str | Path) -> str | None:
    """Of the base that an adapter was made beside; None if its writer noted none."""
    return read_metadata(locate(folder, _WEIGHTS)).get(_FINGERPRINT)


def read_tying(folder: str | Path) -> bool:
    """Whether in a base whose embeddings are its head, what is trained of them is one, too."""
    return ties_the_ends(read_json(locate(Path(folder), _CONFIG)))


def read_packing(folder: str | Path) -> str | None:
    """The format of few bits in which the base was held beside which it was made, if it was."""
    return read_metadata(locate(folder, _WEIGHTS)).get(_PACKED)


def _check_file(folder: Path, name: str) -> None:
    """FormatError if there is no such file in the folder, or only a link to one elsewhere."""
    file = locate(folder, name)
    if not file.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        hint = (
            "; it has adapter_model.bin, a pickle, which can run code when opened: save it "
            "again with PEFT's save_pretrained(..., safe_serialization=True)"
            if pickled
            else f"; an adapter's folder holds {_CONFIG} and {_WEIGHTS}"
        )
        raise FormatError(f"{folder}: there is no {name} in it{hint}")
    home, real = folder.resolve(), file.resolve()
    # Hugging Face's cache keeps files in `blobs`, and in `snapshots/…` links to them.
    blobs = home.parent.parent / "blobs"
    if not real.is_relative_to(home) and not (
        home.parent.name == "snapshots" and real.parent == blobs
    ):
        raise FormatError(
            f"{folder}: {name} is a link that leads out of the folder, to {real}; copy the file "
            "itself into it"
        )
