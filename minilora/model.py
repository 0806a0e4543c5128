"""The Transformer, all of it: a Llama read in one sitting.

Each block adds twice to a stream of vectors, one a token: what attention gathers from the tokens
before it, and what the MLP makes of the token itself. Before each stands an RMSNorm, at the end a
last one and a score for every token of the vocabulary. Parameters are laid out (out, in) and named
as in Hugging Face's LlamaForCausalLM.

Shapes: B batch, T time, C channels, H query heads, K key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol

import numpy as np

from minilora import ops
from minilora.autograd import Tensor
from minilora.config import ModelConfig
from minilora.errors import DataError, ShapeError
from minilora.nn import (
    Embedding,
    Linear,
    Module,
    ModuleList,
    RMSNorm,
    arrays_by,
    same_draws,
    training,
)
from minilora.ops.rotary import frequencies

__all__ = ["KVCache", "ModelConfig", "Past", "Transformer"]


class Past(Protocol):
    """What stands before the tokens that are computed: `length` places of keys and values."""

    length: int

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values of all places, those of these tokens k, v included."""

    def leaves(self, layer: int) -> Sequence[Tensor] | None:
        """What `extend` reads that is trained; None: it must be called once, not again."""


class KVCache:
    """The keys and values of the tokens so far, so that each new token is computed alone.

    2 · n_layers arrays (B, K, max_length, D), for generation only: nothing flows back through it.
    """

    def __init__(self, config: ModelConfig, batch_size: int, max_length: int, dtype: Any):
        shape = (config.n_layers, batch_size, config.K, max_length, config.D)
        self.keys, self.values = np.empty(shape, dtype), np.empty(shape, dtype)
        self.length = 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put k and v (B, K, T, D) behind what is there; all that is there now."""
        end = self.length + k.shape[2]
        self.keys[layer, :, :, self.length : end] = k.data
        self.values[layer, :, :, self.length : end] = v.data
        return Tensor(self.keys[layer, :, :, :end]), Tensor(self.values[layer, :, :, :end])

    def leaves(self, layer: int) -> None:
        """Nothing is trained here, and whoever extended it again would do so twice."""


class SelfAttention(Module):
    """x (B, T, C) → (B, T, C): queries, keys and values of its own in every layer."""

    def __init__(self, c: ModelConfig, layer: int, dtype: Any):
        self.q_proj = Linear(c.hidden_size, c.n_heads * c.D, c.attention_bias, dtype)
        self.k_proj = Linear(c.hidden_size, c.K * c.D, c.attention_bias, dtype)
        self.v_proj = Linear(c.hidden_size, c.K * c.D, c.attention_bias, dtype)
        self.o_proj = Linear(c.n_heads * c.D, c.hidden_size, c.attention_out_bias, dtype)
        self.config, self.layer = c, layer

    def forward(self, x: Tensor, rope: dict, kv: Past | None, start: Any) -> Tensor:
        B, T, _ = x.shape
        c = self.config
        q = self.q_proj(x).reshape(B, T, c.n_heads, c.D)
        k = self.k_proj(x).reshape(B, T, c.K, c.D)
        v = self.v_proj(x).reshape(B, T, c.K, c.D)
        q, k = ops.rotary(q, **rope), ops.rotary(k, **rope)
        q, k, v = (t.transpose(0, 2, 1, 3) for t in (q, k, v))  # (B, heads, T, D)
        if kv is not None:
            k, v = kv.extend(self.layer, k, v)
        y = ops.attention(q, k, v, start=start)
        return self.o_proj(y.transpose(0, 2, 1, 3).reshape(B, T, c.n_heads * c.D))


class MLP(Module):
    """x (B, T, C) → (B, T, C), each token by itself, through F channels and a gate."""

    def __init__(self, c: ModelConfig, dtype: Any):
        self.gate_proj = Linear(c.hidden_size, c.intermediate_size, c.mlp_bias, dtype)
        self.up_proj = Linear(c.hidden_size, c.intermediate_size, c.mlp_bias, dtype)
        self.down_proj = Linear(c.intermediate_size, c.hidden_size, c.mlp_bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(ops.swiglu(self.gate_proj(x), self.up_proj(x)))


class Block(Module):
    """x + attention(norm(x)), then the same with the MLP."""

    def __init__(self, c: ModelConfig, layer: int, dtype: Any):
        self.self_attn = SelfAttention(c, layer, dtype)
        self.mlp = MLP(c, dtype)
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps, dtype)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps, dtype)

    def forward(self, x: Tensor, rope: dict, kv: Past | None, start: Any) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rope, kv, start)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(Module):
    """Everything but the scores: ids (B, T) → (B, T, C)."""

    virtual_tokens = 0  # places before a text that are taken by what is no token

    def __init__(self, c: ModelConfig, dtype: Any):
        self.embed_tokens = Embedding(c.vocab_size, c.hidden_size, dtype)
        self.layers = ModuleList([Block(c, i, dtype) for i in range(c.n_layers)])
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps, dtype)
        self.config = c
        self.checkpointing = False

    def forward(self, ids: np.ndarray, kv: Past | None, start: Any) -> Tensor:
        return self.blocks(self.embed_tokens(ids), kv, start)

    def blocks(self, x: Tensor, kv: Past | None, start: Any) -> Tensor:
        """What is made of the tokens' vectors: x (B, T, C) → (B, T, C)."""
        T = x.shape[1]
        rope = self._angles(T, kv.length if kv else 0, start, x.dtype)
        for i, layer in enumerate(self.layers):
            before = kv.leaves(i) if kv else ()
            if self.checkpointing and before is not None:
                block = same_draws(partial(_block, layer, rope, kv, start))
                x = ops.checkpoint(block, x, [*layer.parameters(), *before])
            else:
                x = layer(x, rope, kv, start)
        if kv is not None:
            kv.length += T
        return self.norm(x)

    def _angles(self, T: int, before: int, start: Any, dtype: np.dtype) -> dict[str, np.ndarray]:
        """cos and sin (T, 1, D/2) of the places, or (B, T, 1, D/2) where rows start apart."""
        places = np.arange(before, before + T)
        if start is not None and start.ndim == 2:  # each text of a row counts its own places
            places = np.tile(places, (len(start), 1))
            places[:, T - start.shape[1] :] -= start
        elif start is not None:
            places = np.maximum(places - start[:, None], 0)  # (B, T): padding stands at place 0
        angles = places[..., None, None] * rotary_frequencies(self.config)
        return {"cos": np.cos(angles).astype(dtype), "sin": np.sin(angles).astype(dtype)}


