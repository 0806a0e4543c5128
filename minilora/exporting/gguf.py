"""For llama.cpp: an adapter to load beside a base in GGUF, or a whole model as a GGUF.

Two things differ from Hugging Face's files.

The rows of queries and keys. Rotary positions turn pairs of channels; Hugging Face keeps the
firsts of all pairs of a head and then the seconds, llama.cpp's Llama the two of a pair beside each
other. A base is permuted when it is converted, so that the rows of B beside it must be, too:
P (W + s B A) = P W + s (P B) A. A stays as it is. (llama.cpp's Qwen2 takes pairs as Hugging Face
does, and is not permuted.)

The scaling. llama.cpp multiplies B A by alpha / rank, with one alpha for the whole file and the
rank seen from the arrays. So alpha is written as scaling · rank, which for plain LoRA is
`lora_alpha` and for rsLoRA `lora_alpha` · √r. Where a matrix has another scaling · rank than the
first, the rest goes into its B.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minilora.errors import AdapterError, ConfigError, require
from minilora.exporting.vocabulary import vocabulary
from minilora.files.atomic import locate
from minilora.files.gguf_writing import write_gguf
from minilora.files.safetensors import read_shapes
from minilora.model import ModelConfig, Transformer, rotary_frequencies
from minilora.peft import PeftModel
from minilora.peft.folder import PREFIX
from minilora.quant.linear import unpacked

# By model_type: what llama.cpp calls it. A Mistral is computed as a Llama.
_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2"}
_DTYPES = ("float32", "float16")
_ALL_F32, _MOSTLY_F16 = 0, 1
_NAME = "default"
_ENDS = ("model.embed_tokens.", "lm_head.")

# What else may be in an adapter's file: how its arrays are called, and what it is.
_NOT_MERGED = {
    r"^prompt_embeddings$": "of virtual tokens",
    r"\.adapter_(down|up)\.": "of a bottleneck",
}
_NOT_HELD = _NOT_MERGED | {
    r"\.ia3_l$": "IA³",
    r"\.lora_magnitude_vector": "DoRA",
    r"\.lora_embedding_[AB]$": "LoRA on embeddings",
    r"\.trainable_tokens_": "trained rows of the embeddings",
    r"\.bias$": "trained biases",
}


class Exported(NamedTuple):
    """What was written.

    architecture   what llama.cpp computes with it
    tensors        how many arrays the file holds
    alpha          of an adapter: llama.cpp scales by alpha / rank; of a model None
    ranks          of an adapter: those of its matrices, each once
    """

    architecture: str
    tensors: int
    alpha: float | None = None
    ranks: Sequence[int] = ()


def export_adapter(
    folder: str | os.PathLike[str], base: Transformer, path: str | os.PathLike[str]
) -> Exported:
    """Write the adapter of a folder as a GGUF that llama.cpp loads beside its base, in float32.

    base   a base without adapters. It comes back with this one attached.

    Raises AdapterError for an adapter that llama.cpp cannot hold, or that does not fit this base;
    FormatError for a folder that is none; MissingExtraError without `gguf`; OSError if the file
    cannot be written.
    """
    config = base.config
    check_adapter(folder, tied=config.tie_word_embeddings)
    model = PeftModel.from_pretrained(base, Path(folder), _NAME)
    layers = {place: each for place, each in model.layers().items() if _NAME in each.configs}
    if config.tie_word_embeddings and "lm_head" in layers:
        raise AdapterError(
            f"{folder}: adapts lm_head, in this base the same array as the embeddings, and "
            "llama.cpp has no place for that; train it without lm_head"
        )
    for place, layer in layers.items():
        if _NAME in layer.lora_residual and layer.configs[_NAME].init_lora_weights != "pissa":
            raise AdapterError(
                f"{folder}: brings its own {place} along, other than this base's, and llama.cpp's "
                "adapters hold A and B only; give --merged for a GGUF of the whole model"
            )
    target_of = _namer(config)
    pairs = {place: layer.pair(_NAME) for place, layer in layers.items()}
    loudness = {
        place: layers[place].configs[_NAME].scaling * len(A) for place, (A, _) in pairs.items()
    }
    alpha = next(iter(loudness.values()))
    tensors: dict[str, np.ndarray] = {}
    for place, (A, B) in pairs.items():
        target = target_of(f"{place}.weight")
        tensors[f"{target}.lora_a"] = A
        tensors[f"{target}.lora_b"] = permuted(place, B * (loudness[place] / alpha), config)
    settings = {
        "general.type": "adapter",
        "general.name": Path(folder).resolve().name,
        "general.file_type": _ALL_F32,
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
    }
    architecture = _ARCHITECTURES[config.model_type]
    write_gguf(path, architecture, settings, tensors)
    return Exported(architecture, len(tensors), alpha, sorted({len(A) for A, _ in pairs.values()}))


def check_adapter(folder: str | os.PathLike[str], *, tied: bool = False) -> None:
    """AdapterError for an adapter with arrays that llama.cpp's adapters have no place for.

    tied   whether the base's embeddings and head are one array, so that an adapter on one of them
           cannot be merged either
    """
    weights = locate(folder, "adapter_model.safetensors")
    names = list(read_shapes(weights)) if weights.is_file() else []
    for name in names:
        if re.search(r"\.(lora_[AB]|base_layer)\.weight$", name):
            continue
        kinds = [kind for pattern, kind in _NOT_HELD.items() if re.search(pattern, name)]
        kind = kinds[0] if kinds else "a module that was trained whole (modules_to_save)"
        raise AdapterError(
            f"{folder}: {name} is {kind}, and llama.cpp's adapters hold LoRA beside matrices "
            f"only; {_way_out(names, tied)}"
        )


def _way_out(names: Sequence[str], tied: bool) -> str:
    """What can be done with an adapter that llama.cpp's adapters do not hold."""
    unmerged = "so use it unmerged, with minilora, or with PEFT if that opens it"
    if any(re.search(pattern, name) for pattern in _NOT_MERGED for name in names):
        return f"nor can it be merged into a whole model, {unmerged}"
    # A table of single tokens is both ends' own, unless the head has one for itself.
    alone = (n for n in names if not re.search(r"embed_tokens\.(.*\.)?trainable_tokens_", n))
    if tied and any(name.removeprefix(PREFIX).startswith(_ENDS) for name in alone):
        return (
            "nor can it be merged into this base, of which one array is the embeddings and "
            f"lm_head, {unmerged}; or train it without these two"
        )
    return "give --merged for a GGUF of the whole model"


