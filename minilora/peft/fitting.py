"""Does an adapter from a file fit this base? Found out before anything is changed."""

from __future__ import annotations

import hashlib
import re
import warnings
from pathlib import Path

import numpy as np

from minilora.autograd import Parameter
from minilora.errors import AdapterError, ConfigError
from minilora.model import Transformer
from minilora.peft.adapted import Switch, own_modules
from minilora.peft.attaching import places
from minilora.peft.config import LoraConfig, PeftConfig
from minilora.peft.folder import PREFIX, read_fingerprint, read_packing, read_tying
from minilora.quant import DATA_TYPES
from minilora.quant.linear import packed_weights, spread, unpacked

# A file in bfloat16 has 8 bits of each number.
_TOLERANCE = 2**-8


def fit(
    model: Transformer,
    config: PeftConfig,
    weights: dict[str, np.ndarray],
    folder: str | Path,
    switch: Switch,
) -> dict[str, np.ndarray]:
    """The arrays that this model needs, by their names.

    Of a matrix that the adapter brings along, other than the base's, the name ends in
    `base_layer.weight`.

    Raises AdapterError naming the first that is missing, too many, of another shape or no floats
    that are finite, also in the base's type; warns if the base is another than the one the adapter
    was made for, or the same in other bits.
    """
    try:
        # PiSSA takes r directions out of W, and there have to be so many.
        pissa = isinstance(config, LoraConfig) and config.init_lora_weights == "pissa"
        needed = {
            f"{PREFIX}{place.path}.{end}": shape
            for place in places(model, config, ranks=pissa, strict=False)
            for end, shape in place.shapes.items()
        }
    except ConfigError as error:
        raise AdapterError(f"{folder}: {error}") from error
    if model.config.tie_word_embeddings and read_tying(folder):
        raise AdapterError(
            f"{folder}: ensure_weight_tying ties what is trained of embeddings and head, which in "
            "this base are one array, and that is not done here; train it without, or leave both "
            "out of modules_to_save and target_modules"
        )
    weights = _under_our_names(weights, needed, folder)
    base = {f"{PREFIX}{name}": switch.original(p) for name, p in own_parameters(model)}
    bases = {}
    for name in sorted(weights.keys() - needed.keys()):
        if _twice(name, config):
            del weights[name]
        elif name in base:
            array = weights.pop(name)
            mine = unpacked(base[name])
            if not _is(array, mine):
                bases[name] = _other_base(name, array, mine, config, needed, folder)
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
        _check_floats(name, weights[name], model.dtype, folder)
    _compare_bases(model, config, folder, switch)
    return weights | {name.replace(".weight", ".base_layer.weight"): W for name, W in bases.items()}


def _under_our_names(
    weights: dict[str, np.ndarray], needed: dict[str, tuple[int, ...]], folder: str | Path
) -> dict[str, np.ndarray]:
    """PEFT's versions, and what else is attached there, give some arrays several names."""
    found: dict[str, np.ndarray] = {}
    for given, array in weights.items():
        name = given
        if name not in needed:
            name = name.replace(".base_layer.", ".")
            name = re.sub(r"(\.lora_magnitude_vector)\.weight$", r"\1", name)
            beside = name.replace(".bias", ".base_layer.bias")
            name = beside if beside in needed else name
        if name in found:
            raise AdapterError(f"{folder}: {given} is there under two names")
        found[name] = array
    return found


def _twice(name: str, config: PeftConfig) -> bool:
    """With bias="all" PEFT writes those of modules with a trained copy, and of the copy, again."""
    again = re.search(r"\.(original_module|modules_to_save)\.(.*\.)?bias$", name)
    return isinstance(config, LoraConfig) and config.bias == "all" and again is not None


def _check_floats(name: str, array: np.ndarray, dtype: np.dtype, folder: str | Path) -> None:
    """AdapterError unless these are finite floats, and are so in the base's type, too."""
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise AdapterError(
            f"{folder}: {name} ({array.dtype}) must hold finite floats, and does not"
        )
    with np.errstate(over="ignore"):  # what comes of it is looked at
        fits = np.isfinite(array.astype(dtype)).all()
    if not fits:
        raise AdapterError(
            f"{folder}: {name} holds {np.abs(array).max():.3g}, and {dtype}, in which this base is "
            f"held, ends at {float(np.finfo(dtype).max):.3g}; the adapter is of no use here"
        )


