"""An adapter's settings as PEFT's `adapter_config.json` says them, read and written.

PEFT has more settings than are computed here, and every version has others. A field that is empty
changes nothing; one that is not is computed, or known to change nothing, or refused.
"""

from __future__ import annotations

import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

from minilora.errors import ConfigError, FormatError
from minilora.peft.config import LoraConfig
from minilora.peft.matching import ENDS

_OURS = tuple(f.name for f in fields(LoraConfig) if f.name != "task_type")
# Fields of PEFT's that do not change what an adapter computes.
_IDLE = (
    "peft_type", "task_type", "inference_mode", "revision", "auto_mapping", "peft_version",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_config",
    "megatron_core", "runtime_config", "arrow_config", "qalora_group_size", "ensure_weight_tying",
)  # fmt: skip
# Those that do. What is neither comes from a version that is not known here.
_OTHERS = (
    "alora_invocation_tokens", "fan_in_fan_out", "kasa_config", "layer_replication", "lora_bias",
    "monteclora_config", "target_parameters", "use_bdlora", "use_qalora", "velora_config",
)  # fmt: skip
_EMPTY: tuple[Any, ...] = (None, False, "none", "", {}, [])
# Starts that leave the base as it is: how A and B began does not matter any more.
_PLAIN_STARTS = ("eva", "orthogonal", "mica")


def to_json(config: LoraConfig) -> dict[str, Any]:
    """The fields that PEFT reads."""
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "fan_in_fan_out": False,
        **{name: getattr(config, name) for name in _OURS},
    }
    for name in ("target_modules", "exclude_modules"):
        if isinstance(settings[name], tuple):
            settings[name] = sorted(settings[name])
    return settings


def from_json(settings: dict[str, Any], path: Path) -> LoraConfig:
    """The config of what a file says; `path` is for the messages.

    Warns of fields that no known version of PEFT has, if they are empty. Raises FormatError for
    what would change the result and is not computed here.
    """
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise FormatError(f"{path}: peft_type is {kind!r}; 'LORA' can be opened")
    if "r" not in settings or "lora_alpha" not in settings or not settings.get("target_modules"):
        raise FormatError(f"{path}: r, lora_alpha and target_modules must all be given")
    _check_others(settings, path)
    known = {k: v for k, v in settings.items() if k in _OURS}
    base = known.get("base_model_name_or_path")
    if base is not None and not isinstance(base, str):
        raise FormatError(f"{path}: base_model_name_or_path = {base!r} must be a name or null")
    start = known.get("init_lora_weights", True)
    if start not in (True, False, "gaussian", "pissa"):
        if start not in _PLAIN_STARTS:
            raise FormatError(
                f"{path}: init_lora_weights = {start!r} changes the base's weights, "
                "too; convert the adapter to a plain LoRA when saving it with PEFT"
            )
        known["init_lora_weights"] = True
    trained = str([known.get("target_modules"), known.get("modules_to_save")])
    if settings.get("ensure_weight_tying") and any(end in trained for end in ENDS):
        raise FormatError(
            f"{path}: ensure_weight_tying ties what is trained of embeddings and head, which is "
            "not done here"
        )
    if isinstance(known["target_modules"], str) and known.get("layers_pattern") in _EMPTY:
        known.pop("layers_pattern", None)
    try:
        return LoraConfig(**known)
    except ConfigError as error:
        raise FormatError(f"{path}: {error}") from error


def _check_others(settings: dict[str, Any], path: Path) -> None:
    unknown = []
    for name, value in settings.items():
        if name in _OURS or name in _IDLE:
            continue
        if value not in _EMPTY:
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
