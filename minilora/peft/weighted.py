"""A new adapter out of others, matrix by matrix: what `add_weighted_adapter` does.

Everything is checked and computed before anything is attached. How numbers are combined is said in
`combining.py`; here is which pairs there are, and the settings of what comes of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minilora.errors import AdapterError, ConfigError, NonFiniteError
from minilora.peft import combining
from minilora.peft.combining import Pair, Sign
from minilora.peft.config import LoraConfig
from minilora.peft.embedding import LoraEmbedding
from minilora.peft.lora import LoraLinear

# Combined as A and B apart, or as ΔW if the name goes on with _svd.
_THINNED = ("ties", "dare_linear", "dare_ties", "magnitude_prune")
KINDS = ("svd", "linear", "cat", *_THINNED, *(f"{kind}_svd" for kind in _THINNED))


@dataclass(frozen=True)
class Combination:
    """How adapters become one: the settings of `add_weighted_adapter`.

    Raises ConfigError naming the setting and what is allowed.
    """

    kind: str
    svd_rank: int | None
    density: float | None
    majority: Sign
    seed: int

    def __post_init__(self) -> None:
        kind, rank, density = self.kind, self.svd_rank, self.density
        if kind not in KINDS:
            raise ConfigError(f"combination_type {kind!r} must be one of {', '.join(KINDS)}")
        if rank is not None and (not isinstance(rank, int) or isinstance(rank, bool) or rank < 1):
            raise ConfigError(f"svd_rank {rank!r} must be a whole number from 1, or None")
        if rank is not None and not kind.endswith("svd"):
            raise ConfigError(
                f"svd_rank {rank} goes with the kinds that end in svd, and {kind!r} does not; "
                "leave it out"
            )
        if kind.removesuffix("_svd") in _THINNED and density is None:
            raise ConfigError(
                f"{kind} needs density, the share of the numbers that is kept, above 0 and at "
                "most 1, e.g. density=0.5"
            )
        if density is not None and not (isinstance(density, int | float) and 0 < density <= 1):
            raise ConfigError(f"density {density!r} must be above 0 and at most 1")
        if self.majority not in ("total", "frequency"):
            raise ConfigError(
                f"majority_sign_method {self.majority!r} must be 'total' or 'frequency'"
            )

    @property
    def apart(self) -> bool:
        """Whether A and B are combined each by itself."""
        return self.kind != "cat" and not self.kind.endswith("svd")


def combine(
    adapters: Mapping[str, Mapping[str, LoraLinear | LoraEmbedding]],
    configs: Mapping[str, LoraConfig],
    weights: Sequence[float],
    how: Combination,
) -> tuple[LoraConfig, dict[str, Pair]]:
    """The settings of a new adapter, and its A (r, in) and B (out, r) by the path of the matrix.

    adapters   for each adapter's name path → the module where it has a pair
    configs    for each adapter's name its settings

    An adapter that has nothing beside a matrix has no part in what is combined there.
    """
    if len(adapters) == 1 and how.kind != "linear":  # nothing to be combined: as in PEFT
        how = replace(how, kind="linear", svd_rank=None)
    _check_kinds(adapters, configs, how)
    _check_finite(adapters)
    paths = list(dict.fromkeys(path for layers in adapters.values() for path in layers))
    here = {
        path: {n: layers[path] for n, layers in adapters.items() if path in layers}
        for path in paths
    }
    rank = max(_rank(path, layers, how) for path, layers in here.items())
    given = dict(zip(adapters, weights, strict=True))
    rng = np.random.default_rng(how.seed)
    found = {}
    for path, layers in here.items():
        pairs = [layer.pair(name) for name, layer in layers.items()]
        scalings = [layer.configs[name].scaling for name, layer in layers.items()]
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at
                pair = _one(pairs, scalings, [given[name] for name in layers], how, rank, rng)
                found[path] = combining.widened(pair, rank)
                finite = all(np.isfinite(part.astype(np.float32)).all() for part in found[path])
        except NonFiniteError:  # said below, with the place
            finite = False
        if not finite:
            raise NonFiniteError(
                f"combining {', '.join(map(repr, layers))} makes numbers at {path} that are not "
                "finite; nothing was added. Use smaller weights, or train the adapter again"
            )
    return _settings(configs, list(adapters), rank, paths), found


def _one(
    pairs: list[Pair],
    scalings: list[float],
    weights: list[float],
    how: Combination,
    rank: int,
    rng: np.random.Generator,
) -> Pair:
    """One pair, of at most this rank, from those that stand beside one matrix."""
    factors = [w * s for w, s in zip(weights, scalings, strict=True)]
    if how.kind == "cat":
        return combining.side_by_side(pairs, factors)
    if how.kind == "svd":
        return combining.narrowed(combining.side_by_side(pairs, factors), rank)
    kind = how.kind.removesuffix("_svd")
    merge = combining.merge_by(kind, density=how.density, majority=how.majority, rng=rng)
    if how.apart:
        return combining.apart(pairs, factors, merge)
    changes = [combining.delta(pair, s) for pair, s in zip(pairs, scalings, strict=True)]
    return combining.nearest_pair(merge(changes, weights), rank)


def _rank(path: str, layers: Mapping[str, LoraLinear | LoraEmbedding], how: Combination) -> int:
    """Of what is combined beside one matrix. AdapterError, ConfigError if it cannot be."""
    pairs = {name: layer.pair(name) for name, layer in layers.items()}
    ranks = {name: len(A) for name, (A, _) in pairs.items()}
    if how.apart and len(set(ranks.values())) > 1:
        said = ", ".join(f"{name!r} has {r}" for name, r in ranks.items())
        raise AdapterError(
            f"{how.kind!r} combines A with A and B with B, which needs equal ranks; at {path} "
            f"{said}. Use 'cat' or 'svd'"
        )
    A, B = next(iter(pairs.values()))
    most = min(A.shape[1], B.shape[0])
    if how.svd_rank is not None and how.svd_rank > most:
        raise ConfigError(
            f"svd_rank {how.svd_rank} is above min(out, in) = {most} of {path}: no matrix has a "
            "higher rank; choose a smaller one"
        )
    return how.svd_rank or (sum if how.kind == "cat" else max)(ranks.values())


def _check_kinds(
    adapters: Mapping[str, Mapping[str, Any]], configs: Mapping[str, LoraConfig], how: Combination
) -> None:
    """AdapterError for an adapter that is more than pairs A, B beside the base's matrices."""
    for name, layers in adapters.items():
        config = configs[name]
        if not isinstance(config, LoraConfig):
            raise AdapterError(f"adapter {name!r} is no LoRA: only pairs A, B can be combined")
        pissa = config.init_lora_weights == "pissa"
        more = {
            "use_dora": config.use_dora,
            "bias": config.bias != "none",
            "modules_to_save": config.modules_to_save,
            "trainable_token_indices": config.trainable_token_indices,
        }
        for setting, given in more.items():
            if given:
                raise AdapterError(
                    f"adapter {name!r} has {setting}, which is more than pairs A, B, and cannot "
                    "be combined with others"
                )
        if pissa and how.apart:
            raise AdapterError(
                f"adapter {name!r} is of PiSSA's: its A and B mean nothing without the residual "
                f"they were taken from, so {how.kind!r} cannot be had; 'cat' and 'svd' can"
            )
        if not pissa and any(_has_own_base(name, layer) for layer in layers.values()):
            raise AdapterError(
                f"adapter {name!r} has brought a matrix of its own in the place of the base's, "
                "and cannot be combined with others"
            )


