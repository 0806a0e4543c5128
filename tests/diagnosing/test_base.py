"""An adapter beside a base that is not its own, or that it would untie."""

import numpy as np
import pytest

import minilora
from minilora.diagnosing import doctor, examine_folder


def test_another_base_by_name_and_by_weights(folder, base, tiny, names):
    other = tiny(seed=2)
    other.base_name = "models/other"
    found = examine_folder(folder(), other)
    assert names(found) == ["another_base_by_name", "another_base_by_weights"]
    assert "'tiny'" in found[0].reason and "'models/other'" in found[0].reason
    same = base()
    same.base_name = "elsewhere/tiny"
    assert examine_folder(folder(), same) == []


def test_another_base_by_shape(folder):
    other = minilora.Transformer(minilora.ModelConfig(31, 32, 40, 2, 4, n_kv_heads=2))
    other.base_name = "tiny"
    found = {each.diagnosis: each for each in examine_folder(folder(), other)}
    assert found.keys() == {"another_base_by_weights", "another_base_by_shape"}
    reason = found["another_base_by_shape"].reason
    assert "4 of 4" in reason and "(32, 32)" in reason and "(24, 24)" in reason


def test_a_base_that_has_fewer_layers(folder):
    other = minilora.Transformer(minilora.ModelConfig(31, 24, 40, 1, 4, n_kv_heads=2))
    reasons = [e.reason for e in examine_folder(folder(), other) if "shape" in e.diagnosis]
    assert len(reasons) == 1 and "the base has no model.layers.1" in reasons[0]


def test_alpha_where_alpha_over_r_was_meant(folder, base, names):
    """r = 12 times too loud: the bypass drowns the matrix, though 12 is a scaling that occurs."""
    options = {"r": 12}
    assert examine_folder(folder(lora_alpha=12, **options), base()) == []
    found = examine_folder(folder(lora_alpha=12 * 12, **options), base())
    assert names(found) == ["louder_than_the_base"]
    assert "in the middle of 4" in found[0].reason


@pytest.mark.parametrize("saved", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]])
def test_an_adapter_that_unties(folder, base, tuned, saved, names):
    options = {"tied": True, "modules_to_save": saved}
    assert names(doctor(tuned(**options))) == ["untied_by_the_adapter"]
    found = examine_folder(folder(**options), base(tied=True))
    assert names(found) == ["untied_by_the_adapter"]
    assert all(name in found[0].reason for name in saved)
    assert "ensure_weight_tying" not in found[0].way_out  # which does not open here
    assert examine_folder(folder(modules_to_save=saved), base()) == []


def test_what_does_not_open_for_another_reason(folder, base):
    extra = {"base_model.model.model.norm.nonsense": np.ones(3, np.float32)}
    (one,) = examine_folder(folder(extra), base())
    assert one.diagnosis == "does_not_open"
    assert "nonsense" in one.reason
