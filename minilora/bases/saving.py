"""A model as a folder in Hugging Face layout, which `load_base` and transformers open."""

from __future__ import annotations

import os

from minilora.files.atomic import whole_folder
from minilora.files.json_files import write_json
from minilora.files.safetensors import write_tensors
from minilora.model import Transformer


def save_base(model: Transformer, folder: str | os.PathLike[str]) -> None:
    """Write `config.json`, `model.safetensors` and, if the model has one, its tokenizer.

    All files or none. A tied head is not written a second time. OSError if the folder cannot be
    written.
    """
    with whole_folder(folder) as place:
        write_json(place / "config.json", model.config.to_hf(str(model.dtype)))
        write_tensors(place / "model.safetensors", model.state_dict(), {"format": "pt"})
        if model.tokenizer is not None:
            model.tokenizer.save(place)
