"""An adapter as a folder, in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

Only the adapter is written, some kilobytes; the base is named, not stored. Arrays are called as in
PEFT's files, e.g. `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`, with
A (r, in) and B (out, r); the adapter's own name is not part of it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from minilora.errors import AdapterError, ConfigError, FormatError
from minilora.files.atomic import locate, whole_folder
from minilora.files.json_files import read_json, write_json
from minilora.files.safetensors import read_tensors, write_tensors
from minilora.model import Transformer
from minilora.peft.config import LoraConfig
from minilora.peft.lora import adaptable, check_config

PREFIX = "base_model.model."
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_OURS = (
    "r",
    "lora_alpha",
    "target_modules",
    "lora_dropout",
    "use_rslora",
    "init_lora_weights",
    "bias",
    "base_model_name_or_path",
    "layers_to_transform",
)
# Fields of PEFT's that do not change what an adapter computes.
_IDLE = (
    "peft_type",
    "task_type",
    "inference_mode",
    "revision",
    "auto_mapping",
    "peft_version",
    "loftq_config",
    "eva_config",
    "corda_config",
    "megatron_config",
    "megatron_core",
    "runtime_config",
    "ensure_weight_tying",
    "lora_ga_config",
    "arrow_config",
    "qalora_group_size",
    "layers_pattern",
)
_EMPTY: tuple[Any, ...] = (None, False, "none", {}, [])


def write_adapter(folder: str | Path, config: LoraConfig, weights: dict[str, np.ndarray]) -> None:
    """Write both files, or neither. OSError if the folder cannot be written."""
    targets = config.target_modules
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        **{name: getattr(config, name) for name in _OURS},
        "target_modules": targets if isinstance(targets, str) else sorted(targets),
    }
    with whole_folder(folder) as place:
        write_json(place / _CONFIG, settings)
        write_tensors(place / _WEIGHTS, weights, {"format": "pt"})


def read_adapter(folder: str | Path) -> tuple[LoraConfig, dict[str, np.ndarray]]:
    """The settings and arrays of an adapter's folder.

    Raises FormatError for a folder that is none, files that are damaged, or settings that would
    change the result in a way that is not computed here.
    """
    folder = Path(folder)
    for name in (_CONFIG, _WEIGHTS):
        if not locate(folder, name).is_file():
            pickled = (folder / "adapter_model.bin").is_file()
            hint = (
                "; it has adapter_model.bin, a pickle, which can run code when opened: save it "
                "again with PEFT's save_pretrained(..., safe_serialization=True)"
                if pickled
                else f"; an adapter's folder holds {_CONFIG} and {_WEIGHTS}"
            )
            raise FormatError(f"{folder}: there is no {name} in it{hint}")
    config = _config(read_json(locate(folder, _CONFIG)), folder / _CONFIG)
    return config, read_tensors(locate(folder, _WEIGHTS))


def _config(settings: dict[str, Any], path: Path) -> LoraConfig:
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise FormatError(f"{path}: peft_type is {kind!r}; 'LORA' can be opened")
    if "r" not in settings or "lora_alpha" not in settings or not settings.get("target_modules"):
        raise FormatError(f"{path}: r, lora_alpha and target_modules must all be given")
    known = {k: v for k, v in settings.items() if k in _OURS}
    base = known.get("base_model_name_or_path")
    if base is not None and not isinstance(base, str):
        raise FormatError(f"{path}: base_model_name_or_path = {base!r} must be a name or null")
    for name, value in settings.items():
        if name in _OURS or name in _IDLE or value in _EMPTY:
            continue
        raise FormatError(
            f"{path}: {name} = {value!r} is not computed here, and the adapter would "
            "mean something else without it"
        )
    layers, pattern = known.get("layers_to_transform"), settings.get("layers_pattern")
    if layers is not None and pattern not in (None, "", [], "layers", ["layers"]):
        raise FormatError(f"{path}: layers_pattern = {pattern!r}: the layers are 'layers' here")
    start = known.get("init_lora_weights", True)
    if start not in (True, False, "gaussian", "pissa"):
        if start not in ("eva", "orthogonal"):
            raise FormatError(
                f"{path}: init_lora_weights = {start!r} changes the base's weights, "
                "too; convert the adapter to a plain LoRA when saving it with PEFT"
            )
        known["init_lora_weights"] = True  # how A once started does not matter any more
    try:
        return LoraConfig(**known)
    except ConfigError as error:
        raise FormatError(f"{path}: {error}") from error


def _without_base(
    model: Transformer, weights: dict[str, np.ndarray], folder: str | Path
) -> dict[str, np.ndarray]:
    """Without the base's own matrices, which PEFT writes beside some adapters: must be ours."""
    linears = adaptable(model)
    kept = {}
    for name, array in weights.items():
        path = name.removeprefix(PREFIX).removesuffix(".base_layer.weight")
        if path not in linears or not name.endswith(".base_layer.weight"):
            kept[name] = array
        elif not np.array_equal(array, linears[path].weight.data):
            raise AdapterError(
                f"{folder}: {name} is not this base's {path}; the adapter was made for another one"
            )
    return kept


def check_fit(
    model: Transformer, config: LoraConfig, weights: dict[str, np.ndarray], folder: str | Path
) -> None:
    """AdapterError if an adapter's arrays are not those that this model would need."""
    weights = _without_base(model, weights, folder)
    try:
        # PiSSA takes r directions out of W, and there have to be so many.
        adapted = check_config(model, config, ranks=config.init_lora_weights == "pissa")
    except ConfigError as error:
        raise AdapterError(f"{folder}: {error}") from error
    needed = {}
    for path, linear in adapted.items():
        n_out, n_in = linear.weight.shape
        needed[f"{PREFIX}{path}.lora_A.weight"] = (config.r, n_in)
        needed[f"{PREFIX}{path}.lora_B.weight"] = (n_out, config.r)
    for name in sorted(needed.keys() | weights.keys()):
        if name not in weights:
            raise AdapterError(f"{folder}: {name} is missing; this base needs it {needed[name]}")
        if name not in needed:
            raise AdapterError(f"{folder}: {name} {weights[name].shape} has no place in this base")
        if weights[name].shape != needed[name]:
            raise AdapterError(
                f"{folder}: {name} has shape {weights[name].shape}, but this base needs "
                f"{needed[name]}; was the adapter made for another base?"
            )
        if weights[name].dtype.kind != "f" or not np.isfinite(weights[name]).all():
            raise AdapterError(
                f"{folder}: {name} ({weights[name].dtype}) must hold finite floats, and does not"
            )
    base = config.base_model_name_or_path
    if base and model.base_name and Path(base).name != Path(model.base_name).name:
        warnings.warn(
            f"{folder} was made for the base {base!r}, this is {model.base_name!r}", stacklevel=4
        )
