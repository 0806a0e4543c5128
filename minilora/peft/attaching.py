"""Where in a model an adapter has something, of what kind, and of what shapes.

All of it is known from the settings and the base alone: so what does not fit is refused before
anything is changed, and a file is compared with what this base would need.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora.autograd import Parameter
from minilora.errors import ConfigError, NonFiniteError
from minilora.model import MLP, SelfAttention, Transformer
from minilora.nn import Embedding, Linear, Module, RMSNorm
from minilora.peft import bitfit, bottleneck, ia3, prefix, prompt, token_rows
from minilora.peft.adapted import Switch, own_modules, stand_at
from minilora.peft.config import LoraConfig, PeftConfig
from minilora.peft.embedding import LoraEmbedding
from minilora.peft.lora import LoraLinear, check_config
from minilora.peft.place import Place, Shapes
from minilora.peft.saved_modules import SavedModule
from minilora.peft.token_rows import TokenRows
from minilora.quant.linear import PackedMatrix


def places(
    model: Transformer, config: PeftConfig, *, ranks: bool = True, strict: bool = True
) -> list[Place]:
    """Everything that an adapter of this config needs in this model.

    ranks    refuse a rank above min(out, in)
    strict   refuse names that match nothing even if others match

    Raises ConfigError for what this model has not, and for settings that collide.
    """
    match config:
        case LoraConfig():
            return _lora(model, config, ranks, strict)
        case prompt.PromptTuningConfig():
            return prompt.places(model, config, strict=strict)
        case prefix.PrefixTuningConfig():
            return prefix.places(model, config)
        case bottleneck.BottleneckConfig():
            return bottleneck.places(model, config)
        case ia3.IA3Config():
            return ia3.places(model, config, strict=strict)
        case bitfit.BitFitConfig():
            return bitfit.places(model, config)
    raise ConfigError(
        f"{config!r} is no method's settings; take a LoraConfig, or another config of minilora.peft"
    )


def _lora(model: Transformer, config: LoraConfig, ranks: bool, strict: bool) -> list[Place]:
    modules = dict(own_modules(model))
    targets = check_config(model, config, ranks=ranks, strict=strict)
    found = [_bypass(path, module, config) for path, module in targets.items()]
    found += _saved(modules, config, strict)
    found += _tokens(model, modules, config)
    taken: set[str] = set()
    for place in found:
        inside = [
            p for p in taken if place.path.startswith(f"{p}.") or p.startswith(f"{place.path}.")
        ]
        if place.path in taken and not place.shapes:  # a head that shares the embeddings' table
            raise ConfigError(
                f"{place.path} is meant by target_modules or modules_to_save, and besides by "
                "trainable_token_indices: in this base one array is the embeddings and lm_head, so "
                "tokens are trained in both. Leave one of the two settings out"
            )
        if place.path in taken or inside:
            raise ConfigError(
                f"{place.path} is meant twice: of target_modules, modules_to_save and "
                "trainable_token_indices only one can train a module, or one that it lies in"
            )
        taken.add(place.path)
    return found + _biases(modules, config, taken)


def attach(
    model: Transformer, place: Place, switch: Switch, name: str, rng: np.random.Generator
) -> None:
    """Put an adapter's part into its place."""
    place.put(stand_at(model, place.path, place.kind, switch), name, rng)


def _bypass(path: str, module: Linear | Embedding, config: LoraConfig) -> Place:
    config, (n_out, n_in) = config.at(path), module.weight.shape
    if isinstance(module, Embedding):
        if config.init_lora_weights == "pissa":
            raise ConfigError(
                f"init_lora_weights = 'pissa' is for matrices, not for {path}; exclude it, or "
                "start with True"
            )
        shapes: Shapes = {
            "lora_embedding_A": (config.r, n_out),
            "lora_embedding_B": (n_in, config.r),
        }
        if config.use_dora:
            shapes["lora_magnitude_vector"] = (n_in,)
        return Place(path, LoraEmbedding, shapes, lambda m, name, rng: m.add(name, config, rng))
    if config.init_lora_weights == "pissa" and isinstance(module.weight.data, PackedMatrix):
        raise ConfigError(
            f"init_lora_weights = 'pissa' puts a residual in floats in the place of {path}, which "
            f"is {module.weight.data.data_type} here: nothing of what quantizing saved would be "
            "left. Start with True, or load the base without quantizing it"
        )
    if config.init_lora_weights == "pissa":
        _check_finite(path, module.weight.data)
    shapes = {"lora_A.weight": (config.r, n_in), "lora_B.weight": (n_out, config.r)}
    if config.use_dora:
        shapes["lora_magnitude_vector"] = (n_out,)
    with_bias = config.bias != "none" and module.bias is not None
    if with_bias:
        shapes["base_layer.bias"] = (n_out,)

    def put(layer: LoraLinear, name: str, rng: np.random.Generator) -> None:
        layer.add(name, config, rng)
        if with_bias:
            layer.add_bias(name, config)

    return Place(path, LoraLinear, shapes, put)


