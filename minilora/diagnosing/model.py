"""What can be wrong with a model and the adapters in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora.autograd import Parameter, Tensor, no_grad
from minilora.diagnosing.base import EMBEDDINGS, HEAD
from minilora.diagnosing.finding import Said, some
from minilora.errors import ConfigError
from minilora.files.narrow import bfloat16_bits, widened
from minilora.peft import LoraLinear, PeftModel
from minilora.peft.adapted import only_rounding, own, own_modules, plain_path
from minilora.peft.folder import PREFIX
from minilora.quant.linear import PackedMatrix, unpacked

# The share of entries that a merge may fail to move before it is said.
SWALLOWED = 0.5
MERGE_TYPES = ("float32", "float16", "bfloat16")


def active_adapters(model: Any) -> list[str]:
    """The names of the adapters in use; none for a model without."""
    active = getattr(model, "active_adapter", None)
    return [active] if isinstance(active, str) else list(active or [])


def parts(model: Any, name: str) -> list[Parameter]:
    """What an adapter trains."""
    return [p for _, module in model.adapted(name) for p in module.parts(name).values()]


def weights_not_finite(model: Any) -> Said:
    """The base's weights: any NaN or infinity."""
    adapters = getattr(model, "peft_config", ())
    beside = {p for name in adapters for p in parts(model, name)}
    weights = {n: p.data for n, p in model.named_parameters() if p not in beside}
    bad = [name for name, array in weights.items() if not _is_finite(array)]
    if bad:
        yield (
            f"NaN or infinity in {some(bad, len(weights), 'weights')} of the base",
            "Load the base again; if it was tuned or merged to this, do that with a lower "
            "learning rate, or in a wider type than float16",
        )


def _is_finite(array: Any) -> bool:
    if isinstance(array, PackedMatrix):
        return all(np.isfinite(piece).all() for _, piece in array.pieces())
    return bool(np.isfinite(array).all())


def none_in_use(model: Any) -> Said:
    """Which adapter is active: none, though there are some."""
    if getattr(model, "peft_config", None) and not active_adapters(model):
        names = ", ".join(map(repr, model.peft_config))
        yield (
            f"no adapter is in use, so the model is the base; there are {names}",
            "load_adapter() only attaches: set_adapter(name) puts one in use",
        )


def wrong_one_trainable(model: Any) -> Said:
    """Which adapter is trainable: one that is not in use gets no gradient."""
    active, there = active_adapters(model), getattr(model, "peft_config", ())
    trainable = [name for name in there if any(p.requires_grad for p in parts(model, name))]
    idle = [name for name in trainable if name not in active]
    if idle and active:
        yield (
            f"adapter {idle[0]!r} is trainable, but {' and '.join(map(repr, active))} is in use: "
            "what is computed, and trained, is not what was meant",
            f"set_adapter({idle[0]!r}) before the optimizer is made; after a second load_adapter() "
            "say again which one is meant",
        )


def scaled_wrongly(model: Any) -> Said:
    """What the bypass in use really adds, beside α/r · B A x (rsLoRA: α/√r)."""
    wrong: dict[str, tuple[float, float]] = {}
    rng = np.random.default_rng(0)
    linears = [(p, m) for p, m in model.named_modules() if isinstance(m, LoraLinear)]
    for path, layer in linears:
        name = layer.in_use()
        if name is None or name not in layer.lora_A or name in layer.lora_residual:
            continue  # with a matrix of its own in the place of W the bypass is not all
        config = model.peft_config[name]
        if config.use_dora:
            continue  # nor with lengths of its own
        A, B = layer.lora_A[name].weight.data, layer.lora_B[name].weight.data
        own = config.at(plain_path(path).removeprefix(PREFIX))
        right = own.lora_alpha / (own.r**0.5 if own.use_rslora else own.r)
        found = _factor(layer, rng.normal(size=(1, len(A))) @ A, A, B)
        if found is not None and abs(found / right - 1) > 0.05:
            wrong[path] = found, right
    if wrong:
        found, right = next(iter(wrong.values()))
        yield (
            f"the bypass is multiplied by {found:.4g} in "
            f"{some(list(wrong), len(linears), 'matrices')}, where α and r of its settings make "
            f"{right:.4g}: {found / right:.3g} times that",
            "Scale by α/r (rsLoRA: α/√r), and neither by α nor by nothing; set no scaling by hand",
        )