class Transformer(Module):
    """A Llama-family language model.

    config   its sizes;  seed   of the random weights;  dtype   float32, or float64 for checks

    Called on ids (B, T) of integers it gives logits (B, T, V). `tokenizer` and `base_name` are set
    by whoever loaded it.
    """

    def __init__(self, config: ModelConfig, *, seed: int | None = 0, dtype: Any = np.float32):
        self.config = config
        self.model = Decoder(config, dtype)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, False, dtype)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.tokenizer: Any = None
        self.base_name: str | None = None
        if seed is not None:
            self._init_weights(np.random.default_rng(seed))

    @classmethod
    def from_weights(
        cls,
        config: ModelConfig,
        weights: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]],
        dtype: Any = np.float32,
    ) -> Transformer:
        """A model from arrays by their Hugging Face names, taken one at a time.

        Raises FormatError for names that are missing or unknown, and shapes that do not fit.
        """
        with arrays_by(_later):
            model = cls(config, seed=None, dtype=dtype)
        pairs = weights.items() if isinstance(weights, Mapping) else weights
        # Files of a tied model may hold the head as well; old ones hold tables of angles.
        skipped = ("lm_head.weight",) if config.tie_word_embeddings else ()
        model.load_weights(
            (n, a) for n, a in pairs if n not in skipped and not n.endswith("rotary_emb.inv_freq")
        )
        return model

    def __repr__(self) -> str:
        packed = Counter(getattr(p.data, "data_type", None) for p in self.parameters())
        held = "".join(f", {n} matrices in {kind}" for kind, n in packed.items() if kind)
        return (
            f"Transformer({self.base_name or 'unnamed'}, {self.n_parameters():,} parameters{held})"
        )

    @property
    def dtype(self) -> np.dtype:
        return next(self.parameters()).dtype

    def _init_weights(self, rng: np.random.Generator) -> None:
        """Matrices normal with deviation 0.02, biases 0, norms 1, as in transformers."""
        for p in self.parameters():
            if p.ndim == 2:
                p.data[:] = rng.normal(0, 0.02, p.shape)
        for _, module in self.named_modules():
            if isinstance(module, Linear) and module.bias is not None:
                module.bias.data[:] = 0

    def hidden(
        self, ids: Any, *, kv: KVCache | None = None, start: np.ndarray | None = None
    ) -> Tensor:
        """ids (B, T) → the last normalized vectors (B, T, C), before they become scores.

        kv      keys and values of the tokens before these, which are then added to it
        start   (B,): where each row's first token stands; what is before it is padding
                (B, T), where a row holds several texts that do not see each other: where in the
                row the text begins that each token belongs to

        Raises ShapeError for ids that are not (B, T), outside of the vocabulary, or too many for
        the context; DTypeError for ids that are no integers.
        """
        ids = ids.data if isinstance(ids, Tensor) else np.asarray(ids)
        if ids.ndim != 2:
            raise ShapeError(
                f"ids must be (batch, time), not {ids.shape}; for one text use ids[None]"
            )
        if start is not None and start.ndim == 2:
            _check_starts(start, ids.shape)
        self._check_length(ids.shape[1], kv, start)
        return self.model(ids, kv, start)

    def _check_length(self, T: int, kv: KVCache | None, start: np.ndarray | None) -> None:
        """ShapeError if T tokens more do not fit into the context."""
        p, context = self.virtual_tokens, self.config.max_positions
        before = kv.length if kv and kv.length else p
        if start is not None and start.ndim == 2:
            length = before + int((np.arange(T) - start).max()) + 1
        else:  # What is before a row's start is padding, and takes no place in the context.
            length = before + T - (0 if start is None else start.min())
        if length <= context:
            return
        taken = f", p = {p} of which the virtual tokens of the adapter take" if p else ""
        raise ShapeError(
            f"a sequence of {length - p} tokens is longer than the context of {context}{taken}; "
            "shorten it, or use a model with a longer context"
        )

    @property
    def virtual_tokens(self) -> int:
        """Places of the context, before a text, that an adapter takes (`peft/virtual.py`)."""
        return self.model.virtual_tokens

    def gradient_checkpointing_enable(self, on: bool = True) -> None:
        """Keep only what goes into each block, and compute the block again in backward.

        Costs a third more multiplications (LoRA: half more), and saves nearly all activations.
        """
        for _, module in self.named_modules():
            if isinstance(module, Decoder):
                module.checkpointing = on

    def forward(
        self, ids: Any, *, training: bool = False, rng: np.random.Generator | None = None
    ) -> Tensor:
        """ids (B, T) → logits (B, T, V). Dropout acts, drawing from `rng`, only if `training`."""
        with _dropout(training, rng):
            return self.lm_head(self.hidden(ids))

    def loss(
        self,
        ids: Any,
        labels: Any,
        *,
        start: np.ndarray | None = None,
        n_targets: int | None = None,
        training: bool = False,
        rng: np.random.Generator | None = None,
    ) -> Tensor:
        """The mean cross entropy of the labelled tokens, in nats; a scalar.

        ids, labels   (B, T); labels are not shifted: labels[:, t] is what ids[:, t] should have
                      been, foretold from the tokens before it, or -100 where nothing is asked.
        start         (B, T), if the rows hold several texts each (`hidden`; `data/packing.py`)
        n_targets     what to divide the sum by, if this is a part of a larger batch.

        Raises DataError if no token is labelled.
        """
        ids, labels = np.asarray(ids), np.asarray(labels)
        if ids.shape != labels.shape or ids.ndim != 2 or ids.shape[1] < 2:
            raise DataError(
                f"ids {ids.shape} and labels {labels.shape} must both be (batch, time), with at "
                "least 2 tokens: one to read and one to foretell"
            )
        with _dropout(training, rng):
            start = None if start is None else np.asarray(start)[:, :-1]
            h = self.hidden(ids[:, :-1], start=start)
            return self.token_loss(h, labels[:, 1:], n_targets)

    def token_loss(self, h: Tensor, labels: np.ndarray, n_targets: int | None) -> Tensor:
        """The loss from the last vectors. A plain head never makes all the logits at once."""
        head = self.lm_head.in_force()
        if type(head) is Linear:
            return ops.linear_cross_entropy(h, head.weight, labels=labels, n_targets=n_targets)
        return ops.cross_entropy(self.lm_head(h), labels=labels, n_targets=n_targets)


