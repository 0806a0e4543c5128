"""PeftModel: a base model, frozen, with one or more adapters attached, of which one is in use.

Which there are and which is in use is said in `adapters.py`, what several do together in
`several.py`; here is what the whole then does: compute, be merged into plain weights, be saved.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from minilora.autograd import Tensor
from minilora.errors import AdapterError, DTypeError, NonFiniteError
from minilora.model import Transformer
from minilora.peft import folder as files
from minilora.peft.adapted import adapted_modules, take_off
from minilora.peft.config import PeftConfig
from minilora.peft.fitting import fingerprint, own_parameters
from minilora.peft.row_wise import current_rows
from minilora.peft.settings import as_written
from minilora.peft.several import SeveralAdapters
from minilora.peft.token_rows import TokenRows
from minilora.quant.linear import packed_weights, unpacked

FLOATS = ("float16", "float32", "float64")


def get_peft_model(
    model: Transformer, config: PeftConfig, adapter_name: str = "default", *, seed: int = 0
) -> PeftModel:
    """Freeze `model` and attach a fresh, trainable adapter to it.

    config   a LoraConfig, or the config of one of its relatives: the method follows from its type
    seed     of the random start

    The model itself is changed: matrices that are adapted get their adapters beside them.
    `merge_and_unload()` and `unload()` give it back as a plain model.
    """
    return PeftModel(model, config, adapter_name, seed=seed)


class PeftModel(SeveralAdapters):
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

    def forward(
        self,
        ids: Any,
        *,
        adapter_names: Sequence[str] | None = None,
        training: bool = False,
        rng: Any = None,
    ) -> Tensor:
        """ids (B, T) → logits (B, T, V) with the active adapter.

        adapter_names   or with one for each row, "__base__" for none (`using`)
        """
        self._check_training(training, adapter_names)
        with self.using(adapter_names, len(ids)):
            return self.model(ids, training=training, rng=rng)

    def hidden(
        self, ids: Any, *, adapter_names: Sequence[str] | None = None, **options: Any
    ) -> Tensor:
        """As `Transformer.hidden`, with the active adapter or those of the rows."""
        with self.using(adapter_names, len(ids)):
            return self.model.hidden(ids, **options)

    def loss(
        self,
        ids: Any,
        labels: Any,
        *,
        adapter_names: Sequence[str] | None = None,
        training: bool = False,
        **options: Any,
    ) -> Tensor:
        """As `Transformer.loss`, with the active adapter or those of the rows."""
        self._check_training(training, adapter_names)
        with self.using(adapter_names, len(ids)):
            return self.model.loss(ids, labels, training=training, **options)

    def merge_adapter(self) -> None:
        """Put the active adapter into the weights: W + (α/r) B A. Costs a copy of those matrices.

        IA³ and BitFit likewise. Raises AdapterError for a method that no weights are equal to
        (virtual tokens, bottlenecks), for weights in few bits and inside `disable_adapter()`,
        NonFiniteError if the adapter holds a NaN, all before anything is changed. A second merge
        warns and changes nothing.
        """
        name = self._active()
        if self._switch.merged:
            warnings.warn(
                f"adapter {name!r} is merged already; nothing was changed. unmerge_adapter() takes "
                "it out",
                stacklevel=2,
            )
            return
        if not self._switch.enabled:
            # What is merged cannot be switched off, and there the model has to be the base.
            raise AdapterError(
                f"adapter {name!r} is switched off by disable_adapter(), inside of which the model "
                "is the base; merge it after that `with` has ended"
            )
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

    def merge_and_unload(self, dtype: Any = None, *, dequantize: bool = False) -> Transformer:
        """The base as a plain model with the active adapter in its weights; adapters are gone.

        dtype        of the weights, e.g. np.float16; None: as they are
        dequantize   weights in few bits become the floats that they stand for, all of them: the
                     adapter was trained beside these, and into bits it cannot be merged

        Raises DTypeError for another dtype, NonFiniteError for a weight that is too large for it,
        and what `merge_adapter` raises. Nothing is changed then.
        """
        if dtype is not None and str(dtype) not in FLOATS and dtype not in map(np.dtype, FLOATS):
            raise DTypeError(f"dtype {dtype} must be one of {', '.join(FLOATS)}")
        packed = packed_weights(self.model)
        if packed and dtype is not None and not dequantize:
            raise AdapterError(
                f"dtype {dtype} is for weights in floats, and {len(packed)} of this base's are "
                "packed; give dequantize=True"
            )
        apart = self._switch.merged is None
        with self._dequantized() if dequantize else nullcontext():
            if apart:
                self.merge_adapter()
            try:
                self._check_range(dtype)
            except NonFiniteError:
                if apart:
                    self.unmerge_adapter()
                raise
        return self._unload(dtype)

    def _check_range(self, dtype: Any) -> None:
        """NonFiniteError naming the first weight that another type would make infinite."""
        for name, p in own_parameters(self.model) if dtype is not None else ():
            with np.errstate(over="ignore"):  # what comes of it is looked at
                lost = np.isfinite(p.data) & ~np.isfinite(p.data.astype(dtype))
            if lost.any():
                largest, most = np.abs(p.data[lost]).max(), float(np.finfo(dtype).max)
                raise NonFiniteError(
                    f"{name} would hold {largest:.3g}, and {np.dtype(dtype)} ends at {most:.3g}; "
                    "nothing was changed. Keep the weights in a wider dtype, or train the adapter "
                    "again, with a lower learning rate"
                )

    @contextmanager
    def _dequantized(self) -> Iterator[None]:
        """Put floats in the place of all bits, to stay; unless it fails inside of this `with`."""
        before = {p: p.data for p in self.model.parameters()}
        try:
            for p in before:
                p.data = unpacked(p.data)
            yield
        except BaseException:
            for p, data in before.items():
                p.data = data
            raise

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
        self._where.clear()
        self._thawed.clear()
        self._switch.active = self._switch.merged = None
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Write each adapter as PEFT does: "default" into the folder, others into folder/NAME.

        One of PiSSA's is written as an ordinary LoRA of rank 2r, which needs nothing but the base;
        a prefix that was learnt through an MLP as what the MLP gives. Bottleneck adapters and
        BitFit, which PEFT has not, are written likewise; PEFT does not open them.
        """
        base = fingerprint(self.model, self._switch)
        packed = ", ".join(sorted({W.data_type for W in packed_weights(self.model).values()}))
        for name, config in self.peft_config.items():
            place = Path(folder) if name == "default" else Path(folder) / name
            weights = {
                f"{files.PREFIX}{path}.{end}": array
                for path, layer in self.adapted(name)
                for end, array in layer.files(name).items()
            }
            files.write_adapter(place, as_written(config), weights, base, packed)

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

    def _check_training(self, training: bool, adapter_names: Any) -> None:
        if training and self._switch.merged:
            raise AdapterError(
                f"adapter {self._switch.merged!r} is merged into the weights, so training would "
                "not reach it; unmerge_adapter() first"
            )
        if training and (adapter_names is not None or current_rows(self._switch)):
            raise AdapterError(
                "adapter_names is for using adapters, not for training them: set_adapter(name), "
                "and train each on its own rows"
            )
