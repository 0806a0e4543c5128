"""Adapters of many settings, made there and opened here, and the other way: the same logits.

The settings are drawn from a seed, so that each number is always the same config. What is trained
is set to random numbers instead of being trained: nothing is left at its start, and it is quicker.
"""

import re
import warnings

import numpy as np
import pytest

from minilora.bases import load_base, save_base
from minilora.config import ModelConfig
from minilora.errors import ConfigError
from minilora.files.safetensors import read_shapes
from minilora.model import Transformer
from minilora.optim import AdamW
from minilora.peft import LoraConfig, PeftModel, get_peft_model
from minilora.training import train_step

torch = pytest.importorskip("torch", reason="needs the extra parity")
transformers = pytest.importorskip("transformers", reason="needs the extra parity")
peft = pytest.importorskip("peft", reason="needs the extra parity")

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # theirs, of themselves
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings"),
    pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys"),
]

QUICK, ALL = 12, 96
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = np.random.default_rng(0).integers(0, 30, (3, 7))


def some(rng, names, most=3):
    return sorted(rng.choice(names, rng.integers(1, most + 1), replace=False).tolist())


def drawn(number):
    """Whether the base is tied and has biases, and the settings of an adapter for it."""
    rng = np.random.default_rng(number)

    def chance(share):
        return rng.random() < share

    s = {"r": int(rng.integers(1, 5)), "lora_alpha": int(rng.integers(1, 17))}
    kind = rng.integers(4)
    if kind == 0:
        s["target_modules"] = "all-linear"
    elif kind == 1:
        s["target_modules"] = str(
            rng.choice(
                [r".*layers\.1\..*(q|up)_proj", r".*\.(v|down)_proj", r"model\..*mlp.*_proj"]
            )
        )
    else:
        s["target_modules"] = some(rng, LINEARS)
        if chance(0.3):
            s["layers_to_transform"] = [0, 1, [1], [0, 1]][rng.integers(4)]
            s["layers_pattern"] = [None, "layers", ["layers", "h"]][rng.integers(3)]
        elif chance(0.5):
            s["target_modules"] += [str(rng.choice(["embed_tokens", "lm_head"]))]
    if chance(0.3):
        s["exclude_modules"] = [["layers.0.mlp.up_proj", "k_proj"], r".*layers\.0\..*proj"][
            rng.integers(2)
        ]
    if chance(0.3):
        s["rank_pattern"] = {"layers.1.*q_proj": 2, "(v|down)_proj": 3, "embed_tokens": 5}
    if chance(0.3):
        s["alpha_pattern"] = {r"self_attn\..*": 5, "down_proj": 7, "lm_head": 3}
    for name in ("use_rslora", "use_dora"):
        s[name] = bool(chance(0.35))
    s["bias"] = str(rng.choice(["none", "none", "lora_only", "all"]))
    free = {"embed_tokens", "lm_head"} - set(s["target_modules"])
    if chance(0.35):
        s["modules_to_save"] = some(rng, [*free, "norm", "layers.0.mlp", "1.self_attn.o_proj"], 2)
    if chance(0.35) and {"embed_tokens", "lm_head"} == free - set(s.get("modules_to_save", ())):
        both = {"embed_tokens": [3, 9], "lm_head": [1, 3]}
        s["trainable_token_indices"] = [[2, 17, 5], both, {"lm_head": [0]}][rng.integers(3)]
    if chance(0.2):
        s["lora_dropout"] = 0.3
    return bool(chance(0.4)), bool(chance(0.5)), s


def sensible(number):
    """Whether something is left to adapt."""
    tied, bias, s = drawn(number)
    try:
        get_peft_model(model_of(tied, bias), LoraConfig(**s))
    except ConfigError as error:
        if re.search("nothing is left|meant twice", str(error)):
            return False
        raise
    return True


def model_of(tied, bias):
    config = ModelConfig(
        31, 24, 40, 2, 4, n_kv_heads=2, max_positions=64, tie_word_embeddings=tied,
        attention_bias=bias, attention_out_bias=bias, mlp_bias=bias,
    )  # fmt: skip
    model = Transformer(config, seed=1)
    rng = np.random.default_rng(2)
    for name, p in model.named_parameters():
        if name.endswith(".bias"):
            p.data[:] = rng.normal(0, 0.1, p.shape)
    return model


NUMBERS = [n for n in range(200) if sensible(n)][:ALL]
numbers = pytest.mark.parametrize(
    "number",
    [pytest.param(n, marks=pytest.mark.slow if i >= QUICK else ()) for i, n in enumerate(NUMBERS)],
)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    torch.manual_seed(0)  # of the A that PEFT draws: what is compared must not be near nothing


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    """base_folder(tied, bias): a base that both can open."""
    made = {}

    def make(tied, bias):
        if (tied, bias) not in made:
            made[tied, bias] = tmp_path_factory.mktemp("base")
            save_base(model_of(tied, bias), made[tied, bias])
        return made[tied, bias]

    return make


