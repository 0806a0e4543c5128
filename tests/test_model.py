"""The Transformer: Hugging Face's logits and names, causality, gradients, bad input."""

import json
from collections import Counter

import numpy as np
import pytest

from minilora import ops
from minilora.autograd import Tensor, backward, gradcheck, tape
from minilora.config import ModelConfig
from minilora.errors import ConfigError, DataError, DTypeError, FormatError, ShapeError
from minilora.model import KVCache, Transformer, rotary_frequencies
from minilora.optim import AdamW
from minilora.training import train_step

RNG = np.random.default_rng(0)
CONFIG = ModelConfig(30, 24, 40, 3, 4, n_kv_heads=2, max_positions=32)
V = CONFIG.vocab_size


def some_ids(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, V, shape)


def randomized(model, scale=0.3):
    """Weights so large that every part of the model shows in the logits, biases and norms too."""
    rng = np.random.default_rng(5)
    for p in model.parameters():
        p.data[:] = (rng.standard_normal(p.shape) * scale + (p.ndim == 1)).astype(p.dtype)
    return model


class TestAgainstTransformers:
    """A random model of each kind, its weights taken over by name."""

    LLAMA3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    KINDS = [
        pytest.param("Llama", {"num_key_value_heads": 1}, id="one key head"),
        pytest.param("Llama", {"num_key_value_heads": 2}, id="two key heads"),
        pytest.param("Llama", {"num_key_value_heads": 4}, id="as many key heads"),
        pytest.param("Llama", {"tie_word_embeddings": True}, id="tied"),
        pytest.param("Llama", {"attention_bias": True}, id="attention_bias"),
        pytest.param("Llama", {"mlp_bias": True}, id="mlp_bias"),
        pytest.param("Llama", {"head_dim": 16}, id="head_dim"),
        pytest.param("Llama", {"rope_theta": 500.0}, id="rope_theta"),
        pytest.param("Llama", {"rope_scaling": LLAMA3}, id="llama3"),
        pytest.param(
            "Llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, id="linear"
        ),
        pytest.param("Llama", {"rms_norm_eps": 0.1}, id="rms_norm_eps"),
        pytest.param("Mistral", {"num_key_value_heads": 2, "sliding_window": None}, id="mistral"),
        pytest.param(
            "Mistral",
            {"num_key_value_heads": 4, "sliding_window": 64},
            id="mistral within its window",
        ),
        pytest.param("Qwen2", {"num_key_value_heads": 2}, id="qwen2"),
        pytest.param(
            "Qwen2", {"num_key_value_heads": 4, "tie_word_embeddings": True}, id="qwen2 tied"
        ),
    ]

    def pair(self, kind, settings):
        """(theirs, the config.json that they write)."""
        self.torch = torch = pytest.importorskip("torch", reason="needs the extra parity")
        transformers = pytest.importorskip("transformers", reason="needs the extra parity")
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(
            vocab_size=V,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=128,
            **settings,
        )
        theirs = getattr(transformers, f"{kind}ForCausalLM")(config).float().eval()
        with torch.no_grad():
            for p in theirs.parameters():
                p.copy_(torch.randn(p.shape) * 0.3 + (p.ndim == 1))
        return theirs, json.loads(config.to_json_string(use_diff=False))

    def arrays(self, theirs):
        return {name: p.detach().numpy() for name, p in theirs.named_parameters()}

    @pytest.mark.parametrize(("kind", "settings"), KINDS)
    def test_logits_and_names(self, kind, settings):
        theirs, said = self.pair(kind, settings)
        ours = Transformer.from_weights(ModelConfig.from_hf(said), self.arrays(theirs))
        assert {n for n, _ in ours.named_parameters()} == set(self.arrays(theirs))
        ids = some_ids(2, 60)
        with self.torch.no_grad():
            expected = theirs(self.torch.from_numpy(ids)).logits.numpy()
        assert np.abs(expected).max() > 1
        assert np.abs(ours(ids).data - expected).max() <= 1e-4

    @pytest.mark.parametrize("scaling", [None, LLAMA3], ids=["plain", "llama3"])
    @pytest.mark.parametrize("older", [True, False], ids=["older spelling", "newer spelling"])
    def test_both_spellings_of_the_config(self, older, scaling):
        theirs, said = self.pair("Llama", {"rope_theta": 300.0, "rope_scaling": scaling})
        rope = {"rope_theta": 300.0, **(scaling or {"rope_type": "default"})}
        for name in ("rope_theta", "rope_scaling", "rope_parameters"):
            said.pop(name, None)
        said |= (
            {"rope_theta": 300.0, "rope_scaling": scaling} if older else {"rope_parameters": rope}
        )
        ours = Transformer.from_weights(ModelConfig.from_hf(said), self.arrays(theirs))
        ids = some_ids(1, 100)
        with self.torch.no_grad():
            expected = theirs(self.torch.from_numpy(ids)).logits.numpy()
        assert np.abs(ours(ids).data - expected).max() <= 1e-4

    def test_loss_and_every_gradient(self):
        theirs, said = self.pair("Llama", {"num_key_value_heads": 2})
        theirs = theirs.double()
        ours = Transformer.from_weights(ModelConfig.from_hf(said), self.arrays(theirs), np.float64)
        ids = some_ids(2, 12)
        labels = np.where(RNG.random(ids.shape) < 0.3, -100, ids)
        t = self.torch.from_numpy
        expected = theirs(t(ids), labels=t(labels)).loss
        expected.backward()
        loss = ours.loss(ids, labels)
        assert abs(loss.item() - expected.item()) < 1e-6
        gradients = backward(loss)
        gold = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
        for name, p in ours.named_parameters():
            # Their norms and rotary angles are computed in float32 whatever the weights are.
            assert np.abs(gradients[p] - gold[name]).max() <= 1e-5 * np.abs(gold[name]).max(), name


