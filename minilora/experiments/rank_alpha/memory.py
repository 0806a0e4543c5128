"""Learning by heart: facts without any order in them, so that what is learnt counts in bits.

    ab=kfcj<end>

A fact is a key of two letters and an answer of four, drawn at random. The one way to answer is to
have stored it: N facts hold N · 4 · log2(12) bits, and a model that gives them a loss of so many
bits has stored the difference, whatever else it can do. Trained and tested on the same facts: to
memorize is the task, and there is nothing to generalize. Keys are short so that telling them apart
is easy, and storing, not reading, is what is measured.
"""

from __future__ import annotations

import math
import random
from typing import Any

from minilora.data import skills
from minilora.data.batches import Batches
from minilora.data.instructions import Example, to_examples
from minilora.errors import ConfigError
from minilora.evaluation import exact_match, mean_nll
from minilora.experiments.lab.tuning import Setup, model_for, optimizer_for, trained

ANSWER = 4
KEYS = [a + b for a in skills.LETTERS for b in skills.LETTERS]
LETTER_BITS = math.log2(len(skills.LETTERS))


def facts(n: int, seed: int) -> list[Example]:
    """n facts with distinct keys. ConfigError if there are not so many keys."""
    if not 1 <= n <= len(KEYS):
        raise ConfigError(f"{n} facts must be 1 to {len(KEYS)}: so many keys of two letters exist")
    rng = random.Random(f"facts {seed}")
    rows = [
        {"prompt": f"{key}=", "completion": "".join(rng.choices(skills.LETTERS, k=ANSWER))}
        for key in rng.sample(KEYS, n)
    ]
    return to_examples(rows, skills.tokenizer(), skills.MAX_TOKENS)


def stored_bits(n: int, nll: float) -> float:
    """Bits that are stored of n facts if their mean loss is `nll` nats a token, end included.

    What it takes to send the answers, letters alike, less what it takes with the model's help. It
    may not be counted fact by fact: by luck alone some answers are likelier than 1 in 12⁴. Below
    0, where the model guesses worse than evenly, it is 0.
    """
    return max(0.0, n * ANSWER * LETTER_BITS - nll * n * (ANSWER + 1) / math.log(2))


def memorize(point: dict[str, Any]) -> dict[str, Any]:
    """Train an adapter on a point's `facts`, all in every batch, and count what it has stored.

    In the result: information_bits, stored_bits, share of them, bits_per_parameter, exact (share
    of facts that are answered right), trainable_parameters, diverged.
    """
    setup, n = Setup.of(point), point["facts"]
    examples = facts(n, setup.seed)
    model = model_for(setup)
    batches = Batches(examples, n, seed=setup.seed)
    _, diverged = trained(setup, model, optimizer_for(model, setup), batches)
    nll = math.inf if diverged else mean_nll(model, examples)
    stored = stored_bits(n, nll) if math.isfinite(nll) else 0.0
    parameters = model.n_parameters(trainable=True)
    return {
        "information_bits": n * ANSWER * LETTER_BITS,
        "stored_bits": stored,
        "share": stored / (n * ANSWER * LETTER_BITS),
        "bits_per_parameter": stored / parameters,
        "exact": 0.0 if diverged else exact_match(model, examples),
        "trainable_parameters": parameters,
        "diverged": diverged,
    }
