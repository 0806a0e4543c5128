"""The three ways of counting: published sums, and minilora's own step to the byte."""

from dataclasses import replace

import pytest

from minilora import ops
from minilora.accounting.budget import NF4_BITS, Plan, _flops_at, budget, step_flops
from minilora.accounting.counts import Method
from minilora.accounting.estimate import estimate
from minilora.accounting.predict import predict
from minilora.accounting.presets import preset
from minilora.config import ModelConfig
from minilora.errors import ConfigError
from minilora.peft import LoraConfig

LLAMA = preset("llama-3-8b")
P = 8_030_261_248
TINY = ModelConfig(31, 24, 40, 2, 4, n_kv_heads=2, max_positions=64)
WIDE = replace(TINY, hidden_size=96, intermediate_size=60)
LORA = Method("lora", LoraConfig(4))
PREFIX = Method("prefix", tokens=5)
RELATIVES = [
    Method("qlora", LoraConfig(2)),
    Method("dora", LoraConfig(2)),
    Method("prompt", tokens=7),
    PREFIX,
    Method("adapter", bottleneck=3),
    Method("ia3"),
    Method("bitfit"),
]


def gb(n):
    return round(n / 1e9, 2)


class TestTutorial:
    def test_the_64_gb_of_an_8b_model(self):
        held = budget(Plan(LLAMA, accounting="tutorial")).bytes
        assert (held.weights, held.gradients, held.optimizer) == (2 * P, 2 * P, 4 * P)
        assert held.total == 8 * P
        assert gb(held.total) == 64.24
        assert (held.activations, held.buffers) == (0, 0)
        # Of "8B" parameters it is 16 + 16 + 32 = 64.
        assert [round(n * 8e9 / P / 1e9) for n in (held.weights, held.optimizer)] == [16, 32]

    def test_lora_leaves_a_quarter(self):
        held = budget(Plan(LLAMA, Method("lora"), "tutorial")).bytes
        assert held.weights == 2 * (P + 3_407_872)
        assert (held.gradients, held.optimizer) == (2 * 3_407_872, 4 * 3_407_872)
        assert f"{held.gradients / 1e6:.1f} MB" == "6.8 MB"
        assert 0.25 < held.total / (8 * P) < 0.251

    @pytest.mark.parametrize(("dtype", "each"), [("float16", 2), ("float32", 4), ("float64", 8)])
    def test_other_numbers(self, dtype, each):
        assert budget(Plan(LLAMA, accounting="tutorial", dtype=dtype)).bytes.total == 4 * each * P

    def test_activations_only_if_asked_for(self):
        assert budget(Plan(LLAMA, accounting="tutorial")).estimate is None
        asked = budget(Plan(LLAMA, accounting="tutorial", activations=True))
        assert asked.needed == asked.bytes.total + asked.estimate.total > 8 * P


