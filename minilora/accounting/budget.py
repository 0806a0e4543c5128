"""What does a fine-tune hold in memory, by three ways of counting, all of them sums of few terms.

tutorial   2 bytes a number: weights, gradients, m and v; no activations. The sum that is quoted
mixed      ZeRO's (arXiv 1910.02054, section 3.1): of a trained number 2 + 2 bytes, and 4 + 4 + 4
           for its 32-bit master copy, m and v; of a frozen one 2. Activations stand beside it, as
           the estimate that they are
exact      minilora's own step, predicted by taking it on arrays without contents: everything
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from minilora import ops, optim
from minilora.accounting.counts import Array, Method, arrays, as_key
from minilora.accounting.estimate import Estimate, estimate
from minilora.accounting.predict import Flops, predict
from minilora.accounting.presets import Gpt
from minilora.config import ModelConfig
from minilora.errors import ConfigError
from minilora.optim import eight_bit
from minilora.quant import bits_per_parameter
from minilora.quant.constants import NESTED_BLOCK

ACCOUNTINGS = ("tutorial", "mixed", "exact")
OPTIMIZERS = (*optim.OPTIMIZERS, "sgd")
SHARDS = ("zero1", "zero2", "zero3")
ITEMSIZE = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}

# QLoRA's: blocks of 64 in NF4, constants quantized once more (arXiv 2305.14314, section 3).
NF4_BLOCK = 64
NF4_BITS = bits_per_parameter("nf4", NF4_BLOCK)

# A step of more tokens than this is none that one machine takes.
MOST_TOKENS = 2**26
# Of an exact step all is shadows but the causal masks, made for each block of queries: for
# llama-3-8b this length takes 8 s and 134 MiB, and twice the length four times as long.
MOST_EXACT_LENGTH = 16384


@dataclass(frozen=True)
class Plan:
    """A fine-tune that is to be paid for.

    batch_size, length   rows of a step, on each card; tokens in a row; None: 2048, or the context
    dtype                None: bfloat16, for exact float32
    optimizer            adamw; adamw-8bit: m and v in 8 bits; adamw-paged: both outside of
                         the card, or of minilora's memory in a file; sgd: neither
    checkpointing        blocks are computed again in backward
    attention_weights    of the estimate: the softmax of every layer is kept
    activations          whether the estimate is made; None: not for tutorial
    gpus, shard          cards that each take a batch; what they share out among them, as ZeRO
                         stages 1 to 3: optimizer, gradients too, weights too
    offload              "optimizer": its arrays, and the update, are the processor's

    Raises ConfigError for what is not allowed, or does not go together.
    """

    config: ModelConfig | Gpt
    method: Method = field(default_factory=Method)
    accounting: str = "mixed"
    batch_size: int = 1
    length: int | None = None
    dtype: str | None = None
    optimizer: str = "adamw"
    checkpointing: bool = False
    attention_weights: bool = False
    activations: bool | None = None
    gpus: int = 1
    shard: str | None = None
    offload: str | None = None

    def __post_init__(self) -> None:
        def fill(name: str, value: Any) -> None:
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

        object.__setattr__(self, "config", as_key(self.config))
        self.method.check_room(self.config.max_positions)
        fill("length", min(2048, self.config.max_positions - self.method.context))
        fill("dtype", "float32" if self.accounting == "exact" else "bfloat16")
        fill("activations", self.accounting != "tutorial" and not isinstance(self.config, Gpt))
        _check_values(self)
        _check_together(self)

    @property
    def tokens(self) -> int:
        """In a row."""
        assert self.length is not None
        return self.length

    @property
    def number_bytes(self) -> int:
        """Bytes of a number that is not in 4 bits."""
        assert self.dtype is not None
        return ITEMSIZE[self.dtype]


def _check_values(p: Plan) -> None:
    allowed: dict[str, tuple[Any, ...]] = {
        "accounting": ACCOUNTINGS,
        "optimizer": OPTIMIZERS,
        "dtype": tuple(ITEMSIZE),
        "shard": (None, *SHARDS),
        "offload": (None, "optimizer"),
    }
    for name, values in allowed.items():
        if getattr(p, name) not in values:
            words = ", ".join(v for v in values if v)
            raise ConfigError(f"{name} {getattr(p, name)!r} is not one of {words}")
    for name, low in (("batch_size", 1), ("length", 2), ("gpus", 1)):
        if getattr(p, name) < low:
            raise ConfigError(f"{name} {getattr(p, name)} must be a whole number from {low}")
    if p.tokens > p.config.max_positions:
        raise ConfigError(
            f"length {p.length} is above this model's context of {p.config.max_positions} tokens"
        )
    if p.batch_size * p.tokens > MOST_TOKENS:
        raise ConfigError(
            f"batch_size {p.batch_size} of length {p.length} is over {MOST_TOKENS:,} tokens a step"
        )


def _check_together(p: Plan) -> None:
    if p.shard and p.gpus == 1:
        raise ConfigError(f"shard {p.shard} needs cards to share: give gpus 2 or more")
    if p.accounting == "mixed" and p.number_bytes != 2:
        raise ConfigError(f"dtype {p.dtype} is not mixed precision; give bfloat16, or exact")
    if isinstance(p.config, Gpt) and (p.accounting == "exact" or p.activations):
        raise ConfigError(
            "of gpt3-175b only the parameters are known here, it is no Llama: choose accounting "
            "tutorial or mixed, without activations"
        )
    if p.accounting != "exact":
        return
    if p.dtype not in ("float32", "float64"):
        raise ConfigError(f"dtype {p.dtype}: minilora trains in float32, or float64 for checks")
    if p.optimizer not in optim.OPTIMIZERS:
        raise ConfigError(
            f"optimizer {p.optimizer} is none of minilora's: exact is with "
            f"{', '.join(optim.OPTIMIZERS)}"
        )
    if p.tokens > MOST_EXACT_LENGTH:
        raise ConfigError(
            f"length {p.length}: exact goes up to {MOST_EXACT_LENGTH:,} tokens in a row; choose "
            "accounting mixed, or a shorter length"
        )
    if p.gpus > 1 or p.offload or p.attention_weights:
        raise ConfigError(
            f"exact is minilora's step on one processor, which keeps attention weights up to "
            f"{ops.LONG} queries and not above; cards to share, offload and attention_weights "
            "are for accounting tutorial or mixed"
        )


@dataclass(frozen=True)
class Bytes:
    """By kind, on each card. Under tutorial and mixed there are no activations and buffers."""

    weights: int
    gradients: int
    optimizer: int
    activations: int = 0
    buffers: int = 0

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    def as_dict(self) -> dict[str, int]:
        return {**asdict(self), "total": self.total}


@dataclass(frozen=True)
class Budget:
    """The bill.

    frozen_bytes, trained_bytes   the weights, apart
    estimate     of the activations, where they are estimated
    needed       bytes that a card must have: the total, with the estimate; of exact the peak, in
                 which workspace inside of operations counts
    host         bytes of what was offloaded;  moved  bytes over the bus and over the network, of
                 each card, each step
    """

    plan: Plan
    trainable_parameters: int
    total_parameters: int
    bytes: Bytes
    frozen_bytes: int
    trained_bytes: int
    estimate: Estimate | None
    needed: int
    host: int = 0
    moved_bus: int = 0
    moved_network: int = 0


def budget(plan: Plan) -> Budget:
    """Add it up. Raises ConfigError for targets, a rank or sizes that the model has not."""
    parts = arrays(plan.config, plan.method)
    trainable = sum(a.size for a in parts if a.trained)
    total = sum(a.size for a in parts)
    if plan.accounting == "exact":
        held, needed, paged = _exact(plan)
        trained = trainable * plan.number_bytes
        frozen = held.weights - trained
        return Budget(plan, trainable, total, held, frozen, trained, None, needed, paged, 2 * paged)
    frozen = sum(weight_bytes(a, plan) for a in parts if not a.trained)
    trained = trainable * plan.number_bytes
    one = Bytes(frozen + trained, trained, _optimizer_bytes(trainable, plan))
    paged = 8 * trainable if plan.optimizer == "adamw-paged" else 0
    held, host = _on_each_card(one, plan)
    bus, network = _moved(one, plan)
    about = _estimate(plan)
    return Budget(
        plan,
        trainable,
        total,
        held,
        held.weights * frozen // one.weights,
        held.weights - held.weights * frozen // one.weights,
        about,
        held.total + (about.total if about else 0),
        host + paged,
        bus + 2 * paged,
        network,
    )


def weight_bytes(array: Array, plan: Plan) -> int:
    """Of one array: in NF4, with the constants of its blocks, if QLoRA has it so."""
    if plan.method.name != "qlora" or not array.linear:
        return array.size * plan.number_bytes
    blocks = _ceil(array.size, NF4_BLOCK)
    return _ceil(array.size, 2) + blocks + 4 * _ceil(blocks, NESTED_BLOCK)


def _optimizer_bytes(n: int, plan: Plan) -> int:
    """m and v of n trained numbers, and in mixed precision the master copy."""
    master = 4 * n if plan.accounting == "mixed" else 0
    each = plan.number_bytes if plan.accounting == "tutorial" else 4
    moments = {
        "adamw": 2 * each * n,
        "adamw-8bit": 2 * (n + 4 * _ceil(n, eight_bit.BLOCK)),
        "adamw-paged": 0,
        "sgd": 0,
    }
    return master + moments[plan.optimizer]


def _on_each_card(one: Bytes, plan: Plan) -> tuple[Bytes, int]:
    """What of one card's bytes stays on each of several; and what the processor holds."""
    stage = SHARDS.index(plan.shard) + 1 if plan.shard else 0
    weights, gradients, optimizer = (
        _ceil(n, plan.gpus) if stage >= at else n
        for n, at in ((one.weights, 3), (one.gradients, 2), (one.optimizer, 1))
    )
    if plan.offload:
        return Bytes(weights, gradients, 0), optimizer
    return Bytes(weights, gradients, optimizer), 0


