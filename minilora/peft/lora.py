"""LoRA: one frozen matrix W, and beside it a thin pair A, B for each adapter.

    h = W x + (α/r) B A x          W (out, in) frozen    A (r, in)    B (out, r)

Hu et al., arXiv 2106.09685. B starts at zero, so a fresh adapter changes nothing; every adapted
matrix has a pair of its own. Merging adds (α/r) B A into W, after which the bypass costs nothing.
With PiSSA (`pissa.py`) a residual R of W stands where W does above.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from minilora import ops
from minilora.autograd import Tensor
from minilora.errors import ConfigError, NonFiniteError
from minilora.nn import Dropout, Linear, Module, ModuleDict, training_rng
from minilora.peft import pissa
from minilora.peft.config import LoraConfig, find_targets


@dataclass
class Switch:
    """Which adapter is in use. One object for the whole model, so switching is one assignment.

    active    name of the adapter that is used, or None
    enabled   False inside `disable_adapter()`
    merged    name of the adapter that has been added into the weights, or None
    """

    active: str | None = None
    enabled: bool = True
    merged: str | None = None


class LoraLinear(Module):
    """A Linear that adapters have been put beside. Takes its place in the model.

    base_layer       the Linear that was there, frozen
    lora_A, lora_B   for each adapter's name a Linear: (r, in) and (out, r)
    lora_residual    for each adapter of PiSSA's a Linear (out, in), frozen: R, used instead of W
    """

    def __init__(self, base: Linear, switch: Switch):
        self.base_layer = base
        self.lora_A = ModuleDict()
        self.lora_B = ModuleDict()
        self.lora_residual = ModuleDict()
        self.configs: dict[str, LoraConfig] = {}
        self.lora_dropout = ModuleDict()
        self.switch = switch
        self._before_merge: np.ndarray | None = None

    def add(self, name: str, config: LoraConfig, rng: np.random.Generator) -> None:
        """Put a fresh pair beside W."""
        W = self.base_layer.weight
        n_out, n_in = W.shape
        self.lora_A[name] = Linear(n_in, config.r, dtype=W.dtype)
        self.lora_B[name] = Linear(config.r, n_out, dtype=W.dtype)
        self.configs[name] = config
        self.lora_dropout[name] = Dropout(config.lora_dropout)
        A, B = self.lora_A[name].weight.data, self.lora_B[name].weight.data
        if config.init_lora_weights == "pissa":
            self._start_from_principal(name, config)
            return
        if config.init_lora_weights == "gaussian":
            A[:] = rng.normal(0, 1 / config.r, A.shape)
        else:
            A[:] = _kaiming_uniform(A.shape, rng)
        B[:] = 0 if config.init_lora_weights else _kaiming_uniform(B.shape, rng)

    def _start_from_principal(self, name: str, config: LoraConfig) -> None:
        """PiSSA's start: A and B are W's largest directions, R is the rest of it."""
        A, B, W = self.lora_A[name].weight.data, self.lora_B[name].weight.data, self._before()
        n_out, n_in = W.shape
        self.lora_residual[name] = Linear(n_in, n_out, dtype=W.dtype)
        self.lora_residual[name].requires_grad_(False)
        if not isinstance(W, np.ndarray):
            return  # a shadow: there are no contents to be taken apart
        A[:], B[:] = pissa.principal_pair(W, config.r, config.scaling)
        self.lora_residual[name].weight.data[:] = pissa.residual(W, A, B, config.scaling)

    def remove(self, name: str) -> None:
        """Take an adapter's pair away, and its residual."""
        for each in (self.lora_A, self.lora_B, self.lora_dropout, self.configs):
            del each[name]
        if name in self.lora_residual:
            del self.lora_residual[name]

    def forward(self, x: Tensor) -> Tensor:
        name = self.switch.active if self.switch.enabled else None
        if name is None or name not in self.lora_A or self.switch.merged:
            return self.base_layer(x)
        base, A, B = self.base_layer, self.lora_A[name].weight, self.lora_B[name].weight
        W = self.lora_residual[name].weight if name in self.lora_residual else base.weight
        scaling = self.configs[name].scaling
        if W.requires_grad or (self.lora_dropout[name].p and training_rng()):
            h = ops.lora_linear_composed(
                x, W, A, B, scaling=scaling, x_bypass=self.lora_dropout[name](x)
            )
        else:
            h = ops.lora_linear(x, W, A, B, scaling=scaling)
        return h if base.bias is None else h + base.bias

    def delta(self, name: str) -> np.ndarray:
        """ΔW = (α/r) B A (out, in), multiplied in float64; with PiSSA (α/r) B A + R - W."""
        A, B = (m[name].weight.data.astype(np.float64) for m in (self.lora_A, self.lora_B))
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at
            change = self.configs[name].scaling * (B @ A)
        if name in self.lora_residual:
            change += self.lora_residual[name].weight.data
            change -= self._before()
        return change

    def merged(self, name: str) -> np.ndarray:
        """W + ΔW in W's type. NonFiniteError if that is not finite."""
        W = self.base_layer.weight
        with np.errstate(over="ignore", invalid="ignore"):
            total = self.delta(name)
            total += W.data
            total = total.astype(W.dtype)
        if not np.isfinite(total).all():
            raise NonFiniteError(
                f"adapter {name!r} would make weights that are not finite; it is not merged, and "
                "the base is untouched. Train it again, with a lower learning rate"
            )
        return total

    def pair(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A and B that do beside W what the adapter does: its own, or PiSSA's with rank 2r."""
        A, B = self.lora_A[name].weight.data, self.lora_B[name].weight.data
        if name not in self.lora_residual:
            return A, B
        R = self.lora_residual[name].weight.data
        return pissa.as_plain_pair(A, B, self._before(), R, self.configs[name].scaling)

    def _before(self) -> np.ndarray:
        """W, also while an adapter is merged into it."""
        return self.base_layer.weight.data if self._before_merge is None else self._before_merge

    def merge(self, merged: np.ndarray) -> None:
        """W + ΔW in the place of W, which is kept: subtracting ΔW again would not give it back."""
        W = self.base_layer.weight
        self._before_merge, W.data = W.data, merged

    def unmerge(self) -> None:
        """The very W of before the merge."""
        if self._before_merge is not None:
            self.base_layer.weight.data, self._before_merge = self._before_merge, None


def adaptable(model: Module) -> dict[str, Linear]:
    """path → each Linear that is the model's own, where it was before any adapter."""
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, LoraLinear):
            found[path] = module.base_layer
        elif isinstance(module, Linear) and not re.search(
            r"\.(base_layer|lora_[AB]|lora_residual)\b", path
        ):
            found[path] = module
    return found


def check_config(model: Module, config: LoraConfig, *, ranks: bool = True) -> dict[str, Linear]:
    """path → each Linear that `config` names in this model.

    ranks   refuse a rank above min(out, in), which would hold no more than that one does

    Raises ConfigError for targets that match nothing, and for such a rank.
    """
    linears = adaptable(model)
    wanted = find_targets(linears, config.target_modules, config.layers_to_transform)
    chosen = {path: linears[path] for path in wanted}
    for path, linear in chosen.items() if ranks else ():
        if config.r > min(linear.weight.shape):
            raise ConfigError(
                f"rank {config.r} is above min(out, in) = {min(linear.weight.shape)} of {path} "
                f"{linear.weight.shape}: no matrix has a higher rank; choose a smaller one"
            )
    return chosen


def _kaiming_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Uniform in ±1/√n_in: Kaiming's rule with a = √5, as loralib and PEFT start A."""
    bound = shape[1] ** -0.5
    return rng.uniform(-bound, bound, shape)
