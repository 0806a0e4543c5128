"""An adapter's settings as PEFT's `adapter_config.json` says them, read and written.

PEFT has more settings than are computed here, and every version has others. A field that is empty
changes nothing; one that is not is computed, or known to change nothing, or refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from minilora.errors import ConfigError, FormatError
from minilora.peft import pissa
from minilora.peft.bitfit import BitFitConfig
from minilora.peft.bottleneck import BottleneckConfig
from minilora.peft.config import LoraConfig, PeftConfig
from minilora.peft.ia3 import IA3Config
from minilora.peft.matching import ENDS
from minilora.peft.prefix import PrefixTuningConfig
from minilora.peft.prompt import PromptTuningConfig

_KINDS: dict[str, Any] = {
    config.peft_type: config
    for config in (
        LoraConfig,
        PromptTuningConfig,
        PrefixTuningConfig,
        BottleneckConfig,
        IA3Config,
        BitFitConfig,
    )
}
# Without which a file does not say what it is.
_NEEDED: dict[str, tuple[str, ...]] = {
    "LORA": ("r", "lora_alpha", "target_modules"),
    "PROMPT_TUNING": ("num_virtual_tokens",),
    "PREFIX_TUNING": ("num_virtual_tokens",),
    "BOTTLENECK": ("bottleneck_size", "kind", "nonlinearity"),
    "IA3": ("target_modules", "feedforward_modules"),
}
# Fields of PEFT's that do not change what an adapter computes.
_IDLE = (
    "peft_type", "task_type", "inference_mode", "revision", "auto_mapping", "peft_version",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_config",
    "megatron_core", "runtime_config", "qalora_group_size", "ensure_weight_tying",
)  # fmt: skip
# And of one method's alone: sizes that the arrays have as well, and how it began.
_IDLE_OF: dict[str, tuple[str, ...]] = {
    "PROMPT_TUNING": ("token_dim", "num_attention_heads", "num_layers", "tokenizer_kwargs"),
    "PREFIX_TUNING": ("token_dim", "num_attention_heads", "num_layers"),
    "IA3": ("init_ia3_weights",),
}
# Those that do. What is neither comes from a version that is not known here.
_OTHERS = (
    "alora_invocation_tokens", "arrow_config", "fan_in_fan_out", "kasa_config",
    "layer_replication", "lora_bias", "modules_to_save", "monteclora_config",
    "num_transformer_submodules", "target_parameters", "use_bdlora", "use_qalora", "velora_config",
)  # fmt: skip
# Starts that leave the base as it is: how A and B began does not matter any more.
_PLAIN_STARTS = ("eva", "orthogonal", "mica")


def to_json(config: PeftConfig) -> dict[str, Any]:
    """The fields that PEFT reads."""
    settings: dict[str, Any] = {
        "peft_type": config.peft_type,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        **{name: getattr(config, name) for name in _own(type(config))},
    }
    if isinstance(config, LoraConfig | IA3Config):
        settings["fan_in_fan_out"] = False
    if isinstance(config, PromptTuningConfig) and config.prompt_tuning_init == "TEXT":
        # PEFT opens none that began as a text unless it says by whose tokenizer.
        tokenizer = config.tokenizer_name_or_path or config.base_model_name_or_path
        settings["tokenizer_name_or_path"] = tokenizer or "the base's"
    for name in ("target_modules", "exclude_modules", "feedforward_modules"):  # sets there
        if isinstance(settings.get(name), tuple):
            settings[name] = sorted(settings[name])
    return settings


def as_written(config: PeftConfig) -> PeftConfig:
    """The settings of what is written to a file: PiSSA's as an ordinary LoRA's, a prefix that was
    learnt through an MLP as the plain one that the MLP gives."""
    if isinstance(config, LoraConfig) and config.init_lora_weights == "pissa":
        return pissa.as_plain_config(config)
    return config.plain() if isinstance(config, PrefixTuningConfig) else config


def from_json(settings: dict[str, Any], path: Path) -> PeftConfig:
    """The config of what a file says; `path` is for the messages.

    Warns of fields that no known version of PEFT has, if they are empty. Raises FormatError for
    what would change the result and is not computed here.
    """
    kind = settings.get("peft_type")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise FormatError(f"{path}: peft_type is {kind!r}; {_listed(_KINDS)} can be opened")
    needed = _NEEDED.get(kind, ())
    if not settings.keys() >= set(needed) or not settings.get("target_modules", True):
        raise FormatError(f"{path}: of the kind {kind!r}, {_listed(needed)} must be given")
    _check_others(settings, kind, path)
    known = {k: v for k, v in settings.items() if k in _own(_KINDS[kind])}
    base = known.get("base_model_name_or_path")
    if base is not None and not isinstance(base, str):
        raise FormatError(f"{path}: base_model_name_or_path = {base!r} must be a name or null")
    if kind == "LORA":
        _check_lora(known, path)
    try:
        config = _KINDS[kind](**known)
    except ConfigError as error:
        raise FormatError(f"{path}: {error}") from error
    return as_written(config) if kind == "PREFIX_TUNING" else config


def _own(kind: Any) -> list[str]:
    """The settings that are computed here."""
    return [f.name for f in fields(kind) if f.name != "task_type"]


def _empty(value: Any) -> bool:
    """Whether a field says nothing. A 0 is a number, though to Python it equals False."""
    return value is None or value is False or value in ("none", "", {}, [])


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def ties_the_ends(settings: dict[str, Any]) -> bool:
    """Whether what is trained of embeddings and head shall be one, if the base has one array."""
    trained = str([settings.get("target_modules"), settings.get("modules_to_save")])
    return bool(settings.get("ensure_weight_tying")) and any(end in trained for end in ENDS)


def _check_lora(known: dict[str, Any], path: Path) -> None:
    """FormatError for a start that is not done here; puts `known` in order."""
    start = known.get("init_lora_weights", True)
    if start not in (True, False, "gaussian", "pissa"):
        if start not in _PLAIN_STARTS:
            raise FormatError(
                f"{path}: init_lora_weights = {start!r} changes the base's weights, "
                "too; convert the adapter to a plain LoRA when saving it with PEFT"
            )
        known["init_lora_weights"] = True
    if isinstance(known["target_modules"], str) and _empty(known.get("layers_pattern")):
        known.pop("layers_pattern", None)


def _check_others(settings: dict[str, Any], kind: str, path: Path) -> None:
    unknown = []
    idle = (*_own(_KINDS[kind]), *_IDLE, *_IDLE_OF.get(kind, ()))
    for name, value in settings.items():
        if name in idle:
            continue
        # A decoder is one module with virtual tokens before it; a translator would be two.
        if not _empty(value) and (name, value) != ("num_transformer_submodules", 1):
            raise FormatError(
                f"{path}: {name} = {value!r} is not computed here, and the adapter would "
                "mean something else without it"
            )
        if name not in _OTHERS:
            unknown.append(name)
    if unknown:
        warnings.warn(
            f"{path}: {', '.join(unknown)} of another version of PEFT: not known here, but empty, "
            "so nothing is changed by it",
            stacklevel=6,
        )
