"""PeftModel: a base model, frozen, with one or more adapters attached, of which one is in use.

Which there are and which is in use is said in `adapters.py`; here is what the whole then does:
compute, be merged into plain weights, be saved.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from minilora.autograd import Tensor
from minilora.errors import AdapterError, DTypeError
from minilora.model import Transformer
from minilora.peft import folder as files
from minilora.peft import pissa
from minilora.peft.adapted import adapted_modules, take_off
from minilora.peft.adapters import Adapters
from minilora.peft.config import LoraConfig
from minilora.peft.fitting import fingerprint
from minilora.peft.token_rows import TokenRows

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


class PeftModel(Adapters):
    """A frozen base with adapters. Call it, and ask for its loss, as one does with the base."""

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

    def merge_adapter(self) -> None:
        """Put the active adapter into the weights: W + (α/r) B A. Costs a copy of those matrices.

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
        self._check_tied(name)
        merged = [(layer, layer.merged(name)) for _, layer in self.adapted(name)]  # may refuse
        for layer, arrays in merged:
            layer.merge(arrays)
        self._switch.merged = name

    def _check_tied(self, name: str) -> None:
        """AdapterError if one array is the embeddings and the head, and only one is adapted."""
        if not self.config.tie_word_embeddings:
            return
        ends = {p: m for p, m in self.adapted(name) if p in ("model.embed_tokens", "lm_head")}
        one_table = any(isinstance(m, TokenRows) and name in m.tied for m in ends.values())
        if ends and not one_table:
            only = ", ".join(ends)
            raise AdapterError(
                f"adapter {name!r} adapts {only}, in this base one array is the embeddings and "
                "lm_head: merging would change both how tokens are read and how they are scored. "
                "Use it unmerged"
            )

    def unmerge_adapter(self) -> None:
        """Put the weights of before the merge back: the very same bits."""
        if not self._switch.merged:
            warnings.warn("no adapter is merged; nothing was changed", stacklevel=2)
            return
        for layer in adapted_modules(self.model).values():
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
        take_off(model)
        self._switch.before.clear()
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
        base = fingerprint(self.model, self._switch)
        for name, config in self.peft_config.items():
            place = Path(folder) if name == "default" else Path(folder) / name
            if config.init_lora_weights == "pissa":
                config = pissa.as_plain_config(config)
            weights = {
                f"{files.PREFIX}{path}.{end}": array
                for path, layer in self.adapted(name)
                for end, array in layer.files(name).items()
            }
            files.write_adapter(place, config, weights, base)

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

    def _check_unmerged(self, training: bool) -> None:
        if training and self._switch.merged:
            raise AdapterError(
                f"adapter {self._switch.merged!r} is merged into the weights, so training would "
                "not reach it; unmerge_adapter() first"
            )
