"""Models by name: sizes that are published, so that a budget needs nothing but a word.

Each is the `ModelConfig` of its release. GPT-3 is not of this family, so of it only the parameters
are known here, as its paper gives the sizes (Brown et al., arXiv 2005.14165, table 2.1).
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from minilora.bases import skills_folder
from minilora.config import ModelConfig
from minilora.errors import ConfigError
from minilora.files.json_files import read_json
from minilora.files.reading import reading


@dataclass(frozen=True)
class Gpt:
    """Sizes of a model in GPT's layout, for counting: biases, LayerNorms, learnt positions."""

    vocab_size: int
    hidden_size: int
    n_layers: int
    max_positions: int

    @property
    def kv_size(self) -> int:
        """Channels of the keys of a layer: here all."""
        return self.hidden_size


PRESETS: dict[str, ModelConfig | Gpt] = {
    "llama-3-8b": ModelConfig(
        128256, 4096, 14336, 32, 32, n_kv_heads=8, max_positions=8192, rope_theta=500000.0
    ),
    "llama-2-7b": ModelConfig(32000, 4096, 11008, 32, 32, max_positions=4096),
    "smollm2-135m": ModelConfig(
        49152,
        576,
        1536,
        30,
        9,
        n_kv_heads=3,
        max_positions=8192,
        rope_theta=100000.0,
        tie_word_embeddings=True,
    ),
    "gpt3-175b": Gpt(50257, 12288, 96, 2048),
}
NAMES = (*PRESETS, "skills")


def preset(name: str | os.PathLike[str]) -> ModelConfig | Gpt:
    """The sizes of a model by its name, or from a `config.json` or the folder that holds one.

    Raises ConfigError for an unknown name, or settings that no model of this family has;
    FormatError for a file that cannot be read.
    """
    text = os.fspath(name)
    if text in PRESETS:
        return PRESETS[text]
    if text == "skills":
        return _read(skills_folder() / "config.json")
    path = Path(text)
    if path.is_dir():
        return _read(path / "config.json")
    if path.is_file() or path.suffix == ".json" or len(path.parts) > 1:
        return _read(path)
    near = difflib.get_close_matches(text.lower(), NAMES, n=1)
    hint = f"did you mean {near[0]}? There" if near else "there"
    raise ConfigError(
        f"unknown model {text!r}; {hint} are {', '.join(NAMES)}, and any config.json of a "
        "Llama, Mistral or Qwen2"
    )


def _read(path: Path) -> ModelConfig:
    settings = read_json(path)
    with reading(path, "the settings of a Llama"):
        try:
            return ModelConfig.from_hf(settings)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