def test_parameters_are_named_as_hugging_face_names_them():
    config = ModelConfig(
        30, 24, 40, 1, 4, attention_bias=True, attention_out_bias=True, mlp_bias=True
    )
    block = "model.layers.0"
    attention = [f"self_attn.{n}_proj" for n in "qkvo"]
    mlp = [f"mlp.{n}_proj" for n in ("gate", "up", "down")]
    linears = [f"{block}.{path}.{part}" for path in attention + mlp for part in ("weight", "bias")]
    assert {name for name, _ in Transformer(config).named_parameters()} == {
        "model.embed_tokens.weight",
        *linears,
        f"{block}.input_layernorm.weight",
        f"{block}.post_attention_layernorm.weight",
        "model.norm.weight",
        "lm_head.weight",
    }


def test_tied_embeddings_are_one_array_counted_once(tiny):
    tied, untied = tiny(tied=True), tiny()
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert untied.n_parameters() - tied.n_parameters() == tied.lm_head.weight.size
    assert "lm_head.weight" not in dict(tied.named_parameters())


def test_tied_embeddings_get_both_gradients(tiny, tiny_batch):
    """What reading tokens in and what scoring them gives, in one array."""
    tied, untied = tiny(tied=True, dtype=np.float64), tiny(dtype=np.float64)
    untied.load_state_dict({"lm_head.weight": tied.lm_head.weight.data, **tied.state_dict()})
    both, apart = backward(tied.loss(*tiny_batch)), backward(untied.loss(*tiny_batch))
    expected = apart[untied.lm_head.weight] + apart[untied.model.embed_tokens.weight]
    assert np.abs(both[tied.lm_head.weight] - expected).max() <= 1e-14


def test_one_seed_one_model(tiny):
    first, again, other = tiny(seed=1), tiny(seed=1), tiny(seed=2)
    for a, b, c in zip(*(m.parameters() for m in (first, again, other)), strict=True):
        assert np.array_equal(a.data, b.data)
        assert np.array_equal(a.data, c.data) == (a.ndim == 1)