def _moved(one: Bytes, plan: Plan) -> tuple[int, int]:
    """Bytes a step, of each card: over the bus to the processor, and over the network.

    The bus: gradients down, updated weights back (ZeRO-Offload, arXiv 2101.06840). The network, in
    rings, of which each of N cards sends (N-1)/N of the array: gradients are summed and shared out,
    and updated weights, or without shards the sums, are gathered; stage 3 gathers all weights
    instead, frozen ones too, once in forward and once in backward (ZeRO, section 7).
    """
    share = _ceil(one.gradients, plan.gpus) if plan.shard else one.gradients
    bus = 2 * share if plan.offload else 0
    gathered = 2 * one.weights if plan.shard == "zero3" else one.gradients
    return bus, _ceil((one.gradients + gathered) * (plan.gpus - 1), plan.gpus)


def _estimate(plan: Plan) -> Estimate | None:
    if not plan.activations or isinstance(plan.config, Gpt):
        return None
    return estimate(
        plan.config,
        plan.method,
        plan.batch_size,
        plan.tokens,
        checkpointing=plan.checkpointing,
        attention_weights=plan.attention_weights,
    )


@lru_cache(256)
def _exact(plan: Plan) -> tuple[Bytes, int, int]:
    """What is held, the peak, and what lies in a file."""
    assert isinstance(plan.config, ModelConfig)
    predicted = predict(
        plan.config,
        peft=plan.method.config,
        batch_size=plan.batch_size,
        length=plan.tokens,
        dtype=np.dtype(plan.dtype),
        checkpointing=plan.checkpointing,
        optimizer=plan.optimizer,
        quantize=plan.method.quantize,
    )
    kept = predicted.ledger
    return Bytes(**kept.totals), kept.peak, kept.paged


