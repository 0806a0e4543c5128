"""ModelConfig: the dozen numbers that tell a 0.8M teaching model from an 8B one.

It reads and writes Hugging Face's `config.json`, in its older spelling (`rope_theta` and
`rope_scaling`, `torch_dtype`) and its newer one (`rope_parameters`, `dtype`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minilora.errors import ConfigError

_ARCHITECTURES = ("llama", "mistral", "qwen2")


@dataclass(frozen=True)
class ModelConfig:
    """A Llama-family model.

    vocab_size          V, number of tokens
    hidden_size         C, channels of the residual stream
    intermediate_size   F, width of the MLP
    n_layers, n_heads   blocks; query heads H
    n_kv_heads          key and value heads, dividing n_heads; None: as many as n_heads
    head_dim            D, channels of a head; None: hidden_size / n_heads
    max_positions       the context: longest sequence, in tokens
    rope_theta          base of the rotary angles
    rope_scaling        None, {"rope_type": "linear", "factor"} or {"rope_type": "llama3", …}
    attention_bias      biases on q, k and v;  attention_out_bias  on o;  mlp_bias  on the MLP
    tie_word_embeddings one array both reads tokens in and scores them at the end

    Raises ConfigError for values that no model can have.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int | None = None
    head_dim: int | None = None
    max_positions: int = 2048
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = None
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    model_type: str = "llama"

    def __post_init__(self) -> None:
        _check_count(self, "n_heads")
        if self.n_kv_heads is None:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "n_layers",
            "n_kv_heads",
            "max_positions",
        ):
            _check_count(self, name)
        if self.head_dim is None:
            if self.hidden_size % self.n_heads:
                raise ConfigError(
                    f"n_heads {self.n_heads} does not divide hidden_size {self.hidden_size}; "
                    "choose a divisor, or give head_dim"
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.n_heads)
        _check_count(self, "head_dim")
        if self.D % 2:
            raise ConfigError(f"head_dim {self.head_dim} must be even: rotary turns pairs")
        if self.n_heads % self.K:
            raise ConfigError(f"n_kv_heads {self.n_kv_heads} must divide n_heads {self.n_heads}")
        for name in ("rope_theta", "rms_norm_eps"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ConfigError(f"{name} {value!r} must be a number above 0, and finite")
        object.__setattr__(self, "rope_scaling", _known_scaling(self.rope_scaling))

    @property
    def D(self) -> int:
        """Channels of a head, with its default filled in."""
        assert self.head_dim is not None
        return self.head_dim

    @property
    def K(self) -> int:
        """Key and value heads, with the default filled in."""
        assert self.n_kv_heads is not None
        return self.n_kv_heads

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> ModelConfig:
        """From the contents of a `config.json`.

        Raises ConfigError for an architecture that is not of this family, a missing field, or
        something in it that this model does not compute.
        """
        kind = hf.get("model_type")
        if kind not in _ARCHITECTURES:
            raise ConfigError(
                f"config.json says model_type {kind!r}; minilora computes the Llama family: "
                f"{', '.join(_ARCHITECTURES)}"
            )
        if hf.get("hidden_act", "silu") != "silu":
            raise ConfigError(
                f"config.json says hidden_act {hf['hidden_act']!r}; only 'silu' is computed here"
            )
        qwen, bias = kind == "qwen2", bool(hf.get("attention_bias", False))
        rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
        if not isinstance(rope, Mapping):
            raise ConfigError(
                f"config.json: the rotary settings {rope!r} must be an object or null"
            )
        theta = rope.get("rope_theta", hf.get("rope_theta"))
        # Inside its window a sliding-window model is a plain one; beyond, it is not this model.
        window = hf.get("sliding_window") if hf.get("use_sliding_window", not qwen) else None
        positions = _field(hf, "max_position_embeddings", 2048)
        return cls(
            vocab_size=_field(hf, "vocab_size"),
            hidden_size=_field(hf, "hidden_size"),
            intermediate_size=_field(hf, "intermediate_size"),
            n_layers=_field(hf, "num_hidden_layers"),
            n_heads=_field(hf, "num_attention_heads"),
            n_kv_heads=hf.get("num_key_value_heads"),
            head_dim=hf.get("head_dim"),
            max_positions=positions if window is None else min(positions, _window(hf)),
            rope_theta=10000.0 if theta is None else theta,
            rope_scaling=rope,
            rms_norm_eps=hf.get("rms_norm_eps", 1e-6),
            tie_word_embeddings=bool(hf.get("tie_word_embeddings", False)),
            attention_bias=qwen or bias,
            attention_out_bias=bias,
            mlp_bias=bool(hf.get("mlp_bias", False)),
            model_type=kind,
        )

    def to_hf(self, dtype: str = "float32") -> dict[str, Any]:
        """The contents of a `config.json` that transformers of either spelling reads.

        Raises ConfigError for biases that it has no word for.
        """
        on_qkv, on_o = self.attention_bias, self.attention_out_bias
        can_be_said = {"llama": on_qkv == on_o, "qwen2": on_qkv and not on_o}
        if not can_be_said.get(self.model_type, not on_qkv and not on_o):
            raise ConfigError(
                f"attention_bias {self.attention_bias} with attention_out_bias "
                f"{self.attention_out_bias} cannot be said in the config.json of a "
                f"{self.model_type}: a llama has both or none, a qwen2 the first, a mistral none"
            )
        scaling = dict(self.rope_scaling) if self.rope_scaling else None
        rope = {"rope_theta": self.rope_theta, **(scaling or {"rope_type": "default"})}
        # A Mistral without this field has a window of 4096 in transformers.
        window = {"sliding_window": None} if self.model_type == "mistral" else {}
        names = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}
        return {
            "architectures": [f"{names[self.model_type]}ForCausalLM"],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_positions,
            "rope_theta": self.rope_theta,
            "rope_scaling": scaling,
            "rope_parameters": rope,
            "rms_norm_eps": self.rms_norm_eps,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.attention_out_bias,
            "mlp_bias": self.mlp_bias,
            "hidden_act": "silu",
            **window,
            "torch_dtype": dtype,
            "dtype": dtype,
        }


