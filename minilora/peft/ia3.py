"""IA³: learn one factor for each channel of keys, values and the MLP's inside, and nothing else.

    k = l_k ⊙ (W_k x)     v = l_v ⊙ (W_v x)     h = W_down (l_ff ⊙ u)          l a vector, W frozen

Liu et al., arXiv 2205.05638: "infused adapter by inhibiting and amplifying inner activations". LoRA
with r = 1 can turn what a matrix says into a new direction; this can only make what it says already
louder or softer. The MLP's factor stands before its last matrix, on the inner channels.

Count        d_kv for k, d_kv for v, F for down_proj, of each layer: L(2·d_kv + F)
Kept         what is multiplied: W x, or u
Starts       exactly at the base: l = 1
Merges       yes: diag(l) W, or W diag(l)
Inference    a multiplication for each number; merged, nothing. No context
File         PEFT's: `ia3_l`, (out, 1), or (1, in) for what is scaled before the matrix
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minilora import ops
from minilora.autograd import Parameter, Tensor
from minilora.config import ModelConfig
from minilora.errors import ConfigError
from minilora.model import Transformer
from minilora.nn import Linear, Module, ParameterDict
from minilora.peft.adapted import Adapted, Switch, own
from minilora.peft.config import PeftConfig, module_names, target_names
from minilora.peft.lora import adaptable
from minilora.peft.matching import ends_in, find_targets, matches
from minilora.peft.place import Place
from minilora.quant.linear import unpacked

END = "ia3_l"
_INNER = ("down_proj",)  # the last matrix of a Llama's MLP


@dataclass(frozen=True)
class IA3Config(PeftConfig):
    """Settings of IA³, under PEFT's names.

    target_modules        matrices whose channels get a factor: names, a regular expression for the
                          whole path, or "all-linear"
    feedforward_modules   those of them where it stands before the matrix, on what goes in; none
                          of them: []; None: down_proj, if it is among them
    exclude_modules       names, or a regular expression, of matrices that are not meant

    Raises ConfigError naming the value and what is allowed.
    """

    peft_type: ClassVar[str] = "IA3"
    target_modules: str | Sequence[str] = ("k_proj", "v_proj", "down_proj")
    feedforward_modules: str | Sequence[str] | None = _INNER
    exclude_modules: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        keep = object.__setattr__  # the one moment at which a frozen config is written
        keep(self, "target_modules", target_names(self.target_modules))
        keep(self, "exclude_modules", module_names("exclude_modules", self.exclude_modules))
        keep(self, "feedforward_modules", self._inner())

    def _inner(self) -> str | tuple[str, ...]:
        """`feedforward_modules` as they are kept: a pattern, or a tuple of names."""
        given, targets = self.feedforward_modules, self.target_modules
        if given is None:
            return tuple(n for n in _INNER if not isinstance(targets, tuple) or n in targets)
        names = module_names("feedforward_modules", given) or ()
        if isinstance(names, str):
            # As a pattern for a whole path a plain name describes none.
            return (names,) if names.isidentifier() else names
        besides = sorted(set(names) - set(targets)) if isinstance(targets, tuple) else []
        if besides:
            raise ConfigError(
                f"feedforward_modules: {besides[0]!r} is not one of target_modules = "
                f"{list(targets)}; name it there, too, or leave it out here"
            )
        return names

    def scales_input(self, path: str) -> bool:
        """Whether a matrix gets its factors before it, on what goes in."""
        names = self.feedforward_modules
        if isinstance(names, str):
            return matches(path, names)
        return any(ends_in(path, name) for name in names or ())


class IA3Linear(Adapted):
    """A Linear whose channels adapters make louder or softer. Takes its place in the model.

    ia3_l   for each adapter's name l: (out, 1), or (1, in) where it scales what goes in
    """

    base_layer: Linear
    depth = 1

    def __init__(self, base: Module, switch: Switch):
        super().__init__(base, switch)
        self.ia3_l = ParameterDict()

    def add(self, name: str, config: IA3Config, shape: tuple[int, int]) -> None:
        """Put factors of 1 there."""
        n_out, n_in = shape
        # The same maker as the base's own layers: an array, or a shadow.
        factors = Linear(n_in, n_out, dtype=self.matrix.weight.dtype).weight
        factors.data[:] = 1
        self.ia3_l[name], self.configs[name] = factors, config

    def with_adapter(self, name: str, x: Tensor) -> Tensor:
        factors = self.ia3_l[name].reshape(-1)
        if self._before(name):
            return self.base_layer(ops.mul(x, factors))
        return ops.mul(self.base_layer(x), factors)

    def goes_by_row(self, name: str) -> bool:
        return True

    def _before(self, name: str) -> bool:
        """Whether it scales what goes in."""
        return self.ia3_l[name].shape[0] == 1

    def parts(self, name: str) -> dict[str, Parameter]:
        return {END: self.ia3_l[name]}

    def changed(self, name: str) -> dict[Parameter, np.ndarray]:
        base, factors = self.matrix, self.ia3_l[name].data
        arrays = {base.weight: unpacked(self.switch.original(base.weight)) * factors}
        if base.bias is not None and not self._before(name):
            arrays[base.bias] = self.switch.original(base.bias) * factors[:, 0]
        return arrays

    @property
    def matrix(self) -> Linear:
        """The base's matrix, behind whatever else stands here."""
        module: Any = own(self)
        return module


def places(model: Transformer, config: IA3Config, *, strict: bool) -> list[Place]:
    """Every matrix that is meant. ConfigError for names that match nothing."""
    there = adaptable(model)
    chosen = find_targets(
        there, config.target_modules, exclude=config.exclude_modules, strict=strict
    )
    before = {path: config.scales_input(path) for path in chosen}
    if strict and config.feedforward_modules not in ((), _INNER) and not any(before.values()):
        raise ConfigError(
            f"feedforward_modules = {config.feedforward_modules!r} matches none of the matrices "
            f"that target_modules = {config.target_modules!r} names"
        )
    return [_place(path, there[path], before[path], config) for path in chosen]


def _place(path: str, module: Linear, before: bool, config: IA3Config) -> Place:
    n_out, n_in = module.weight.shape
    shape = (1, n_in) if before else (n_out, 1)
    return Place(path, IA3Linear, {END: shape}, lambda m, name, rng: m.add(name, config, shape))


def count(config: IA3Config, c: ModelConfig) -> int:
    """How many numbers it trains: for each matrix its `out`, or its `in` if it scales that."""
    shapes = _shapes(c)
    chosen = find_targets(shapes, config.target_modules, exclude=config.exclude_modules)
    return sum(shapes[path][1 if config.scales_input(path) else 0] for path in chosen)


def _shapes(c: ModelConfig) -> dict[str, tuple[int, int]]:
    """path → (out, in) of every matrix."""
    C, F, d_kv = c.hidden_size, c.intermediate_size, c.K * c.D
    one = {
        "self_attn.q_proj": (c.n_heads * c.D, C),
        "self_attn.k_proj": (d_kv, C),
        "self_attn.v_proj": (d_kv, C),
        "self_attn.o_proj": (C, c.n_heads * c.D),
        "mlp.gate_proj": (F, C),
        "mlp.up_proj": (F, C),
        "mlp.down_proj": (C, F),
    }
    layers = {f"model.layers.{i}.{at}": s for i in range(c.n_layers) for at, s in one.items()}
    return layers | {"lm_head": (c.vocab_size, C)}
