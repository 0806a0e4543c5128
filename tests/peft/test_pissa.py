"""PiSSA: what it starts from, that W stays, and that its folder opens anywhere."""

import numpy as np
import pytest

from minilora.accounting import ledger, predict
from minilora.accounting.counts import Method, arrays
from minilora.accounting.presets import Gpt
from minilora.bases import load_base, save_base
from minilora.errors import AdapterError, NonFiniteError
from minilora.files.json_files import read_json, write_json
from minilora.optim import AdamW
from minilora.peft import LoraConfig, PeftModel, get_peft_model
from minilora.training import train_step

from ..conftest import TINY

SETTINGS = [
    {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    {"r": 3, "lora_alpha": 5, "target_modules": "all-linear", "use_rslora": True},
    {"r": 9, "lora_alpha": 3, "target_modules": ["v_proj"]},  # of (12, 24): 2r is above both/2
    {"r": 12, "lora_alpha": 12, "target_modules": ["k_proj", "down_proj"], "lora_dropout": 0.3},
]
settings = pytest.mark.parametrize("settings", SETTINGS)


def pissa(**settings):
    return LoraConfig(**settings, init_lora_weights="pissa")


@settings
def test_it_starts_from_the_largest_directions_and_leaves_the_rest(tiny, settings):
    model = get_peft_model(tiny(dtype=np.float64), pissa(**settings))
    r, s = settings["r"], model.peft_config["default"].scaling
    for layer in model.layers().values():
        W, R = layer.base_layer.weight.data, layer.lora_residual["default"].weight.data
        A, B = layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data
        np.testing.assert_allclose(R + s * B @ A, W, rtol=0, atol=1e-14)
        S = np.linalg.svd(W, compute_uv=False)
        rest = np.linalg.svd(R, compute_uv=False)[: len(S) - r]
        np.testing.assert_allclose(rest, S[r:], rtol=0, atol=1e-12)
        for gram in (A @ A.T, B.T @ B):  # as long and as perpendicular as √(S/s) says, both alike
            np.testing.assert_allclose(gram, np.diag(S[:r] / s), rtol=0, atol=1e-12)


@settings
def test_the_start_is_the_base_up_to_rounding_and_both_learn_at_once(
    tiny, tiny_batch, logits, settings
):
    ids, _ = tiny_batch
    before = logits(tiny(), ids)
    model = get_peft_model(tiny(), pissa(**settings))
    np.testing.assert_allclose(logits(model, ids), before, rtol=0, atol=1e-5)
    start = {n: a.copy() for n, a in model.state_dict().items()}
    train_step(model, AdamW(model.parameters(), lr=1e-2), *tiny_batch)
    moved = {n for n, a in model.state_dict().items() if not np.array_equal(a, start[n])}
    assert moved == {n for n in start if ".lora_A." in n or ".lora_B." in n}


def test_w_stays_so_off_another_adapter_and_unloading_are_the_base_bit_for_bit(
    tiny, tiny_batch, tuned, tune, logits, fingerprint
):
    ids, _ = tiny_batch
    before, weights = logits(tiny(), ids), fingerprint(tiny().state_dict())
    model = tuned(pissa(r=4, target_modules="all-linear"))
    assert np.abs(logits(model, ids) - before).max() > 1e-3
    with model.disable_adapter():
        assert np.array_equal(logits(model, ids), before)
    model.add_adapter("plain", LoraConfig(r=4), seed=1)
    model.set_adapter("plain")
    assert np.array_equal(logits(model, ids), before)
    alone = get_peft_model(tiny(), LoraConfig(r=4), seed=1)
    assert tune(model, tiny_batch) == tune(alone, tiny_batch)
    assert np.array_equal(logits(model, ids), logits(alone, ids))
    model.delete_adapter("default")
    assert not any("lora_residual" in name for name in model.state_dict())
    assert fingerprint(model.unload().state_dict()) == weights


@settings
def test_merged_is_the_residual_with_the_pair_and_unmerging_gives_w_back(
    tuned, tiny_batch, logits, fingerprint, settings
):
    ids, _ = tiny_batch
    model = tuned(pissa(**settings))
    before, apart = fingerprint(model.state_dict()), logits(model, ids)
    s = model.peft_config["default"].scaling
    for layer in model.layers().values():
        R, A, B = (
            getattr(layer, part)["default"].weight.data.astype(np.float64)
            for part in ("lora_residual", "lora_A", "lora_B")
        )
        np.testing.assert_allclose(
            layer.merged("default")[layer.base_layer.weight], R + s * B @ A, rtol=1e-6, atol=1e-8
        )
        np.testing.assert_allclose(
            layer.delta("default"), R + s * B @ A - layer.base_layer.weight.data, atol=1e-12
        )
    model.merge_adapter()
    np.testing.assert_allclose(logits(model, ids), apart, rtol=0, atol=1e-5)
    model.unmerge_adapter()
    assert fingerprint(model.state_dict()) == before
    np.testing.assert_allclose(logits(model.merge_and_unload(), ids), apart, rtol=0, atol=1e-5)


@settings
@pytest.mark.parametrize("merged", [False, True])
def test_it_is_saved_as_an_ordinary_lora_of_rank_2r_that_can_go_on(
    tuned, tiny, tiny_batch, tmp_path, tune, logits, settings, merged
):
    ids, _ = tiny_batch
    model = tuned(pissa(**settings))
    apart = logits(model, ids)
    if merged:
        model.merge_adapter()
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny(), tmp_path, is_trainable=True)
    np.testing.assert_allclose(logits(again, ids), apart, rtol=0, atol=1e-5)
    config = again.peft_config["default"]
    assert (config.r, config.init_lora_weights) == (2 * settings["r"], True)
    assert config.scaling == pytest.approx(model.peft_config["default"].scaling, rel=1e-12)
    for layer, ours in zip(again.layers().values(), model.layers().values(), strict=True):
        np.testing.assert_allclose(layer.delta("default"), ours.delta("default"), atol=1e-5)
    losses = tune(again, tiny_batch, 5)
    assert losses[-1] < losses[0]


