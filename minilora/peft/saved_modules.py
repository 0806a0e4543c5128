"""Modules that are trained whole, in a copy that belongs to the adapter: `modules_to_save`.

For what no thin bypass can do: a head for new tokens, the norms. The copy is used instead of the
module while the adapter is on; the module itself stays as it is. A file holds the copy under the
module's own names, so it grows by the module's size.

In a model whose head is its embeddings' array (`tie_word_embeddings`) a copy of one of them is a
copy of that one alone, as in PEFT: from then on they differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora.autograd import Parameter
from minilora.model import SelfAttention
from minilora.nn import Module, ModuleDict
from minilora.peft.adapted import Adapted, Switch, own, trained_copy
from minilora.peft.config import PeftConfig


class SavedModule(Adapted):
    """A module of which adapters hold trained copies. Takes its place in the model.

    modules_to_save   for each adapter's name its copy
    """

    depth = 2

    def __init__(self, base: Module, switch: Switch):
        super().__init__(base, switch)
        self.modules_to_save = ModuleDict()

    def add(self, name: str, config: PeftConfig, rng: np.random.Generator) -> None:
        """Copy the module for an adapter."""
        self.configs[name] = config
        self.modules_to_save[name] = trained_copy(self.base_layer, self.switch)

    def in_force(self) -> Module:
        name = self.in_use()
        return super().in_force() if name is None else self.modules_to_save[name]

    def with_adapter(self, name: str, *inputs: Any, **options: Any) -> Any:
        return self.modules_to_save[name](*inputs, **options)

    def goes_by_row(self, name: str) -> bool:
        # Attention's keys and values are kept for the whole batch; the others take rows as they
        # come.
        return not isinstance(own(self), SelfAttention)

    def parts(self, name: str) -> dict[str, Parameter]:
        return dict(self.modules_to_save[name].named_parameters())

    def changed(self, name: str) -> dict[Parameter, np.ndarray]:
        base = dict(_own_parameters(self.base_layer))
        return {base[end]: p.data for end, p in self.parts(name).items()}


def _own_parameters(module: Module, path: str = "") -> Any:
    """The parameters of the base's own module, by name, behind the adapters in it."""
    module = own(module)
    for name, value in vars(module).items():
        if isinstance(value, Parameter):
            yield f"{path}{name}", value
    for name, child in module.children():
        yield from _own_parameters(child, f"{path}{name}.")
