"""Module: a tree of named parameters, and the few layers that a Llama is made of.

A module's parameters are found by looking at its attributes; a parameter's name is the path that
leads to it, and the paths are those of Hugging Face's models, so weights go over by name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from minilora import ops
from minilora.autograd import Parameter, Tensor
from minilora.errors import ConfigError, FormatError

# Context variables: the threads that share a batch inherit them, others do not see them.
_rng: ContextVar[np.random.Generator | None] = ContextVar("rng", default=None)
_maker: ContextVar[Callable[[Any, Any], Any]] = ContextVar("maker", default=np.empty)
_innermost: ContextVar[Module | None] = ContextVar("innermost", default=None)


@contextmanager
def training(rng: np.random.Generator) -> Iterator[None]:
    """Inside this `with` dropout acts, and draws from `rng`."""
    before = _rng.set(rng)
    try:
        yield
    finally:
        _rng.reset(before)


def same_draws(f: Callable[..., Any]) -> Callable[..., Any]:
    """f, drawing the same for dropout each time it is called, and going on from there after."""
    rng = training_rng()
    if rng is None:
        return f
    before = copy.deepcopy(rng)

    def again(*inputs: Any) -> Any:
        replay = copy.deepcopy(before)
        with training(replay):
            result = f(*inputs)
        rng.bit_generator.state = replay.bit_generator.state
        return result

    return again


def training_rng() -> np.random.Generator | None:
    """The generator that dropout draws from, or None while not training."""
    return _rng.get()


@contextmanager
def arrays_by(make: Callable[[Any, Any], Any]) -> Iterator[None]:
    """Inside this `with` new modules get their arrays from make(shape, dtype), not from NumPy."""
    before = _maker.set(make)
    try:
        yield
    finally:
        _maker.reset(before)


def _new(shape: Any, dtype: Any) -> Parameter:
    return Parameter(_maker.get()(shape, dtype))


def current_module() -> Module | None:
    """The innermost module that is computing."""
    return _innermost.get()


class Module:
    """Something with parameters, called on tensors."""

    def forward(self, *inputs: Any, **options: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must say what it computes: forward()")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        before = _innermost.set(self)
        try:
            return self.forward(*inputs, **options)
        finally:
            _innermost.reset(before)

    def in_force(self) -> Module:
        """The module that computes here now: this one, unless an adapter has put one before it."""
        return self

    def children(self) -> Iterator[tuple[str, Module]]:
        """The modules right below this one, by attribute name."""
        return ((name, v) for name, v in vars(self).items() if isinstance(v, Module))

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, each with its path."""
        yield prefix, self
        for name, child in self.children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter once, with its path; one that is used in two places, at its first."""
        seen: set[Parameter] = set()
        for path, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter) and value not in seen:
                    seen.add(value)
                    yield f"{path}.{name}" if path else name, value

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter once."""
        return (p for _, p in self.named_parameters())

    def trainable_parameters(self) -> list[Parameter]:
        """Those whose gradient is wanted."""
        return [p for p in self.parameters() if p.requires_grad]

    def get_submodule(self, path: str) -> Module:
        """The module at a path such as `model.layers.0.self_attn`. ConfigError if there is none."""
        module: Module = self
        for name in path.split(".") if path else []:
            children = dict(module.children())
            if name not in children:
                raise ConfigError(
                    f"there is no module {path!r}: at {name!r} there are {', '.join(children)}"
                )
            module = children[name]
        return module

    def set_submodule(self, path: str, module: Module) -> None:
        """Put a module in the place of the one at a path. ConfigError if there is none."""
        parent, _, name = path.rpartition(".")
        self.get_submodule(path)
        setattr(self.get_submodule(parent), name, module)

    def requires_grad_(self, wanted: bool = True) -> Module:
        """Freeze or thaw everything in here; nothing, if something cannot be. Returns the module.

        Raises ConfigError for weights in few bits, which cannot be trained.
        """
        before = {p: p.requires_grad for p in self.parameters()}
        try:
            for p in before:
                p.requires_grad = wanted
        except Exception:
            # Half of a model that is thawed would be trained by the next optimizer.
            for p, was in before.items():
                p.requires_grad = was
            raise
        return self

    def state_dict(self) -> dict[str, np.ndarray]:
        """name → array: the arrays themselves, not copies."""
        return {name: p.data for name, p in self.named_parameters()}

    def load_state_dict(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take over arrays by name; all must be there, and fit. FormatError names what does not."""
        self.load_weights(weights.items())

    def load_weights(self, weights: Any) -> None:
        """Like `load_state_dict`, from (name, array) pairs one at a time."""
        mine = dict(self.named_parameters())
        missing = set(mine)
        for name, array in weights:
            if name not in mine:
                raise FormatError(
                    f"there is no weight {name!r} in this model; it has e.g. "
                    f"{', '.join(list(mine)[:3])}, …"
                )
            if array.shape != mine[name].shape:
                raise FormatError(
                    f"weight {name} has shape {array.shape}; this model needs {mine[name].shape}"
                )
            if isinstance(array, np.ndarray):
                array = np.ascontiguousarray(array, dtype=mine[name].dtype)
            else:
                mine[name].requires_grad = False  # packed: bits cannot be trained
            mine[name].data = array
            missing.discard(name)
        if missing:
            raise FormatError(
                f"{len(missing)} of the model's weights are missing, first {min(missing)}"
            )

    def n_parameters(self, trainable: bool = False) -> int:
        """How many numbers there are, or only those that are trained."""
        return sum(p.size for p in self.parameters() if p.requires_grad or not trainable)


class ModuleList(Module):
    """Modules in order, named 0, 1, 2, …"""

    def __init__(self, modules: list[Module]):
        self.items = modules

    def children(self) -> Iterator[tuple[str, Module]]:
        return ((str(i), m) for i, m in enumerate(self.items))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


class ModuleDict(Module):
    """Modules by name."""

    def __init__(self) -> None:
        self.items: dict[str, Module] = {}

    def children(self) -> Iterator[tuple[str, Module]]:
        return iter(self.items.items())

    def __getitem__(self, name: str) -> Any:
        return self.items[name]

    def __setitem__(self, name: str, module: Module) -> None:
        self.items[name] = module

    def __delitem__(self, name: str) -> None:
        del self.items[name]

    def __contains__(self, name: str) -> bool:
        return name in self.items

    def get(self, name: str, default: Any = None) -> Any:
        """The module of a name, or `default`."""
        return self.items.get(name, default)


class ParameterDict(Module):
    """Parameters by name."""

    def __getitem__(self, name: str) -> Parameter:
        return vars(self)[name]

    def __setitem__(self, name: str, p: Parameter) -> None:
        vars(self)[name] = p

    def __delitem__(self, name: str) -> None:
        del vars(self)[name]

    def __contains__(self, name: str) -> bool:
        return name in vars(self)

    def get(self, name: str, default: Any = None) -> Any:
        """The parameter of a name, or `default`."""
        return vars(self).get(name, default)


class Linear(Module):
    """y = x Wᵀ + b, with weight (out, in) and, if asked for, bias (out,)."""

    def __init__(self, n_in: int, n_out: int, bias: bool = False, dtype: Any = np.float32):
        self.weight = _new((n_out, n_in), dtype)
        self.bias = _new(n_out, dtype) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return ops.linear(x, self.weight)
        return ops.linear(x, self.weight, self.bias)


class Embedding(Module):
    """ids (…) → their rows of weight (V, C)."""

    def __init__(self, n_tokens: int, n_channels: int, dtype: Any = np.float32):
        self.weight = _new((n_tokens, n_channels), dtype)

    def forward(self, ids: np.ndarray) -> Tensor:
        return ops.embedding(self.weight, ids=ids)


class RMSNorm(Module):
    """Each vector to length √C, weighed by weight (C,)."""

    def __init__(self, n_channels: int, eps: float, dtype: Any = np.float32):
        self.weight = _new(n_channels, dtype)
        self.weight.data[:] = 1
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, eps=self.eps)


class Dropout(Module):
    """Silences a share p of the elements, only inside `training(rng)`."""

    def __init__(self, p: float):
        if not 0 <= p < 1:
            raise ConfigError(f"dropout {p} must be at least 0 and below 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        rng = training_rng()
        return x if rng is None or self.p == 0 else ops.dropout(x, p=self.p, rng=rng)
