"""A tokenizer as settings of a GGUF file, which llama.cpp makes its own tokenizer from.

llama.cpp splits texts by rules of its own and is only told which of them to take, so that only
tokenizers of a known kind can be handed over: SmolLM2's, and one token a character.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from minilora.data.tokenizers import CharTokenizer, Tokenizer
from minilora.errors import ConfigError
from minilora.files.json_files import read_json

# llama.cpp's kinds of tokens.
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_IDS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def vocabulary(tokenizer: Tokenizer | None, n_rows: int) -> dict[str, Any]:
    """The settings `tokenizer.…` of a GGUF.

    n_rows   rows of the embeddings; those without a token get the name of a padding

    Raises ConfigError for a base without a tokenizer, or with one of another kind.
    """
    if tokenizer is None:
        raise ConfigError(
            "this base has no tokenizer.json, and a GGUF of a whole model holds its tokenizer; "
            "put it into the base's folder, or export the adapter alone, without --merged"
        )
    with tempfile.TemporaryDirectory(prefix="minilora-") as folder:
        tokenizer.save(folder)
        said = read_json(Path(folder) / "tokenizer.json")
        named = read_json(Path(folder) / "tokenizer_config.json")
    merges = _character_merges(tokenizer) if isinstance(tokenizer, CharTokenizer) else _merges(said)
    added = {token["id"]: token for token in said["added_tokens"]}
    vocab = said["model"]["vocab"] | {token["content"]: i for i, token in added.items()}
    by_id = {i: token for token, i in vocab.items()}
    if max(by_id) >= n_rows:
        raise ConfigError(
            f"the tokenizer goes up to token {max(by_id)}, but the base has {n_rows} rows of "
            "embeddings; the tokenizer belongs to another base"
        )
    settings: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": [by_id.get(i, f"[PAD{i}]") for i in range(n_rows)],
        "tokenizer.ggml.token_type": [_kind(i, by_id, added) for i in range(n_rows)],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.add_bos_token": bool(tokenizer.start_ids),
    }
    for key, name in _IDS.items():
        if named.get(key) in vocab:
            settings[f"tokenizer.ggml.{name}_token_id"] = vocab[named[key]]
    if template := named.get("chat_template"):
        settings["tokenizer.chat_template"] = template
    return settings


def _kind(i: int, by_id: dict[int, str], added: dict[int, Any]) -> int:
    if i not in by_id:
        return _UNUSED
    if i not in added:
        return _NORMAL
    return _CONTROL if added[i]["special"] else _USER_DEFINED


def _merges(said: dict[str, Any]) -> list[str]:
    """The merges of a tokenizer of SmolLM2's kind: byte-level BPE, each digit a piece of its own.

    ConfigError for any other: llama.cpp would split texts differently, and nobody would notice.
    """
    model, before = said["model"], said.get("pre_tokenizer") or {}
    pieces = [
        (piece.get("type"), piece.get("individual_digits"), piece.get("add_prefix_space"))
        for piece in before.get("pretokenizers", ())
    ]
    known = [("Digits", True, None), ("ByteLevel", None, False)]
    if model.get("type") != "BPE" or pieces != known or said.get("normalizer"):
        raise ConfigError(
            "this base's tokenizer is of a kind that is not written into a GGUF: SmolLM2's is, and "
            "one token a character. Export the adapter alone, without --merged; or `minilora "
            "merge` into a folder, which llama.cpp's convert_hf_to_gguf.py converts"
        )
    return [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]


def _character_merges(tokenizer: CharTokenizer) -> list[str]:
    """Merges for one token a character: byte-level BPE in which nothing is ever merged."""
    beyond = [c for c in tokenizer.alphabet if not "!" <= c <= "~"]
    if beyond:
        raise ConfigError(
            f"the characters {''.join(beyond)!r} of this base's alphabet are not one byte each as "
            "llama.cpp writes bytes; a GGUF holds an alphabet of printable ASCII without the space"
        )
    # A list in a GGUF is not empty. Merging begins with single characters, so that this one, of
    # two longer tokens, never happens.
    (end,) = (token for token, i in tokenizer.vocab.items() if i == tokenizer.end_id)
    return [f"{end} {end}"]
