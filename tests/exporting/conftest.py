"""What is exported in these tests: small models in which every weight matters."""

import numpy as np
import pytest

from minilora.autograd import no_grad
from minilora.data import skills
from minilora.model import ModelConfig, Transformer
from minilora.peft import LoraConfig, get_peft_model


@pytest.fixture(scope="session")
def model_of():
    """model_of(n_kv_heads=2): no bias is 0, no norm is 1, no score is near another."""

    def make(**settings):
        model = Transformer(ModelConfig(32, 32, 48, 2, 4, max_positions=64, **settings), seed=1)
        rng = np.random.default_rng(0)
        for name, p in model.named_parameters():
            if p.data.ndim == 1:
                p.data[:] = rng.normal(0 if "bias" in name else 1, 0.3, p.shape)
            else:
                p.data *= 8
        model.tokenizer = skills.tokenizer()
        model.base_name = "tiny"
        return model

    return make


@pytest.fixture(scope="session")
def adapted():
    """adapted(model, loud=0.1, r=3): with an adapter that changes what the model says."""

    def attach(model, loud=0.1, **settings):
        peft = get_peft_model(model, LoraConfig(**{"r": 3, "lora_alpha": 5} | settings))
        rng = np.random.default_rng(1)
        for name, p in peft.named_parameters():
            if "lora_B" in name:
                p.data[:] = rng.normal(0, loud, p.shape)
        return peft

    return attach


@pytest.fixture(scope="session")
def scores():
    """scores(model, ids): logits as an array."""

    def compute(model, ids):
        with no_grad():
            return model(np.asarray(ids)).data

    return compute
