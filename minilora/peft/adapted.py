"""A module of the base with adapters beside it, standing where the module stood.

The kinds are `LoraLinear`, `LoraEmbedding`, `TokenRows` and `SavedModule`. What they share is here:
which adapter is in use, what merging puts into the weights, and how to get the weights back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from minilora.autograd import Parameter
from minilora.errors import AdapterError, NonFiniteError
from minilora.nn import Module, ModuleDict, ParameterDict
from minilora.peft.row_wise import Rows, current_rows, put_back, using_rows
from minilora.quant.linear import PackedMatrix, unpacked


@dataclass
class Switch:
    """Which adapter is in use. One object for the whole model, so switching is one assignment.

    active    name of the adapter that is used, or None
    enabled   False inside `disable_adapter()`
    merged    name of the adapter that has been added into the weights, or None
    before    the arrays of before the merge, by the parameters that hold others now
    """

    active: str | None = None
    enabled: bool = True
    merged: str | None = None
    before: dict[Parameter, np.ndarray] = field(default_factory=dict)

    def original(self, p: Parameter) -> np.ndarray:
        """A parameter's array, also while an adapter is merged into it."""
        return self.before.get(p, p.data)


class Adapted(Module):
    """A module of the base, and what adapters put beside it.

    base_layer   the module that was there, frozen; or another Adapted, of lower `depth`
    configs      for each adapter that has something here, its settings for this module
    depth        of two that stand at one place the one with the higher depth stands outside
    """

    depth: ClassVar[int] = 0

    def __init__(self, base: Any, switch: Switch):
        self.base_layer = base
        self.switch = switch
        self.configs: dict[str, Any] = {}

    def in_use(self) -> str | None:
        """The adapter that computes here now, if it has something here.

        Where each row has an adapter of its own: the one that all rows use here, if they agree.
        """
        switch = self.switch
        if not switch.enabled or switch.merged:
            return None
        rows = current_rows(switch)
        if rows is None:
            return switch.active if switch.active in self.configs else None
        groups = rows.groups(self.configs)
        return next(iter(groups)) if len(groups) == 1 else None

    def rows(self) -> Rows | None:
        """What each row uses, if that is not the same here for all of them."""
        rows = current_rows(self.switch) if self.switch.enabled else None
        return rows if rows is not None and len(rows.groups(self.configs)) > 1 else None

    def in_force(self) -> Module:
        """This module, or what it leaves the computing to."""
        alone = self.in_use() is None and self.rows() is None
        return self.base_layer.in_force() if alone else self

    def forward(self, *inputs: Any, **options: Any) -> Any:
        rows = self.rows()
        if rows is not None:
            rows.check(len(inputs[0]))
            return self.by_row(rows, *inputs)
        name = self.in_use()
        if name is None:
            return self.base_layer(*inputs, **options)
        return self.with_adapter(name, *inputs, **options)

    def with_adapter(self, name: str, *inputs: Any, **options: Any) -> Any:
        """What this module computes with an adapter that has something here."""
        raise NotImplementedError(f"{type(self).__name__} must say what an adapter computes")

    def by_row(self, rows: Rows, x: Any) -> Any:
        """The same where rows use different adapters: group by group, each as if alone."""
        pieces = []
        for group in rows.groups(self.configs).values():
            with using_rows(rows.only(group)):
                pieces.append((group, self(x[group])))
        return put_back(pieces)

    def goes_by_row(self, name: str) -> bool:
        """Whether what an adapter has here can be used by some of a batch's rows alone."""
        return False

    def parts(self, name: str) -> dict[str, Parameter]:
        """What an adapter trains here, by the ends of the names that it has in PEFT's files."""
        raise NotImplementedError(f"{type(self).__name__} must say what it trains: parts()")

    def files(self, name: str) -> dict[str, np.ndarray]:
        """What an adapter's file holds of this module."""
        return {end: p.data for end, p in self.parts(name).items()}

    def use_base(self, name: str, W: np.ndarray) -> None:
        """Let an adapter have a matrix of its own in the place of the base's, frozen."""
        raise NotImplementedError(f"{type(self).__name__} has no matrix to be replaced")

    def changed(self, name: str) -> dict[Parameter, np.ndarray]:
        """The base's parameters as merging this adapter would make them, at least in float64."""
        raise NotImplementedError(f"{type(self).__name__} must say what it merges: changed()")

    def merged(self, name: str) -> dict[Parameter, np.ndarray]:
        """The same in the base's type.

        Raises AdapterError for a weight in few bits, NonFiniteError if something would not be
        finite.
        """
        changed = self.changed(name)
        for p in changed:
            _refuse_packed(p, name)
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at
            arrays = {p: array.astype(p.dtype) for p, array in changed.items()}
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise NonFiniteError(
                f"adapter {name!r} would make weights that are not finite; it is not merged, and "
                "the base is untouched. Train it again, with a lower learning rate"
            )
        return arrays

    def merge(self, merged: dict[Parameter, np.ndarray]) -> None:
        """Put arrays in the place of the base's, which are kept: W + ΔW - ΔW is not W."""
        for p, array in merged.items():
            self.switch.before[p], p.data = p.data, array

    def unmerge(self) -> None:
        """The very arrays of before the merge."""
        for p in own(self).parameters():
            p.data = self.switch.before.pop(p, p.data)

    def remove(self, name: str) -> None:
        """Take an adapter's part away."""
        for held in vars(self).values():
            if isinstance(held, ModuleDict | ParameterDict) and name in held:
                del held[name]
        del self.configs[name]


