"""A step that was not computed is held against the same step, computed."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minilora.accounting import ledger, predict
from minilora.bases import quantize_base
from minilora.config import ModelConfig
from minilora.errors import ConfigError
from minilora.model import Transformer
from minilora.optim import AdamW
from minilora.peft import LoraConfig, get_peft_model
from minilora.quant import DATA_TYPES
from minilora.training import train_step


def measured(
    config, lora, batch_size, length, targets=None, *, dtype=np.float32, warm=False, **how
):
    """The ledger of a real step of that config, with random weights."""
    checkpointing = how.pop("checkpointing", False)
    model = Transformer(config, dtype=dtype)
    if packed := how.pop("quantize", None):
        sizes = {name: how.pop(name) for name in ("block_size", "double_quant") if name in how}
        quantize_base(model, packed, **sizes)
    if lora is not None:
        model = get_peft_model(model, lora)
    model.gradient_checkpointing_enable(checkpointing)
    optimizer = AdamW(model.parameters())
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (batch_size, length))
    labels = ids.copy()
    if targets is not None:
        labels[:, : length - targets] = -100
    if warm:
        train_step(model, optimizer, ids, labels, **how)
    with ledger(model, optimizer) as kept:
        train_step(model, optimizer, ids, labels, **how)
    return kept


configs = st.builds(
    lambda V, heads, group, D, F, L, tied, bias: ModelConfig(
        V, 8 * heads, F, L, heads * group, heads, 2 * D, tie_word_embeddings=tied,
        attention_bias=bias, mlp_bias=bias, max_positions=64,
    ),
    *(st.integers(3, 40), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5)),
    *(st.integers(3, 40), st.integers(1, 3), st.booleans(), st.booleans()),
)  # fmt: skip
loras = st.none() | st.builds(
    LoraConfig,
    r=st.integers(1, 2),
    target_modules=st.sampled_from(
        ["all-linear", ("q_proj", "v_proj"), ("down_proj",), r"model\.layers\.0\..*o_proj"]
    ),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configs, loras, st.integers(1, 4), st.integers(2, 12), st.booleans(), st.integers(1, 3))
def test_it_is_the_ledger_of_the_step_by_kind_and_by_array(
    config, lora, batch_size, length, checkpointing, threads
):
    options = {"checkpointing": checkpointing, "threads": threads}
    real = measured(config, lora, batch_size, length, **options)
    foretold = predict(config, lora=lora, batch_size=batch_size, length=length, **options)
    assert foretold.ledger.totals == real.totals
    assert sorted(foretold.ledger.entries) == sorted(real.entries)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    configs,
    loras.filter(lambda lora: lora is not None),
    st.sampled_from(sorted(DATA_TYPES)),
    st.integers(1, 80),
    st.booleans(),
    st.booleans(),
    st.integers(1, 2),
)
def test_of_a_base_in_few_bits_it_is_the_ledger_too(
    config, lora, data_type, block_size, double_quant, checkpointing, threads
):
    options = {
        "quantize": data_type,
        "block_size": block_size,
        "double_quant": double_quant,
        "checkpointing": checkpointing,
        "threads": threads,
    }
    real = measured(config, lora, 2, 7, **options)
    foretold = predict(config, lora=lora, batch_size=2, length=7, **options)
    assert foretold.ledger.totals == real.totals
    assert sorted(foretold.ledger.entries) == sorted(real.entries)


def test_qlora_holds_4_127_bits_of_each_number_and_multiplies_as_lora_does():
    config = ModelConfig(256, 256, 768, 4, 4, 2)
    lora = LoraConfig(r=4)
    plain = predict(config, lora=lora, batch_size=2, length=16)
    packed = predict(config, lora=lora, batch_size=2, length=16, quantize="nf4")
    in_bits = [e for e in packed.ledger.entries if e.dtype == "nf4"]
    numbers = sum(math.prod(e.shape) for e in in_bits)
    assert numbers == 4 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 768 * 256)
    means = 4 * len(in_bits)
    bits = 8 * (sum(e.nbytes for e in in_bits) - means) / numbers
    assert bits == 4 + 8 / 64 + 32 / (64 * 256)
    assert packed.flops == plain.flops
    assert packed.total_parameters == plain.total_parameters
    for kind in ("gradients", "optimizer", "activations"):
        assert packed.ledger.totals[kind] == plain.ledger.totals[kind]


@pytest.mark.parametrize("data_type", ["nf4", "int4-minmax", "int8"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_its_peak_in_few_bits_is_that_of_tracemalloc(data_type, checkpointing):
    config = ModelConfig(61, 64, 172, 3, 4, 2, tie_word_embeddings=True)
    options = {"quantize": data_type, "checkpointing": checkpointing, "threads": 1}
    real = measured(config, LoraConfig(r=4), 16, 96, warm=True, **options)
    foretold = predict(config, lora=LoraConfig(r=4), batch_size=16, length=96, **options)
    assert foretold.ledger.totals == real.totals
    assert foretold.ledger.peak == pytest.approx(real.peak, rel=0.02)


def test_full_fine_tuning_of_a_base_in_few_bits_is_refused():
    with pytest.raises(ConfigError, match=r"trains none|nothing to train|no parameter|trainable"):
        predict(ModelConfig(8, 8, 8, 1, 1, max_positions=64), length=8, quantize="nf4")


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("targets", [None, 5])
@pytest.mark.parametrize(
    "lora", [None, LoraConfig(r=4), LoraConfig(r=4, target_modules="all-linear")]
)
def test_its_peak_is_that_of_tracemalloc(lora, targets, accumulate, checkpointing):
    """Within 2 %, with one thread; temporaries inside of operations included."""
    config = ModelConfig(61, 64, 172, 3, 4, 2, tie_word_embeddings=True)
    options = {"checkpointing": checkpointing, "accumulate": accumulate, "threads": 1}
    real = measured(config, lora, 16, 96, targets, warm=True, **options)
    foretold = predict(config, lora=lora, batch_size=16, length=96, targets=targets, **options)
    assert foretold.ledger.totals == real.totals
    assert foretold.ledger.peak == pytest.approx(real.peak, rel=0.02)


def test_in_float64_everything_is_twice_as_large():
    config = ModelConfig(31, 24, 40, 2, 4)
    single = predict(config, batch_size=3, length=9).ledger.totals
    double = predict(config, batch_size=3, length=9, dtype=np.float64).ledger.totals
    real = measured(config, None, 3, 9, dtype=np.float64, threads=1)
    assert double == real.totals
    for kind in ("weights", "gradients", "optimizer"):
        assert double[kind] == 2 * single[kind]


def test_a_model_of_eight_billion_is_foretold_without_being_built():
    config = ModelConfig(128256, 4096, 14336, 32, 32, 8, max_positions=8192)
    foretold = predict(config, lora=LoraConfig(r=8), batch_size=1, length=256)
    assert foretold.total_parameters - foretold.trainable_parameters == 8_030_261_248
    assert foretold.trainable_parameters == 3_407_872
    assert foretold.ledger.totals["weights"] == 4 * foretold.total_parameters


def test_full_multiplies_three_times_and_lora_a_little_more_than_twice():
    """Of the large products: forward, through, and, unless frozen, weights."""
    config = ModelConfig(64, 128, 344, 4, 4)
    full = predict(config, batch_size=2, length=32).flops
    lora = predict(config, lora=LoraConfig(r=2), batch_size=2, length=32).flops
    assert full.backward_weights == pytest.approx(full.forward, rel=0.1)
    assert full.backward_through == pytest.approx(full.forward, rel=0.1)
    assert lora.backward_through == pytest.approx(full.backward_through, rel=0.1)
    assert 0 < lora.backward_weights < 0.02 * full.backward_weights
    assert (lora.total - lora.update) / (full.total - full.update) == pytest.approx(2 / 3, abs=0.04)


def test_one_linear_layer_to_the_multiplication():
    """2·3N² a token for a full layer, 2·(2N² + 6Nr) with LoRA, multiply and add counted."""
    N, r, L = 64, 4, 2
    config = ModelConfig(16, N, N, L, 1)
    rows = 2 * 7  # of 8 tokens the last is not read

    def products(lora):
        f = predict(config, lora=lora, batch_size=2, length=8).flops
        return np.array([f.forward, f.backward_through, f.backward_weights])

    plain, adapted = products(None), products(LoraConfig(r=r, target_modules="all-linear"))
    layers = 7 * L * rows
    forward, through, weights = adapted - plain
    assert forward == layers * 2 * 2 * N * r
    assert weights == layers * 2 * (2 * N * r - N * N) - 2 * rows * 16 * N  # and no head's dW
    assert plain[0] - plain[2] == plain[0] - layers * 2 * N * N - 2 * rows * 16 * N
    # du and its way back for every adapted matrix, but below the lowest there is nothing to reach:
    # q, k and v of the first layer send no gradient on.
    assert through == layers * 2 * 2 * N * r - 3 * rows * 2 * (N * N + N * r)


def test_checkpointing_is_one_more_forward_pass_of_the_blocks():
    config = ModelConfig(32, 64, 172, 4, 4)
    plain = predict(config, batch_size=4, length=33)
    again = predict(config, batch_size=4, length=33, checkpointing=True)
    assert again.flops.backward_weights == plain.flops.backward_weights
    assert again.flops.backward_through == plain.flops.backward_through
    head = 2 * 4 * 32 * 32 * 64
    assert again.flops.forward == 2 * plain.flops.forward - head
    assert again.ledger.totals["activations"] < 0.5 * plain.ledger.totals["activations"]


def test_a_length_above_the_context_is_refused():
    with pytest.raises(ConfigError, match=r"length 65 .*context 64"):
        predict(ModelConfig(8, 8, 8, 1, 1, max_positions=64), length=65)
