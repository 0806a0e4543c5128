"""LoraConfig: how wide the bypass is, how loud, and beside which matrices.

Every method has settings like these, a frozen dataclass in the method's own file; what they have
in common is `PeftConfig`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

from minilora.errors import ConfigError
from minilora.peft.matching import ALL_LINEAR, find_targets, first_pattern

__all__ = ["ALL_LINEAR", "LoraConfig", "PeftConfig", "find_targets"]


class Pattern(dict[str, Any]):
    """A mapping that is a setting: nobody changes it, so it can be a key as the whole config is."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


@dataclass(frozen=True, kw_only=True)
class PeftConfig:
    """What the settings of all methods have in common.

    peft_type                 what PEFT calls the method in `adapter_config.json`
    task_type                 "CAUSAL_LM", the only one
    base_model_name_or_path   set when the adapter is attached; for the reader of its folder

    Raises ConfigError naming the value and what is allowed.
    """

    peft_type: ClassVar[str]
    task_type: str | None = "CAUSAL_LM"
    base_model_name_or_path: str | None = None

    def __post_init__(self) -> None:
        if self.task_type not in ("CAUSAL_LM", None):
            raise ConfigError(f"task_type = {self.task_type!r}: only 'CAUSAL_LM' is done here")


@dataclass(frozen=True)
class LoraConfig(PeftConfig):
    """Settings of a LoRA adapter, under PEFT's names and with PEFT's defaults.

    r                  rank: how many numbers a vector is squeezed to on its way through the bypass
    lora_alpha         loudness: the bypass is scaled by lora_alpha / r …
    use_rslora         … or by lora_alpha / √r (arXiv 2312.03732)
    target_modules     names such as "q_proj" (the end of a path is enough), a regular expression
                       for the whole path, or "all-linear": all matrices but the head's
    exclude_modules    names, or a regular expression, of matrices that are not meant all the same
    rank_pattern       r for some of them: {"down_proj": 16}; a key is a regular expression for the
                       end of a path, and the first that fits counts
    alpha_pattern      lora_alpha for some of them, likewise
    lora_dropout       share of the bypass's inputs silenced in training, in [0, 1)
    init_lora_weights  True: A Kaiming-uniform, B zero; "gaussian": A normal with deviation 1/r,
                       B zero; False: both Kaiming-uniform, so that the start is not the base;
                       "pissa": W's largest directions (`pissa.py`; costs a copy of what is adapted)
    use_dora           the length of each row is learnt apart from its direction (`dora.py`)
    bias               whose biases are trained, in copies: "none", "lora_only" those of matrices
                       that are adapted, "all"
    modules_to_save    names of modules that are trained whole, in copies (`saved_modules.py`)
    trainable_token_indices   tokens whose vectors are trained, in copies (`token_rows.py`); of
                       the embeddings, or by name: {"lm_head": [5, 6]}
    layers_to_transform   number or numbers of the layers, from 0, in which the matrices that
                       `target_modules` lists are adapted; None: in all
    layers_pattern     what those layers are called; None: anything

    Raises ConfigError naming the value and what is allowed.
    """

    peft_type: ClassVar[str] = "LORA"
    r: int = 8
    lora_alpha: float = 8
    target_modules: str | Sequence[str] = ("q_proj", "v_proj")
    lora_dropout: float = 0.0
    use_rslora: bool = False
    init_lora_weights: bool | Literal["gaussian", "pissa"] = True
    bias: Literal["none", "lora_only", "all"] = "none"
    layers_to_transform: int | Sequence[int] | None = None
    layers_pattern: str | Sequence[str] | None = None
    exclude_modules: str | Sequence[str] | None = None
    rank_pattern: Mapping[str, int] = field(default_factory=Pattern)
    alpha_pattern: Mapping[str, float] = field(default_factory=Pattern)
    use_dora: bool = False
    modules_to_save: Sequence[str] | None = None
    trainable_token_indices: Sequence[int] | Mapping[str, Sequence[int]] | None = None

    def __post_init__(self) -> None:
        keep = object.__setattr__  # the one moment at which a frozen config is written
        keep(self, "r", _rank("rank r", self.r))
        keep(self, "lora_alpha", _alpha("lora_alpha", self.lora_alpha))
        for name, check in (("rank_pattern", _rank), ("alpha_pattern", _alpha)):
            keep(self, name, _pattern(name, getattr(self, name), check))
        super().__post_init__()
        if not isinstance(self.lora_dropout, int | float) or not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"lora_dropout = {self.lora_dropout!r} must be in [0, 1)")
        for name in ("use_rslora", "use_dora"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} = {getattr(self, name)!r} must be True or False")
        if self.init_lora_weights not in (True, False, "gaussian", "pissa"):
            raise ConfigError(
                f"init_lora_weights = {self.init_lora_weights!r} must be True, False, 'gaussian' "
                "or 'pissa'"
            )
        if self.bias not in ("none", "lora_only", "all"):
            raise ConfigError(f"bias = {self.bias!r} must be 'none', 'lora_only' or 'all'")
        keep(self, "target_modules", target_names(self.target_modules))
        keep(self, "exclude_modules", module_names("exclude_modules", self.exclude_modules))
        saved = module_names("modules_to_save", self.modules_to_save, regex=True)
        keep(self, "modules_to_save", (saved,) if isinstance(saved, str) else saved)
        keep(self, "trainable_token_indices", _tokens(self.trainable_token_indices))
        pattern = module_names("layers_pattern", self.layers_pattern, regex=True)
        keep(self, "layers_pattern", pattern)
        keep(self, "layers_to_transform", _layers(self.layers_to_transform))
        self._check_layers()

    def _check_layers(self) -> None:
        for name in ("layers_to_transform", "layers_pattern"):
            value = getattr(self, name)
            if value is not None and isinstance(self.target_modules, str):
                raise ConfigError(
                    f"{name} = {value!r} goes with a list of matrices, such as "
                    f"['q_proj', 'v_proj'], not with target_modules = {self.target_modules!r}"
                )
        if self.layers_pattern is not None and self.layers_to_transform is None:
            raise ConfigError(
                f"layers_pattern = {self.layers_pattern!r} says what layers are called; say which, "
                "too: layers_to_transform=[0, 1]"
            )

    @property
    def scaling(self) -> float:
        """What the bypass is multiplied by: α/r, or α/√r with rsLoRA."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def at(self, path: str) -> LoraConfig:
        """The settings beside one matrix: with r and lora_alpha of its own, if a pattern fits."""
        r = self.rank_pattern.get(first_pattern(self.rank_pattern, path) or "", self.r)
        alpha = self.alpha_pattern.get(
            first_pattern(self.alpha_pattern, path) or "", self.lora_alpha
        )
        if (r, alpha) == (self.r, self.lora_alpha):
            return self
        return replace(self, r=r, lora_alpha=alpha)


def _rank(name: str, r: Any) -> int:
    if isinstance(r, np.integer):  # out of an array of ranks, say
        r = int(r)
    if isinstance(r, bool) or not isinstance(r, int) or r < 1:
        raise ConfigError(f"{name} = {r!r} must be a whole number from 1")
    return r


def _alpha(name: str, alpha: Any) -> float:
    if isinstance(alpha, np.integer | np.floating):
        alpha = alpha.item()
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise ConfigError(f"{name} = {alpha!r} must be a number above 0; twice r is usual")
    return alpha


def _pattern(name: str, given: Any, check: Any) -> Pattern:
    """A mapping from regular expressions to ranks or alphas."""
    if given is None:
        return Pattern()
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise ConfigError(f"{name} = {given!r} must map names to numbers, e.g. {{'down_proj': 16}}")
    for key in given:
        _check_regex(name, key, inside=True)
    return Pattern({key: check(f"{name}[{key!r}]", value) for key, value in given.items()})


def _check_regex(name: str, pattern: str, *, inside: bool = False) -> None:
    """ConfigError for what is no regular expression, or none that can be a part of another."""
    try:
        re.compile(pattern)
        if inside:
            re.compile(f".(?:{pattern})")
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"{name}: {pattern!r} is no regular expression: {error}") from None


def target_names(given: Any) -> str | tuple[str, ...]:
    """Target modules as they are kept: a pattern, or a tuple of names."""
    # One plain name means the matrices called so; as a pattern for a whole path it matches none.
    if isinstance(given, str) and re.fullmatch(r"[\w.]+", given):
        return (given,)
    if isinstance(given, str) and given:
        return ALL_LINEAR if given.lower() == ALL_LINEAR else given
    if isinstance(given, list | tuple | set) and given and all(isinstance(g, str) for g in given):
        return tuple(sorted(given) if isinstance(given, set) else given)
    raise ConfigError(
        f"target_modules = {given!r} must name matrices, e.g. q_proj,v_proj or all-linear"
    )


def module_names(setting: str, given: Any, *, regex: bool = False) -> str | tuple[str, ...] | None:
    """Names, or one regular expression, as they are kept. None of them is None.

    regex   each name is a regular expression for a part of a path
    """
    if given is None or (isinstance(given, str | list | tuple | set) and not given):
        return None
    if isinstance(given, str):
        _check_regex(setting, given, inside=regex)
        return given
    if isinstance(given, list | tuple | set) and all(isinstance(g, str) and g for g in given):
        for name in given if regex else ():
            _check_regex(setting, name, inside=True)
        return tuple(sorted(given) if isinstance(given, set) else given)
    raise ConfigError(f"{setting} = {given!r} must be names, e.g. ['lm_head'], or None")


def _tokens(given: Any) -> tuple[int, ...] | Pattern | None:
    """Tokens as they are kept: indices, or indices by the name of a module."""
    if given is None or (isinstance(given, list | tuple | Mapping) and not given):
        return None
    if isinstance(given, Mapping) and all(isinstance(name, str) and name for name in given):
        return Pattern({name: _indices(some) for name, some in given.items()})
    return _indices(given)


def _indices(given: Any) -> tuple[int, ...]:
    if isinstance(given, list | tuple | range | np.ndarray) and len(given):
        whole = all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in given)
        if whole and min(given) >= 0 and len(set(given)) == len(given):
            return tuple(int(i) for i in given)
    raise ConfigError(
        f"trainable_token_indices: {given!r} must be ids of tokens, each once, e.g. [5, 6]"
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
