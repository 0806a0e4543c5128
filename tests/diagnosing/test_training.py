"""The optimizer and a batch: each fault is planted and found."""

import numpy as np

import minilora
from minilora.autograd import Tensor
from minilora.data import skills
from minilora.diagnosing import doctor
from minilora.optim import AdamW
from minilora.peft import BottleneckConfig, get_peft_model


def test_an_optimizer_that_lacks_some(tuned):
    model = tuned()
    optimizer = AdamW([p for n, p in model.named_parameters() if "lora_A" in n])
    (one,) = doctor(model, optimizer)
    assert one.diagnosis == "optimizer_without_adapter"
    assert "4 of 8" in one.reason and "lora_B" in one.reason


def test_nothing_is_trainable(tuned, names):
    model = tuned()
    optimizer = AdamW(model.parameters())
    model.set_adapter("default", inference_mode=True)
    found = doctor(model, optimizer)
    assert names(found) == ["optimizer_without_adapter", "frozen_in_optimizer"]
    assert "nothing in the model is trainable" in found[0].reason


def test_an_optimizer_of_another_model(tuned, names):
    model = tuned()
    found = doctor(model, AdamW(tuned().parameters()))
    assert names(found) == ["optimizer_without_adapter", "foreign_in_optimizer"]


def test_frozen_weights_in_the_optimizer(tuned):
    model = tuned()
    model.requires_grad_(True)
    optimizer = AdamW(model.parameters())
    model.requires_grad_(False)
    model.set_adapter("default")
    (one,) = doctor(model, optimizer)
    assert one.diagnosis == "frozen_in_optimizer"
    frozen = sum(p.data.nbytes for p in model.parameters() if not p.requires_grad)
    assert f"{2 * frozen:,} bytes" in one.reason


def test_a_learning_rate_of_zero(tuned, names):
    model = tuned()
    optimizer = AdamW(model.parameters())
    optimizer.groups[0]["lr"] = 0.0
    assert names(doctor(model, optimizer)) == ["learning_rate_zero"]


def test_rows_without_a_supervised_token(tuned, tiny_batch):
    ids, labels = tiny_batch
    labels = labels.copy()
    labels[[1, 3]] = -100
    (one,) = doctor(tuned(), batch=(ids, labels))
    assert one.diagnosis == "no_supervised_token"
    assert "2 of 5 rows (first row 1)" in one.reason
    labels[:] = -100
    labels[:, 0] = 5  # nothing foretells the first token
    (one,) = doctor(tuned(), batch=(ids, labels))
    assert "5 of 5 rows" in one.reason


def test_answers_that_are_cut_off(names):
    model = minilora.load_base("skills")
    rows = skills.examples(skills.skill("sort-descending"), "train", 4)
    ids, labels = minilora.data.batches.collate(rows)
    assert doctor(model, batch=(ids, labels)) == []
    shortest = min(len(row.ids) for row in rows)
    cut = ids[:, : shortest - 1], labels[:, : shortest - 1]
    (one,) = doctor(model, batch=cut)
    assert one.diagnosis == "answer_cut_off" and "4 of 4 rows" in one.reason
    labels = np.where(labels == model.tokenizer.end_id, -100, labels)
    assert names(doctor(model, batch=(ids, labels))) == ["answer_cut_off"]


def test_a_gradient_that_does_not_arrive(tuned, tiny_batch, monkeypatch):
    model = tuned()
    second = model.model.model.layers[1]
    forward = second.forward
    monkeypatch.setattr(second, "forward", lambda x, *rest: forward(Tensor(x.data), *rest))
    (one,) = doctor(model, batch=tiny_batch)
    assert one.diagnosis == "gradient_does_not_arrive"
    assert "4 of 8" in one.reason and "layers.0." in one.reason
    norm = model.model.model.norm
    monkeypatch.setattr(norm, "forward", lambda x: Tensor(x.data))
    (one,) = doctor(model, batch=tiny_batch)
    assert "8 of 8" in one.reason


def test_checkpointing_over_frozen_inputs_is_sound_here(tuned, tiny_batch):
    model = tuned()
    model.gradient_checkpointing_enable()
    assert doctor(model, batch=tiny_batch) == []


def test_a_step_that_is_not_finite(tuned, tiny_batch, names):
    model = tuned()
    for layer in model.layers().values():
        layer.lora_B["default"].weight.data[:] = 1e30
    assert "gradient_does_not_arrive" in names(doctor(model, batch=tiny_batch))


def test_training_while_an_adapter_is_merged(tuned, tiny_batch, names):
    model = tuned()
    optimizer = AdamW(model.parameters())
    model.merge_adapter()
    (one,) = doctor(model, optimizer, tiny_batch)
    assert one.diagnosis == "training_while_merged"
    assert "'default' is merged" in one.reason and "unmerge_adapter()" in one.way_out
    model.unmerge_adapter()
    assert doctor(model, optimizer, tiny_batch) == []


def test_a_bottleneck_of_zeros_never_learns(base, tiny_batch):
    """As a fresh one has them W₂ and b₂ are zero; with W₁ zero, too, all but b₂ stays."""
    model = get_peft_model(base(), BottleneckConfig(bottleneck_size=3))
    for name, p in model.named_parameters():
        if "adapter_down" in name:
            p.data[:] = 0
    (one,) = doctor(model, batch=tiny_batch)
    assert one.diagnosis == "gradient_does_not_arrive" and "12 of 16" in one.reason
