"""An optimizer by the name that one writes after `--optimizer`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from minilora.errors import ConfigError
from minilora.optim.adamw import AdamW
from minilora.optim.eight_bit import AdamW8bit
from minilora.optim.paged import PagedAdamW

OPTIMIZERS = {"adamw": AdamW, "adamw-8bit": AdamW8bit, "adamw-paged": PagedAdamW}


def make(name: str, parameters: Iterable[Any], lr: float = 1e-3, **settings: Any) -> AdamW:
    """The optimizer of that name over parameters, or groups of them.

    Raises ConfigError for an unknown name.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"optimizer {name!r} is not one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name](parameters, lr=lr, **settings)