def test_a_fresh_model_starts_as_hugging_face_s_does():
    """Matrices normal with deviation 0.02, norms one, biases zero."""
    biases = {"attention_bias": True, "attention_out_bias": True, "mlp_bias": True}
    for name, p in Transformer(ModelConfig(30, 24, 40, 2, 4, **biases)).named_parameters():
        if p.ndim == 2:
            assert abs(p.data.mean()) < 0.005 and 0.018 < p.data.std() < 0.022
        else:
            assert (p.data == name.endswith("norm.weight")).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_everything_is_of_one_type(tiny, tiny_batch, dtype):
    model = tiny(dtype=dtype)
    assert model.dtype == dtype
    assert model(tiny_batch[0]).dtype == dtype
    loss = model.loss(*tiny_batch)
    assert loss.dtype == dtype
    assert all(
        a.dtype == dtype
        for op in tape(loss)
        for a in vars(op.saved).values()
        if a.dtype.kind == "f"
    )
    assert {g.dtype for g in backward(loss).values()} == {np.dtype(dtype)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_changing_a_token_leaves_the_logits_before_it_bit_equal(dtype):
    model = randomized(Transformer(CONFIG, dtype=dtype))
    ids = some_ids(3, 12)
    before = model(ids).data
    for t in range(12):
        changed = ids.copy()
        changed[:, t] = (changed[:, t] + 1) % V
        after = model(changed).data
        assert np.array_equal(after[:, :t], before[:, :t])
        assert not np.array_equal(after[:, t], before[:, t])


def test_a_row_does_not_depend_on_the_others():
    model = randomized(Transformer(CONFIG, dtype=np.float64))
    ids = some_ids(4, 10)
    together = model(ids).data
    for i in range(4):
        assert np.abs(model(ids[i : i + 1]).data - together[i : i + 1]).max() < 1e-12


def test_where_a_row_starts_late_its_logits_are_those_of_the_row_alone():
    model = randomized(Transformer(CONFIG, dtype=np.float64))
    ids, start = some_ids(3, 10), np.array([0, 4, 9])
    together = model.lm_head(model.hidden(ids, start=start)).data
    for row, first in enumerate(start):
        alone = model(ids[row : row + 1, first:]).data
        assert np.abs(together[row, first:] - alone).max() < 1e-12


@pytest.mark.parametrize("n_tokens", [30, 200])
def test_knowing_nothing_the_loss_is_about_ln_v(n_tokens):
    model = Transformer(ModelConfig(n_tokens, 32, 64, 2, 4))
    ids = np.random.default_rng(0).integers(0, n_tokens, (8, 33))
    assert abs(model.loss(ids, ids).item() - np.log(n_tokens)) <= 0.05 * np.log(n_tokens)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_of_ten_thousand_stay_finite(tiny, tiny_batch, dtype):
    model = tiny(dtype=dtype)
    model.lm_head.weight.data *= 1e4 / np.abs(model(tiny_batch[0]).data).max()
    assert np.abs(model(tiny_batch[0]).data).max() == pytest.approx(1e4, rel=1e-3)
    loss = model.loss(*tiny_batch)
    assert np.isfinite(loss.item()) and loss.item() > 100
    assert all(np.isfinite(g).all() for g in backward(loss).values())


def gradients_of_the_whole(model, ids, labels):
    """Gradcheck of the loss by ten elements of every parameter."""
    names = [name for name, _ in model.named_parameters()]

    def loss(*leaves):
        for name, leaf in zip(names, leaves, strict=True):
            path, _, part = name.rpartition(".")
            setattr(model.get_submodule(path), part, leaf)
        if model.config.tie_word_embeddings:
            model.lm_head.weight = model.model.embed_tokens.weight
        return model.loss(ids, labels)

    arrays = [p.data for p in model.parameters()]
    # Some of these gradients are as small as 1e-7, and feel the loss's rounding: so h is larger
    # than where one operation is checked.
    return gradcheck(loss, *arrays, names=names, samples=10, tolerance=1e-5, h=3e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_kv_heads": 2},
        {"n_kv_heads": 1, "tie_word_embeddings": True},
        {"attention_bias": True, "attention_out_bias": True, "mlp_bias": True, "head_dim": 8},
    ],
    ids=["untied", "tied", "biases"],
)
@pytest.mark.parametrize("steps", [0, 20])
def test_gradients_of_the_whole_model(settings, steps, tiny_batch):
    model = randomized(Transformer(ModelConfig(30, 24, 40, 2, 4, **settings), dtype=np.float64))
    ids, labels = tiny_batch
    optimizer = AdamW(model.parameters(), lr=1e-3)
    losses = [train_step(model, optimizer, ids, labels) for _ in range(steps)]
    assert not losses or losses[-1] < losses[0]
    n_parameters = len(list(model.parameters()))
    report = gradients_of_the_whole(model, ids, labels)
    assert report.ok, f"\n{report}"
    assert len(report.inputs) == n_parameters