def _later(shape: Any, dtype: Any) -> np.ndarray:
    """The place of a weight that is about to come; of a matrix, in no memory."""
    if isinstance(shape, int):
        return np.empty(shape, dtype)
    return np.broadcast_to(np.zeros((), dtype), shape)


def _check_starts(start: np.ndarray, shape: tuple[int, ...]) -> None:
    """ShapeError for starts of texts that are not one for each token, at or before it."""
    if start.shape != shape:
        raise ShapeError(f"start {start.shape} must have a place for each token of ids {shape}")
    if start.size and not (start.min() >= 0 and (start <= np.arange(shape[1])).all()):
        raise ShapeError(
            "start must say for each token where in its row its text begins: a place from 0 up to "
            "the token's own"
        )


def _block(layer: Block, rope: dict, kv: Past | None, start: Any, x: Tensor) -> Tensor:
    """A block as a function of what flows through it, for checkpointing."""
    return layer(x, rope, kv, start)


def _dropout(active: bool, rng: np.random.Generator | None) -> Any:
    return training(rng or np.random.default_rng()) if active else ExitStack()


def rotary_frequencies(config: ModelConfig) -> np.ndarray:
    """How far each pair of channels turns from one token to the next, in radians (D/2,).

    With `rope_scaling` "llama3" as in the Llama 3.1 release: slow pairs slower still, for a longer
    context than was trained on.
    """
    scaling = tuple(sorted((config.rope_scaling or {}).items()))
    return frequencies(config.D, config.rope_theta, scaling)