def theirs(folder):
    return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def their_logits(model):
    with torch.no_grad():
        return model.eval()(torch.tensor(IDS)).logits.numpy()


def shapes(folder):
    return read_shapes(folder / "adapter_model.safetensors")


def stir(arrays, seed=3):
    """Every number of these arrays becomes another one; lengths stay lengths."""
    rng = np.random.default_rng(seed)
    for name, array in sorted(arrays.items()):
        noise = rng.normal(0, 0.1, array.shape).astype(np.float32)
        array += np.abs(noise) if "magnitude" in name else noise


@numbers
def test_what_is_made_there_opens_here_and_back(base_folder, tmp_path, number, logits):
    tied, bias, settings = drawn(number)
    folder = base_folder(tied, bias)
    model = peft.get_peft_model(theirs(folder), peft.LoraConfig(**settings, task_type="CAUSAL_LM"))
    before = their_logits(model)
    stir({n: p.data.numpy() for n, p in model.named_parameters() if p.requires_grad})
    expected = their_logits(model)
    assert np.abs(expected - before).max() > 1e-2
    model.save_pretrained(tmp_path / "theirs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = PeftModel.from_pretrained(load_base(folder), tmp_path / "theirs")
    np.testing.assert_allclose(logits(ours, IDS), expected, rtol=0, atol=1e-4)
    ours.save_pretrained(tmp_path / "ours")
    assert set(shapes(tmp_path / "ours").items()) <= set(shapes(tmp_path / "theirs").items())
    if settings["bias"] == "none":  # theirs are trained in the base, ours in copies
        assert ours.get_nb_trainable_parameters()[1] == model.get_nb_trainable_parameters()[1]
    again = peft.PeftModel.from_pretrained(theirs(folder), tmp_path / "ours")
    np.testing.assert_allclose(their_logits(again), expected, rtol=0, atol=1e-4)


@numbers
def test_what_is_made_here_opens_there(base_folder, tmp_path, number, logits):
    tied, bias, settings = drawn(number)
    folder = base_folder(tied, bias)
    base = load_base(folder)
    before = logits(base, IDS)
    model = get_peft_model(base, LoraConfig(**settings))
    if "lm_head" not in str(settings.get("trainable_token_indices")) and not tied:
        np.testing.assert_array_equal(logits(model, IDS), before)  # fresh: to the bit
    np.testing.assert_allclose(logits(model, IDS), before, rtol=0, atol=1e-6)
    stir(model.adapter_weights())
    expected = logits(model, IDS)
    assert np.abs(expected - before).max() > 1e-2
    with model.disable_adapter():
        np.testing.assert_array_equal(logits(model, IDS), before)
    model.save_pretrained(tmp_path)
    opened = peft.PeftModel.from_pretrained(theirs(folder), tmp_path)
    np.testing.assert_allclose(their_logits(opened), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("number", NUMBERS[:QUICK])
def test_the_same_steps_give_the_same_losses_and_logits(base_folder, tmp_path, number, logits):
    """Forward, backward and AdamW together, from one start: DoRA's gradient is theirs, too."""
    tied, bias, settings = drawn(number)
    folder = base_folder(tied, bias)
    start = get_peft_model(load_base(folder), LoraConfig(**{**settings, "lora_dropout": 0.0}))
    stir(start.adapter_weights())
    start.save_pretrained(tmp_path)
    ours = PeftModel.from_pretrained(load_base(folder), tmp_path, is_trainable=True)
    model = peft.PeftModel.from_pretrained(theirs(folder), tmp_path, is_trainable=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    mine, ids = AdamW(ours.parameters(), lr=1e-3), torch.tensor(IDS)
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        assert train_step(ours, mine, IDS, IDS) == pytest.approx(loss.item(), abs=1e-5)
    assert np.abs(logits(ours, IDS) - logits(start, IDS)).max() > 1e-3
    np.testing.assert_allclose(logits(ours, IDS), their_logits(model), rtol=0, atol=1e-4)


def test_the_matrix_has_every_setting_and_at_least_sixty_configs():
    seen = [str(sorted(drawn(n)[2].items(), key=str)) for n in NUMBERS]
    assert len(set(seen)) >= 60
    for name in (
        "exclude_modules", "rank_pattern", "alpha_pattern", "layers_to_transform",
        "modules_to_save", "trainable_token_indices", "'use_dora', True", "'use_rslora', True",
        "'bias', 'all'", "'bias', 'lora_only'", "embed_tokens", "lm_head", "all-linear",
    ):  # fmt: skip
        assert sum(name in s for s in seen[:QUICK]) >= 1, name
        assert sum(name in s for s in seen) >= 4, name
