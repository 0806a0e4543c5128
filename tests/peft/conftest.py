"""What the tests of adapters share: training a little, and looking at what comes out."""

import numpy as np
import pytest

from minilora.autograd import no_grad
from minilora.bases import save_base
from minilora.config import ModelConfig
from minilora.model import Transformer
from minilora.optim import AdamW
from minilora.peft import LoraConfig, get_peft_model
from minilora.training import train_step

QV = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])


@pytest.fixture
def tune():
    """tune(model, batch): a few steps, after which no B is zero. Returns their losses."""

    def steps(model, batch, steps=3, lr=1e-2):
        optimizer = AdamW(model.parameters(), lr=lr)
        return [train_step(model, optimizer, *batch) for _ in range(steps)]

    return steps


@pytest.fixture
def tuned(tiny, tiny_batch, tune):
    """tuned(config, **options of tiny): a model whose adapter "default" has learnt something."""

    def make(config=QV, *, steps=3, **options):
        model = get_peft_model(tiny(**options), config)
        tune(model, tiny_batch, steps)
        return model

    return make


@pytest.fixture
def biased():
    """biased(dtype=np.float32): a small Llama with biases, none of them zero."""

    def make(dtype=np.float32, **settings):
        config = ModelConfig(
            31, 24, 40, 2, 4, n_kv_heads=2, max_positions=64,
            attention_bias=True, attention_out_bias=True, mlp_bias=True, **settings,
        )  # fmt: skip
        model = Transformer(config, seed=1, dtype=dtype)
        rng = np.random.default_rng(2)
        for name, p in model.named_parameters():
            if name.endswith(".bias"):
                p.data[:] = rng.normal(0, 0.1, p.shape)
        return model

    return make


@pytest.fixture
def logits():
    """logits(model, ids): as an array."""

    def compute(model, ids):
        with no_grad():
            return model(ids).data

    return compute


@pytest.fixture
def frozen():
    """frozen(model): the base's weights, by the names they have without adapters."""
    ours = ("lora_", "modules_to_save", "trainable_tokens_delta", "trained_bias")

    def weights(model):
        named = {n.replace(".base_layer", ""): a for n, a in model.state_dict().items()}
        return {name: a for name, a in named.items() if not any(part in name for part in ours)}

    return weights


@pytest.fixture
def base_folder(tiny, tmp_path):
    """base_folder(tied): a base that both can open; with fewer heads of keys than of queries."""

    def make(tied=False):
        folder = tmp_path / f"base_{tied}"
        if not folder.exists():
            save_base(tiny(tied=tied), folder)
        return folder

    return make


@pytest.fixture
def offline(monkeypatch):
    """PyTorch with one thread and a seed, and nobody asks the hub."""
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)
    torch.set_num_threads(1)
