"""Bottleneck adapters: small networks of their own inside the blocks, squeezed through m channels.

    serial      y = f(x)     h = y + s (W₂ σ(W₁ y + b₁) + b₂)          f a block's attention or MLP
    parallel    h = f(x) + s (W₂ σ(W₁ x + b₁) + b₂)

    x, y, h (B, T, C)     W₁ (m, C)   b₁ (m,)   W₂ (C, m)   b₂ (C,)

Serial behind attention and MLP: Houlsby et al., arXiv 1902.00751; behind the MLP alone: Pfeiffer et
al., arXiv 2005.00247; parallel to the MLP: He et al., arXiv 2110.04366. LoRA is what is left when
σ goes and the bypass stands beside one matrix: for σ it is paid at every use, since W₂ σ(W₁ ·) is
no matrix and cannot be merged into one.

Count        2·C·m + m + C an insertion; L insertions, Houlsby 2·L
Kept         y (or x), and of the m inner channels what σ and W₂ need
Starts       exactly at the base: W₂ = 0 and b₂ = 0
Merges       no: σ stands between
Inference    two thin products an insertion, one after the other; no context
File         ours: PEFT has no such method and does not open it. `adapter_down`, `adapter_up`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from minilora import ops
from minilora.autograd import Parameter, Tensor
from minilora.config import ModelConfig
from minilora.errors import AdapterError, ConfigError
from minilora.model import MLP, SelfAttention, Transformer
from minilora.nn import Linear, Module, ModuleDict
from minilora.peft.adapted import Adapted, Switch, own, own_modules
from minilora.peft.config import PeftConfig
from minilora.peft.place import Place
from minilora.peft.row_wise import Rows, put_back

NONLINEARITIES: dict[str, Callable[[Any], Tensor]] = {
    "relu": ops.relu,
    "silu": ops.silu,
    "tanh": ops.tanh,
}


@dataclass(frozen=True)
class BottleneckConfig(PeftConfig):
    """Settings of bottleneck adapters.

    bottleneck_size   m
    kind              "houlsby": behind attention and behind the MLP; "pfeiffer": behind the MLP;
                      "parallel": beside the MLP
    nonlinearity      σ: "relu", "silu" or "tanh"
    scaling           s

    Raises ConfigError naming the value and what is allowed.
    """

    peft_type: ClassVar[str] = "BOTTLENECK"
    bottleneck_size: int = 64
    kind: Literal["houlsby", "pfeiffer", "parallel"] = "houlsby"
    nonlinearity: str = "relu"
    scaling: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        m, s = self.bottleneck_size, self.scaling
        if isinstance(m, bool) or not isinstance(m, int) or m < 1:
            raise ConfigError(f"bottleneck_size = {m!r} must be a whole number from 1")
        if self.kind not in ("houlsby", "pfeiffer", "parallel"):
            raise ConfigError(f"kind = {self.kind!r} must be 'houlsby', 'pfeiffer' or 'parallel'")
        if self.nonlinearity not in NONLINEARITIES:
            raise ConfigError(
                f"nonlinearity = {self.nonlinearity!r} must be one of {', '.join(NONLINEARITIES)}"
            )
        if isinstance(s, bool) or not isinstance(s, int | float) or not 0 < s < float("inf"):
            raise ConfigError(f"scaling = {s!r} must be a number above 0")


class Bottleneck(Adapted):
    """A block's attention or MLP, with small networks behind or beside it. Takes its place.

    adapter_down, adapter_up   for each adapter's name a Linear: (m, C) and (C, m), with biases
    """

    depth = 3

    def __init__(self, base: Module, switch: Switch):
        super().__init__(base, switch)
        self.adapter_down = ModuleDict()
        self.adapter_up = ModuleDict()

    def add(self, name: str, config: BottleneckConfig, C: int, rng: np.random.Generator) -> None:
        """Put a fresh network there."""
        dtype = next(own(self).parameters()).dtype
        down = Linear(C, config.bottleneck_size, True, dtype)
        up = Linear(config.bottleneck_size, C, True, dtype)
        down.weight.data[:] = rng.uniform(-(C**-0.5), C**-0.5, down.weight.shape)
        for p in (down.bias, up.weight, up.bias):
            assert p is not None
            p.data[:] = 0
        self.adapter_down[name], self.adapter_up[name], self.configs[name] = down, up, config

    def with_adapter(self, name: str, *inputs: Any) -> Tensor:
        y = self.base_layer(*inputs)
        return y + self._bypass(name, inputs[0] if self._parallel(name) else y)

    def by_row(self, rows: Rows, *inputs: Any) -> Tensor:
        """f once for all rows; each adapter on its own."""
        x, y = inputs[0], self.base_layer(*inputs)
        pieces = []
        for name, group in rows.groups(self.configs).items():
            h = y[group]
            if name is not None:
                h = h + self._bypass(name, x[group] if self._parallel(name) else h)
            pieces.append((group, h))
        return put_back(pieces)

    def goes_by_row(self, name: str) -> bool:
        return True

    def _parallel(self, name: str) -> bool:
        return self.configs[name].kind == "parallel"

    def _bypass(self, name: str, x: Tensor) -> Tensor:
        """s (W₂ σ(W₁ x + b₁) + b₂)"""
        config = self.configs[name]
        u = NONLINEARITIES[config.nonlinearity](self.adapter_down[name](x))
        h = self.adapter_up[name](u)
        return h if config.scaling == 1 else h * config.scaling

    def parts(self, name: str) -> dict[str, Parameter]:
        both = {"adapter_down": self.adapter_down[name], "adapter_up": self.adapter_up[name]}
        return {f"{at}.{end}": p for at, m in both.items() for end, p in m.named_parameters()}

    def changed(self, name: str) -> dict[Parameter, np.ndarray]:
        raise AdapterError(
            f"adapter {name!r} is a bottleneck with a nonlinearity between its two matrices, which "
            "no single matrix is equal to: it cannot be merged; use it unmerged"
        )


def places(model: Transformer, config: BottleneckConfig) -> list[Place]:
    """Every block's attention and MLP, or its MLP."""
    C, m = model.config.hidden_size, config.bottleneck_size
    shapes = {
        "adapter_down.weight": (m, C),
        "adapter_down.bias": (m,),
        "adapter_up.weight": (C, m),
        "adapter_up.bias": (C,),
    }
    meant = SelfAttention | MLP if config.kind == "houlsby" else MLP
    return [
        Place(path, Bottleneck, shapes, lambda b, name, rng: b.add(name, config, C, rng))
        for path, module in own_modules(model)
        if isinstance(module, meant)
    ]


def count(config: BottleneckConfig, c: ModelConfig) -> int:
    """How many numbers it trains: 2·C·m + m + C an insertion."""
    C, m = c.hidden_size, config.bottleneck_size
    insertions = c.n_layers * (2 if config.kind == "houlsby" else 1)
    return insertions * (2 * C * m + m + C)
