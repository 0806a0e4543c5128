"""Single tokens whose vectors are trained, in copies: `trainable_token_indices`.

For a few new tokens a copy of all embeddings is too much. Here a table (n, C) holds the vectors of
the n chosen tokens, and is read in the place of their rows of W:

    embedding:  h[t] = table[i] if t is the i-th chosen token, else W[t]
    head:       the chosen tokens' scores are table h, the others' W h

Where the head's matrix is that of the embeddings (`tie_word_embeddings`), one table serves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minilora import ops
from minilora.autograd import Parameter, Tensor
from minilora.nn import Embedding, Linear, ParameterDict
from minilora.peft.adapted import Adapted, Switch, own
from minilora.peft.config import LoraConfig
from minilora.quant.linear import unpacked

END = "token_adapter.trainable_tokens_delta"  # called a difference by PEFT, and is none


class TokenRows(Adapted):
    """An Embedding or a head in which adapters replace rows. Takes its place in the model.

    trainable_tokens_delta   for each adapter's name the vectors of its tokens (n, C)
    indices                  for each adapter's name its tokens (n,)
    tied                     those adapters whose table here is the embeddings'
    """

    depth = 1

    def __init__(self, base: Any, switch: Switch):
        super().__init__(base, switch)
        self.trainable_tokens_delta = ParameterDict()
        self.indices: dict[str, np.ndarray] = {}
        self.tied: set[str] = set()

    @property
    def weight(self) -> Parameter:
        """The base's own W (V, C)."""
        module: Any = own(self)
        return module.weight

    def add(
        self,
        name: str,
        config: LoraConfig,
        indices: Sequence[int],
        table: Parameter | None = None,
    ) -> Parameter:
        """Start from the tokens' own vectors, or share the `table` of the embeddings."""
        self.configs[name] = config
        self.indices[name] = np.array(indices)
        if table is None:
            table = Parameter(self.switch.original(self.weight)[self.indices[name]])
        else:
            self.tied.add(name)
        self.trainable_tokens_delta[name] = table
        return table

    def remove(self, name: str) -> None:
        super().remove(name)
        del self.indices[name]
        self.tied.discard(name)

    def goes_by_row(self, name: str) -> bool:
        return True

    def with_adapter(self, name: str, x: Any) -> Tensor:
        y = self.base_layer(x)
        table, indices = self.trainable_tokens_delta[name], self.indices[name]
        others = np.ones(len(self.weight), y.dtype)
        others[indices] = 0
        if isinstance(own(self), Embedding):
            row = np.zeros(len(others), np.int64)
            row[indices] = np.arange(len(indices))
            kept = others[x][..., None]
            return y * kept + ops.embedding(table, ids=row[x]) * (1 - kept)
        place = np.zeros((len(others), len(indices)), y.dtype)  # (V, n): which column goes where
        place[indices, np.arange(len(indices))] = 1
        return y * others + ops.linear(ops.linear(x, table), place)

    def parts(self, name: str) -> dict[str, Parameter]:
        return {} if name in self.tied else {END: self.trainable_tokens_delta[name]}

    def changed(self, name: str) -> dict[Parameter, np.ndarray]:
        if name in self.tied:
            return {}
        W = unpacked(self.switch.original(self.weight)).copy()
        W[self.indices[name]] = self.trainable_tokens_delta[name].data
        return {self.weight: W}


def tables(config: LoraConfig) -> dict[str, tuple[int, ...]]:
    """Tokens by the end of the path of the module that reads or scores them."""
    given: Any = config.trainable_token_indices
    if given is None:
        return {}
    return dict(given) if isinstance(given, dict) else {"embed_tokens": given}


def readers(modules: dict[str, Any], end: str) -> list[str]:
    """Those paths that an end names and whose module has a row for each token."""
    return [
        path
        for path, m in modules.items()
        if path.endswith(end)
        and path.rsplit(".", 1)[-1] in ("embed_tokens", "lm_head")
        and isinstance(m, Embedding | Linear)
    ]
