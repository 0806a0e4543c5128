"""LoRA+: B learns faster than A.

Of an update of B A, what comes of A's move goes through B, and the other way round; while B is
small, as it is at first, A's rate hardly matters and B's does. Hayou et al., arXiv 2402.12354, find
that for wide models both contribute as they should only if B's learning rate is many times A's;
they use 16. The learning rate of A is then usually chosen somewhat lower than LoRA's.
"""

from __future__ import annotations

import math
from typing import Any

from minilora.errors import ConfigError


def loraplus_groups(model: Any, lr: float, ratio: float) -> list[dict[str, Any]]:
    """Groups for AdamW: what is trained, with B at `ratio` times the learning rate of the rest.

        optimizer = AdamW(loraplus_groups(model, lr=1e-3, ratio=16))

    Vectors that are trained besides (norms, biases) go with B, as in PEFT's
    `create_loraplus_optimizer`. Raises ConfigError for a ratio that is not above 0, and if the
    model trains no adapter.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < math.inf:
        raise ConfigError(f"ratio {ratio!r} of B's learning rate to A's must be above 0; try 16")
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not any(".lora_B." in name for name, _ in trained):
        raise ConfigError(
            "LoRA+ needs an adapter that is trained: attach one (get_peft_model), or set_adapter()"
        )
    fast = [p for name, p in trained if ".lora_B." in name or p.ndim == 1]
    slow = [p for name, p in trained if not (".lora_B." in name or p.ndim == 1)]
    return [{"params": slow, "lr": lr}, {"params": fast, "lr": lr * ratio}]
