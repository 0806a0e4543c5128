"""`add_weighted_adapter`: what comes of it, what it is there in PEFT, what is refused."""

import numpy as np
import pytest

from minilora.bases import load_base, save_base
from minilora.errors import AdapterError, ConfigError, NonFiniteError
from minilora.optim import AdamW
from minilora.peft import LoraConfig, PeftModel, get_peft_model
from minilora.peft.weighted import KINDS
from minilora.training import train_step

QV = LoraConfig(r=4, lora_alpha=8)
WIDE = LoraConfig(r=6, lora_alpha=3, target_modules=["q_proj", "down_proj"])
ALL = LoraConfig(r=4, lora_alpha=2, target_modules="all-linear")
EMBEDDINGS = LoraConfig(r=4, lora_alpha=6, target_modules=["embed_tokens", "q_proj"])
RANDOM = ("dare_linear", "dare_ties", "dare_linear_svd", "dare_ties_svd")
THINNED = [kind for kind in KINDS if kind not in ("svd", "linear", "cat")]


@pytest.fixture
def several(tiny):
    """several(*configs): a model with adapters a, b, c, … none of them fresh."""

    def make(*configs, **options):
        model = get_peft_model(tiny(**options), configs[0], "a")
        for i, config in enumerate(configs[1:]):
            model.add_adapter("bcdef"[i], config, seed=i + 1)
        rng = np.random.default_rng(3)
        for name in model.peft_config:
            for _, layer in model.adapted(name):
                for p in layer.parts(name).values():
                    p.data += rng.normal(0, 0.2, p.shape).astype(p.dtype)
        return model

    return make


def deltas(model, name):
    """path → ΔW (out, in) of an adapter; of embeddings ΔWᵀ."""
    changes = {}
    for path, layer in model.adapted(name):
        A, B = (part.astype(np.float64) for part in layer.pair(name))
        changes[path] = layer.configs[name].scaling * (B @ A)
    return changes


def weighted_sum(model, weights):
    total = {}
    for name, weight in weights.items():
        for path, change in deltas(model, name).items():
            total[path] = total.get(path, 0) + weight * change
    return total


def density(kind):
    return {"density": 0.6} if kind in THINNED else {}


def test_cat_is_the_sum_of_any_adapters_anywhere(several):
    model = several(QV, WIDE, EMBEDDINGS, ALL)
    weights = {"a": 0.5, "b": -2.0, "c": 1.5, "d": 1.0}
    model.add_weighted_adapter(list(weights), list(weights.values()), "sum", "cat")
    found, expected = deltas(model, "sum"), weighted_sum(model, weights)
    assert found.keys() == expected.keys()
    assert len(found) == 2 * 7 + 1
    for path in expected:
        np.testing.assert_allclose(found[path], expected[path], rtol=0, atol=1e-5)
    config = model.peft_config["sum"]
    assert (config.r, config.scaling) == (18, 1)  # beside q_proj, where all four are
    assert model.active_adapter == "a"
    assert not any("sum" in n for n, p in model.named_parameters() if p.requires_grad)


