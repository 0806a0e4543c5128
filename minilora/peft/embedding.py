"""LoRA beside an embedding: each token's vector gets a small one, seen through a common matrix.

    h = W[t] + (α/r) B A[:, t]         W (V, C) frozen        A (r, V)        B (C, r)

A product with a one-hot vector is a look-up, so this is LoRA with Wᵀ in the place of W. It starts
the other way round, as in loralib and PEFT: A is zero and B normal, since of A a step trains only
the columns of tokens that occur, while B serves them all. Dropout does not act here, as in PEFT.

With DoRA a channel, a row of Wᵀ, gets a length m (C,) of its own, over all the vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora import ops
from minilora.autograd import Parameter, Tensor
from minilora.errors import ConfigError
from minilora.nn import Embedding, ModuleDict, ParameterDict
from minilora.peft import dora
from minilora.peft.adapted import Adapted, Switch
from minilora.peft.config import LoraConfig
from minilora.quant.linear import unpacked


class LoraEmbedding(Adapted):
    """An Embedding that adapters have been put beside. Takes its place in the model.

    lora_embedding_A, lora_embedding_B   for each adapter's name (r, V) and (C, r)
    lora_magnitude_vector                for each adapter with DoRA: m (C,)
    lora_base                            for each adapter whose file brought its own W along
    """

    base_layer: Embedding

    def __init__(self, base: Embedding, switch: Switch):
        super().__init__(base, switch)
        self.lora_embedding_A = ParameterDict()
        self.lora_embedding_B = ParameterDict()
        self.lora_magnitude_vector = ParameterDict()
        self.lora_base = ModuleDict()

    def add(self, name: str, config: LoraConfig, rng: np.random.Generator) -> None:
        """Put a fresh pair beside W. ConfigError with PiSSA, which takes matrices apart."""
        if config.init_lora_weights == "pissa":
            raise ConfigError("init_lora_weights = 'pissa' is for matrices, not for embeddings")
        W = self.base_layer.weight
        n_tokens, n_channels = W.shape
        # The same maker as the base's own layers: an array, or a shadow.
        A = Embedding(config.r, n_tokens, dtype=W.dtype).weight
        B = Embedding(n_channels, config.r, dtype=W.dtype).weight
        A.data[:] = 0 if config.init_lora_weights else rng.normal(0, 1, A.shape)
        B.data[:] = rng.normal(0, 1, B.shape)
        self.lora_embedding_A[name], self.lora_embedding_B[name] = A, B
        self.configs[name] = config
        if config.use_dora:
            rows = unpacked(self.switch.original(W)).T
            m = dora.row_norms(rows, A.data, B.data, config.scaling)
            self.lora_magnitude_vector[name] = Parameter(m)

    def goes_by_row(self, name: str) -> bool:
        return True

    def with_adapter(self, name: str, ids: np.ndarray) -> Tensor:
        A, B = self.lora_embedding_A[name], self.lora_embedding_B[name]
        scaling = self.configs[name].scaling
        u = ops.embedding(ops.transpose(A), ids=ids)
        base = self.lora_base.get(name, self.base_layer)
        h = base(ids) + ops.linear(u, B) * scaling
        if name not in self.lora_magnitude_vector:
            return h
        m: Any = self.lora_magnitude_vector[name]
        return h * (m / dora.row_norms(unpacked(base.weight.data).T, A.data, B.data, scaling))

    def use_base(self, name: str, W: np.ndarray) -> None:
        self.lora_base[name] = Embedding(len(W), W.shape[1], self.base_layer.weight.dtype)
        self.lora_base[name].requires_grad_(False)
        self.lora_base[name].weight.data[:] = W

    def files(self, name: str) -> dict[str, np.ndarray]:
        own = self.lora_base.get(name)
        return super().files(name) | ({"base_layer.weight": own.weight.data} if own else {})

    def parts(self, name: str) -> dict[str, Parameter]:
        return {
            part: getattr(self, part)[name]
            for part in ("lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
            if name in getattr(self, part)
        }

    def pair(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A (r, V) and B (C, r)."""
        return self.lora_embedding_A[name].data, self.lora_embedding_B[name].data

    def changed(self, name: str) -> dict[Parameter, np.ndarray]:
        A, B = (
            p[name].data.astype(np.float64) for p in (self.lora_embedding_A, self.lora_embedding_B)
        )
        V = self.configs[name].scaling * (B @ A)
        W = self.switch.original(self.lora_base.get(name, self.base_layer).weight)
        V += unpacked(W).T
        if name in self.lora_magnitude_vector:
            V = dora.with_length(V, self.lora_magnitude_vector[name].data)
        return {self.base_layer.weight: np.ascontiguousarray(V.T)}