def _check_finite(adapters: Mapping[str, Mapping[str, LoraLinear | LoraEmbedding]]) -> None:
    """NonFiniteError naming the first array of an adapter that holds a NaN or is infinite."""
    for name, layers in adapters.items():
        for path, layer in layers.items():
            for end, p in layer.parts(name).items():
                if not np.isfinite(p.data).all():
                    raise NonFiniteError(
                        f"{path}.{end} of adapter {name!r} holds numbers that are not finite; "
                        "nothing was added. Train it again, with a lower learning rate"
                    )


def _has_own_base(name: str, layer: Any) -> bool:
    return name in (layer.lora_residual if isinstance(layer, LoraLinear) else layer.lora_base)


def _settings(
    configs: Mapping[str, LoraConfig], names: list[str], rank: int, paths: list[str]
) -> LoraConfig:
    """Of the first adapter, with the loudness in the pair itself: α/r is 1."""
    first = configs[names[0]]
    where = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
    chosen = {tuple(getattr(configs[name], setting) for setting in where) for name in names}
    selection: dict[str, Any] = {}
    if len(chosen) > 1:
        lists = [targets for targets, *others in chosen if others == [None] * 3]
        together = len(lists) == len(chosen) and not any(isinstance(each, str) for each in lists)
        targets = sorted({end for each in lists for end in each}) if together else paths
        selection = dict.fromkeys(where) | {"target_modules": targets}
    return replace(
        first,
        r=rank,
        lora_alpha=rank,
        use_rslora=False,
        rank_pattern={},
        alpha_pattern={},
        init_lora_weights=True,
        **selection,
    )


def check_weights(adapters: Sequence[str], weights: Sequence[float]) -> None:
    """AdapterError unless there is one finite weight for each of several different names."""
    if not is_list(adapters) or len(adapters) == 0:
        raise AdapterError(f"adapters {adapters!r} must be a list of names, e.g. ['a', 'b']")
    for name in adapters:
        if not isinstance(name, str):
            raise AdapterError(f"adapters: {name!r} must be the name of one, e.g. 'a'")
    if len(set(adapters)) < len(adapters):
        raise AdapterError(
            f"adapters {list(adapters)}: a name is there twice; give it the sum of its weights"
        )
    if not is_list(weights):
        raise AdapterError(
            f"weights {weights!r} must be a list, with one for each adapter, e.g. [0.5, 0.5]"
        )
    if len(weights) != len(adapters):
        raise AdapterError(
            f"there are {len(adapters)} adapters and {len(weights)} weights; give one for each"
        )
    for name, weight in zip(adapters, weights, strict=True):
        if not isinstance(weight, int | float | np.number) or not math.isfinite(weight):
            raise AdapterError(f"the weight {weight!r} of adapter {name!r} must be a finite number")


def is_list(given: Any) -> bool:
    """Whether something holds several things in an order: not one name, not a set."""
    if isinstance(given, np.ndarray):
        return given.ndim > 0
    return isinstance(given, Collection) and not isinstance(given, str | set | frozenset)
