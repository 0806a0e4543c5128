"""Which adapters a base has: attaching them, opening them, choosing one, taking them away.

They sit inside the model, beside the modules they adapt, and one `Switch` that they all look at
says which is in use. The base is shared, not copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minilora.errors import AdapterError, ConfigError
from minilora.model import Transformer
from minilora.nn import Module
from minilora.peft import folder as files
from minilora.peft.adapted import Adapted, Switch, adapted_modules, plain_path
from minilora.peft.attaching import attach, places
from minilora.peft.config import PeftConfig
from minilora.peft.fitting import fit
from minilora.peft.lora import LoraLinear
from minilora.peft.row_wise import BASE

# Of a name in UTF-8. File systems take 255, and whoever saves may add something to it.
_LONGEST = 200


class _Tuner(Module):
    """A level that PEFT has between its model and the base; its name is in every path."""

    def __init__(self, model: Transformer):
        self.model = model


class Adapters(Module):
    """A frozen base and its adapters, by name."""

    def __init__(
        self,
        model: Transformer,
        config: PeftConfig | None = None,
        adapter_name: str = "default",
        *,
        seed: int = 0,
    ):
        if adapted_modules(model):
            raise AdapterError(
                "this base has adapters already; add another with peft_model.add_adapter(), or "
                "take them off with peft_model.unload()"
            )
        self.base_model = _Tuner(model)
        self.peft_config: dict[str, Any] = {}
        self._switch = Switch()
        # Kept, so that switching among many adapters does not look through the whole model.
        self._where: dict[str, list[tuple[str, Adapted]]] = {}
        self._thawed: set[str] = set()
        if config is not None:
            self.add_adapter(adapter_name, config, seed=seed)
            self.set_adapter(adapter_name)

    @property
    def model(self) -> Transformer:
        """The base, with the adapters in it."""
        return self.base_model.model

    def get_base_model(self) -> Transformer:
        """The base, with the adapters in it."""
        return self.model

    def layers(self) -> dict[str, LoraLinear]:
        """path → each matrix that has pairs A, B beside it."""
        found = {plain_path(p): m for p, m in adapted_modules(self.model).items()}
        return {p: m for p, m in found.items() if isinstance(m, LoraLinear) and m.lora_A.items}

    def adapted(self, name: str) -> Iterator[tuple[str, Adapted]]:
        """path → each module where an adapter has something."""
        yield from self._where.get(name, ())

    def adapter_weights(self, name: str = "default") -> dict[str, np.ndarray]:
        """An adapter's arrays by their names in PEFT's files, always with the path."""
        self._check_name(name)
        return {
            f"{files.PREFIX}{path}.{end}": p.data
            for path, layer in self.adapted(name)
            for end, p in layer.parts(name).items()
        }

    @property
    def active_adapter(self) -> str | None:
        """The name of the adapter in use."""
        return self._switch.active

    @property
    def active_adapters(self) -> list[str]:
        """The same as a list, of one name or none."""
        return [] if self._switch.active is None else [self._switch.active]

    def add_adapter(self, name: str, config: PeftConfig, *, seed: int = 0) -> None:
        """Attach one more fresh adapter, frozen until `set_adapter(name)`.

        Raises AdapterError for a name that is taken, ConfigError for targets or a rank that this
        model has not, or for a seed that is none.
        """
        self._attach(name, config, seed, own=True)

    def load_adapter(self, folder: str | Path, name: str, *, is_trainable: bool = False) -> None:
        """Attach the adapter of a folder under a name; `set_adapter(name)` makes it the active one.

        Raises FormatError, AdapterError as `from_pretrained`.
        """
        config, weights = files.read_adapter(folder)
        weights = fit(self.model, config, weights, folder, self._switch)
        self._attach(name, config, seed=0, own=False)
        for path, layer in self.adapted(name):
            place = f"{files.PREFIX}{path}."
            for end, p in layer.parts(name).items():
                p.data[:] = weights[place + end]
            if place + "base_layer.weight" in weights:
                layer.use_base(name, weights[place + "base_layer.weight"])
        self._freeze(name, trainable=is_trainable)

    def _attach(self, name: str, config: PeftConfig, seed: int, *, own: bool) -> None:
        """Put an adapter's parts in their places; `own`: not of a file, so held to all rules."""
        self._check_free(name)
        check_seed(seed)
        wanted = places(self.model, config, ranks=own, strict=own)
        if config.base_model_name_or_path is None:
            config = replace(config, base_model_name_or_path=self.model.base_name)
        if not self.peft_config:
            self.model.requires_grad_(False)
        rng = np.random.default_rng(seed)
        for place in wanted:
            attach(self.model, place, self._switch, name, rng)
        self.peft_config[name] = config
        there = adapted_modules(self.model).items()
        self._where[name] = [(plain_path(path), m) for path, m in there if name in m.configs]
        self._thawed.add(name)
        self._freeze(name)

    def set_adapter(self, name: str, *, inference_mode: bool = False) -> None:
        """Use this adapter from now on, and train it (unless `inference_mode`); freeze the others.

        Raises AdapterError for a name that does not exist, and while another one is merged.
        """
        self._check_name(name)
        if self._switch.merged not in (None, name):
            raise AdapterError(
                f"adapter {self._switch.merged!r} is merged into the weights; unmerge_adapter() "
                f"before switching to {name!r}"
            )
        self._switch.active = name
        for other in self._thawed - {name}:
            self._freeze(other)
        self._freeze(name, trainable=not inference_mode)

    def delete_adapter(self, name: str) -> None:
        """Take an adapter away. If it was the active one, the first that is left becomes it."""
        self._check_name(name)
        if self._switch.merged == name:
            raise AdapterError(f"adapter {name!r} is merged; unmerge_adapter() before deleting it")
        for _, layer in self.adapted(name):
            layer.remove(name)
        del self.peft_config[name], self._where[name]
        self._thawed.discard(name)
        if self._switch.active == name:
            self._switch.active = None
            if self.peft_config:
                self.set_adapter(next(iter(self.peft_config)), inference_mode=True)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Inside this `with` the model is the base, bit for bit; an exception ends it too."""
        if self._switch.merged:
            raise AdapterError(
                f"adapter {self._switch.merged!r} is merged into the weights, so it cannot be "
                "switched off; unmerge_adapter() first"
            )
        before, self._switch.enabled = self._switch.enabled, False
        try:
            yield
        finally:
            self._switch.enabled = before

    def _freeze(self, name: str, trainable: bool = False) -> None:
        if not trainable and name not in self._thawed:
            return
        (self._thawed.add if trainable else self._thawed.discard)(name)
        for _, layer in self.adapted(name):
            for p in layer.parts(name).values():
                p.requires_grad = trainable

    def _active(self) -> str:
        if self._switch.active is None:
            raise AdapterError("no adapter is active; set_adapter(name) chooses one")
        return self._switch.active

    def _check_free(self, name: str) -> None:
        if isinstance(name, str) and name in self.peft_config:
            raise AdapterError(
                f"there is an adapter {name!r} already; choose another name, or delete_adapter() it"
            )
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name) or name == BASE:
            # It becomes part of parameters' names, and of a folder's.
            raise AdapterError(
                f"adapter name {name!r} must be of letters, digits, - and _, and not {BASE!r}"
            )
        if (size := len(name.encode())) > _LONGEST:
            raise AdapterError(
                f"adapter name {name[:20]!r}… has {size} bytes; at most {_LONGEST} are allowed, as "
                "it becomes a folder's name: choose a shorter one"
            )

    def _check_name(self, name: str) -> None:
        if not isinstance(name, str) or name not in self.peft_config:
            names = ", ".join(map(repr, self.peft_config)) or "none"
            raise AdapterError(f"there is no adapter {name!r}; there are: {names}")


def check_seed(seed: Any) -> None:
    """ConfigError for what no generator starts from."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ConfigError(f"seed {seed!r} must be a whole number, 0 or more")
