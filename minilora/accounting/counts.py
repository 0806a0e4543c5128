"""What is there to hold: every array of a model and of what a method adds to it, by its size.

For a Llama nobody counts: the library's own model is built out of shadows, and asked. Of GPT-3,
which is no Llama, each array stands with its formula.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from minilora.accounting.presets import Gpt
from minilora.accounting.shadow import books, shadow
from minilora.config import ModelConfig
from minilora.errors import ConfigError
from minilora.method_names import LORAS
from minilora.methods import Method
from minilora.model import Transformer
from minilora.nn import Linear, arrays_by
from minilora.peft import PeftConfig, get_peft_model
from minilora.peft.config import find_targets


class Array(NamedTuple):
    """One array: how many numbers, whether they are trained, whether QLoRA has it in 4 bits."""

    name: str
    size: int
    trained: bool
    linear: bool = False


def arrays(config: ModelConfig | Gpt, method: Method) -> tuple[Array, ...]:
    """Every array of the model tuned so, each once.

    Raises ConfigError for targets or a rank that the model has not.
    """
    return _arrays(as_key(config), method)


def as_key(config: ModelConfig | Gpt) -> Any:
    """The same sizes, hashable: rotary scaling, a dict, changes none of them."""
    return replace(config, rope_scaling=None) if isinstance(config, ModelConfig) else config


@lru_cache(64)
def _arrays(config: ModelConfig | Gpt, method: Method) -> tuple[Array, ...]:
    trained = method.name == "full"
    if isinstance(config, Gpt):
        of_gpt = _of_gpt(config, trained, bitfit=method.name == "bitfit")
        return (*of_gpt, *_gpt_lora(config, method), *_gpt_added(config, method))
    return tuple(_of_llama(config, method.config))


def _of_llama(config: ModelConfig, peft: PeftConfig | None) -> list[Array]:
    with books(), arrays_by(shadow):
        model: Any = Transformer(config, seed=None)
        matrices = [m.weight for _, m in model.named_modules() if isinstance(m, Linear)]
        linears = {id(W) for W in matrices if W is not model.lm_head.weight}
        if peft is not None:
            model = get_peft_model(model, peft)
        return [
            Array(name, p.size, peft is None or p.requires_grad, id(p) in linears)
            for name, p in model.named_parameters()
        ]


def _gpt_matrices(c: Gpt) -> dict[str, tuple[int, int]]:
    """path → (out, in) of the matrices of all layers, under the names used for a Llama's."""
    d = c.hidden_size
    one = {f"self_attn.{x}_proj": (d, d) for x in "qkvo"}
    one |= {"mlp.up_proj": (4 * d, d), "mlp.down_proj": (d, 4 * d)}
    return {f"layers.{i}.{name}": shape for i in range(c.n_layers) for name, shape in one.items()}


def _of_gpt(c: Gpt, trained: bool, *, bitfit: bool) -> list[Array]:
    d = c.hidden_size
    found = [
        Array("embed_tokens", c.vocab_size * d, trained),
        Array("positions", c.max_positions * d, trained),
        Array("norms", (2 * c.n_layers + 1) * 2 * d, trained or bitfit),
    ]
    for path, (n_out, n_in) in _gpt_matrices(c).items():
        found.append(Array(f"{path}.weight", n_out * n_in, trained, linear=True))
        found.append(Array(f"{path}.bias", n_out, trained or bitfit))
    return found


def _gpt_lora(c: Gpt, method: Method) -> list[Array]:
    if method.name not in LORAS:
        return []
    lora, shapes = method.config, _gpt_matrices(c)
    for name in ("modules_to_save", "trainable_token_indices"):
        if getattr(lora, name):
            raise ConfigError(f"{name} is counted for models of the Llama family alone")
    chosen = find_targets(
        shapes,
        lora.target_modules,
        lora.layers_to_transform,
        layers_pattern=lora.layers_pattern,
        exclude=lora.exclude_modules,
    )
    found = []
    for path in chosen:
        r, (n_out, n_in) = lora.at(path).r, shapes[path]
        if r > c.hidden_size:
            raise ConfigError(f"rank {r} is above min(out, in) = {c.hidden_size} of its matrices")
        found.append(Array(f"{path}.lora", r * (n_out + n_in), True))
        if lora.use_dora:
            found.append(Array(f"{path}.magnitude", n_out, True))
    if lora.bias != "none":
        biased = shapes if lora.bias == "all" else chosen
        found += [Array(f"{path}.trained_bias", shapes[path][0], True) for path in biased]
    if lora.init_lora_weights == "pissa":
        found += [Array(f"{path}.residual", math.prod(shapes[path]), False) for path in chosen]
    return found


def _gpt_added(c: Gpt, method: Method) -> list[Array]:
    """What prompt, prefix, bottleneck adapters and IA³ train; nothing for the others."""
    d, p, m = c.hidden_size, method.tokens, method.bottleneck
    if method.name == "prompt":
        return [Array("prompt", p * d, True)]
    layers = range(c.n_layers)
    if method.name == "prefix":
        return [Array(f"layers.{i}.prefix", 2 * p * kv_size(c), True) for i in layers]
    if method.name == "ia3":
        each = 2 * kv_size(c) + 4 * d  # of keys and values, and of the MLP's inner vectors
        return [Array(f"layers.{i}.ia3", each, True) for i in layers]
    if method.name == "adapter":
        places = ("self_attn", "mlp")
        each = 2 * d * m + m + d
        return [Array(f"layers.{i}.{at}.adapter", each, True) for i in layers for at in places]
    return []


def kv_size(c: ModelConfig | Gpt) -> int:
    """d_kv: channels of a layer's keys, of all their heads together."""
    return c.kv_size if isinstance(c, Gpt) else c.K * c.D


def keeps_input(config: ModelConfig, method: Method) -> set[str]:
    """The matrices of a layer (`q_proj`, …) whose input backward needs: those that are trained,
    or that have a bypass, in any layer."""
    return {
        match[1]
        for array in arrays(config, method)
        if array.trained and (match := re.search(r"\.(\w+_proj)\.", array.name))
    }
