"""LoRA: one frozen matrix W, and beside it a thin pair A, B for each adapter.

    h = W x + (α/r) B A x          W (out, in) frozen    A (r, in)    B (out, r)

Hu et al., arXiv 2106.09685. B starts at zero, so a fresh adapter changes nothing; every adapted
matrix has a pair of its own. Merging adds (α/r) B A into W, after which the bypass costs nothing.
With PiSSA (`pissa.py`) a residual R of W stands where W does above; with DoRA (`dora.py`) the rows
of W + (α/r) B A get lengths of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minilora import ops
from minilora.autograd import Parameter, Tensor
from minilora.errors import ConfigError
from minilora.nn import (
    Dropout,
    Embedding,
    Linear,
    Module,
    ModuleDict,
    ParameterDict,
    training_rng,
)
from minilora.peft import dora, pissa
from minilora.peft.adapted import Adapted, Switch, own_modules
from minilora.peft.config import LoraConfig, PeftConfig, find_targets
from minilora.peft.row_wise import Rows
from minilora.quant.linear import unpacked

__all__ = ["LoraLinear", "Switch", "adaptable", "check_config"]


class LoraLinear(Adapted):
    """A Linear that adapters have been put beside. Takes its place in the model.

    base_layer       the Linear that was there, frozen
    lora_A, lora_B   for each adapter's name a Linear: (r, in) and (out, r)
    lora_residual    for each adapter of PiSSA's a Linear (out, in), frozen: R, used instead of W;
                     also for one whose file brought its own W along
    lora_magnitude_vector   for each adapter with DoRA: m (out,)
    trained_bias     for each adapter that trains biases: b (out,), used instead of the Linear's
    """

    base_layer: Linear

    def __init__(self, base: Linear, switch: Switch):
        super().__init__(base, switch)
        self.lora_A = ModuleDict()
        self.lora_B = ModuleDict()
        self.lora_residual = ModuleDict()
        self.lora_magnitude_vector = ParameterDict()
        self.trained_bias = ParameterDict()
        self.lora_dropout = ModuleDict()

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
        else:
            if config.init_lora_weights == "gaussian":
                A[:] = rng.normal(0, 1 / config.r, A.shape)
            else:
                A[:] = _kaiming_uniform(A.shape, rng)
            B[:] = 0 if config.init_lora_weights else _kaiming_uniform(B.shape, rng)
        if config.use_dora:
            beside = self.switch.original(self._matrix(name))
            m = dora.row_norms(beside, A, B, config.scaling)
            self.lora_magnitude_vector[name] = Parameter(m)

    def add_bias(self, name: str, config: PeftConfig) -> None:
        """Train a copy of the bias, beside a pair or without one."""
        assert self.base_layer.bias is not None
        bias = self.switch.original(self.base_layer.bias)
        self.configs[name] = config
        self.trained_bias[name] = Parameter(bias.copy())

    def use_base(self, name: str, W: np.ndarray) -> None:
        n_out, n_in = W.shape
        self.lora_residual[name] = Linear(n_in, n_out, dtype=self.base_layer.weight.dtype)
        self.lora_residual[name].requires_grad_(False)
        self.lora_residual[name].weight.data[:] = W

    def _start_from_principal(self, name: str, config: LoraConfig) -> None:
        """PiSSA's start: A and B are W's largest directions, R is the rest of it."""
        A, B, W = self.lora_A[name].weight.data, self.lora_B[name].weight.data, self._before()
        self.use_base(name, W)
        if not isinstance(W, np.ndarray):
            return  # a shadow: there are no contents to be taken apart
        A[:], B[:] = pissa.principal_pair(W, config.r, config.scaling)
        self.lora_residual[name].weight.data[:] = pissa.residual(W, A, B, config.scaling)

    def with_adapter(self, name: str, x: Tensor) -> Tensor:
        base = self.base_layer
        bias = self.trained_bias.get(name, base.bias)
        if name not in self.lora_A:
            return ops.linear(x, base.weight, bias)
        h = self._bypassed(name, x)
        return h if bias is None else h + bias

    def goes_by_row(self, name: str) -> bool:
        return True

    def by_row(self, rows: Rows, x: Tensor) -> Tensor:
        """W x once for all rows, and for each the bypass of its own adapter.

        Unless one puts something in the place of W or of the bias: then group by group.
        """
        here = {n for n in rows.names if n is not None and n in self.configs}
        in_place = (self.lora_residual, self.lora_magnitude_vector, self.trained_bias)
        if any(name in others for name in here for others in in_place):
            return super().by_row(rows, x)
        scaling: dict[str | None, float] = {n: self.configs[n].scaling for n in here}
        s = np.array([scaling.get(n, 0) for n in rows.names], x.dtype)[:, None, None]
        A, B = (self._stacked(rows.names, *part) for part in ((self.lora_A, 0), (self.lora_B, 1)))
        u = ops.matmul(x, A.transpose(0, 2, 1)) * s
        return self.base_layer(x) + ops.matmul(u, B.transpose(0, 2, 1))

    def _stacked(self, names: Sequence[str | None], part: ModuleDict, narrow: int) -> Tensor:
        """Each row's own A (B, r, in) or B (B, out, r), filled up with zeros to the largest r.

        narrow   which axis of the part is r
        """
        own: dict[str | None, Tensor]
        own = {name: part[name].weight for name in names if name is not None and name in part}
        r = max(p.shape[narrow] for p in own.values())
        own = {name: _filled_up(p, r, narrow) for name, p in own.items()}
        some = next(iter(own.values()))
        none = Tensor(np.zeros(some.shape, some.dtype))
        return ops.concatenate([own.get(name, none) for name in names]).reshape(-1, *some.shape)

    def _bypassed(self, name: str, x: Tensor) -> Tensor:
        """W x + (α/r) B A x, or what PiSSA and DoRA make of it."""
        W, A, B = self._matrix(name), self.lora_A[name].weight, self.lora_B[name].weight
        scaling, dropout = self.configs[name].scaling, self.lora_dropout[name]
        if name in self.lora_magnitude_vector:
            m = self.lora_magnitude_vector[name]
            return dora.dora_linear(x, W, A, B, m, scaling=scaling, dropout=dropout)
        if W.requires_grad or (dropout.p and training_rng()):
            return ops.lora_linear_composed(x, W, A, B, scaling=scaling, x_bypass=dropout(x))
        return ops.lora_linear(x, W, A, B, scaling=scaling)

    def parts(self, name: str) -> dict[str, Parameter]:
        found = {}
        if name in self.lora_A:
            found["lora_A.weight"] = self.lora_A[name].weight
            found["lora_B.weight"] = self.lora_B[name].weight
        if name in self.lora_magnitude_vector:
            found["lora_magnitude_vector"] = self.lora_magnitude_vector[name]
        if name in self.trained_bias:
            # What PEFT calls the bias depends on whether there is a pair beside it.
            found["base_layer.bias" if name in self.lora_A else "bias"] = self.trained_bias[name]
        return found

    def files(self, name: str) -> dict[str, np.ndarray]:
        arrays = super().files(name)
        if name in self.lora_A:
            arrays["lora_A.weight"], arrays["lora_B.weight"] = self.pair(name)
        if name in self.lora_residual and self.configs[name].init_lora_weights != "pissa":
            arrays["base_layer.weight"] = self.lora_residual[name].weight.data
        return arrays

    def delta(self, name: str) -> np.ndarray:
        """ΔW (out, in), what an adapter adds to W: (α/r) B A, multiplied in float64.

        With PiSSA (α/r) B A + R - W; with DoRA what the rows become, less W.
        """
        A, B = (m[name].weight.data.astype(np.float64) for m in (self.lora_A, self.lora_B))
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at
            change = self.configs[name].scaling * (B @ A)
        if name in self.lora_residual:
            change += self.lora_residual[name].weight.data
            change -= self._before()
        if name in self.lora_magnitude_vector:
            W = self._before().astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                change = dora.with_length(W + change, self.lora_magnitude_vector[name].data) - W
        return change

    def changed(self, name: str) -> dict[Parameter, np.ndarray]:
        arrays = {}
        if name in self.lora_A:
            arrays[self.base_layer.weight] = self.delta(name)
            arrays[self.base_layer.weight] += self._before()
        if name in self.trained_bias:
            assert self.base_layer.bias is not None
            arrays[self.base_layer.bias] = self.trained_bias[name].data
        return arrays

    def pair(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A and B that do beside W what the adapter does: its own, or PiSSA's with rank 2r."""
        A, B = self.lora_A[name].weight.data, self.lora_B[name].weight.data
        if self.configs[name].init_lora_weights != "pissa":
            return A, B
        R = self.lora_residual[name].weight.data
        return pissa.as_plain_pair(A, B, self._before(), R, self.configs[name].scaling)

    def _before(self) -> np.ndarray:
        """W, also while an adapter is merged into it; of a packed one the floats."""
        return unpacked(self.switch.original(self.base_layer.weight))

    def _matrix(self, name: str) -> Parameter:
        """What the pair stands beside: R with PiSSA, W without."""
        return self.lora_residual.get(name, self.base_layer).weight


