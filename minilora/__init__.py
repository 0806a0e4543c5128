"""minilora: fine-tuning of language models from scratch in NumPy.

    import minilora

    base = minilora.load_base("skills")
    config = minilora.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    model = minilora.get_peft_model(base, config)
    optimizer = minilora.AdamW(model.parameters(), lr=5e-3)
    loss = minilora.train_step(model, optimizer, ids, labels)

Names are imported when they are first used, so that `import minilora` takes no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "minilora.accounting.ledger": ["ledger"],
    "minilora.accounting.predict": ["predict"],
    "minilora.autograd": [
        "Function",
        "Parameter",
        "Tensor",
        "backward",
        "gradcheck",
        "no_grad",
        "tape",
    ],
    "minilora.bases": ["load_base", "save_base"],
    "minilora.config": ["ModelConfig"],
    "minilora.data.skills": ["example_prompt"],
    "minilora.diagnosing": ["doctor"],
    "minilora.errors": ["MiniloraError"],
    "minilora.evaluation": ["exact_match", "mean_nll"],
    "minilora.experiments.tape_figure": ["draw_tape"],
    "minilora.generation": ["generate", "stream"],
    "minilora.inspecting": ["inspect_adapter"],
    "minilora.model": ["Transformer"],
    "minilora.optim": ["AdamW", "AdamW8bit", "PagedAdamW", "Schedule"],
    "minilora.peft": [
        "BitFitConfig",
        "BottleneckConfig",
        "IA3Config",
        "LoraConfig",
        "PeftModel",
        "PrefixTuningConfig",
        "PromptTuningConfig",
        "get_peft_model",
    ],
    "minilora.training": ["train", "train_step"],
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

if TYPE_CHECKING:
    from minilora.accounting.ledger import ledger
    from minilora.accounting.predict import predict
    from minilora.autograd import (
        Function,
        Parameter,
        Tensor,
        backward,
        gradcheck,
        no_grad,
        tape,
    )
    from minilora.bases import load_base, save_base
    from minilora.config import ModelConfig
    from minilora.data.skills import example_prompt
    from minilora.diagnosing import doctor
    from minilora.errors import MiniloraError
    from minilora.evaluation import exact_match, mean_nll
    from minilora.experiments.tape_figure import draw_tape
    from minilora.generation import generate, stream
    from minilora.inspecting import inspect_adapter
    from minilora.model import Transformer
    from minilora.optim import AdamW, AdamW8bit, PagedAdamW, Schedule
    from minilora.peft import (
        BitFitConfig,
        BottleneckConfig,
        IA3Config,
        LoraConfig,
        PeftModel,
        PrefixTuningConfig,
        PromptTuningConfig,
        get_peft_model,
    )
    from minilora.training import train, train_step

__all__ = [
    "AdamW",
    "AdamW8bit",
    "BitFitConfig",
    "BottleneckConfig",
    "Function",
    "IA3Config",
    "LoraConfig",
    "MiniloraError",
    "ModelConfig",
    "PagedAdamW",
    "Parameter",
    "PeftModel",
    "PrefixTuningConfig",
    "PromptTuningConfig",
    "Schedule",
    "Tensor",
    "Transformer",
    "backward",
    "doctor",
    "draw_tape",
    "exact_match",
    "example_prompt",
    "generate",
    "get_peft_model",
    "gradcheck",
    "inspect_adapter",
    "ledger",
    "load_base",
    "mean_nll",
    "no_grad",
    "predict",
    "save_base",
    "stream",
    "tape",
    "train",
    "train_step",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'minilora' has no attribute {name!r}")
    # Whoever meets a Tensor meets its arithmetic, too.
    importlib.import_module("minilora.ops")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