def own(module: Module) -> Module:
    """The base's own module at this place, behind whatever adapters put before it."""
    while isinstance(module, Adapted):
        module = module.base_layer
    return module


def own_modules(module: Module, path: str = "") -> Iterator[tuple[str, Module]]:
    """path → each module of the base, as if there were no adapters."""
    module = own(module)
    yield path, module
    for name, child in module.children():
        yield from own_modules(child, f"{path}.{name}" if path else name)


def adapted_modules(model: Module) -> dict[str, Adapted]:
    """path, as it is now → each module that adapters have been put beside."""
    return {path: m for path, m in model.named_modules() if isinstance(m, Adapted)}


def plain_path(path: str) -> str:
    """The path that an adapted module had before there were adapters."""
    return path.replace(".base_layer", "")


def stand_at(model: Module, path: str, kind: type[Any], switch: Switch) -> Any:
    """The module of this kind at a path of the base, put there if there is none."""
    *above, name = path.split(".")
    holder = own(model)
    for step in above:
        holder = own(dict(holder.children())[step])
    module = getattr(holder, name)
    while isinstance(module, Adapted) and module.depth > kind.depth:
        holder, name, module = module, "base_layer", module.base_layer
    if not isinstance(module, kind):
        module = kind(module, switch)
        setattr(holder, name, module)
    return module


def take_off(model: Module) -> None:
    """The model as it was before there were adapters."""
    for path, module in reversed(adapted_modules(model).items()):
        model.set_submodule(path, module.base_layer)


def trained_copy(module: Module, switch: Switch) -> Module:
    """A module of the base once more, with parameters of its own."""
    twin = copy.copy(own(module))
    for name, value in list(vars(twin).items()):
        if isinstance(value, Parameter):
            setattr(twin, name, Parameter(unpacked(switch.original(value)).copy()))
        elif isinstance(value, Module):
            setattr(twin, name, trained_copy(value, switch))
    return twin


def _refuse_packed(p: Parameter, name: str) -> None:
    """AdapterError for a weight of which only bits are held."""
    if isinstance(p.data, PackedMatrix):
        kind = p.data.data_type
        raise AdapterError(
            f"adapter {name!r} cannot be merged into weights packed as {kind}: what it adds is "
            "mostly smaller than the distance of two levels, and would be rounded away. Keep it "
            "beside the base, as it is; or merge_and_unload(dequantize=True), which merges into "
            "floats"
        )


def only_rounding(layer: Adapted, name: str, change: float, W: np.ndarray) -> bool:
    """Whether a ΔW of size `change` is no more than what DoRA's m or a residual were rounded by.

    Such a ΔW has a fresh adapter of these kinds, though it adds nothing. A pair beside W alone
    means what it adds, however little that is.
    """
    parts = (getattr(layer, part, ()) for part in ("lora_magnitude_vector", "lora_residual"))
    noisy = any(name in part for part in parts)
    return noisy and change <= 4 * np.finfo(W.dtype).eps * float(np.linalg.norm(W))
