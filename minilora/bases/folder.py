"""A base from a folder in Hugging Face layout: `config.json`, `*.safetensors`, `tokenizer.json`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minilora.bases import bitsandbytes
from minilora.bases.quantizing import Quantization
from minilora.data.tokenizers import load_tokenizer
from minilora.errors import ConfigError, FormatError
from minilora.files.atomic import locate
from minilora.files.json_files import read_json
from minilora.files.reading import reading
from minilora.files.safetensors import checkpoint_files, iterate_checkpoint, read_shapes
from minilora.model import ModelConfig, Transformer


def load(
    folder: str | os.PathLike[str], dtype: str, quantization: Quantization | None = None
) -> Transformer:
    """The model of a folder, with its tokenizer when it has one.

    quantization   how the matrices in the layers are packed; None: as they are in the folder

    The weights, in one file or in shards, of 16, 32 or 64 bits, are taken one array at a time;
    those that bitsandbytes has quantized to 4 bits stay so.

    Raises FormatError for files that are missing, damaged or do not fit each other, ConfigError
    for a model that is not of the Llama family, and for one that is quantized in another way, or
    twice.
    """
    folder = Path(folder)
    settings = locate(folder, "config.json")
    if not settings.is_file():
        raise FormatError(_no_model(folder))
    said = read_json(settings)
    packed = said.pop("quantization_config", None)
    if packed is not None:
        bitsandbytes.check_settings(packed, folder)
        if quantization is not None:
            raise ConfigError(
                f"{folder}: its weights are quantized already, and rounding what was rounded loses "
                f"twice; leave quantize {quantization.data_type!r} out, or give the unquantized "
                "model"
            )
    with reading(settings, "the settings of a Llama"):
        config = ModelConfig.from_hf(said)
    shapes = _shapes(folder)
    _check_sizes(config, shapes, folder)
    weights: Iterator[tuple[str, Any]] = iterate_checkpoint(folder)
    if packed is not None:
        weights = bitsandbytes.packing(weights, shapes, dtype, folder)
    if quantization is not None:
        weights = quantization.packing(weights, dtype)
    model = Transformer.from_weights(config, weights, dtype=dtype)
    if packed is not None or quantization is not None:
        model.requires_grad_(False)
    model.tokenizer = load_tokenizer(folder)
    return model


def is_packed(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder's settings say that its weights are quantized already."""
    settings = Path(folder) / "config.json"
    return settings.is_file() and "quantization_config" in read_json(settings)


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all arrays of a folder by name."""
    found: dict[str, tuple[int, ...]] = {}
    for path in checkpoint_files(folder):
        found |= read_shapes(path)
    return found


def _check_sizes(config: ModelConfig, shapes: dict[str, tuple[int, ...]], folder: Path) -> None:
    """Hold the sizes in the settings against the headers of the files.

    A model is as large as its `config.json` says; a wrong number there should be an error in
    words, and not gigabytes set aside before the first array is read.
    """
    layer, width = "model.layers.0.", config.hidden_size
    expected = {
        "model.embed_tokens.weight": (config.vocab_size, width),
        f"{layer}self_attn.q_proj.weight": (config.n_heads * config.D, width),
        f"{layer}self_attn.k_proj.weight": (config.K * config.D, width),
        f"{layer}mlp.gate_proj.weight": (config.intermediate_size, width),
    }
    for name, shape in expected.items():
        if name not in shapes:
            raise FormatError(f"{folder}: no array {name!r} in its weights")
        # What is packed says its shape itself, when it comes.
        if shapes[name] != shape and f"{name}.absmax" not in shapes:
            raise FormatError(
                f"{folder}: {name!r} is {shapes[name]} in the weights, but {shape} by config.json"
            )
    found = sum(name.endswith(".input_layernorm.weight") for name in shapes)
    if found != config.n_layers:
        raise FormatError(
            f"{folder}: the weights have {found} layers, but config.json says {config.n_layers}"
        )


def _no_model(folder: Path) -> str:
    looked_for = (
        f"{folder}: no model in that folder; looked for config.json with model.safetensors or "
        "model.safetensors.index.json"
    )
    if (folder / "adapter_config.json").is_file():
        return f"{looked_for}; it holds an adapter, which is given beside its base"
    return looked_for
