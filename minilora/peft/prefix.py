"""Prefix tuning: learn keys and values that stand before those of the text, in every layer.

    k = [Kₚ; k]     v = [Vₚ; v]          Kₚ, Vₚ (K, p, D) learnt, of each layer; k, v (B, K, T, D)

Li and Liang, arXiv 2101.00190. Where prompt tuning puts vectors at the bottom and lets the model
make keys and values of them, this writes those down directly: the text's queries find p places more
to look at. They are not turned by rotary positions; the text's own positions begin at p.

The paper found them hard to train and learns them through an MLP, which is thrown away afterwards
(`prefix_projection`):

    [Kₚ; Vₚ] of all layers = W₂ tanh(W₁ E + b₁) + b₂          E (p, d_kv)     d_kv = K·D

Count        2·L·p·d_kv; with the MLP  p·d_kv + h(d_kv + 1) + 2·L·d_kv(h + 1)
Kept         of attention what dk and dv need, with p more keys; the gradient goes down to layer 0
Starts       not at the base: attention shares out its weight over p places more
Merges       no: it is in the cache of keys and values, not in a weight
Inference    p more keys to look at, p fewer places for the text; nothing at all before attention
File         PEFT's: `prompt_embeddings` (p, 2·L·d_kv), what the MLP gives if there is one
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from minilora import ops
from minilora.autograd import Parameter, Tensor
from minilora.config import ModelConfig
from minilora.errors import ConfigError
from minilora.model import Past, Transformer
from minilora.nn import Embedding, Linear, Module, ModuleDict, ModuleList, ParameterDict
from minilora.peft.adapted import Switch
from minilora.peft.place import Place
from minilora.peft.virtual import (
    VirtualTokens,
    VirtualTokensConfig,
    before_text,
    check_room,
    each_row,
)

END = "prompt_embeddings"


@dataclass(frozen=True, kw_only=True)
class PrefixTuningConfig(VirtualTokensConfig):
    """Settings of prefix tuning, under PEFT's names and with PEFT's defaults.

    num_virtual_tokens    p, how many keys and values stand before the text's
    prefix_projection     learn them through an MLP
    encoder_hidden_size   h, its width; None: d_kv
    init_weights          None: normal with deviation 1; "zero": zero

    Raises ConfigError naming the value and what is allowed.
    """

    peft_type: ClassVar[str] = "PREFIX_TUNING"
    prefix_projection: bool = False
    encoder_hidden_size: int | None = None
    init_weights: Literal["zero"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        h = self.encoder_hidden_size
        if h is not None and (isinstance(h, bool) or not isinstance(h, int) or h < 1):
            raise ConfigError(f"encoder_hidden_size = {h!r} must be a whole number from 1, or None")
        if not isinstance(self.prefix_projection, bool):
            raise ConfigError(
                f"prefix_projection = {self.prefix_projection!r} must be True or False"
            )
        if self.init_weights not in (None, "zero"):
            raise ConfigError(f"init_weights = {self.init_weights!r} must be None or 'zero'")

    def plain(self) -> PrefixTuningConfig:
        """The settings of what the MLP gives, once it is thrown away."""
        return replace(self, prefix_projection=False, encoder_hidden_size=None)


class PrefixEncoder(Module):
    """The MLP that makes the prefix of each layer out of E (p, d_kv)."""

    def __init__(self, p: int, d_kv: int, h: int, n_layers: int, dtype: Any):
        self.embedding = Embedding(p, d_kv, dtype)
        self.inner = Linear(d_kv, h, True, dtype)
        # One matrix in PEFT; here each layer has its rows of it, which are all that it reads.
        self.outer = ModuleList([Linear(h, 2 * d_kv, True, dtype) for _ in range(n_layers)])

    def start(self, config: PrefixTuningConfig, rng: np.random.Generator) -> None:
        """E normal; matrices and biases uniform in ±1/√n_in, as PyTorch's."""
        E = self.embedding.weight
        E.data[:] = rng.normal(0, 1, E.shape)
        for i, linear in enumerate([self.inner, *self.outer]):
            bound = 0 if i and config.init_weights else linear.weight.shape[1] ** -0.5
            for p in linear.parameters():
                p.data[:] = rng.uniform(-bound, bound, p.shape)

    def of_layer(self, layer: int) -> Tensor:
        """(p, 2·d_kv)"""
        return self.outer[layer](ops.tanh(self.inner(self.embedding.weight)))

    def leaves(self, layer: int) -> list[Parameter]:
        return [
            self.embedding.weight, *self.inner.parameters(), *self.outer[layer].parameters()
        ]  # fmt: skip