def _is(array: np.ndarray, mine: np.ndarray) -> bool:
    """Whether an array is the base's own, up to the type that it was written in."""
    if array.shape != mine.shape or array.dtype.kind != "f":
        return False
    narrow = min(array.dtype, mine.dtype, key=lambda dtype: dtype.itemsize)
    with np.errstate(over="ignore"):  # infinite is another number
        if np.array_equal(array.astype(narrow), mine.astype(narrow)):
            return True
        if not _in_16_bits(array):
            return False
    size = _TOLERANCE * float(np.abs(mine).mean())
    return np.allclose(array, mine, rtol=_TOLERANCE, atol=size)


def _in_16_bits(array: np.ndarray) -> bool:
    """Whether float16 or bfloat16 hold all of these numbers: of the latter float32 are read."""
    single = np.ascontiguousarray(array, np.float32)
    if not np.array_equal(single, array):
        return False
    return (
        np.array_equal(single.astype(np.float16), single)
        or not (single.view(np.uint32) & 0xFFFF).any()
    )


def _other_base(
    name: str,
    array: np.ndarray,
    mine: np.ndarray,
    config: PeftConfig,
    needed: dict[str, tuple[int, ...]],
    folder: str | Path,
) -> np.ndarray:
    """The matrix that a pair stands beside, if it is not the base's: PEFT writes embeddings' and
    heads' into the file. AdapterError for what no pair stands beside, or what does not fit."""
    if array.shape != mine.shape:
        raise AdapterError(
            f"{folder}: {name} has shape {array.shape}, but this base's is {mine.shape}; the "
            "adapter was made for another one"
        )
    path = name.removesuffix(".weight")
    beside = {f"{path}.lora_A.weight", f"{path}.lora_embedding_A"} & needed.keys()
    usable = array.dtype.kind == "f" and np.isfinite(array).all()
    pissa = isinstance(config, LoraConfig) and config.init_lora_weights == "pissa"
    if not beside or not usable or pissa:
        raise AdapterError(
            f"{folder}: {name} is not this base's; the adapter was made for another one"
        )
    _check_floats(name, array, mine.dtype, folder)
    warnings.warn(
        f"{folder}: {name} is not this base's; the adapter's own is used while it is on",
        stacklevel=5,
    )
    return array


def own_parameters(model: Transformer) -> list[tuple[str, Parameter]]:
    """The base's own parameters by the names they have without adapters."""
    return [
        (f"{path}.{name}", p)
        for path, module in own_modules(model)
        for name, p in vars(module).items()
        if isinstance(p, Parameter)
    ]


def fingerprint(model: Transformer, switch: Switch) -> str:
    """Of the base's weights: equal for equal bases, another one after they were trained.

    A hash of names, shapes and evenly spread numbers of each array. Of all numbers it would take
    seconds; what it misses is a change of a few rows alone. A base that was quantized while it was
    loaded is the same base: those numbers were noted before.
    """
    digest = hashlib.sha256()
    for name, p in sorted(own_parameters(model), key=lambda pair: pair[0]):
        some = spread(switch.original(p))
        digest.update(f"{name} {p.shape} ".encode() + some.tobytes())
    return digest.hexdigest()


def _compare_bases(
    model: Transformer, config: PeftConfig, folder: str | Path, switch: Switch
) -> None:
    base, noted = config.base_model_name_or_path, read_fingerprint(folder)
    if base and model.base_name and Path(base).name != Path(model.base_name).name:
        said = f"{folder} was made for the base {base!r}, this is {model.base_name!r}"
    elif noted is not None and noted != fingerprint(model, switch):
        said = (
            f"{folder} was made beside other weights than this base's (the fingerprints of the "
            "two differ); what it adds to these, nobody has tried"
        )
    elif packing := _other_packing(model, folder):
        trained, here = packing
        said = (
            f"{folder} was trained beside weights rounded to {trained}, and this base's are "
            f"{here}; beside those its answers differ slightly. To have the same: "
            f"load_base(..., quantize={trained!r})"
        )
    else:
        return
    warnings.warn(said, stacklevel=5)


def _other_packing(model: Transformer, folder: str | Path) -> tuple[str, str] | None:
    """In which formats the weights were and are held, if they were rounded to others than here.

    Only the formats that a base is rounded to here. The blocks of a GGUF are what its floats are
    made of, so beside these nothing differs.
    """
    noted = {name for name in (read_packing(folder) or "").split(", ") if name in DATA_TYPES}
    there = {W.data_type for W in packed_weights(model).values()}
    if not noted or noted == there:
        return None
    here = f"rounded to {', '.join(sorted(there))}" if there else "floats"
    return ", ".join(sorted(noted)), here