def _factor(layer: LoraLinear, x: np.ndarray, A: np.ndarray, B: np.ndarray) -> float | None:
    """s of the s B A x that a layer adds to x (1, in); None where rounding hides it."""
    both = np.concatenate([x, np.zeros_like(x)]).astype(A.dtype)
    with no_grad():
        # What zero gives is the bias, which an adapter may have changed as well.
        whole, alone = (np.subtract(*f(Tensor(both)).data) for f in (layer, layer.base_layer))
    added, bypass = (whole - alone).astype(np.float64), (both[0].astype(np.float64) @ A.T) @ B.T
    size = np.linalg.norm(bypass)
    if not np.isfinite(whole).all() or size <= 1e-4 * np.linalg.norm(alone):
        return None
    return float((added * bypass).sum() / size**2)


def _tied(model: Any) -> tuple[Any, Any] | None:
    """The parameters of embeddings and head, where the model's settings call them one."""
    if not model.config.tie_word_embeddings:
        return None
    base = model.model if isinstance(model, PeftModel) else model
    there: dict[str, Any] = dict(own_modules(base))
    return there[EMBEDDINGS].weight, there[HEAD].weight


def untied_unawares(model: Any) -> Said:
    """Embeddings and head: two arrays, though the settings say that they are one."""
    tied = _tied(model)
    if tied and tied[0] is not tied[1]:
        apart = "they differ" if not np.array_equal(tied[0].data, tied[1].data) else "alike so far"
        yield (
            f"the settings tie {EMBEDDINGS} and {HEAD}, but here they are two arrays ({apart}); a "
            "file of a tied model keeps only the embeddings",
            "model.lm_head.weight = model.model.embed_tokens.weight ties them again; to have two, "
            "say so in the settings: tie_word_embeddings false",
        )


def tied_and_trained(model: Any) -> Said:
    """Embeddings and head, one array, trained beside an adapter that is to be the only change."""
    tied = _tied(model)
    if tied and getattr(model, "peft_config", None) and tied[0].requires_grad:
        yield (
            f"{EMBEDDINGS} and {HEAD} are one array and it is trained beside the adapter: how "
            "tokens are read changes with how they are scored, and no adapter's file keeps it",
            "Freeze it (requires_grad = False), or train copies: modules_to_save",
        )


def merge_swallowed(model: Any, dtype: str | None = None) -> Said:
    """W + ΔW in the type of the merged weights: the entries that come out as W.

    dtype   float32, float16 or bfloat16; None: the narrowest that holds the base's weights exactly
    """
    if dtype not in (None, *MERGE_TYPES):
        raise ConfigError(f"merge_dtype {dtype!r} must be one of {', '.join(MERGE_TYPES)}")
    linears = [m for _, m in model.named_modules() if isinstance(m, LoraLinear)]
    used = [(m, name) for m in linears for name in active_adapters(model) if name in m.lora_A]
    dtype = dtype or narrowest([_matrix(m) for m in linears])
    still = moving = 0
    for layer, name in used:
        W, delta = _matrix(layer), layer.delta(name)
        size = float(np.linalg.norm(delta))
        if np.isfinite(size) and not only_rounding(layer, name, size, W):
            asked = delta != 0
            moving += int(asked.sum())
            still += int((as_held(W + delta, dtype) == as_held(W, dtype))[asked].sum())
    if moving and still / moving > SWALLOWED:
        yield (
            f"merged in {dtype}, {still / moving:.0%} of the entries that the adapter changes stay "
            "as they are: ΔW is smaller than half a step of that type there",
            "Merge into float32, or keep the adapter beside the base and unmerged"
            if dtype in ("float16", "bfloat16")
            else "Keep the adapter beside the base and unmerged; if it was to change more, train "
            "longer or with a higher learning rate",
        )


def _matrix(layer: LoraLinear) -> np.ndarray:
    """W, also while an adapter is merged into it."""
    plain: Any = own(layer)
    return unpacked(layer.switch.original(plain.weight))


def narrowest(arrays: list[np.ndarray]) -> str:
    """The type of 16 bits that holds all these numbers exactly, or else their own."""
    for dtype in ("bfloat16", "float16"):
        if arrays and all(np.array_equal(as_held(W, dtype), W) for W in arrays):
            return dtype
    return str(arrays[0].dtype) if arrays else "float32"


def as_held(W: np.ndarray, dtype: str) -> np.ndarray:
    """W rounded to a type, to nearest and even; bfloat16, which NumPy has not, as float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        return widened(bfloat16_bits(W)) if dtype == "bfloat16" else W.astype(dtype)


OF_ADAPTED_MODELS: tuple[Any, ...] = (
    none_in_use,
    wrong_one_trainable,
    scaled_wrongly,
    untied_unawares,
    tied_and_trained,
)