def test_two_fresh_backwards_are_equal_to_the_bit(tiny, tiny_batch):
    model = tiny()
    first, second = (backward(model.loss(*tiny_batch)) for _ in range(2))
    assert set(first) == set(model.parameters())
    for p in first:
        assert first[p].tobytes() == second[p].tobytes()
        assert (first[p].shape, first[p].dtype) == (p.shape, p.dtype)


def test_a_zero_gradient_from_above_gives_exactly_zero(tiny, tiny_batch):
    loss = tiny().loss(*tiny_batch)
    assert not any(g.any() for g in backward(loss, np.zeros_like(loss.data)).values())


def test_after_backward_the_tape_holds_no_array(tiny, tiny_batch):
    loss = tiny().loss(*tiny_batch)
    every = list(tape(loss))
    kept = [a for op in every for a in vars(op.saved).values()]
    assert len(kept) > 20
    backward(loss)
    assert not any(isinstance(a, np.ndarray) for op in every for a in vars(op.saved).values())


def test_backward_stops_below_the_lowest_trainable_tensor(tiny_batch):
    """A bypass on the top block's q alone: of the blocks below, nothing is on the tape."""
    model = Transformer(CONFIG)
    model.requires_grad_(False)
    q = model.model.layers[2].self_attn.q_proj
    A, B = (
        Tensor(np.ones(shape, np.float32), requires_grad=True)
        for shape in ((3, q.weight.shape[1]), (q.weight.shape[0], 3))
    )
    q.forward = lambda x: ops.lora_linear(x, q.weight, A, B, scaling=0.1)
    loss = model.loss(*tiny_batch)
    assert Counter(type(op).__name__ for op in tape(loss)) == {
        "LoRALinear": 1,  # q
        "Rotary": 1,  # of q, not of k
        "Attention": 1,
        "Reshape": 2,  # heads apart, heads together
        "Transpose": 2,
        "Linear": 4,  # o, gate, up, down
        "RMSNorm": 2,  # before the MLP, and the last
        "SwiGLU": 1,
        "Add": 2,
        "LinearCrossEntropy": 1,
    }
    assert set(backward(loss)) == {A, B}


def test_what_is_frozen_gets_no_gradient(tiny, tiny_batch):
    model = tiny()
    model.requires_grad_(False)
    head, up = model.lm_head.weight, model.model.layers[1].mlp.up_proj.weight
    for wanted in ([head], [up], [head, up]):
        model.requires_grad_(False)
        for p in wanted:
            p.requires_grad = True
        loss = model.loss(*tiny_batch)
        assert Counter(type(op).__name__ for op in tape(loss)).get("Attention", 0) == 0
        assert set(backward(loss)) == set(wanted)


def test_eight_examples_can_be_learnt_by_heart(tiny):
    model = tiny()
    ids = some_ids(8, 12)
    ids[:, 0] = np.arange(8)  # the first token tells which of them it is
    optimizer = AdamW(model.parameters(), lr=1e-2)
    losses = [train_step(model, optimizer, ids, ids) for _ in range(120)]
    assert losses[0] > 3
    assert losses[-1] < 0.01


def test_the_loss_is_the_mean_over_targets_of_the_shifted_labels(tiny, tiny_batch):
    model, (ids, labels) = tiny(dtype=np.float64), tiny_batch
    z = model(ids).data
    logp = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    surprises = [
        -logp[row, t - 1, labels[row, t]]
        for row, t in np.ndindex(ids.shape)
        if t > 0 and labels[row, t] != -100
    ]
    assert abs(model.loss(ids, labels).item() - np.mean(surprises)) < 1e-12


