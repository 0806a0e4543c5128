"""LoraConfig: how wide the bypass is, how loud, and beside which matrices."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from minilora.errors import ConfigError

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoraConfig:
    """Settings of a LoRA adapter, under PEFT's names and with PEFT's defaults.

    r                  rank: how many numbers a vector is squeezed to on its way through the bypass
    lora_alpha         loudness: the bypass is scaled by lora_alpha / r …
    use_rslora         … or by lora_alpha / √r (arXiv 2312.03732)
    target_modules     names such as "q_proj" (the end of a path is enough), a regular expression
                       for the whole path, or "all-linear": all matrices but the head's
    lora_dropout       share of the bypass's inputs silenced in training, in [0, 1)
    init_lora_weights  True: A Kaiming-uniform, B zero; "gaussian": A normal with deviation 1/r,
                       B zero; False: both Kaiming-uniform, so that the start is not the base;
                       "pissa": W's largest directions (`pissa.py`; costs a copy of what is adapted)
    bias               "none": biases stay frozen
    task_type          "CAUSAL_LM", the only one
    base_model_name_or_path   set when the adapter is attached; for the reader of its folder
    layers_to_transform   number or numbers of the layers, from 0, in which the matrices that
                       `target_modules` lists are adapted; None: in all

    Raises ConfigError naming the value and what is allowed.
    """

    r: int = 8
    lora_alpha: float = 8
    target_modules: str | Sequence[str] = ("q_proj", "v_proj")
    lora_dropout: float = 0.0
    use_rslora: bool = False
    init_lora_weights: bool | Literal["gaussian", "pissa"] = True
    bias: Literal["none"] = "none"
    base_model_name_or_path: str | None = None
    task_type: str | None = "CAUSAL_LM"
    layers_to_transform: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.r, np.integer):  # out of an array of ranks, say
            object.__setattr__(self, "r", int(self.r))
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise ConfigError(f"rank r = {self.r!r} must be a whole number from 1")
        if isinstance(self.lora_alpha, np.integer | np.floating):
            object.__setattr__(self, "lora_alpha", self.lora_alpha.item())
        if self.task_type not in ("CAUSAL_LM", None):
            raise ConfigError(f"task_type = {self.task_type!r}: only 'CAUSAL_LM' is done here")
        alpha = self.lora_alpha
        if (
            isinstance(alpha, bool)
            or not isinstance(alpha, int | float)
            or not 0 < alpha < math.inf
        ):
            raise ConfigError(f"lora_alpha = {alpha!r} must be a number above 0; twice r is usual")
        if not isinstance(self.lora_dropout, int | float) or not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"lora_dropout = {self.lora_dropout!r} must be in [0, 1)")
        if not isinstance(self.use_rslora, bool):
            raise ConfigError(f"use_rslora = {self.use_rslora!r} must be True or False")
        if self.init_lora_weights not in (True, False, "gaussian", "pissa"):
            raise ConfigError(
                f"init_lora_weights = {self.init_lora_weights!r} must be True, False, 'gaussian' "
                "or 'pissa'"
            )
        if self.bias != "none":
            raise ConfigError(f"bias = {self.bias!r}: only 'none' is trained here")
        object.__setattr__(self, "target_modules", _targets(self.target_modules))
        object.__setattr__(self, "layers_to_transform", _layers(self.layers_to_transform))
        if self.layers_to_transform is not None and isinstance(self.target_modules, str):
            raise ConfigError(
                f"layers_to_transform = {self.layers_to_transform!r} goes with a list of matrices, "
                f"such as ['q_proj', 'v_proj'], not with target_modules = {self.target_modules!r}"
            )

    @property
    def scaling(self) -> float:
        """What the bypass is multiplied by: α/r, or α/√r with rsLoRA."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


def _targets(given: Any) -> str | tuple[str, ...]:
    """Target modules as they are kept: a pattern, or a tuple of names."""
    # One plain name means the matrices called so; as a pattern for a whole path it matches none.
    if isinstance(given, str) and re.fullmatch(r"[\w.]+", given):
        return (given,)
    if isinstance(given, str) and given:
        return given
    if isinstance(given, list | tuple | set) and given and all(isinstance(g, str) for g in given):
        return tuple(sorted(given) if isinstance(given, set) else given)
    raise ConfigError(
        f"target_modules = {given!r} must name matrices, e.g. q_proj,v_proj or all-linear"
    )


def _layers(given: Any) -> int | tuple[int, ...] | None:
    """Layers as they are kept. None of them named means all, as in PEFT."""
    if given is None or (isinstance(given, list | tuple) and not given):
        return None
    one = isinstance(given, int | np.integer)
    if one or isinstance(given, list | tuple | set | range | np.ndarray):
        numbers = [given] if one else list(given)
        whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in numbers)
        if whole and min(numbers) >= 0:
            return int(given) if one else tuple(sorted({int(n) for n in numbers}))
    raise ConfigError(
        f"layers_to_transform = {given!r} must be numbers of layers from 0, e.g. [2, 3], or None"
    )


def find_targets(
    linears: Iterable[str],
    targets: str | Sequence[str],
    layers: int | Sequence[int] | None = None,
) -> list[str]:
    """Those paths of Linear modules that `targets` names. ConfigError where one names none.

    PEFT's rule: a list holds ends of paths, one string is a regular expression for the whole path.
    Of what an end of a path matches, only what lies in `layers` is meant; a whole path is meant
    wherever it is.
    """
    linears = list(linears)
    if layers is not None:
        linears = _in_layers(linears, targets, {layers} if isinstance(layers, int) else set(layers))
    if targets == ALL_LINEAR:
        return [path for path in linears if path != "lm_head"]
    single = isinstance(targets, str)
    chosen: set[str] = set()
    for target in [targets] if isinstance(targets, str) else targets:
        paths = [path for path in linears if _matches(path, target, regex=single)]
        if not paths:
            ends = sorted({path.rsplit(".", 1)[-1] for path in linears})
            raise ConfigError(
                f"target {target!r} matches no matrix of this model; there are {', '.join(ends)}, "
                f"or {ALL_LINEAR}"
            )
        chosen.update(paths)
    return [path for path in linears if path in chosen]


def _in_layers(linears: list[str], whole: Sequence[str], layers: set[int]) -> list[str]:
    """The paths that lie in these layers, or are named whole. ConfigError for a layer too many."""
    found = [(path, re.match(r"(?:.*?\.)?layers\.(\d+)\.", path)) for path in linears]
    there = {int(match[1]) for _, match in found if match}
    if not layers <= there:
        raise ConfigError(
            f"layers_to_transform: there is no layer {min(layers - there)} in this model; it has "
            f"0 to {max(there, default=-1)}"
        )
    return [path for path, m in found if path in whole or (m and int(m[1]) in layers)]


def _matches(path: str, target: str, *, regex: bool) -> bool:
    if not regex:
        return path == target or path.endswith("." + target)
    try:
        return re.fullmatch(target, path) is not None
    except re.error as error:
        raise ConfigError(f"target {target!r} is no regular expression: {error}") from None
