"""A model as a folder in Hugging Face layout, which `load_base` and transformers open."""

from __future__ import annotations

import os

from minilora.bases import bitsandbytes
from minilora.files.atomic import whole_folder
from minilora.files.json_files import write_json
from minilora.files.safetensors import write_tensors
from minilora.model import Transformer
from minilora.quant.linear import packed_weights


def save_base(model: Transformer, folder: str | os.PathLike[str]) -> None:
    """Write `config.json`, `model.safetensors` and, if the model has one, its tokenizer.

    All files or none. A tied head is not written a second time. Weights in NF4 or FP4 are written
    as they are, in the layout of bitsandbytes.

    Raises OSError if the folder cannot be written, ConfigError for weights in other bits.
    """
    settings, packed = model.config.to_hf(str(model.dtype)), packed_weights(model)
    arrays = model.state_dict()
    if packed:
        settings["quantization_config"] = bitsandbytes.settings_of(packed.values())
    for name, matrix in packed.items():
        del arrays[name]
        arrays |= bitsandbytes.arrays_of(name, matrix)
    with whole_folder(folder) as place:
        write_json(place / "config.json", settings)
        write_tensors(place / "model.safetensors", arrays, {"format": "pt"})
        if model.tokenizer is not None:
            model.tokenizer.save(place)
