"""An adapter's arrays: each fault is planted and found, with and without the base."""

import numpy as np
import pytest

from minilora.diagnosing import doctor, examine_folder
from minilora.optim import AdamW
from minilora.peft import LoraConfig, get_peft_model

PAIR = "base_model.model.model.layers.{}.self_attn.{}_proj.lora_{}.weight"
Q_A, Q_B = PAIR.format(0, "q", "A"), PAIR.format(0, "q", "B")


def test_b_is_still_zero(base, tiny_batch, tmp_path, names):
    model = get_peft_model(base(), LoraConfig())
    model.save_pretrained(tmp_path / "fresh")
    (one,) = examine_folder(tmp_path / "fresh")
    assert one.diagnosis == "b_still_zero"
    assert "all 4 matrices" in one.reason and "'fresh'" in one.reason
    assert "checkpointing" in one.way_out
    assert names(doctor(model)) == ["b_still_zero"]


def test_b_is_still_zero_after_steps_of_an_optimizer_without_it(base, tiny_batch, names):
    model = base()
    optimizer = AdamW(model.parameters())
    model = get_peft_model(model, LoraConfig())
    optimizer.step({})
    said = names(doctor(model, optimizer))
    assert said == ["b_still_zero", "optimizer_without_adapter", "frozen_in_optimizer"]


def test_b_is_zero_in_some(folder):
    (one,) = examine_folder(folder({Q_B: np.zeros((24, 4), np.float32)}))
    assert one.diagnosis == "b_still_zero"
    assert "1 of 4 matrices" in one.reason and "layers.0.self_attn.q_proj" in one.reason


def test_embeddings_start_with_a_at_zero(base, tmp_path, names, learn):
    model = get_peft_model(base(), LoraConfig(target_modules=["embed_tokens"]))
    assert names(doctor(model)) == ["b_still_zero"]
    learn(model)
    assert doctor(model) == []


def test_a_dead_pair(folder, names):
    zero = {Q_A: np.zeros((4, 24), np.float32), Q_B: np.zeros((24, 4), np.float32)}
    assert names(examine_folder(folder(zero))) == ["dead_pair", "b_still_zero"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_an_adapter(folder, base, value):
    A = np.ones((4, 24), np.float32)
    A[2, 3] = value
    for given in (None, base()):
        (one,) = examine_folder(folder({Q_A: A}), given)
        assert one.diagnosis == "not_finite"
        assert "1 of 8 arrays" in one.reason and Q_A in one.reason


@pytest.mark.parametrize(
    ("A", "B", "said"),
    [
        ((24, 4), (4, 24), "swapped, or both transposed"),
        ((24, 4), (24, 4), "A is transposed"),
        ((4, 24), (4, 24), "B is transposed"),
        ((4, 24), (24, 3), "not of one pair"),
    ],
)
def test_swapped_or_transposed(folder, base, A, B, said):
    arrays = {Q_A: np.ones(A, np.float32), Q_B: np.ones(B, np.float32)}
    for given in (None, base()):
        (one,) = examine_folder(folder(arrays), given)
        assert one.diagnosis == "swapped_or_transposed"
        assert said in one.reason
        assert str(A) in one.reason and str(B) in one.reason and "r = 4" in one.reason


@pytest.mark.parametrize("A", [np.ones((4, 24), np.int8), np.ones(96, np.float32)])
def test_what_is_no_matrix_of_floats(folder, base, A):
    for given in (None, base()):
        (one,) = examine_folder(folder({Q_A: A}), given)
        assert one.diagnosis == "no_matrix_of_floats"
        assert str(A.dtype) in one.reason and str(A.shape) in one.reason


def test_settings_that_contradict_the_arrays(folder, base):
    for given in (None, base()):
        (one,) = examine_folder(folder(settings={"r": 8}), given)
        assert one.diagnosis == "rank_contradicts"
        assert "rank 8" in one.reason and "have 4" in one.reason and "factor of 2" in one.reason


def test_half_a_pair(folder, base):
    for given in (None, base()):
        (one,) = examine_folder(folder({Q_B: None}), given)
        assert one.diagnosis == "incomplete"
        assert "lora_A" in one.reason and "layers.0.self_attn.q_proj" in one.reason


def test_an_improbable_scaling(folder):
    (one,) = examine_folder(folder(lora_alpha=4 * 33))
    assert one.diagnosis == "improbable_scaling"
    assert "33" in one.reason and "α = 132" in one.reason
    assert examine_folder(folder(lora_alpha=4 * 32)) == []
    assert examine_folder(folder(lora_alpha=4 * 33, use_rslora=True)) != []