def test_cat_computes_the_sum_of_what_they_add(several, tiny_batch, logits):
    # At the head nothing is bent any more: what adapters add to the logits adds up itself.
    head = LoraConfig(r=2, target_modules=["lm_head"])
    model = several(head, LoraConfig(r=3, lora_alpha=1, target_modules=["lm_head"]))
    ids, _ = tiny_batch
    model.add_weighted_adapter(["a", "b"], [2, -0.5], "both", "cat")
    said = {}
    for name in "a", "b", "both":
        model.set_adapter(name)
        said[name] = logits(model, ids)
    with model.disable_adapter():
        base = logits(model, ids)
    expected = base + 2 * (said["a"] - base) - 0.5 * (said["b"] - base)
    np.testing.assert_allclose(said["both"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_svd_is_the_nearest_of_its_rank(several, rank):
    model = several(QV, WIDE, EMBEDDINGS)
    weights = {"a": 1.0, "b": 0.5, "c": -1.0}
    model.add_weighted_adapter(list(weights), list(weights.values()), "near", svd_rank=rank)
    found, expected = deltas(model, "near"), weighted_sum(model, weights)
    for path, change in expected.items():
        sigma = np.linalg.svd(change, compute_uv=False)
        lost = np.linalg.norm(found[path] - change)
        np.testing.assert_allclose(lost, np.sqrt((sigma[rank:] ** 2).sum()), rtol=1e-5, atol=1e-5)
    assert model.peft_config["near"].r == rank


def test_the_rank_of_svd_is_the_largest_if_nothing_is_said(several):
    model = several(QV, WIDE)
    model.add_weighted_adapter(["a", "b"], [1, 1], "near")
    assert model.peft_config["near"].r == 6


@pytest.mark.parametrize("kind", RANDOM)
def test_what_is_dropped_depends_on_the_seed_alone(several, fingerprint, kind):
    model = several(QV, QV)
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        model.add_weighted_adapter(["a", "b"], [1, 1], name, kind, density=0.5, seed=seed)
    one, again, other = (
        fingerprint(model.adapter_weights(name)) for name in ("one", "again", "other")
    )
    assert one == again
    assert all(one[name] != other[name] for name in one)


def test_dare_keeps_its_share_of_a_and_b(several):
    model = several(ALL, ALL)
    model.add_weighted_adapter(["a", "b"], [1, 1], "thin", "dare_linear", density=0.3)
    arrays = model.adapter_weights("thin")
    zeros = np.concatenate([array.reshape(-1) == 0 for array in arrays.values()])
    assert abs(zeros.mean() - 0.7**2) < 0.02  # a number is zero where both have dropped theirs


@pytest.mark.parametrize("kind", KINDS)
def test_the_others_and_the_base_stay_as_they_are(several, tiny_batch, fingerprint, kind, logits):
    model = several(QV, QV)
    before = fingerprint(model.state_dict())
    with model.disable_adapter():
        base = logits(model, tiny_batch[0])
    model.add_weighted_adapter(["a", "b"], [1, 0.5], "new", kind, **density(kind))
    after = fingerprint(model.state_dict())
    assert {name: after[name] for name in before} == before
    with model.disable_adapter():
        assert np.array_equal(logits(model, tiny_batch[0]), base)
    model.delete_adapter("new")
    assert fingerprint(model.state_dict()) == before


def test_a_combination_can_be_trained_on_merged_and_combined_again(
    several, tiny_batch, tune, logits
):
    ids, _ = tiny_batch
    model = several(QV, WIDE)
    model.add_weighted_adapter(["a", "b"], [1, 1], "new", "cat")
    model.set_adapter("new")
    losses = tune(model, tiny_batch, steps=10)
    assert losses[-1] < losses[0]
    model.add_weighted_adapter(["new", "a"], [1, -1], "less", "svd", svd_rank=10)
    unmerged = logits(model, ids)
    model.merge_adapter()
    np.testing.assert_allclose(logits(model, ids), unmerged, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_one_adapter_alone_is_made_louder_or_softer(several, kind):
    model = several(QV, WIDE)
    model.add_weighted_adapter(["b"], [-0.25], "soft", kind, **density(kind))
    found, expected = deltas(model, "soft"), weighted_sum(model, {"b": -0.25})
    for path in expected:
        np.testing.assert_allclose(found[path], expected[path], rtol=0, atol=1e-6)


def test_ranks_of_a_pattern_are_filled_up(several):
    pattern = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], rank_pattern={"up_proj": 5})
    model = several(pattern, pattern)
    model.add_weighted_adapter(["a", "b"], [1, 1], "new", "linear")
    assert {len(layer.pair("new")[0]) for _, layer in model.adapted("new")} == {5}
    one, two = (dict(model.adapted(name)) for name in "ab")
    for path, change in deltas(model, "new").items():
        (A1, B1), (A2, B2) = one[path].pair("a"), two[path].pair("b")
        scaling = one[path].configs["a"].scaling
        np.testing.assert_allclose(change, scaling * (B1 + B2) @ (A1 + A2), rtol=0, atol=1e-5)


def test_rslora_counts_with_the_loudness_that_it_has(several):
    model = several(LoraConfig(r=4, lora_alpha=8, use_rslora=True), QV)
    model.add_weighted_adapter(["a", "b"], [1, 1], "new", "cat")
    found, expected = deltas(model, "new"), weighted_sum(model, {"a": 1, "b": 1})
    for path in expected:
        np.testing.assert_allclose(found[path], expected[path], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["cat", "svd", "magnitude_prune_svd"])
def test_pissa_counts_with_what_it_adds_to_w(tiny, tiny_batch, tune, kind):
    pissa = LoraConfig(r=2, init_lora_weights="pissa")
    model = get_peft_model(tiny(), pissa, "a")
    tune(model, tiny_batch, steps=5)
    model.add_adapter("b", LoraConfig(r=4), seed=1)
    options = {"density": 1.0} if kind.startswith("magnitude") else {}
    model.add_weighted_adapter(["a", "b"], [-2.0, 1.0], "new", kind, **options)  # b adds nothing
    layers = dict(model.adapted("a"))
    for path, change in deltas(model, "new").items():
        np.testing.assert_allclose(change, -2 * layers[path].delta("a"), rtol=0, atol=1e-5)
        assert np.abs(change).max() > 1e-3
    with pytest.raises(AdapterError, match=r"'a' is of PiSSA's.*'cat' and 'svd' can"):
        model.add_weighted_adapter(["a", "b"], [1, 1], "linear", "linear")


def test_targets_of_one_kind_stay_readable(several):
    model = several(QV, ALL, ALL, WIDE, LoraConfig(r=4, layers_to_transform=[1]))
    where = {}
    for names in ("ad", "bc", "ab", "ae"):
        model.add_weighted_adapter(list(names), [1, 1], f"new-{names}", "cat")
        where[names] = model.peft_config[f"new-{names}"].target_modules
        expected = weighted_sum(model, dict.fromkeys(names, 1))
        assert deltas(model, f"new-{names}").keys() == expected.keys()
    assert where["ad"] == ("down_proj", "q_proj", "v_proj")
    assert where["bc"] == "all-linear"
    assert set(where["ab"]) == {path for path, _ in model.adapted("b")}
    assert set(where["ae"]) == {path for path, _ in model.adapted("a")}


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"adapters": ["a", "nobody"]}, AdapterError, "no adapter 'nobody'; there are: 'a', 'b'"),
        ({"adapters": []}, AdapterError, "must be a list of names"),
        ({"adapters": "ab"}, AdapterError, "must be a list of names"),
        ({"adapters": ["a", "a"]}, AdapterError, "a name is there twice"),
        ({"weights": [1]}, AdapterError, "2 adapters and 1 weights"),
        ({"weights": [1, 2, 3]}, AdapterError, "2 adapters and 3 weights"),
        ({"weights": [1, float("nan")]}, AdapterError, "weight nan of adapter 'b'"),
        ({"weights": [1, "2"]}, AdapterError, "weight '2' of adapter 'b'"),
        ({"weights": 1.0}, AdapterError, "weights 1.0 must be a list"),
        ({"weights": None}, AdapterError, "weights None must be a list"),
        ({"weights": {1, 2}}, AdapterError, "weights {1, 2} must be a list"),
        ({"weights": np.array(1.0)}, AdapterError, "must be a list"),
        ({"adapters": None}, AdapterError, "adapters None must be a list of names"),
        ({"adapters": 5}, AdapterError, "adapters 5 must be a list of names"),
        ({"adapters": {"a"}, "weights": [1]}, AdapterError, "adapters {'a'} must be a list"),
        ({"adapters": [["a"], "b"]}, AdapterError, "['a'] must be the name of one"),
        ({"adapter_name": ["n"]}, AdapterError, "['n'] must be of letters"),
        ({"seed": -1}, ConfigError, "seed -1 must be a whole number"),
        ({"seed": "one"}, ConfigError, "seed 'one' must be a whole number"),
        ({"weights": [1, 1e39], "combination_type": "cat"}, NonFiniteError, "not finite"),
        ({"weights": [1e308, 1e308]}, NonFiniteError, "not finite"),
        ({"weights": [1e308, 1e308], "combination_type": "ties_svd", "density": 1.0},
         NonFiniteError, "not finite"),
        ({"adapter_name": "b"}, AdapterError, "'b' already"),
        ({"adapter_name": ""}, AdapterError, "must be of letters"),
        ({"adapter_name": "x/y"}, AdapterError, "must be of letters"),
        ({"adapter_name": "__base__"}, AdapterError, "not '__base__'"),
        ({"combination_type": "mean"}, ConfigError, "'mean' must be one of svd, linear, cat, ties"),
        ({"combination_type": "linear", "adapters": ["a", "c"]}, AdapterError,
         "'a' has 4, 'c' has 6. Use 'cat' or 'svd'"),
        ({"svd_rank": 0}, ConfigError, "svd_rank 0 must be a whole number from 1"),
        ({"svd_rank": 2.5}, ConfigError, "svd_rank 2.5"),
        ({"svd_rank": 13}, ConfigError, "svd_rank 13 is above min(out, in) = 12"),
        ({"svd_rank": 2, "combination_type": "cat"}, ConfigError, "and 'cat' does not"),
        ({"combination_type": "ties"}, ConfigError, "ties needs density"),
        ({"combination_type": "dare_ties_svd"}, ConfigError, "dare_ties_svd needs density"),
        ({"combination_type": "ties", "density": 0}, ConfigError, "density 0 must be above 0"),
        ({"combination_type": "ties", "density": 1.1}, ConfigError, "density 1.1 must be"),
        ({"combination_type": "ties", "density": float("nan")}, ConfigError, "density nan must"),
        ({"combination_type": "ties", "density": "half"}, ConfigError, "density 'half' must"),
        ({"combination_type": "ties", "density": 0.5, "majority_sign_method": "mass"},
         ConfigError, "'mass' must be 'total' or 'frequency'"),
    ],
)  # fmt: skip
def test_what_cannot_be_combined_is_refused_and_nothing_changed(
    several, fingerprint, given, error, said
):
    model = several(QV, QV, WIDE)
    before = fingerprint(model.state_dict()), dict(model.peft_config)
    whole = {"adapters": ["a", "b"], "weights": [1, 1], "adapter_name": "new"} | given
    with pytest.raises(error) as caught:
        model.add_weighted_adapter(**whole)
    assert said in str(caught.value)
    assert (fingerprint(model.state_dict()), dict(model.peft_config)) == before


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_a_number_that_is_none_is_named_by_adapter_and_matrix(several, fingerprint, kind, value):
    model = several(QV, QV)
    path = "model.layers.1.self_attn.v_proj"
    model.layers()[path].lora_B["b"].weight.data[0, 0] = value
    before = fingerprint(model.state_dict())
    with pytest.raises(NonFiniteError, match=rf"{path}\.lora_B\.weight of adapter 'b'"):
        model.add_weighted_adapter(["a", "b"], [1, 1], "new", kind, **density(kind))
    assert fingerprint(model.state_dict()) == before
    assert list(model.peft_config) == ["a", "b"]


