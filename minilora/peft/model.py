"""PeftModel: a base model, frozen, with one or more adapters attached, of which one is in use.

The adapters sit inside the model, beside the matrices they adapt; this class attaches them, says
which is in use, and speaks for all of them at once. The base is shared, not copied.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minilora.autograd import Tensor
from minilora.errors import AdapterError, DTypeError
from minilora.model import Transformer
from minilora.nn import Module
from minilora.peft import folder as files
from minilora.peft import pissa
from minilora.peft.config import LoraConfig
from minilora.peft.lora import LoraLinear, Switch, check_config

FLOATS = ("float16", "float32", "float64")


def get_peft_model(
    model: Transformer, config: LoraConfig, adapter_name: str = "default", *, seed: int = 0
) -> PeftModel:
    """Freeze `model` and attach a fresh, trainable adapter to it.

    seed   of the random A

    The model itself is changed: matrices that are adapted get their adapters beside them.
    `merge_and_unload()` and `unload()` give it back as a plain model.
    """
    return PeftModel(model, config, adapter_name, seed=seed)


class _Tuner(Module):
    """A level that PEFT has between its model and the base; its name is in every path."""

    def __init__(self, model: Transformer):
        self.model = model


class PeftModel(Module):
    """A frozen base with adapters. Call it, and ask for its loss, as one does with the base."""

    def __init__(
        self,
        model: Transformer,
        config: LoraConfig | None = None,
        adapter_name: str = "default",
        *,
        seed: int = 0,
    ):
        if any(isinstance(m, LoraLinear) for _, m in model.named_modules()):
            raise AdapterError(
                "this base has adapters already; add another with peft_model.add_adapter(), or "
                "take them off with peft_model.unload()"
            )
        self.base_model = _Tuner(model)
        self.peft_config: dict[str, LoraConfig] = {}
        self._switch = Switch()
        if config is not None:
            self.add_adapter(adapter_name, config, seed=seed)
            self.set_adapter(adapter_name)

    @classmethod
    def from_pretrained(
        cls,
        model: Transformer,
        folder: str | Path,
        adapter_name: str = "default",
        *,
        is_trainable: bool = False,
    ) -> PeftModel:
        """Attach the adapter of a folder that minilora or PEFT has saved, and use it.

        is_trainable   False: frozen, for use; True: to go on training it

        Raises FormatError for a folder that is none or damaged, AdapterError for an adapter that
        does not fit this base. The base is then as it was.
        """
        peft = cls(model)
        peft.load_adapter(folder, adapter_name)
        peft.set_adapter(adapter_name, inference_mode=not is_trainable)
        return peft

    @property
    def model(self) -> Transformer:
        """The base, with the adapters in it."""
        return self.base_model.model

    def get_base_model(self) -> Transformer:
        """The base, with the adapters in it."""
        return self.model

    def __getattr__(self, name: str) -> Any:
        # What a PeftModel has not, its base has: config, tokenizer, hidden, lm_head, dtype.
        if name == "base_model" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.base_model.model, name)

    def forward(self, ids: Any, *, training: bool = False, rng: Any = None) -> Tensor:
        """ids (B, T) → logits (B, T, V) with the active adapter."""
        self._check_unmerged(training)
        return self.model(ids, training=training, rng=rng)

    def loss(self, ids: Any, labels: Any, *, training: bool = False, **options: Any) -> Tensor:
        """As `Transformer.loss`, with the active adapter."""
        self._check_unmerged(training)
        return self.model.loss(ids, labels, training=training, **options)

    def layers(self) -> dict[str, LoraLinear]:
        """path → each matrix that has adapters beside it."""
        return {p: m for p, m in self.model.named_modules() if isinstance(m, LoraLinear)}

    @property
    def active_adapter(self) -> str | None:
        """The name of the adapter in use."""
        return self._switch.active

    def add_adapter(self, name: str, config: LoraConfig, *, seed: int = 0) -> None:
        """Attach one more fresh adapter, frozen until `set_adapter(name)`.

        Raises AdapterError for a name that is taken, ConfigError for targets or a rank that this
        model has not.
        """
        self._attach(name, config, seed, check_ranks=True)

    def load_adapter(self, folder: str | Path, name: str, *, is_trainable: bool = False) -> None:
        """Attach the adapter of a folder under a name; `set_adapter(name)` makes it the active one.

        Raises FormatError, AdapterError as `from_pretrained`.
        """
        config, weights = files.read_adapter(folder)
        files.check_fit(self.model, config, weights, folder)
        self._attach(name, config, seed=0, check_ranks=False)
        for key, mine in self.adapter_weights(name).items():
            mine[:] = weights[key]
        self._freeze(name, trainable=is_trainable)

    def _attach(self, name: str, config: LoraConfig, seed: int, *, check_ranks: bool) -> None:
        if name in self.peft_config:
            raise AdapterError(
                f"there is an adapter {name!r} already; choose another name, or delete_adapter() it"
            )
        if not re.fullmatch(r"[\w-]+", name):
            # It becomes part of parameters' names, and of a folder's.
            raise AdapterError(f"adapter name {name!r} must be of letters, digits, - and _")
        linears = check_config(self.model, config, ranks=check_ranks)
        if config.base_model_name_or_path is None:
            config = replace(config, base_model_name_or_path=self.model.base_name)
        if not self.peft_config:
            self.model.requires_grad_(False)
        rng = np.random.default_rng(seed)
        for path, linear in linears.items():
            layer = self.model.get_submodule(path)
            if not isinstance(layer, LoraLinear):
                layer = LoraLinear(linear, self._switch)
                self.model.set_submodule(path, layer)
            layer.add(name, config, rng)
        self.peft_config[name] = config
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
        for other in self.peft_config:
            self._freeze(other, trainable=other == name and not inference_mode)

    def delete_adapter(self, name: str) -> None:
        """Take an adapter away. If it was the active one, the first that is left becomes it."""
        self._check_name(name)
        if self._switch.merged == name:
            raise AdapterError(f"adapter {name!r} is merged; unmerge_adapter() before deleting it")
        for layer in self.layers().values():
            if name in layer.configs:
                layer.remove(name)
        del self.peft_config[name]
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

    def merge_adapter(self) -> None:
        """Add the active adapter into the weights: W + (α/r) B A. Costs a copy of those matrices.

        Raises NonFiniteError, before anything is changed, if the adapter holds a NaN. A second
        merge warns and changes nothing.
        """
        name = self._active()
        if self._switch.merged:
            warnings.warn(
                f"adapter {name!r} is merged already; nothing was changed. unmerge_adapter() takes "
                "it out",
                stacklevel=2,
            )
            return
        layers = {path: layer for path, layer in self.layers().items() if name in layer.configs}
        if self.config.tie_word_embeddings and "lm_head" in layers:
            raise AdapterError(
                f"adapter {name!r} adapts lm_head, in this base the same array as the embeddings: "
                "merging would change how tokens are read, too. Use it unmerged"
            )
        merged = {path: layer.merged(name) for path, layer in layers.items()}  # may refuse
        for path, layer in layers.items():
            layer.merge(merged[path])
        self._switch.merged = name

    def unmerge_adapter(self) -> None:
        """Put the weights of before the merge back: the very same bits."""
        if not self._switch.merged:
            warnings.warn("no adapter is merged; nothing was changed", stacklevel=2)
            return
        for layer in self.layers().values():
            layer.unmerge()
        self._switch.merged = None

    def merge_and_unload(self, dtype: Any = None) -> Transformer:
        """The base as a plain model with the active adapter in its weights; adapters are gone.

        dtype   of the weights, e.g. np.float16; None: as they are
        """
        if dtype is not None and str(dtype) not in FLOATS and dtype not in map(np.dtype, FLOATS):
            raise DTypeError(f"dtype {dtype} must be one of {', '.join(FLOATS)}")
        if self._switch.merged is None:
            self.merge_adapter()
        return self._unload(dtype)

    def unload(self) -> Transformer:
        """The base as the plain model it was, though frozen still; adapters are gone."""
        if self._switch.merged:
            self.unmerge_adapter()
        return self._unload(None)

    def _unload(self, dtype: Any) -> Transformer:
        model = self.model
        for path, layer in self.layers().items():
            model.set_submodule(path, layer.base_layer)
        if dtype is not None:
            for p in model.parameters():
                p.data = p.data.astype(dtype)
        self.peft_config.clear()
        self._switch.active = self._switch.merged = None
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Write each adapter as PEFT does: "default" into the folder, others into folder/NAME.

        One of PiSSA's is written as an ordinary LoRA of rank 2r, which needs nothing but the base.
        """
        for name, config in self.peft_config.items():
            place = Path(folder) if name == "default" else Path(folder) / name
            if config.init_lora_weights == "pissa":
                config = pissa.as_plain_config(config)
            weights = {
                f"{files.PREFIX}{path}.{part}.weight": array
                for path, layer in self.layers().items()
                if name in layer.configs
                for part, array in zip(("lora_A", "lora_B"), layer.pair(name), strict=True)
            }
            files.write_adapter(place, config, weights)

    def adapter_weights(self, name: str = "default") -> dict[str, np.ndarray]:
        """An adapter's arrays by their names in PEFT's files."""
        self._check_name(name)
        return {
            f"{files.PREFIX}{path}.{part}.weight": getattr(layer, part)[name].weight.data
            for path, layer in self.layers().items()
            if name in layer.configs
            for part in ("lora_A", "lora_B")
        }

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """How many numbers are trained, and how many there are, adapters and residuals included."""
        return self.n_parameters(trainable=True), self.n_parameters()

    def print_trainable_parameters(self) -> None:
        """The line that PEFT prints."""
        trained, every = self.get_nb_trainable_parameters()
        print(
            f"trainable params: {trained:,d} || all params: {every:,d} || "
            f"trainable%: {100 * trained / every:.4f}"
        )

    def _freeze(self, name: str, trainable: bool = False) -> None:
        for layer in self.layers().values():
            if name in layer.configs:
                layer.lora_A[name].requires_grad_(trainable)
                layer.lora_B[name].requires_grad_(trainable)

    def _active(self) -> str:
        if self._switch.active is None:
            raise AdapterError("no adapter is active; set_adapter(name) chooses one")
        return self._switch.active

    def _check_name(self, name: str) -> None:
        if name not in self.peft_config:
            names = ", ".join(map(repr, self.peft_config)) or "none"
            raise AdapterError(f"there is no adapter {name!r}; there are: {names}")

    def _check_unmerged(self, training: bool) -> None:
        if training and self._switch.merged:
            raise AdapterError(
                f"adapter {self._switch.merged!r} is merged into the weights, so training would "
                "not reach it; unmerge_adapter() first"
            )
