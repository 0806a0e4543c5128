"""Virtual tokens: places before a text at which no token stands, only numbers that are learnt.

Prompt tuning puts vectors there, prefix tuning keys and values. Either way the text's own positions
begin at p, and the p places are taken out of the model's context. Where texts of unequal length
share a batch, they stand after a row's padding and directly before its text, so that each row is
computed as if it were alone:

    padding … padding  v₁ … v_p  x₁ … x_T
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minilora import ops
from minilora.autograd import Parameter, Tensor
from minilora.errors import AdapterError, ConfigError
from minilora.peft.adapted import Adapted
from minilora.peft.config import PeftConfig


@dataclass(frozen=True)
class VirtualTokensConfig(PeftConfig):
    """What the methods with virtual tokens have in common.

    num_virtual_tokens   p

    Raises ConfigError naming the value and what is allowed.
    """

    num_virtual_tokens: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        p = self.num_virtual_tokens
        if isinstance(p, bool) or not isinstance(p, int) or p < 1:
            raise ConfigError(f"num_virtual_tokens = {p!r} must be a whole number from 1")


def check_room(config: VirtualTokensConfig, context: int) -> None:
    """ConfigError if the virtual tokens leave no place for a text."""
    if config.num_virtual_tokens >= context:
        raise ConfigError(
            f"num_virtual_tokens = {config.num_virtual_tokens} leaves no place for a text in this "
            f"model's context of {context}; take fewer"
        )


class VirtualTokens(Adapted):
    """The decoder, with something before the text. Takes its place in the model.

    What is asked of the decoder and is not here (`layers`, `embed_tokens`, …) is the decoder's.
    """

    def __getattr__(self, name: str) -> Any:
        if name == "base_layer" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.base_layer, name)

    @property
    def virtual_tokens(self) -> int:
        """How many places before a text are taken by the adapter in use."""
        name = self.in_use()
        if name is None:
            return self.base_layer.virtual_tokens
        return self.configs[name].num_virtual_tokens

    def changed(self, name: str) -> dict[Parameter, np.ndarray]:
        raise AdapterError(
            f"adapter {name!r} stands before the text ({self.configs[name].peft_type}), not beside "
            "a weight: there is nothing that it could be merged into; use it unmerged"
        )


def each_row(v: Tensor, n_rows: int) -> Tensor:
    """v (…) for each row of a batch (B, …); its gradient is the sum over the rows."""
    return v + np.zeros((n_rows, *[1] * v.ndim), v.dtype)


def before_text(virtual: Tensor, x: Tensor, start: np.ndarray | None) -> Tensor:
    """virtual (B, …, p, C) directly before the text in x (B, …, T, C): (B, …, p + T, C).

    start   (B,): where each row's text begins in x, behind its padding; None: there is none;
            (B, T): several texts in a row, which all see what stands before the first
    """
    joined = ops.concatenate([virtual, x], axis=x.ndim - 2)
    if start is None or start.ndim == 2:
        return joined
    p, place, first = virtual.shape[-2], np.arange(joined.shape[-2]), start[:, None]
    source = np.where(place < first, place + p, np.where(place < first + p, place - first, place))
    rows = np.arange(len(start))[:, None]
    if x.ndim == 3:
        return joined[rows, source]
    return joined.transpose(0, 2, 1, 3)[rows, source].transpose(0, 2, 1, 3)