def test_names_and_weights_may_be_the_two_sides_of_a_mapping(several, fingerprint):
    model = several(QV, QV)
    given = {"a": 0.5, "b": -1}
    model.add_weighted_adapter(given.keys(), given.values(), "new", "cat")
    model.add_weighted_adapter(np.array(list(given)), np.array([0.5, -1]), "again", "cat")
    new = fingerprint(model.adapter_weights("new"))
    assert new == fingerprint(model.adapter_weights("again"))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("use_dora", True),
        ("modules_to_save", ["norm"]),
        ("trainable_token_indices", [3]),
        ("bias", "lora_only"),
    ],
)
def test_what_is_more_than_pairs_is_named(several, fingerprint, setting, value):
    model = several(QV, LoraConfig(r=4, **{setting: value}))
    before = fingerprint(model.state_dict())
    for kind in ("cat", "svd", "linear"):
        with pytest.raises(AdapterError, match=f"adapter 'b' has {setting}, which is more than"):
            model.add_weighted_adapter(["a", "b"], [1, 1], "new", kind)
    assert fingerprint(model.state_dict()) == before


def test_while_one_is_merged_nothing_is_combined(several, fingerprint):
    model = several(QV, QV)
    model.merge_adapter()
    before = fingerprint(model.state_dict())
    with pytest.raises(AdapterError, match=r"'a' is merged.*unmerge_adapter\(\)"):
        model.add_weighted_adapter(["a", "b"], [1, 1], "new")
    assert fingerprint(model.state_dict()) == before
    assert list(model.peft_config) == ["a", "b"]