class TestMixed:
    def test_16_bytes_a_parameter(self):
        bill = budget(Plan(LLAMA))
        held = bill.bytes
        assert (held.weights, held.gradients, held.optimizer) == (2 * P, 2 * P, 12 * P)
        assert held.total == 16 * P
        assert f"{held.total / 1e9:.1f}" == "128.5"
        assert bill.needed == held.total + bill.estimate.total

    def test_frozen_numbers_cost_2_bytes(self):
        bill = budget(Plan(LLAMA, Method("lora")))
        assert (bill.frozen_bytes, bill.trained_bytes) == (2 * P, 2 * 3_407_872)
        assert bill.bytes.optimizer == 12 * 3_407_872
        assert gb(bill.frozen_bytes) == 16.06

    def test_optimizers(self):
        n = 3_407_872
        of = {
            o: budget(Plan(LLAMA, Method("lora"), optimizer=o)).bytes.optimizer
            for o in ("adamw", "adamw-8bit", "sgd")
        }
        assert of == {"adamw": 12 * n, "adamw-8bit": 4 * n + 2 * (n + 4 * n // 256), "sgd": 4 * n}


class TestQLoRA:
    def test_bits_a_parameter(self):
        assert round(NF4_BITS, 6) == 4.126953
        assert round(NF4_BITS - 4, 6) == 0.126953

    def test_5_70_gb_are_3_60_and_2_10(self):
        bill = budget(Plan(LLAMA, Method("qlora")))
        linears = 6_979_321_856
        rest = 2 * (P - linears)
        assert (gb(bill.frozen_bytes), gb(bill.frozen_bytes - rest), gb(rest)) == (5.70, 3.60, 2.10)
        assert bill.frozen_bytes - rest == linears * NF4_BITS / 8  # whole blocks, so exactly

    def test_blocks_that_are_not_full_are_paid_for_whole(self):
        config = ModelConfig(31, 6, 5, 1, 1, n_kv_heads=1, max_positions=64)
        bill = budget(Plan(config, Method("qlora", LoraConfig(1))))
        linears = 4 * (18 + 1 + 4) + 3 * (15 + 1 + 4)
        assert bill.frozen_bytes == linears + 2 * (2 * 31 * 6 + 3 * 6)


class TestExact:
    @pytest.mark.parametrize("checkpointing", [False, True])
    @pytest.mark.parametrize("method", [Method(), LORA, *RELATIVES])
    def test_it_is_the_prediction(self, method, checkpointing):
        plan = Plan(TINY, method, "exact", batch_size=3, length=9, checkpointing=checkpointing)
        bill = budget(plan)
        said = predict(
            TINY,
            peft=method.config,
            quantize=method.quantize,
            batch_size=3,
            length=9,
            checkpointing=checkpointing,
        )
        assert bill.bytes.as_dict() == {
            **said.ledger.totals,
            "total": sum(said.ledger.totals.values()),
        }
        assert bill.needed == said.ledger.peak
        counts = (said.trainable_parameters, said.total_parameters)
        assert (bill.trainable_parameters, bill.total_parameters) == counts

    @pytest.mark.parametrize("optimizer", ["adamw-8bit", "adamw-paged"])
    def test_an_optimizer_that_holds_less(self, optimizer):
        plain, less = (
            budget(Plan(WIDE, Method(), "exact", optimizer=name)) for name in ("adamw", optimizer)
        )
        n = plain.trainable_parameters
        assert plain.bytes.optimizer == 8 * n
        assert less.bytes.optimizer < (8 * n if optimizer == "adamw-8bit" else 1)
        assert less.host == (8 * n if optimizer == "adamw-paged" else 0)
        others = ("weights", "gradients", "activations")
        assert all(getattr(less.bytes, k) == getattr(plain.bytes, k) for k in others)

    def test_float64_is_twice(self):
        one, two = (
            budget(Plan(TINY, LORA, "exact", dtype=d)).bytes for d in ("float32", "float64")
        )
        assert (two.weights, two.gradients) == (2 * one.weights, 2 * one.gradients)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"dtype": "bfloat16"}, "float32"),
            ({"optimizer": "sgd"}, "sgd"),
            ({"gpus": 2}, "one processor"),
            ({"offload": "optimizer"}, "one processor"),
            ({"attention_weights": True}, "attention_weights"),
        ],
    )
    def test_what_it_does_not_know(self, options, said):
        with pytest.raises(ConfigError, match=said):
            Plan(TINY, accounting="exact", **options)

    def test_too_long_a_row(self):
        config = replace(TINY, max_positions=2**20)
        Plan(config, accounting="exact", length=16384)
        with pytest.raises(ConfigError, match="16,384"):
            Plan(config, accounting="exact", length=16385)