def _check_finite(path: str, W: Any) -> None:
    """NonFiniteError for a matrix that has no directions. A shadow's contents nobody knows."""
    if isinstance(W, np.ndarray) and not np.isfinite(W).all():
        raise NonFiniteError(
            f"init_lora_weights = 'pissa' starts from the largest directions of {path}, and this "
            "base's holds numbers that are not finite; load a base that is whole"
        )


def _biases(modules: dict[str, Module], config: LoraConfig, taken: set[str]) -> list[Place]:
    """With bias="all", those of matrices that get nothing else."""
    if config.bias != "all":
        return []
    return [
        Place(
            path,
            LoraLinear,
            {"bias": m.bias.shape},
            lambda layer, name, rng: layer.add_bias(name, config),
        )
        for path, m in modules.items()
        if isinstance(m, Linear)
        and m.bias is not None
        and path not in taken
        and not any(path.startswith(f"{saved}.") for saved in taken)
    ]


def _saved(modules: dict[str, Module], config: LoraConfig, strict: bool) -> list[Place]:
    """Modules that are trained whole. As in PEFT the name is the end of a path, dot or no dot."""
    found = {}
    for name in config.modules_to_save or ():
        named = {path: m for path, m in modules.items() if path and path.endswith(name)}
        if strict and not named:
            ends = sorted({path.rsplit(".", 1)[-1] for path in modules if path})
            raise ConfigError(
                f"modules_to_save: {name!r} matches no module of this model; there are "
                f"{', '.join(end for end in ends if not end.isdecimal())}"
            )
        found.update(named)
    for path, module in found.items():
        if not isinstance(module, Linear | Embedding | RMSNorm | SelfAttention | MLP):
            raise ConfigError(
                f"modules_to_save: {path} is a {type(module).__name__}; a matrix, the embeddings, "
                "a norm, self_attn or mlp can be trained in a copy"
            )
    return [
        Place(
            path,
            SavedModule,
            {name: p.shape for name, p in _parameters(modules, path)},
            lambda m, name, rng: m.add(name, config, rng),
        )
        for path in modules
        if path in found
    ]


def _parameters(modules: dict[str, Module], path: str) -> list[tuple[str, Any]]:
    """The base's parameters at and below a path, by the rest of their names."""
    return [
        (f"{inner}.{name}"[len(path) + 1 :], p)
        for inner, module in modules.items()
        if inner == path or inner.startswith(f"{path}.")
        for name, p in vars(module).items()
        if isinstance(p, Parameter)
    ]


def _tokens(model: Transformer, modules: dict[str, Module], config: LoraConfig) -> list[Place]:
    """Where single tokens are trained; one table for both ends if they are tied and both meant."""
    found = {}
    for end, indices in token_rows.tables(config).items():
        paths = token_rows.readers(modules, end)
        if not paths:
            raise ConfigError(
                f"trainable_token_indices: {end!r} is neither embed_tokens nor lm_head, which "
                "alone have a vector for each token"
            )
        if max(indices) >= model.config.vocab_size:
            raise ConfigError(
                f"trainable_token_indices: there is no token {max(indices)} in a vocabulary of "
                f"{model.config.vocab_size}"
            )
        found.update(dict.fromkeys(paths, indices))
    embedding = "model.embed_tokens"
    tied = model.config.tie_word_embeddings and embedding in found
    tied = tied and found.get("lm_head", found[embedding]) == found[embedding]
    if not tied:
        return [_rows(path, modules[path], config, some) for path, some in found.items()]
    first = _rows(embedding, modules[embedding], config, found[embedding])

    def share(head: TokenRows, name: str, rng: np.random.Generator) -> None:
        table = stand_at(model, embedding, TokenRows, head.switch).trainable_tokens_delta[name]
        head.add(name, config, found[embedding], table)

    return [first, Place("lm_head", TokenRows, {}, share)]


def _rows(path: str, module: Any, config: LoraConfig, indices: tuple[int, ...]) -> Place:
    def put(rows: TokenRows, name: str, rng: np.random.Generator) -> None:
        rows.add(name, config, indices)

    shapes: Shapes = {token_rows.END: (len(indices), module.weight.shape[1])}
    return Place(path, TokenRows, shapes, put)