def test_saving_before_any_training_saves_no_change(tiny, tiny_batch, tmp_path, logits):
    ids, _ = tiny_batch
    get_peft_model(tiny(), pissa(r=4)).save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny(), tmp_path)
    np.testing.assert_allclose(logits(again, ids), logits(tiny(), ids), rtol=0, atol=1e-5)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"])
@pytest.mark.parametrize("options", [{}, {"checkpointing": True}, {"threads": 2}])
def test_the_ledger_counts_the_residual_and_is_foretold(targets, options, tiny):
    config = pissa(r=2, target_modules=targets)
    model = get_peft_model(tiny(), config)
    model.gradient_checkpointing_enable(options.get("checkpointing", False))
    optimizer = AdamW(model.parameters())
    ids = np.random.default_rng(0).integers(0, 31, (4, 9))
    with ledger(model, optimizer) as real:
        train_step(model, optimizer, ids, ids, threads=options.get("threads", 1))
    foretold = predict(TINY, lora=config, batch_size=4, length=9, **options)
    assert foretold.ledger.totals == real.totals
    assert sorted(foretold.ledger.entries) == sorted(real.entries)
    plain = predict(TINY, lora=LoraConfig(r=2, target_modules=targets), batch_size=4, length=9)
    copies = sum(layer.base_layer.weight.data.nbytes for layer in model.layers().values())
    assert real.totals["weights"] == plain.ledger.totals["weights"] + copies
    assert foretold.trainable_parameters == plain.trainable_parameters
    if not options:
        assert real.totals["activations"] == plain.ledger.totals["activations"]


def test_the_residual_is_counted_in_a_model_that_is_only_counted():
    gpt = Gpt(100, 64, 3, 2)

    def size(**settings):
        lora = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], **settings)
        found = arrays(gpt, Method("lora", lora))
        return sum(a.size for a in found if a.trained), sum(a.size for a in found)

    plain, start = size(), size(init_lora_weights="pissa")
    assert start == (plain[0], plain[1] + 3 * (64 * 64 + 64 * 4 * 64))
    one = size(init_lora_weights="pissa", layers_to_transform=1)
    assert one[0] * 3 == plain[0]
    assert start[1] - one[1] == 2 * (64 * 64 + 64 * 4 * 64) + (plain[0] - one[0])