class PrefixDecoder(VirtualTokens):
    """A decoder to whose layers adapters give keys and values.

    prompt_embeddings   for each adapter's name (p, 2·L·d_kv): of layer 0 the keys, the values; …
    prompt_encoder      or what makes them
    """

    depth = 1

    def __init__(self, base: Module, switch: Switch):
        super().__init__(base, switch)
        self.prompt_embeddings = ParameterDict()
        self.prompt_encoder = ModuleDict()

    def add(self, name: str, config: PrefixTuningConfig, rng: np.random.Generator) -> None:
        """Put a fresh prefix there."""
        c, p, dtype = self.config, config.num_virtual_tokens, self.embed_tokens.weight.dtype
        d_kv = c.K * c.D
        if config.prefix_projection:
            h = config.encoder_hidden_size or d_kv
            encoder = PrefixEncoder(p, d_kv, h, c.n_layers, dtype)
            encoder.start(config, rng)
            self.prompt_encoder[name] = encoder
        else:
            P = Embedding(p, 2 * c.n_layers * d_kv, dtype).weight
            P.data[:] = 0 if config.init_weights else rng.normal(0, 1, P.shape)
            self.prompt_embeddings[name] = P
        self.configs[name] = config

    def with_adapter(
        self, name: str, ids: np.ndarray, kv: Past | None, start: np.ndarray | None
    ) -> Tensor:
        if kv is not None and kv.length:
            return self.base_layer(ids, kv, start)  # it is in the cache, with the text's beginning
        prefix = Prefix(self, name, start, kv)
        h = self.base_layer(ids, prefix, start)
        if kv is not None:
            kv.length = prefix.length
        return h

    def of_layer(self, name: str, layer: int) -> Tensor:
        """A layer's keys and values (2, K, p, D)."""
        c = self.config
        size = 2 * c.K * c.D
        if name in self.prompt_encoder:
            columns = self.prompt_encoder[name].of_layer(layer)
        else:
            columns = self.prompt_embeddings[name][:, layer * size : (layer + 1) * size]
        return columns.reshape(-1, 2, c.K, c.D).transpose(1, 2, 0, 3)

    def leaves(self, name: str, layer: int) -> list[Parameter]:
        """What `of_layer` reads."""
        if name in self.prompt_encoder:
            return self.prompt_encoder[name].leaves(layer)
        return [self.prompt_embeddings[name]]

    def parts(self, name: str) -> dict[str, Parameter]:
        if name in self.prompt_encoder:
            named = self.prompt_encoder[name].named_parameters()
            return {f"prompt_encoder.{end}": p for end, p in named}
        return {END: self.prompt_embeddings[name]}

    def files(self, name: str) -> dict[str, np.ndarray]:
        if name not in self.prompt_encoder:
            return super().files(name)
        layers = range(self.config.n_layers)
        made = [self.prompt_encoder[name].of_layer(layer).data for layer in layers]
        return {END: np.concatenate(made, axis=1)}


class Prefix:
    """A prefix before a text's keys and values, through the door that a KVCache has.

    cache   where all of it goes then, if the text is to be continued
    """

    def __init__(
        self, decoder: PrefixDecoder, name: str, start: np.ndarray | None, cache: Past | None
    ):
        self.decoder, self.name, self.start, self.cache = decoder, name, start, cache
        self.length = decoder.configs[name].num_virtual_tokens

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's prefix before k and v (B, K, T, D): (B, K, p + T, D)."""
        own = self.decoder.of_layer(self.name, layer)
        k, v = (
            before_text(each_row(own[i], t.shape[0]), t, self.start) for i, t in enumerate((k, v))
        )
        return (k, v) if self.cache is None else self.cache.extend(layer, k, v)

    def leaves(self, layer: int) -> list[Parameter] | None:
        """The parameters that `extend` reads; None: with a cache it can be asked only once."""
        return self.decoder.leaves(self.name, layer) if self.cache is None else None


def places(model: Transformer, config: PrefixTuningConfig) -> list[Place]:
    """The decoder. ConfigError if the prefix leaves no place for a text."""
    c = model.config
    check_room(config, c.max_positions)
    shape = (config.num_virtual_tokens, 2 * c.n_layers * c.K * c.D)
    return [
        Place("model", PrefixDecoder, {END: shape}, lambda m, name, rng: m.add(name, config, rng))
    ]


def count(config: PrefixTuningConfig, c: ModelConfig) -> int:
    """How many numbers it trains: 2·L·p·d_kv, or those of E and of the MLP."""
    p, d_kv = config.num_virtual_tokens, c.K * c.D
    if not config.prefix_projection:
        return 2 * c.n_layers * p * d_kv
    h = config.encoder_hidden_size or d_kv
    return p * d_kv + h * (d_kv + 1) + 2 * c.n_layers * d_kv * (h + 1)
