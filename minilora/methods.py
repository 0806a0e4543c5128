"""Methods by name: what `--method` offers, and what each makes of a base.

A method is how the base is kept, and what is trained beside it. Commands and experiments say
`method.load(base)` and `method.attach(model)`, and know no more of it than its name.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from minilora import peft
from minilora.bases import is_packed, load_base
from minilora.errors import ConfigError
from minilora.method_names import LABELS, METHODS, VIRTUAL
from minilora.model import Transformer
from minilora.peft import LoraConfig
from minilora.peft.virtual import check_room
from minilora.quant.linear import packed_weights


@dataclass(frozen=True)
class Method:
    """How a model is tuned.

    name         full: all weights;  lora: pairs A, B beside matrices (arXiv 2106.09685)
                 qlora: the same beside a base in 4 bits (arXiv 2305.14314)
                 dora: the same, and each row's length apart (arXiv 2402.09353)
                 prompt: learnt vectors before the text, p·d (arXiv 2104.08691)
                 prefix: learnt keys and values before those of every layer, 2·L·p·d_kv
                 (arXiv 2101.00190)
                 adapter: a bottleneck behind attention and behind the MLP of every layer, each
                 2dm + m + d (arXiv 1902.00751)
                 ia3: keys, values and the MLP's inner vectors scaled (arXiv 2205.05638)
                 bitfit: biases, where there are any, and norms (arXiv 2106.10199)
    lora         settings of lora, qlora and dora
    tokens       p;  bottleneck  m

    Raises ConfigError for an unknown name and sizes below 1.
    """

    name: str = "full"
    lora: LoraConfig = field(default_factory=LoraConfig)
    tokens: int = 20
    bottleneck: int = 64

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise ConfigError(f"method {self.name!r} is not one of {', '.join(METHODS)}")
        for name in ("tokens", "bottleneck"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} must be a whole number from 1")

    @property
    def label(self) -> str:
        """The name as people write it."""
        return LABELS[self.name]

    @property
    def config(self) -> Any:
        """What `get_peft_model` is given; None for full fine-tuning."""
        makes = {
            "lora": lambda: self.lora,
            "qlora": lambda: self.lora,
            "dora": lambda: replace(self.lora, use_dora=True),
            "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=self.tokens),
            "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=self.tokens),
            "adapter": lambda: peft.BottleneckConfig(bottleneck_size=self.bottleneck),
            "ia3": lambda: peft.IA3Config(),
            "bitfit": lambda: peft.BitFitConfig(norms=True),
        }
        return makes[self.name]() if self.name in makes else None

    @property
    def context(self) -> int:
        """Places of the context that it takes from the text."""
        return self.tokens if self.name in VIRTUAL else 0

    @property
    def quantize(self) -> str | None:
        """The format in which the base's matrices are kept; None: as they are."""
        return "nf4" if self.name == "qlora" else None

    def load(self, base: str) -> Transformer:
        """A base as this method keeps it. A folder that is in few bits already comes as it is."""
        return load_base(base, quantize=None if is_packed(base) else self.quantize)

    def check_room(self, context: int) -> None:
        """ConfigError if it leaves no place for a text in so many tokens."""
        if self.context:
            check_room(self.config, context)

    def check(self, model: Transformer) -> None:
        """ConfigError if this method cannot tune such a base: bits have no gradient."""
        self.check_room(model.config.max_positions)
        packed = packed_weights(model)
        if self.name == "full" and packed:
            next(iter(packed.values())).refuse_gradient()

    def attach(self, model: Transformer, *, seed: int = 0) -> Any:
        """What is trained, put beside a base; the base itself for full fine-tuning.

        Raises ConfigError for what `check` refuses.
        """
        self.check(model)
        return model if self.config is None else peft.get_peft_model(model, self.config, seed=seed)


# A method's learning rate where none is given, as a multiple of LoRA's: about what the best rates
# of `minilora experiment relatives` are of that of LoRA with r = 8.
RATES = {"prompt": 10.0, "prefix": 30.0, "adapter": 1.0, "ia3": 10.0, "bitfit": 10.0}


def rate(name: str, lr: float, lr_full: float) -> float:
    """The learning rate of a method, from LoRA's and from that of full fine-tuning."""
    return lr_full if name == "full" else lr * RATES.get(name, 1.0)
