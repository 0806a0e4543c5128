"""Which modules a setting names, by PEFT's rules.

A list holds ends of paths, one string is a regular expression for the whole path. What a list
names may be narrowed to some layers, and what is excluded is never meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from minilora.errors import ConfigError

ALL_LINEAR = "all-linear"
# What reads tokens in and what scores them: "all-linear" means neither.
ENDS = ("embed_tokens", "lm_head")


def find_targets(
    paths: Iterable[str],
    targets: str | Sequence[str],
    layers: int | Sequence[int] | None = None,
    *,
    layers_pattern: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    saved: Sequence[str] = (),
    strict: bool = True,
) -> list[str]:
    """Those of the paths that `targets` names.

    layers           of what an end of a path matches, only what lies in these layers is meant; a
                     whole path is meant wherever it is
    layers_pattern   what the numbered layers are called; None: anything
    exclude          names, or a regular expression, of what is not meant
    saved            names of modules that are trained whole, which get no bypass besides
    strict           every target and every layer must be there, not just one of them

    Raises ConfigError naming what matches nothing.
    """
    paths = list(paths)
    there = paths
    if layers is not None:
        wanted = {layers} if isinstance(layers, int) else set(layers)
        there = _in_layers(paths, targets, wanted, layers_pattern, strict)
    chosen: set[str] = set()
    for target in [targets] if isinstance(targets, str) else targets:
        found = _matching(there, target, regex=isinstance(targets, str))
        if strict and not found:
            raise ConfigError(_unmatched(target, paths))
        chosen.update(found)
    kept = [
        path
        for path in paths
        if path in chosen and not _excluded(path, exclude) and not _inside(path, saved)
    ]
    if not chosen:
        raise ConfigError(_unmatched(targets, paths))
    if not kept:
        raise ConfigError(
            f"target_modules = {targets!r} names only what exclude_modules = {exclude!r} or "
            f"modules_to_save = {list(saved)!r} takes out: nothing is left to be adapted"
        )
    return kept


def _matching(paths: list[str], target: str, *, regex: bool) -> list[str]:
    if regex and target == ALL_LINEAR:
        return [path for path in paths if path.rsplit(".", 1)[-1] not in ENDS]
    return [path for path in paths if (matches if regex else ends_in)(path, target)]


def _unmatched(target: str | Sequence[str], paths: list[str]) -> str:
    ends = sorted({path.rsplit(".", 1)[-1] for path in paths})
    return (
        f"target {target!r} matches no matrix of this model; there are {', '.join(ends)}, "
        f"or {ALL_LINEAR}"
    )


def ends_in(path: str, name: str) -> bool:
    """Whether a name is the end of a path, or the whole of it."""
    return path == name or path.endswith("." + name)


def matches(path: str, pattern: str) -> bool:
    """Whether a regular expression describes the whole path. ConfigError if it is none."""
    try:
        return re.fullmatch(pattern, path) is not None
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"target {pattern!r} is no regular expression: {error}") from None


def first_pattern(patterns: Iterable[str], path: str) -> str | None:
    """The first pattern, a regular expression for an end of a path, that describes this one."""
    return next((p for p in patterns if re.match(rf"(.*\.)?({p})$", path)), None)


def _excluded(path: str, exclude: str | Sequence[str] | None) -> bool:
    if isinstance(exclude, str):
        return matches(path, exclude)
    return any(ends_in(path, name) for name in exclude or ())


def _inside(path: str, names: Sequence[str]) -> bool:
    """Whether one of the names is a part of the path: the module itself, or one it lies in."""
    return any(re.match(rf"(^|.*\.){name}($|\..*)", path) for name in names)


def _in_layers(
    paths: list[str],
    whole: str | Sequence[str],
    layers: set[int],
    pattern: str | Sequence[str] | None,
    strict: bool,
) -> list[str]:
    """The paths that lie in these layers, or are named whole. ConfigError for a layer too many."""
    names = [pattern] if isinstance(pattern, str) else list(pattern or ["[^.]+"])
    found = {path: _layer(path, names) for path in paths}
    there = {n for n in found.values() if n is not None}
    if not there:
        raise ConfigError(f"layers_pattern = {pattern!r}: the layers of this model are 'layers'")
    if not layers & there or (strict and not layers <= there):
        raise ConfigError(
            f"layers_to_transform: there is no layer {min(layers - there)} in this model; it has "
            f"0 to {max(there)}"
        )
    return [path for path, n in found.items() if n in layers or path in whole]


def _layer(path: str, names: list[str]) -> int | None:
    """The number of the layer that a path lies in: the first one behind one of the names."""
    for name in names:
        # Groups of the name's own are numbered before ours, which is the last one.
        match = re.match(rf"(?:.*?\.)?(?:{name})\.(\d+)\.", path)
        if match:
            return int(match[match.re.groups])
    return None