def export_model(
    model: Transformer, path: str | os.PathLike[str], dtype: str = "float32"
) -> Exported:
    """Write a plain model as a GGUF that llama.cpp runs, its tokenizer in it.

    dtype   "float32" or "float16", of the matrices; vectors stay float32

    Raises ConfigError for another dtype and for a tokenizer that llama.cpp would not split texts
    with as it is, NonFiniteError for weights beyond float16, MissingExtraError without `gguf`,
    OSError if the file cannot be written.
    """
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype {dtype!r} is not one for a GGUF: {', '.join(_DTYPES)}")
    config = model.config
    target_of = _namer(config)
    tensors = {
        target_of(name): permuted(name.rpartition(".")[0], unpacked(array), config)
        for name, array in model.state_dict().items()
    }
    if (config.rope_scaling or {}).get("rope_type") == "llama3":
        tensors["rope_freqs.weight"] = _slower(config)
    architecture = _ARCHITECTURES[config.model_type]
    half = dtype == "float16"
    settings = {
        "general.type": "model",
        "general.name": Path(model.base_name or "minilora").name,
        "general.file_type": _MOSTLY_F16 if half else _ALL_F32,
        **{f"{architecture}.{name}": value for name, value in _sizes(config).items()},
        **vocabulary(model.tokenizer, config.vocab_size),
    }
    write_gguf(path, architecture, settings, tensors, half=half)
    return Exported(architecture, len(tensors))


def permuted(place: str, array: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Rows as llama.cpp has them: those of queries and keys in pairs, all others as they are.

    place   the matrix's path; array: its weight (out, in), its bias (out,), or its B (out, r)

    `minilora.bases.smollm2.unpermuted` is the way back.
    """
    heads = {"q_proj": config.n_heads, "k_proj": config.K}.get(place.rpartition(".")[2])
    if heads is None or _ARCHITECTURES[config.model_type] != "llama":
        return array
    halves = array.reshape(heads, 2, config.D // 2, -1)  # (head, first or second, pair, in)
    return halves.swapaxes(1, 2).reshape(array.shape)


def _namer(config: ModelConfig) -> Callable[[str], str]:
    """A function from Hugging Face's names of arrays to llama.cpp's."""
    gguf = require("gguf", extra="llm", purpose="writing a GGUF file")
    kind = gguf.MODEL_ARCH[_ARCHITECTURES[config.model_type].upper()]
    names = gguf.get_tensor_name_map(kind, config.n_layers)
    return lambda name: names.get_name(name, (".weight", ".bias"))


def _slower(config: ModelConfig) -> np.ndarray:
    """How many times slower each pair of channels turns than it would unscaled (D/2,)."""
    if _ARCHITECTURES[config.model_type] != "llama":
        raise ConfigError(
            f"a {config.model_type} with rotary positions scaled as in Llama 3 is not known to "
            "llama.cpp, and not written"
        )
    plain = rotary_frequencies(replace(config, rope_scaling=None))
    return (plain / rotary_frequencies(config)).astype(np.float32)


def _sizes(config: ModelConfig) -> dict[str, Any]:
    """The dozen numbers of a model, as llama.cpp calls them."""
    scaling = config.rope_scaling or {}
    linear = scaling.get("rope_type") == "linear"
    return {
        "vocab_size": config.vocab_size,
        "context_length": config.max_positions,
        "embedding_length": config.hidden_size,
        "block_count": config.n_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.K,
        "attention.key_length": config.D,
        "attention.value_length": config.D,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": config.D,
        "rope.freq_base": float(config.rope_theta),
        **({"rope.scaling.type": "linear"} if linear else {}),
        **({"rope.scaling.factor": float(scaling["factor"])} if linear else {}),
    }
