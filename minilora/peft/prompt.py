"""Prompt tuning: learn p vectors that stand before the text as if they were tokens.

    x = [P; E[ids]]          P (p, C) learnt     E (V, C) frozen     x (B, p + T, C)

Lester et al., arXiv 2104.08691. A prompt of words is a search among V vectors for each place; here
the gradient searches among all of ℝᶜ. Nothing in the model is touched: the whole adapter is one
array, the smallest there is.

Count        p·C
Kept         activations of p + T places: the gradient travels through all layers to the bottom
Starts       not at the base: p vectors that say nothing are read like any others
Merges       no: it is a part of the text, not of a weight
Inference    p more places in every text, and p fewer for it in the context
File         PEFT's: `prompt_embeddings` (p, C)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from minilora.autograd import Parameter, Tensor
from minilora.config import ModelConfig
from minilora.errors import ConfigError
from minilora.model import Decoder, Past, Transformer
from minilora.nn import Embedding, Module, ParameterDict
from minilora.peft.adapted import Switch, own_modules
from minilora.peft.place import Place
from minilora.peft.virtual import (
    VirtualTokens,
    VirtualTokensConfig,
    before_text,
    check_room,
    each_row,
)
from minilora.quant.linear import PackedMatrix

END = "prompt_embeddings"


@dataclass(frozen=True, kw_only=True)
class PromptTuningConfig(VirtualTokensConfig):
    """Settings of prompt tuning, under PEFT's names and with PEFT's defaults.

    num_virtual_tokens        p, how many vectors stand before the text
    prompt_tuning_init        "RANDOM": normal with deviation 1; "SAMPLE_VOCAB": the vectors of
                              tokens drawn from the vocabulary; "TEXT": those of a text's tokens,
                              again from its start if it has fewer than p, cut if it has more
    prompt_tuning_init_text   that text
    tokenizer_name_or_path    for PEFT, which asks for it with "TEXT"; here the base's own is used

    Raises ConfigError naming the value and what is allowed.
    """

    peft_type: ClassVar[str] = "PROMPT_TUNING"
    prompt_tuning_init: Literal["RANDOM", "SAMPLE_VOCAB", "TEXT"] = "RANDOM"
    prompt_tuning_init_text: str | None = None
    tokenizer_name_or_path: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt_tuning_init not in ("RANDOM", "SAMPLE_VOCAB", "TEXT"):
            raise ConfigError(
                f"prompt_tuning_init = {self.prompt_tuning_init!r} must be 'RANDOM', "
                "'SAMPLE_VOCAB' or 'TEXT'"
            )
        if self.prompt_tuning_init == "TEXT" and not self.prompt_tuning_init_text:
            raise ConfigError(
                "prompt_tuning_init = 'TEXT' needs prompt_tuning_init_text, the text to begin with"
            )


class PromptDecoder(VirtualTokens):
    """A decoder before whose text adapters put vectors.

    prompt_embeddings   for each adapter's name P (p, C)
    """

    base_layer: Decoder

    def __init__(self, base: Module, switch: Switch):
        super().__init__(base, switch)
        self.prompt_embeddings = ParameterDict()

    def add(
        self, name: str, config: PromptTuningConfig, start: np.ndarray | None, rng: Any
    ) -> None:
        """Put p vectors there: those of `start` (p, C), or random ones."""
        E = self.base_layer.embed_tokens.weight
        # The same maker as the base's own layers: an array, or a shadow.
        P = Embedding(config.num_virtual_tokens, E.shape[1], E.dtype).weight
        P.data[:] = rng.normal(0, 1, P.shape) if start is None else start
        self.prompt_embeddings[name], self.configs[name] = P, config

    def with_adapter(
        self, name: str, ids: np.ndarray, kv: Past | None, start: np.ndarray | None
    ) -> Tensor:
        decoder = self.base_layer
        if kv is not None and kv.length:
            return decoder(ids, kv, start)  # they are in the cache, with the text's beginning
        P = self.prompt_embeddings[name]
        x = before_text(each_row(P, len(ids)), decoder.embed_tokens(ids), start)
        return decoder.blocks(x, kv, start)[:, P.shape[0] :]

    def parts(self, name: str) -> dict[str, Parameter]:
        return {END: self.prompt_embeddings[name]}


def places(model: Transformer, config: PromptTuningConfig, *, strict: bool) -> list[Place]:
    """The decoder. `strict`: a fresh one, which may begin as a text. ConfigError if it cannot."""
    check_room(config, model.config.max_positions)
    shape = (config.num_virtual_tokens, model.config.hidden_size)
    tokens = _tokens(model, config) if strict else None

    def put(decoder: PromptDecoder, name: str, rng: np.random.Generator) -> None:
        table: Any = dict(own_modules(model))["model.embed_tokens"]
        E, chosen = decoder.switch.original(table.weight), tokens
        if strict and config.prompt_tuning_init == "SAMPLE_VOCAB":
            chosen = rng.integers(0, E.shape[0], shape[0])
        decoder.add(name, config, None if chosen is None else E[chosen], rng)

    return [Place("model", PromptDecoder, {END: shape}, put)]


def _tokens(model: Transformer, config: PromptTuningConfig) -> np.ndarray | None:
    """The tokens of the text to begin with, p of them, if there is to be one."""
    if config.prompt_tuning_init != "TEXT":
        return None
    p, tokenizer = config.num_virtual_tokens, model.tokenizer
    if not isinstance(model.model.embed_tokens.weight.data, np.ndarray | PackedMatrix):
        return np.zeros(p, np.int64)  # a shadow: there are no contents to begin with
    if tokenizer is None:
        raise ConfigError(
            "prompt_tuning_init = 'TEXT' needs a base with a tokenizer, and this one has none; set "
            "base.tokenizer, or start with 'RANDOM'"
        )
    ids = list(tokenizer.encode(config.prompt_tuning_init_text))
    if not ids:
        raise ConfigError(
            f"prompt_tuning_init_text = {config.prompt_tuning_init_text!r} has no tokens"
        )
    return np.array((ids * math.ceil(p / len(ids)))[:p])


def count(config: PromptTuningConfig, c: ModelConfig) -> int:
    """How many numbers it trains: p·C."""
    return config.num_virtual_tokens * c.hidden_size
