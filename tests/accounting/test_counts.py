"""What is trained and what there is, against published counts and against transformers and PEFT."""

import numpy as np
import pytest

from minilora.accounting.counts import Method, arrays
from minilora.accounting.presets import preset
from minilora.config import ModelConfig
from minilora.errors import ConfigError
from minilora.peft import LoraConfig

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def trained(config, method):
    return sum(a.size for a in arrays(config, method) if a.trained)


def lora(rank, targets=("q_proj", "v_proj")):
    return Method("lora", LoraConfig(rank, target_modules=targets))


@pytest.mark.parametrize(
    ("name", "method", "parameters"),
    [
        ("llama-3-8b", lora(8), 3_407_872),
        ("llama-3-8b", lora(8, ALL), 20_971_520),
        ("llama-3-8b", lora(16, ALL), 41_943_040),
        ("llama-3-8b", lora(16, "all-linear"), 41_943_040),
        ("llama-2-7b", lora(8), 4_194_304),
        ("smollm2-135m", lora(8), 460_800),
        ("gpt3-175b", lora(1), 4_718_592),
        ("gpt3-175b", lora(4), 18_874_368),
        ("gpt3-175b", lora(8), 37_748_736),
    ],
)
def test_lora_as_published(name, method, parameters):
    assert trained(preset(name), method) == parameters
    qlora = Method("qlora", method.lora)
    assert trained(preset(name), qlora) == parameters


def test_smollm2_as_peft_prints_it():
    parts = arrays(preset("smollm2-135m"), lora(8))
    base = sum(a.size for a in parts if not a.trained)
    assert base == 134_515_008
    assert f"{100 * 460_800 / (base + 460_800):.4f}" == "0.3414"


def test_one_square_matrix_of_4096():
    # Llama-2-7B's q_proj is 4096 x 4096.
    named = {a.name: a for a in arrays(preset("llama-2-7b"), lora(8))}
    path = "layers.31.self_attn.q_proj."
    (W,) = [a for name, a in named.items() if path + "base_layer.weight" in name]
    pair = [a for name, a in named.items() if path + "lora_" in name]
    assert (W.size, sum(a.size for a in pair)) == (16_777_216, 65_536)
    assert 65_536 / 16_777_216 == 0.00390625
    assert [W.trained, *(a.trained for a in pair)] == [False, True, True]
    assert [W.linear, *(a.linear for a in pair)] == [True, False, False]


def test_the_relatives_by_their_formulas():
    config = preset("llama-3-8b")
    d, L, d_kv = 4096, 32, 1024
    assert trained(config, Method("prompt", tokens=30)) == 30 * d
    assert trained(config, Method("prefix", tokens=30)) == 2 * L * 30 * d_kv
    m = 48
    assert trained(config, Method("adapter", bottleneck=m)) == 2 * L * (2 * d * m + m + d)
    for name in ("prompt", "prefix", "adapter"):
        frozen = sum(a.size for a in arrays(config, Method(name)) if not a.trained)
        assert frozen == 8_030_261_248


def test_what_qlora_has_in_4_bits():
    parts = arrays(preset("llama-3-8b"), Method("qlora"))
    assert sum(a.size for a in parts if a.linear) == 6_979_321_856
    rest = {a.name.split(".")[-2] for a in parts if not a.linear and not a.trained}
    kept = {"embed_tokens", "lm_head", "norm", "input_layernorm", "post_attention_layernorm"}
    assert rest == kept


@pytest.mark.parametrize(
    ("name", "method", "said"),
    [
        ("llama-3-8b", lora(1025), "rank 1025"),
        ("gpt3-175b", lora(12289), "rank 12289"),
        ("llama-3-8b", lora(8, ("c_attn",)), "'c_attn'"),
        ("gpt3-175b", lora(8, ("gate_proj",)), "'gate_proj'"),
    ],
)
def test_targets_and_ranks_that_there_are_not(name, method, said):
    with pytest.raises(ConfigError, match=said):
        arrays(preset(name), method)


@pytest.mark.parametrize("options", [{"name": "half"}, {"tokens": 0}, {"bottleneck": -1}])
def test_methods_that_there_are_not(options):
    with pytest.raises(ConfigError, match=str(next(iter(options.values())))):
        Method(**{"name": "prompt", **options})


def test_rotary_scaling_is_no_hindrance():
    scaled = ModelConfig(31, 24, 40, 2, 4, rope_scaling={"rope_type": "linear", "factor": 2.0})
    assert arrays(scaled, Method()) == arrays(ModelConfig(31, 24, 40, 2, 4), Method())


@pytest.mark.parametrize("seed", range(6))
def test_counts_of_transformers_and_peft(seed):
    """Random sizes, built on the meta device."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    rng = np.random.default_rng(seed)
    kind = ("llama", "mistral", "qwen2")[seed % 3]
    heads = int(rng.choice([2, 4, 6]))
    config = ModelConfig(
        int(rng.integers(20, 200)),
        8 * heads * int(rng.integers(1, 4)),
        int(rng.integers(9, 99)),
        int(rng.integers(1, 4)),
        heads,
        n_kv_heads=heads // 2,
        tie_word_embeddings=bool(rng.integers(2)),
        attention_bias=kind == "qwen2",
        model_type=kind,
    )
    rank = int(rng.integers(1, 5))
    targets = [str(t) for t in rng.choice(ALL, int(rng.integers(1, 7)), replace=False)]
    names = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}
    theirs = getattr(transformers, f"{names[kind]}Config")(**config.to_hf())
    with torch.device("meta"):
        model = getattr(transformers, f"{names[kind]}ForCausalLM")(theirs)
        assert sum(p.numel() for p in model.parameters()) == trained(config, Method())
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=rank, target_modules=targets))
    parts = arrays(config, lora(rank, tuple(targets)))
    ours = sum(a.size for a in parts if a.trained), sum(a.size for a in parts)
    assert ours == wrapped.get_nb_trainable_parameters()
