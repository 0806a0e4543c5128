"""What the doctor is shown: healthy models and folders, and ways to make them ill."""

import json

import numpy as np
import pytest

from minilora.files.safetensors import read_metadata, read_tensors, write_tensors
from minilora.peft import LoraConfig, get_peft_model


@pytest.fixture
def names():
    """names(found): the diagnoses of what was found; each line says a reason and a way out."""

    def diagnoses(found):
        for each in found:
            assert len(each.reason) > 20 and len(each.way_out) > 20
            assert str(each) == f"{each.diagnosis}: {each.reason}. {each.way_out}"
            assert "\n" not in str(each)
        return [each.diagnosis for each in found]

    return diagnoses


@pytest.fixture
def learn():
    """learn(model): give what is trained a change such as training makes."""

    def change(model, seed=0):
        rng = np.random.default_rng(seed)
        for p in model.trainable_parameters():
            p.data += rng.normal(0, 0.02, p.shape).astype(p.dtype)

    return change


@pytest.fixture
def base(tiny):
    """base(tied=False): a base with a name."""

    def make(**options):
        model = tiny(**options)
        model.base_name = "tiny"
        return model

    return make


@pytest.fixture
def tuned(base, learn):
    """tuned(r=4, …): a base with an adapter that has learnt something."""

    def make(*, tied=False, **options):
        options = {"r": 4, "lora_alpha": 8, **options}
        model = get_peft_model(base(tied=tied), LoraConfig(**options))
        learn(model)
        return model

    return make


@pytest.fixture
def folder(tuned, tmp_path):
    """folder(arrays, settings, log, …): a saved adapter, healthy but for what is given."""

    def make(arrays=None, settings=None, log=None, **options):
        place = tmp_path / "adapter"
        tuned(**options).save_pretrained(place)
        config, weights = place / "adapter_config.json", place / "adapter_model.safetensors"
        config.write_text(json.dumps(json.loads(config.read_text()) | (settings or {})))
        held = read_tensors(weights) | (arrays or {})
        about = read_metadata(weights)
        write_tensors(weights, {n: a for n, a in held.items() if a is not None}, about)
        if log is not None:
            lines = [{"step": i + 1, "lr": 1e-3, **row} for i, row in enumerate(log)]
            (place / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
        return place

    return make
