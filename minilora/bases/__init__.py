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
from minilora.bases.quantizing import Quantization, quantize_base
from minilora.bases.saving import save_base
from minilora.errors import ConfigError
from minilora.model import Transformer

__all__ = [
    "BASES",
    "fetch",
    "is_packed",
    "load_base",
    "quantize_base",
    "save_base",
    "skills_folder",
]

BASES = ("skills", "smollm2")


def load_base(
    name_or_folder: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    quantize: str | None = None,
    block_size: int = 64,
    double_quant: bool = True,
    keep_quantized: bool = False,
) -> Transformer:
    """A base by its name, "skills" or "smollm2", or by a local folder in Hugging Face layout.

    dtype            "float32"; "float64" for checks of gradients
    quantize         hold the matrices of the layers in few bits, as one of quant.DATA_TYPES, e.g.
                     "nf4": QLoRA's base. Embeddings, head and norms stay floats
    block_size       numbers that share a constant;  double_quant  the constants are quantized, too
    keep_quantized   of smollm2, hold the blocks that its file has, of all that is in blocks there

    The model comes back with `tokenizer` (None when the folder has none) and `base_name`. A folder
    that is called like a base is written `./skills`. In few bits it comes back frozen, for an
    adapter to be put beside it.

    Raises ConfigError for what is neither a name nor a folder, for a base that has to be fetched
    first, and for a format that is not known or a base that is quantized already; FormatError for
    files that are missing or damaged; MissingExtraError where the extra `llm` is needed.
    """
    name = os.fspath(name_or_folder)
    if dtype not in ("float32", "float64"):
        raise ConfigError(f"dtype {dtype!r} is not one a model is held in: 'float32', 'float64'")
    how = None if quantize is None else Quantization(quantize, block_size, double_quant)
    if keep_quantized and (how is not None or name != "smollm2"):
        raise ConfigError(
            f"keep_quantized holds the blocks that the file of smollm2 has: not for {name!r}"
            if name != "smollm2"
            else f"quantize {quantize!r} and keep_quantized are two ways; give one of them"
        )
    if name == "skills":
        model = _load_skills(dtype, how)
    elif name == "smollm2":
        model = smollm2.load(dtype, how, keep_quantized=keep_quantized)
    elif os.path.isdir(name):
        model = folder.load(name, dtype, how)
    else:
        raise ConfigError(_unknown(name))
    model.base_name = name
    return model


def is_packed(name_or_folder: str | os.PathLike[str]) -> bool:
    """Whether a base's weights are in few bits without anybody asking: as a folder can be."""
    name = os.fspath(name_or_folder)
    return name not in BASES and folder.is_packed(name)


def skills_folder() -> Path:
    """Where the package keeps the embedded base, and `minilora pretrain` puts it."""
    return Path(__file__).parent.parent / "assets" / "skills"


def _load_skills(dtype: str, quantization: Quantization | None) -> Transformer:
    place = skills_folder()
    if not (place / "model.safetensors").is_file():
        raise ConfigError(
            f"the base 'skills' is not in {place}: make it with `minilora pretrain` (minutes)"
        )
    return folder.load(place, dtype, quantization)


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