def test_saved_and_opened_it_is_the_same_to_the_bit(several, tiny, tmp_path, fingerprint):
    model = several(QV, WIDE, EMBEDDINGS)
    model.add_weighted_adapter(["a", "b", "c"], [1, -1, 0.5], "new", "cat")
    model.save_pretrained(tmp_path / "adapters")
    again = PeftModel.from_pretrained(tiny(), tmp_path / "adapters" / "new", "new")
    assert fingerprint(again.adapter_weights("new")) == fingerprint(model.adapter_weights("new"))


class TestWithPeft:
    """The same adapters, combined here and there."""

    @pytest.fixture
    def both(self, several, tiny, tmp_path):
        """both(*configs): a model here and one there, with the same adapters a, b, …"""
        torch = pytest.importorskip("torch", reason="needs the extra parity")
        transformers = pytest.importorskip("transformers", reason="needs the extra parity")
        peft = pytest.importorskip("peft", reason="needs the extra parity")

        def make(*configs):
            model = several(*configs)
            model.save_pretrained(tmp_path / "adapters")
            save_base(tiny(), tmp_path / "base")
            base = transformers.LlamaForCausalLM.from_pretrained(
                tmp_path / "base", dtype=torch.float32
            ).eval()
            theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapters" / "a", "a")
            for name in list(model.peft_config)[1:]:
                theirs.load_adapter(tmp_path / "adapters" / name, name)
            return model, theirs

        return make

    @staticmethod
    def their_deltas(theirs, name):
        found = {}
        for path, layer in theirs.base_model.model.named_modules():
            if name in getattr(layer, "lora_A", ()):
                found[path] = layer.get_delta_weight(name).detach().numpy()
            elif name in getattr(layer, "lora_embedding_A", ()):
                found[path] = layer.get_delta_weight(name).detach().numpy().T
        return found

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("majority", ["total", "frequency"])
    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in RANDOM])
    def test_the_changes_are_theirs(self, both, kind, majority):
        if majority == "frequency" and "ties" not in kind:
            pytest.skip("nothing is elected")
        model, theirs = both(QV, LoraConfig(r=4, lora_alpha=2), EMBEDDINGS)
        options = density(kind) | ({"majority_sign_method": majority} if "ties" in kind else {})
        names, weights = ["a", "b", "c"], [0.8, -1.5, 0.4]
        model.add_weighted_adapter(names, weights, "new", kind, **options)
        theirs.add_weighted_adapter(names, weights, "new", kind, **options)
        ours, expected = deltas(model, "new"), self.their_deltas(theirs, "new")
        assert ours.keys() == expected.keys()
        for path in expected:
            np.testing.assert_allclose(ours[path], expected[path], rtol=0, atol=1e-5, err_msg=path)
            assert np.abs(expected[path]).max() > 1e-2

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("kind", ["cat", "svd"])
    def test_also_of_different_ranks_in_different_places(self, both, kind):
        model, theirs = both(QV, WIDE)
        options = {"svd_rank": 3} if kind == "svd" else {}
        for each in (model, theirs):
            each.add_weighted_adapter(["a", "b"], [0.8, -1.5], "new", kind, **options)
        ours, expected = deltas(model, "new"), self.their_deltas(theirs, "new")
        assert ours.keys() == expected.keys()
        for path in expected:
            np.testing.assert_allclose(ours[path], expected[path], rtol=0, atol=1e-5, err_msg=path)

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("kind", KINDS)
    def test_what_is_combined_here_opens_there(self, both, kind, tmp_path, tiny_batch, logits):
        import torch

        ids, _ = tiny_batch
        model, theirs = both(QV, LoraConfig(r=4, target_modules="all-linear"))
        model.add_weighted_adapter(["a", "b"], [1, 0.5], "new", kind, **density(kind))
        model.save_pretrained(tmp_path / "adapters")
        theirs.load_adapter(tmp_path / "adapters" / "new", "new")
        theirs.set_adapter("new")
        model.set_adapter("new")
        with torch.no_grad():
            expected = theirs(torch.tensor(ids)).logits.numpy()
        np.testing.assert_allclose(logits(model, ids), expected, rtol=0, atol=1e-4)
        theirs.save_pretrained(tmp_path / "theirs", selected_adapters=["new"])
        again = PeftModel.from_pretrained(load_base(tmp_path / "base"), tmp_path / "theirs" / "new")
        assert np.array_equal(logits(again, ids), logits(model, ids))


def test_training_one_that_was_combined_leaves_its_parts(several, tiny_batch, fingerprint):
    model = several(QV, QV)
    model.add_weighted_adapter(["a", "b"], [1, 1], "new", "linear")
    before = fingerprint({**model.adapter_weights("a"), **model.adapter_weights("b")})
    model.set_adapter("new")
    train_step(model, AdamW(model.parameters(), lr=1e-2), *tiny_batch)
    assert fingerprint({**model.adapter_weights("a"), **model.adapter_weights("b")}) == before
