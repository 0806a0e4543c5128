"""What would a step hold, and compute? Known from a config alone, before anything is built.

The step is really taken: the model, the adapters, the optimizer and `train_step` are the library's
own, only the arrays are shadows. The ledger over it is the prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minilora.accounting.ledger import Ledger, ledger
from minilora.accounting.packed import pack_shadows
from minilora.accounting.shadow import books, shadow
from minilora.autograd import Function, Tensor, watch
from minilora.config import ModelConfig
from minilora.errors import ConfigError
from minilora.model import Transformer
from minilora.nn import arrays_by
from minilora.optim import make
from minilora.peft import LoraConfig, PeftConfig, get_peft_model
from minilora.training import train_step


@dataclass(frozen=True)
class Flops:
    """Multiplications and additions of a step's matrix products, and of the update.

    forward            y = x Wᵀ and its like
    backward_through   what carries the gradient on to the layer below (dx); freezing spares none
    backward_weights   what makes the gradients of trained weights (dW); freezing spares it
    update             the optimizer's operations, element by element
    """

    forward: int
    backward_through: int
    backward_weights: int
    update: int

    @property
    def total(self) -> int:
        return self.forward + self.backward_through + self.backward_weights + self.update


@dataclass(frozen=True)
class Prediction:
    """A step that was not computed: its ledger, its parameters, its multiplications."""

    ledger: Ledger
    trainable_parameters: int
    total_parameters: int
    flops: Flops


class _Products:
    """Sorts the matrix products by what they are for, while a tape is made and gone back over."""

    def __init__(self, account: Any):
        self.account, self.seen = account, account.flops
        self.forward = self.through = self.weights = 0
        self.elementwise = 0  # up to the end of backward

    def _new(self) -> int:
        made, self.seen = self.account.flops - self.seen, self.account.flops
        return made

    def recorded(self, op: Function) -> None:
        made = self._new()
        kept = vars(op.saved)
        if type(op).__name__ == "LinearCrossEntropy":
            # It makes its backward's products at once: of as many multiplications as the forward's.
            each = made // (1 + ("dx" in kept) + ("dW" in kept))
            self.through += each * ("dx" in kept)
            self.weights += each * ("dW" in kept)
            made = each
        self.forward += made

    def passed(self, op: Function, gradients: dict[Any, Any]) -> None:
        made = self._new()
        trained = [e for e in op.edges if isinstance(e, Tensor)]
        own = sum(getattr(gradients[e], "product", 0) for e in trained if e in gradients)
        self.weights += min(own, made)
        self.through += made - min(own, made)
        self.elementwise = self.account.elementwise


def predict(
    config: ModelConfig,
    *,
    peft: PeftConfig | None = None,
    lora: LoraConfig | None = None,
    batch_size: int = 1,
    length: int = 2048,
    targets: int | None = None,
    dtype: Any = np.float32,
    accumulate: int = 1,
    checkpointing: bool = False,
    threads: int = 1,
    optimizer: str = "adamw",
    quantize: str | None = None,
    block_size: int = 64,
    double_quant: bool = True,
    labels: np.ndarray | None = None,
) -> Prediction:
    """A training step of that config, as minilora would take it.

    peft      settings of an adapter, of whatever method; None: all weights are trained
    lora      the same, by the name of the method that most of them are of
    threads   that share the rows; with more than one the peak depends on which is how far when
    length    tokens in a row;  targets   those of them with a label; None: all but the first
    optimizer one of `minilora.optim.OPTIMIZERS`
    quantize  what the matrices of the layers are packed as, and how, as for `load_base`; None:
              they are not
    labels    (B, T) of a real batch, in the place of batch_size, length and targets

    Raises ConfigError for sizes that the model has not.
    """
    if labels is None:
        labels = _labels(batch_size, length, length - 1 if targets is None else targets)
    length = labels.shape[1]
    peft = lora if peft is None else peft
    room = config.max_positions - getattr(peft, "num_virtual_tokens", 0)
    if length > room:
        raise ConfigError(f"length {length} is above this model's context {room}")
    ids = np.zeros_like(labels)
    with books() as account, arrays_by(shadow):
        model: Any = Transformer(config, seed=None, dtype=dtype)
        if quantize is not None:
            pack_shadows(model, quantize, block_size, double_quant)
        if peft is not None:
            model = get_peft_model(model, peft)
        model.gradient_checkpointing_enable(checkpointing)
        chosen = make(optimizer, model.parameters())
        products = _Products(account)
        with ledger(model, chosen) as kept, watch(products):
            train_step(model, chosen, ids, labels, accumulate=accumulate, threads=threads)
        flops = Flops(
            products.forward,
            products.through,
            products.weights,
            account.elementwise - products.elementwise,
        )
        return Prediction(kept, model.n_parameters(trainable=True), model.n_parameters(), flops)


def _labels(batch_size: int, length: int, targets: int) -> np.ndarray:
    """Labels (B, T) of which the last `targets` of a row are asked for."""
    for name, value, low in (("batch_size", batch_size, 1), ("length", length, 2)):
        if value < low:
            raise ConfigError(f"{name} {value} must be {low} or more")
    if not 1 <= targets < length:
        raise ConfigError(f"targets {targets} must be from 1 to {length - 1}, one less than length")
    labels = np.full((batch_size, length), -100)
    labels[:, length - targets :] = 0
    return labels