class TestFlops:
    @pytest.mark.parametrize("checkpointing", [False, True])
    @pytest.mark.parametrize("method", [Method(), LORA, *RELATIVES])
    @pytest.mark.parametrize("length", [2, 3, 4, 37, 57])
    def test_three_short_steps_tell_of_any(self, method, length, checkpointing):
        self.equal(TINY, method, batch_size=5, length=length, checkpointing=checkpointing)

    @pytest.mark.parametrize("checkpointing", [False, True])
    @pytest.mark.parametrize("method", [Method(), LORA, Method("prompt", tokens=7), PREFIX])
    @pytest.mark.parametrize("n", [249, 250, 255, 256, 257, 258, 384, 385, 512, 600, 1000, 1024])
    def test_also_where_attention_goes_in_blocks(self, method, n, checkpointing):
        config = replace(TINY, max_positions=2048)
        self.equal(config, method, batch_size=3, length=n + 1, checkpointing=checkpointing)

    def equal(self, config, method, **options):
        said = predict(config, peft=method.config, quantize=method.quantize, **options)
        assert step_flops(Plan(config, method, **options)) == said.flops

    @pytest.mark.parametrize(("long", "block"), [(100, 32), (64, 96)])
    def test_whatever_the_blocks(self, monkeypatch, long, block):
        monkeypatch.setattr(ops, "LONG", long)
        monkeypatch.setattr(ops, "BLOCK", block)
        _flops_at.cache_clear()
        for n in (long, long + 1, 3 * block, 300):
            self.equal(replace(TINY, max_positions=512), LORA, length=n + 1)
        _flops_at.cache_clear()

    def test_a_lora_step_takes_two_thirds(self):
        full, lora = (step_flops(Plan(LLAMA, m)) for m in (Method(), Method("lora")))
        assert lora.total / full.total == pytest.approx(2 / 3, abs=0.03)
        assert lora.forward >= full.forward  # nothing of forward is spared
        assert lora.backward_weights < full.backward_weights / 1000

    def test_one_square_matrix_a_token(self):
        # 3 products of full tuning; 2 and the bypass's 6 Nr of LoRA: taken from what a second
        # target adds to a model of square matrices.
        config = ModelConfig(31, 16, 40, 1, 2, max_positions=64)
        N, r, tokens = 16, 4, 8
        one, two = (
            step_flops(Plan(config, Method("lora", LoraConfig(r, target_modules=t)), length=9))
            for t in (("v_proj",), ("v_proj", "o_proj"))
        )
        products = ("forward", "backward_through", "backward_weights")
        more = sum(getattr(two, k) - getattr(one, k) for k in products)
        assert more == tokens * 2 * 6 * N * r

    def test_more_virtual_tokens_than_a_short_step_has(self):
        config = replace(TINY, max_positions=1024)
        self.equal(config, Method("prompt", tokens=600), length=101)

    def test_unknown_for_what_is_only_counted(self):
        assert step_flops(Plan(preset("gpt3-175b"))) is None

    def test_a_long_context_takes_no_memory(self):
        config = replace(LLAMA, max_positions=131072)
        assert step_flops(Plan(config, length=131072)).forward > 1e15