def adaptable(model: Module) -> dict[str, Linear]:
    """path → each Linear that is the model's own, where it was before any adapter."""
    return {path: m for path, m in own_modules(model) if isinstance(m, Linear)}


def check_config(
    model: Module, config: LoraConfig, *, ranks: bool = True, strict: bool = True
) -> dict[str, Linear | Embedding]:
    """path → each Linear or Embedding that gets a bypass, by the config's targets.

    ranks    refuse a rank above min(out, in), which would hold no more than that one does
    strict   refuse a target that matches nothing even if others match

    Raises ConfigError for targets that match nothing, and for such a rank.
    """
    there = {p: m for p, m in own_modules(model) if isinstance(m, Linear | Embedding)}
    wanted = find_targets(
        there,
        config.target_modules,
        config.layers_to_transform,
        layers_pattern=config.layers_pattern,
        exclude=config.exclude_modules,
        saved=config.modules_to_save or (),
        strict=strict,
    )
    chosen = {path: there[path] for path in wanted}
    for path, module in chosen.items() if ranks else ():
        r, shape = config.at(path).r, module.weight.shape
        if r > min(shape):
            raise ConfigError(
                f"rank {r} is above min(out, in) = {min(shape)} of {path} {shape}: no matrix has "
                "a higher rank; choose a smaller one"
            )
    return chosen


def _filled_up(p: Tensor, size: int, axis: int) -> Tensor:
    """A matrix with zeros behind it, up to a size of one axis."""
    missing = list(p.shape)
    missing[axis] = size - p.shape[axis]
    if not missing[axis]:
        return p
    return ops.concatenate([p, np.zeros(missing, p.dtype)], axis=axis)


def _kaiming_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Uniform in ±1/√n_in: Kaiming's rule with a = √5, as loralib and PEFT start A."""
    bound = shape[1] ** -0.5
    return rng.uniform(-bound, bound, shape)