def step_flops(plan: Plan) -> Flops | None:
    """The matrix products of minilora's step of that plan; None where no step of it is known.

    Of n tokens they are a quadratic in n, up to ops.LONG. Above, attention goes in blocks, which
    skip what lies beyond their last key and compute p once more in backward: there they are a
    quadratic in the number of whole blocks, one for each remainder. Three short steps tell such a
    quadratic, and any length follows, exactly, without its arrays.
    """
    if isinstance(plan.config, Gpt):
        return None
    n = plan.tokens - 1  # the last token is only foretold
    before = plan.method.tokens if plan.method.name == "prompt" else 0  # they ask, too
    first, apart = 1, 1
    if n + before > ops.LONG:
        first, apart = ops.LONG + 1 + (n + before - ops.LONG - 1) % ops.BLOCK - before, ops.BLOCK
        first += -(first // apart) * apart if first < 1 else 0
    steps = [
        _flops_at(plan.config, plan.method.config, first + i * apart, plan.checkpointing)
        for i in range(3)
    ]
    x = (n - first) // apart
    # DoRA multiplies B A once a step, however many rows there are: two rows tell how much that is.
    twice = steps[0]
    if plan.method.name == "dora":
        twice = _flops_at(plan.config, plan.method.config, first, plan.checkpointing, 2)

    def at(kind: str) -> int:  # Newton's: from the first value and the differences
        a, b, c = (getattr(step, kind) for step in steps)
        once = 2 * a - getattr(twice, kind) if twice is not steps[0] else 0
        row = a - once + x * (b - a) + x * (x - 1) // 2 * (c - 2 * b + a)
        return plan.batch_size * row + once

    products = ("forward", "backward_through", "backward_weights")
    return Flops(**{kind: at(kind) for kind in products}, update=steps[0].update)


@lru_cache(64)
def _flops_at(config: ModelConfig, peft: Any, n: int, checkpointing: bool, rows: int = 1) -> Flops:
    """Of rows of n tokens and the one that is only foretold."""
    return predict(
        config, peft=peft, batch_size=rows, length=n + 1, checkpointing=checkpointing
    ).flops


def _ceil(n: int, parts: int) -> int:
    return -(-n // parts)