def test_a_head_that_is_not_plain_gives_the_same_loss(tiny, tiny_batch):
    """One that has something beside it cannot be scored in chunks, so its logits are made."""
    model = tiny(dtype=np.float64)
    plain = model.loss(*tiny_batch)

    class Wrapped(type(model.lm_head)):
        pass

    wrapped = Wrapped(24, 30, dtype=np.float64)
    wrapped.weight = model.lm_head.weight
    model.lm_head = wrapped
    other = model.loss(*tiny_batch)
    assert {type(op).__name__ for op in tape(other)} >= {"Linear", "CrossEntropy"}
    assert abs(plain.item() - other.item()) < 1e-12


def test_ids_may_be_lists_arrays_or_tensors(tiny):
    model, ids = tiny(), some_ids(2, 5)
    expected, loss = model(ids).data, model.loss(ids, ids).item()
    for given in (ids.tolist(), ids.astype(np.uint8), Tensor(ids)):
        assert np.array_equal(model(given).data, expected)
        assert model.loss(given, given).item() == loss


def test_a_cache_continues_where_the_last_call_ended():
    model = randomized(Transformer(CONFIG))
    ids = some_ids(2, 9)
    whole = model(ids).data
    kv = KVCache(CONFIG, 2, 9, np.float32)
    parts = [ids[:, :4], ids[:, 4:5], ids[:, 5:]]
    logits = [model.lm_head(model.hidden(part, kv=kv)).data for part in parts]
    assert kv.length == 9
    assert np.abs(np.concatenate(logits, axis=1) - whole).max() <= 1e-5


def test_rotary_frequencies_fall_from_one_to_nearly_one_over_theta():
    c = ModelConfig(30, 24, 40, 1, 1, head_dim=8, rope_theta=1e4)
    assert np.allclose(rotary_frequencies(c), [1, 1e-1, 1e-2, 1e-3], rtol=1e-12)


def test_linear_scaling_slows_every_pair_down_alike():
    c = ModelConfig(30, 24, 40, 2, 4)
    slow = ModelConfig(30, 24, 40, 2, 4, rope_scaling={"rope_type": "linear", "factor": 4.0})
    assert np.allclose(rotary_frequencies(slow), rotary_frequencies(c) / 4, rtol=1e-12)


def test_llama3_scaling_slows_down_the_slow_pairs_only():
    sizes = {"vocab_size": 30, "hidden_size": 64, "intermediate_size": 40, "n_layers": 1}
    plain = rotary_frequencies(ModelConfig(**sizes, n_heads=1))
    scaling = {**TestAgainstTransformers.LLAMA3, "original_max_position_embeddings": 256}
    scaled = rotary_frequencies(ModelConfig(**sizes, n_heads=1, rope_scaling=scaling))
    turns = 256 * plain / (2 * np.pi)
    assert np.allclose(scaled[turns > 4], plain[turns > 4], rtol=1e-12)
    assert np.allclose(scaled[turns < 1], plain[turns < 1] / 8, rtol=1e-12)
    between = (turns > 1) & (turns < 4)
    assert ((scaled < plain) & (scaled > plain / 8))[between].all()
    assert between.any() and (turns > 4).any() and (turns < 1).any()