class TestCards:
    FULL = Plan(LLAMA, gpus=8)

    @pytest.mark.parametrize(
        ("shard", "a_parameter"),
        [(None, 16), ("zero1", 4 + 12 / 8), ("zero2", 2 + 14 / 8), ("zero3", 16 / 8)],
    )
    def test_bytes_on_each_as_in_zero(self, shard, a_parameter):
        assert budget(replace(self.FULL, shard=shard)).bytes.total == a_parameter * P

    @pytest.mark.parametrize(
        ("shard", "elements"), [(None, 2), ("zero1", 2), ("zero2", 2), ("zero3", 3)]
    )
    def test_what_goes_over_the_network(self, shard, elements):
        # ZeRO, section 7: as much as plain data parallelism, and half more at stage 3.
        assert budget(replace(self.FULL, shard=shard)).moved_network == elements * 2 * P * 7 // 8

    def test_offload(self):
        bill = budget(Plan(LLAMA, offload="optimizer"))
        assert (bill.bytes.total, bill.host, bill.moved_bus) == (4 * P, 12 * P, 4 * P)
        shared = budget(replace(self.FULL, shard="zero2", offload="optimizer"))
        assert (shared.host, shared.moved_bus) == (12 * P // 8, 4 * P // 8)

    def test_frozen_and_trained_add_up(self):
        bill = budget(Plan(LLAMA, Method("lora"), gpus=3, shard="zero3"))
        assert bill.frozen_bytes + bill.trained_bytes == bill.bytes.weights

    def test_one_card_moves_nothing(self):
        bill = budget(Plan(LLAMA))
        assert (bill.moved_network, bill.moved_bus, bill.host) == (0, 0, 0)


class TestEstimate:
    def about(self, method=LORA, **options):
        return estimate(LLAMA, method, 1, 2048, **options)

    def test_full_by_hand(self):
        C, F, KD, L, T, V = 4096, 14336, 1024, 32, 2048, 128256
        layer = (2 * C) + (2 * C + 2 * KD) + 2 * F + (2 * C + F)
        found = self.about(Method())
        assert found.layers == 2 * T * (L * layer + 2 * C)
        assert found.logits == 4 * T * V

    def test_frozen_matrices_keep_no_input(self):
        C, F, L, T = 4096, 14336, 32, 2048
        assert self.about(Method()).layers - self.about().layers == 2 * T * L * (C + F)
        every = Method("lora", LoraConfig(target_modules="all-linear"))
        assert self.about(every) == self.about(Method())

    def test_attention_weights_grow_with_the_square(self):
        for T in (1024, 2048):
            kept, not_kept = (
                estimate(LLAMA, LORA, 1, T, attention_weights=on).layers for on in (True, False)
            )
            assert kept - not_kept == 2 * 32 * 32 * T * T

    def test_checkpointing_keeps_the_inputs_and_one_block(self):
        C, L, T = 4096, 32, 2048
        one = (self.about().layers - 2 * T * 2 * C) // L
        assert self.about(checkpointing=True).layers == 2 * T * (L * C + 2 * C) + one

    def test_it_says_what_it_is(self):
        found = self.about()
        assert "2205.05198" in found.source
        assert found.formula != self.about(checkpointing=True).formula
        assert "fragmentation" in found.left_out

    def test_lora_on_24_gib_at_2048_but_not_at_4096(self):
        card = 24 * 2**30
        short, long = (budget(Plan(LLAMA, Method("lora"), length=T)) for T in (2048, 4096))
        assert 22e9 < short.needed <= card < long.needed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"accounting": "rough"}, "'rough'"),
        ({"optimizer": "adam"}, "'adam'"),
        ({"dtype": "int8"}, "'int8'"),
        ({"dtype": "float32"}, "mixed precision"),
        ({"shard": "zero4", "gpus": 2}, "'zero4'"),
        ({"shard": "zero1"}, "gpus 2"),
        ({"offload": "weights"}, "'weights'"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"length": 1}, "length 1"),
        ({"length": 65}, "context of 64"),
        ({"gpus": 0}, "gpus 0"),
        ({"batch_size": 10**9}, "tokens a step"),
    ],
)
def test_plans_that_there_are_not(options, said):
    with pytest.raises(ConfigError, match=said):
        Plan(TINY, **options)


def test_of_gpt3_only_the_parameters_are_known():
    config = preset("gpt3-175b")
    for options in ({"accounting": "exact"}, {"activations": True}):
        with pytest.raises(ConfigError, match="no Llama"):
            Plan(config, **options)
    bill = budget(Plan(config, Method("lora", LoraConfig(4)), "tutorial"))
    assert round(bill.trained_bytes / 1e6, 1) == 37.7  # "35 MB"
    assert 9_000 < bill.frozen_bytes / bill.trained_bytes < 9_500