def test_a_folder_of_a_rank_that_w_has_not_so_many_directions_for(tiny, tmp_path):
    get_peft_model(tiny(), LoraConfig(r=8, target_modules=["v_proj"])).save_pretrained(tmp_path)
    said = read_json(tmp_path / "adapter_config.json")
    write_json(tmp_path / "adapter_config.json", {**said, "r": 13, "init_lora_weights": "pissa"})
    with pytest.raises(AdapterError, match=r"rank 13 is above min\(out, in\) = 12"):
        PeftModel.from_pretrained(tiny(), tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_matrix_without_directions_is_named_and_the_base_left_alone(
    tiny, tmp_path, fingerprint, value
):
    get_peft_model(tiny(), LoraConfig(r=2)).save_pretrained(tmp_path)
    said = read_json(tmp_path / "adapter_config.json")
    write_json(tmp_path / "adapter_config.json", {**said, "init_lora_weights": "pissa"})
    base = tiny()
    base.model.layers[1].self_attn.v_proj.weight.data[2, 3] = value
    before = fingerprint(base.state_dict())
    for attach in (
        lambda: get_peft_model(base, pissa(r=2)),
        lambda: PeftModel.from_pretrained(base, tmp_path),
    ):
        with pytest.raises(NonFiniteError, match=r"pissa.*layers\.1\.self_attn\.v_proj"):
            attach()
        assert fingerprint(base.state_dict()) == before
        assert all(p.requires_grad for p in base.parameters())
    assert get_peft_model(base, pissa(r=2, target_modules=["q_proj"])).layers()


class TestWithPeft:
    @pytest.fixture(autouse=True)
    def _offline(self, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        self.torch = pytest.importorskip("torch", reason="needs the extra parity")
        self.transformers = pytest.importorskip("transformers", reason="needs the extra parity")
        self.peft = pytest.importorskip("peft", reason="needs the extra parity")
        self.torch.manual_seed(0)
        self.torch.set_num_threads(1)

    def base(self, folder):
        return self.transformers.LlamaForCausalLM.from_pretrained(
            folder, dtype=self.torch.float32
        ).eval()

    def logits(self, model, ids):
        with self.torch.no_grad():
            return model.eval()(self.torch.tensor(ids)).logits.numpy()

    @settings
    def test_the_start_is_theirs(self, tiny, tmp_path, settings):
        """The same R to rounding, the same pair up to the sign of each direction."""
        save_base(tiny(), tmp_path)
        ours = get_peft_model(load_base(tmp_path), pissa(**settings))
        theirs = self.peft.get_peft_model(
            self.base(tmp_path), self.peft.LoraConfig(**settings, init_lora_weights="pissa")
        )
        found = {n: p.detach().numpy() for n, p in theirs.named_parameters()}
        for path, layer in ours.layers().items():
            at = f"base_model.model.{path}"
            R, A, B = (
                getattr(layer, part)["default"].weight.data
                for part in ("lora_residual", "lora_A", "lora_B")
            )
            np.testing.assert_allclose(R, found[f"{at}.base_layer.weight"], rtol=0, atol=1e-5)
            A2, B2 = (found[f"{at}.lora_{x}.default.weight"] for x in "AB")
            np.testing.assert_allclose(np.abs(A), np.abs(A2), rtol=0, atol=1e-4)
            np.testing.assert_allclose(np.abs(B), np.abs(B2), rtol=0, atol=1e-4)
            np.testing.assert_allclose(B @ A, B2 @ A2, rtol=0, atol=1e-4)

    @settings
    def test_what_is_tuned_here_opens_there(
        self, tiny, tiny_batch, tmp_path, tune, logits, settings
    ):
        ids, _ = tiny_batch
        save_base(tiny(), tmp_path / "base")
        base = load_base(tmp_path / "base")
        before = logits(base, ids)
        model = get_peft_model(base, pissa(**settings))
        tune(model, tiny_batch, steps=5)
        model.save_pretrained(tmp_path / "adapter")
        theirs = self.peft.PeftModel.from_pretrained(
            self.base(tmp_path / "base"), tmp_path / "adapter"
        )
        np.testing.assert_allclose(logits(model, ids), self.logits(theirs, ids), rtol=0, atol=1e-4)
        assert np.abs(logits(model, ids) - before).max() > 1e-2

    @settings
    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_what_they_saved_without_converting_opens_here(
        self, tiny, tiny_batch, tmp_path, logits, settings
    ):
        """Its pair is beside R, and R is made of W anew, there as well as here."""
        ids, labels = tiny_batch
        save_base(tiny(), tmp_path / "base")
        theirs = self.peft.get_peft_model(
            self.base(tmp_path / "base"),
            self.peft.LoraConfig(**settings, init_lora_weights="pissa", task_type="CAUSAL_LM"),
        )
        before = self.logits(theirs, ids)
        optimizer = self.torch.optim.AdamW(
            [p for p in theirs.parameters() if p.requires_grad], lr=1e-2
        )
        for _ in range(5):
            optimizer.zero_grad()
            theirs(self.torch.tensor(ids), labels=self.torch.tensor(labels)).loss.backward()
            optimizer.step()
        theirs.save_pretrained(tmp_path / "adapter")
        after = self.logits(theirs, ids)
        assert np.abs(after - before).max() > 1e-2
        ours = PeftModel.from_pretrained(load_base(tmp_path / "base"), tmp_path / "adapter")
        assert ours.peft_config["default"].init_lora_weights == "pissa"
        np.testing.assert_allclose(logits(ours, ids), after, rtol=0, atol=1e-4)
        again = self.peft.PeftModel.from_pretrained(
            self.base(tmp_path / "base"), tmp_path / "adapter"
        )
        np.testing.assert_allclose(logits(ours, ids), self.logits(again, ids), rtol=0, atol=1e-4)
