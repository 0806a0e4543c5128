"""BitFit: train the biases, which are there anyway, and leave every matrix alone.

    y = W x + b          W frozen     b (out,) trained, in a copy

Ben Zaken et al., arXiv 2106.10199. Nothing is added to the model and nothing is slower afterwards;
what is trained can shift each channel, whatever the input. It was made for BERT, which has a bias
at every matrix and norm. **A Llama has none**, unless its config says so; what it has for each
channel are the weights of its norms, which `norms=True` trains as well.

Count        one for each bias: L(H·D + 2·d_kv + C + 2·F + C) if all matrices have one;
             norms (2·L + 1)·C
Kept         nothing for a bias (db is the sum of dy); a norm's input for its weight
Starts       exactly at the base: with copies
Merges       yes: it takes the place of what it is a copy of
Inference    nothing; no context
File         ours: PEFT has no such method and does not open it (LoRA with bias="all" it does)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from minilora.config import ModelConfig
from minilora.errors import ConfigError
from minilora.model import Transformer
from minilora.nn import Linear, RMSNorm
from minilora.peft.adapted import own_modules
from minilora.peft.config import PeftConfig
from minilora.peft.lora import LoraLinear
from minilora.peft.place import Place
from minilora.peft.saved_modules import SavedModule


@dataclass(frozen=True)
class BitFitConfig(PeftConfig):
    """Settings of BitFit.

    biases      train those of matrices, where there are any
    norms       train the weights of norms

    Raises ConfigError naming the value and what is allowed.
    """

    peft_type: ClassVar[str] = "BITFIT"
    biases: bool = True
    norms: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("biases", "norms"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} = {getattr(self, name)!r} must be True or False")
        if not self.biases and not self.norms:
            raise ConfigError("biases = False and norms = False leave nothing to be trained")


def places(model: Transformer, config: BitFitConfig) -> list[Place]:
    """Every matrix with a bias, and the norms if they are meant.

    Raises ConfigError if the model has nothing of the kind.
    """
    found = list(_places(model, config))
    if not found:
        raise ConfigError(
            "this model has no biases, as Llamas have none; BitFitConfig(norms=True) trains the "
            "weights of its norms"
        )
    return found


def _places(model: Transformer, config: BitFitConfig) -> Iterator[Place]:
    for path, m in own_modules(model):
        if isinstance(m, Linear) and m.bias is not None and config.biases:
            yield Place(
                path,
                LoraLinear,
                {"bias": m.bias.shape},
                lambda layer, name, rng: layer.add_bias(name, config),
            )
        if isinstance(m, RMSNorm) and config.norms:
            yield Place(
                path,
                SavedModule,
                {"weight": m.weight.shape},
                lambda layer, name, rng: layer.add(name, config, rng),
            )


def count(config: BitFitConfig, c: ModelConfig) -> int:
    """How many numbers it trains: one for each channel of a bias, and of a norm."""
    C, biases = c.hidden_size, 0
    if config.biases:
        biases += c.attention_bias * (c.n_heads * c.D + 2 * c.K * c.D)
        biases += c.attention_out_bias * C + c.mlp_bias * (2 * c.intermediate_size + C)
    return c.n_layers * biases + config.norms * (2 * c.n_layers + 1) * C