class TestBadInput:
    @pytest.mark.parametrize(
        ("ids", "error", "words"),
        [
            ([[0, 30]], ShapeError, r"token id 30 .*0 to 29"),
            ([[0, -1]], ShapeError, r"token id -1 .*0 to 29"),
            ([[0.0, 1.0]], DTypeError, r"integers, not float64.*astype"),
            ([[True, False]], DTypeError, r"integers, not bool"),
            ([0, 1], ShapeError, r"\(batch, time\), not \(2,\).*ids\[None\]"),
            ([[[0, 1]]], ShapeError, r"\(batch, time\), not \(1, 1, 2\)"),
            (np.zeros((0, 5), int), ShapeError, r"\(0, 5\).*the batch is empty"),
            (np.zeros((2, 0), int), ShapeError, r"\(2, 0\).*empty"),
            (np.zeros((1, 33), int), ShapeError, r"33 tokens is longer.*context of 32; shorten"),
        ],
    )
    def test_ids(self, ids, error, words):
        with pytest.raises(error, match=words):
            Transformer(CONFIG)(np.asarray(ids))

    def test_a_row_that_is_too_long_beside_one_that_starts_late(self):
        with pytest.raises(ShapeError, match=r"40 tokens is longer.*context of 32"):
            Transformer(CONFIG).hidden(some_ids(2, 40), start=np.array([0, 30]))
        assert Transformer(CONFIG).hidden(some_ids(1, 40), start=np.array([30])).shape[1] == 40

    def test_a_cache_that_is_full(self):
        model, kv = Transformer(CONFIG), KVCache(CONFIG, 1, 32, np.float32)
        model.hidden(some_ids(1, 30), kv=kv)
        with pytest.raises(ShapeError, match=r"33 tokens is longer.*context of 32"):
            model.hidden(some_ids(1, 3), kv=kv)

    @pytest.mark.parametrize(
        ("ids", "labels", "words"),
        [
            ((2, 5), (2, 4), r"ids \(2, 5\) and labels \(2, 4\).*\(batch, time\)"),
            ((5,), (5,), r"ids \(5,\).*\(batch, time\)"),
            ((2, 1), (2, 1), r"ids \(2, 1\).*at least 2 tokens"),
        ],
    )
    def test_labels_that_do_not_fit_the_ids(self, ids, labels, words):
        with pytest.raises(DataError, match=words):
            Transformer(CONFIG).loss(some_ids(*ids), some_ids(*labels))

    def test_a_batch_with_no_target(self):
        ids = some_ids(2, 5)
        labels = np.full((2, 5), -100)
        labels[:, 0] = 1  # nothing foretells the first token
        with pytest.raises(DataError, match=r"none of the 8 labels is a target.*-100"):
            Transformer(CONFIG).loss(ids, labels)

    def test_a_label_that_is_no_token(self):
        ids = some_ids(2, 5)
        with pytest.raises(DataError, match=r"label 99 .*0 to 29, or -100"):
            Transformer(CONFIG).loss(ids, np.where(ids == ids[1, 3], 99, ids))

    def test_sizes_that_do_not_go_together(self):
        with pytest.raises(ConfigError, match="n_heads 5 does not divide hidden_size 24"):
            Transformer(ModelConfig(30, 24, 40, 2, 5))


class TestFromWeights:
    def test_it_is_the_model_again(self, tiny):
        model, ids = tiny(), some_ids(2, 6)
        again = Transformer.from_weights(model.config, model.state_dict())
        assert np.array_equal(again(ids).data, model(ids).data)

    @pytest.mark.parametrize("tied", [True, False])
    def test_pairs_are_taken_one_at_a_time(self, tiny, tied):
        """Of a large model's arrays only one at a time needs to exist in the file's type."""
        model = tiny(tied=tied)
        pairs = ((name, p.data.astype(np.float64)) for name, p in model.named_parameters())
        again = Transformer.from_weights(model.config, pairs)
        assert all(p.dtype == np.float32 for p in again.parameters())
        assert np.array_equal(again(some_ids(1, 3)).data, model(some_ids(1, 3)).data)

    def test_what_files_may_hold_beside_the_weights_is_passed_over(self, tiny):
        model = tiny(tied=True)
        beside = {
            "lm_head.weight": model.lm_head.weight.data,
            "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(3, np.float32),
        }
        again = Transformer.from_weights(model.config, {**model.state_dict(), **beside})
        assert again.lm_head.weight is again.model.embed_tokens.weight

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"model.norm.weight": None}, r"1 of the .*missing, first model\.norm\.weight"),
            ({"model.norm.weight": np.ones(23)}, r"model\.norm\.weight.*\(23,\).*\(24,\)"),
            ({"model.layers.7.x": np.ones(3)}, r"no weight 'model\.layers\.7\.x'"),
        ],
    )
    def test_arrays_that_do_not_fit_are_met_with_words(self, tiny, change, words):
        model = tiny()
        arrays = {n: a for n, a in (model.state_dict() | change).items() if a is not None}
        with pytest.raises(FormatError, match=words):
            Transformer.from_weights(model.config, arrays)