def _check_count(config: ModelConfig, name: str) -> None:
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise ConfigError(f"{name} {value!r} must be a whole number from 1 to {2**31 - 1}")


def _field(hf: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = hf.get(name, default)
    if value is None:
        raise ConfigError(f"config.json has no field {name!r}, which a {hf['model_type']} needs")
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"config.json: {name} {value!r} must be a whole number")
    return value


def _window(hf: Mapping[str, Any]) -> int:
    value = _field(hf, "sliding_window")
    if value < 1:
        raise ConfigError(f"config.json: sliding_window {value} must be a whole number from 1")
    return value


def _known_scaling(rope: Any) -> dict[str, Any] | None:
    """Rotary scaling as {"rope_type": …}, checked, or None if there is none."""
    if rope is None:
        return None
    if not isinstance(rope, Mapping):
        raise ConfigError(f"rope_scaling: the rotary settings {rope!r} must be an object or null")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    needs = {
        "linear": ("factor",),
        "llama3": (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        ),
    }
    if not isinstance(kind, str) or kind not in needs:
        raise ConfigError(
            f"rope_scaling of type {kind!r} is not computed here; known: {', '.join(needs)}"
        )
    for name in needs[kind]:
        value = rope.get(name)
        if not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ConfigError(f"rope_scaling {kind!r} needs {name} above 0, not {value!r}")
    if kind == "llama3" and not rope["high_freq_factor"] > rope["low_freq_factor"]:
        raise ConfigError(
            f"rope_scaling 'llama3': high_freq_factor {rope['high_freq_factor']} must be above "
            f"low_freq_factor {rope['low_freq_factor']}"
        )
    return {"rope_type": kind, **{name: rope[name] for name in needs[kind]}}
