"""Where does the embedded base come from? From here: a random Llama, and eight string skills.

The recipe is fixed, so that anyone can make it again: `minilora pretrain`, some minutes on two
cores. What it must not know is as important as what it must: the NEW skills are never shown to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilora.data import skills
from minilora.data.batches import Batches
from minilora.evaluation import exact_match
from minilora.model import ModelConfig, Transformer
from minilora.optim import AdamW, Schedule
from minilora.training import History, train

CONFIG = ModelConfig(
    vocab_size=skills.tokenizer().vocab_size,
    hidden_size=128,
    intermediate_size=344,
    n_layers=4,
    n_heads=4,
    max_positions=256,
    tie_word_embeddings=True,
)
STEPS = 5000
EXAMPLES_PER_SKILL = 20_000


def pretrain(
    *,
    steps: int = STEPS,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> tuple[Transformer, History]:
    """A base that knows the OLD skills, from random weights. `checkpoint`: go on from there."""
    model = Transformer(CONFIG, seed=seed)
    optimizer = AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98))
    examples = [
        e
        for i, each in enumerate(skills.OLD)
        for e in skills.examples(each, "train", EXAMPLES_PER_SKILL, seed=1000 * seed + i)
    ]
    history = train(
        model,
        optimizer,
        Batches(examples, 64, seed=seed),
        steps=steps,
        schedule=Schedule("cosine", steps, warmup=min(100, steps // 10)),
        checkpoint=checkpoint,
        checkpoint_every=500,
        resume=checkpoint is not None,
        seed=seed,
        progress="pretraining" if progress else None,
    )
    return model, history


def report(model: Any, n: int = 500) -> dict[str, float]:
    """skill → share of unseen strings that are answered exactly right, for every skill."""
    return {
        each.name: exact_match(model, skills.examples(each, "test", n))
        for each in (*skills.OLD, *skills.NEW)
    }
