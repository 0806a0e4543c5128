"""Both ways with Hugging Face PEFT: the same names, the same files, the same logits to 1e-4."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from minilora.bases import load_base
from minilora.optim import AdamW
from minilora.peft import LoraConfig, PeftModel, get_peft_model
from minilora.training import train_step

torch = pytest.importorskip("torch", reason="needs the extra parity")
transformers = pytest.importorskip("transformers", reason="needs the extra parity")
peft = pytest.importorskip("peft", reason="needs the extra parity")

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # theirs, of themselves
    pytest.mark.usefixtures("offline"),
]

SETTINGS = [
    {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    {"r": 3, "lora_alpha": 5, "target_modules": "all-linear"},
    {"r": 4, "lora_alpha": 8, "target_modules": ["k_proj", "down_proj"], "use_rslora": True},
    {"r": 2, "lora_alpha": 8, "target_modules": r".*layers\.1\..*(q|up)_proj"},
    {"r": 2, "target_modules": ["layers.0.self_attn.o_proj"], "init_lora_weights": "gaussian"},
    {"r": 2, "target_modules": ["gate_proj"], "lora_dropout": 0.3},
    {"r": 2, "target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
    {
        "r": 2,
        "target_modules": ["model.layers.0.self_attn.q_proj", "v_proj"],
        "layers_to_transform": 1,
    },
]
settings = pytest.mark.parametrize("settings", SETTINGS)
tied = pytest.mark.parametrize("tied", [False, True])


def their_base(folder):
    return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def their_logits(model, ids):
    with torch.no_grad():
        return model.eval()(torch.tensor(ids)).logits.numpy()


def their_tuning(model, batch, steps=5):
    ids, labels = map(torch.tensor, batch)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(ids, labels=labels).loss.backward()
        optimizer.step()


def assert_same_and_not_the_base(ours, theirs, base):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert np.abs(theirs - base).max() > 1e-2


@tied
@settings
def test_what_is_tuned_here_opens_there(
    base_folder, tiny_batch, tmp_path, tune, logits, tied, settings
):
    ids, _ = tiny_batch
    base = load_base(base_folder(tied))
    before = logits(base, ids)
    model = get_peft_model(base, LoraConfig(**settings))
    tune(model, tiny_batch, steps=5)
    model.save_pretrained(tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(their_base(base_folder(tied)), tmp_path / "adapter")
    assert_same_and_not_the_base(logits(model, ids), their_logits(theirs, ids), before)


@tied
@settings
def test_what_is_tuned_there_opens_here(base_folder, tiny_batch, tmp_path, logits, tied, settings):
    ids, _ = tiny_batch
    theirs = peft.get_peft_model(
        their_base(base_folder(tied)), peft.LoraConfig(**settings, task_type="CAUSAL_LM")
    )
    before = their_logits(theirs, ids)
    their_tuning(theirs, tiny_batch)
    theirs.save_pretrained(tmp_path / "adapter")
    model = PeftModel.from_pretrained(load_base(base_folder(tied)), tmp_path / "adapter")
    assert_same_and_not_the_base(logits(model, ids), their_logits(theirs, ids), before)


@tied
@settings
def test_parameters_are_named_shaped_and_frozen_as_there(base_folder, tied, settings):
    ours = get_peft_model(load_base(base_folder(tied)), LoraConfig(**settings))
    theirs = peft.get_peft_model(their_base(base_folder(tied)), peft.LoraConfig(**settings))
    assert {n: (p.shape, p.requires_grad) for n, p in ours.named_parameters()} == {
        n: (tuple(p.shape), p.requires_grad) for n, p in theirs.named_parameters()
    }


@settings
def test_the_line_of_trainable_parameters_is_theirs(base_folder, settings, capsys):
    peft.get_peft_model(
        their_base(base_folder()), peft.LoraConfig(**settings)
    ).print_trainable_parameters()
    theirs = capsys.readouterr().out
    get_peft_model(load_base(base_folder()), LoraConfig(**settings)).print_trainable_parameters()
    assert capsys.readouterr().out == theirs


@settings
def test_the_files_hold_arrays_of_the_same_names(base_folder, tmp_path, settings):
    get_peft_model(load_base(base_folder()), LoraConfig(**settings)).save_pretrained(
        tmp_path / "ours"
    )
    peft.get_peft_model(their_base(base_folder()), peft.LoraConfig(**settings)).save_pretrained(
        tmp_path / "theirs"
    )
    ours, theirs = (
        {name: (array.shape, array.dtype) for name, array in load_file(file).items()}
        for file in (
            tmp_path / "ours" / "adapter_model.safetensors",
            tmp_path / "theirs" / "adapter_model.safetensors",
        )
    )
    assert ours == theirs


def test_one_name_as_a_string_opens_there_too(base_folder, tiny_batch, tmp_path, tune, logits):
    ids, _ = tiny_batch
    base = load_base(base_folder())
    before = logits(base, ids)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="v_proj"))
    tune(model, tiny_batch, steps=5)
    model.save_pretrained(tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(their_base(base_folder()), tmp_path / "adapter")
    assert_same_and_not_the_base(logits(model, ids), their_logits(theirs, ids), before)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_an_adapter_on_the_head_opens_both_ways(base_folder, tiny_batch, tmp_path, tune, logits):
    ids, _ = tiny_batch
    chosen = {"r": 4, "target_modules": ["lm_head", "v_proj"]}
    base = load_base(base_folder())
    before = logits(base, ids)
    model = get_peft_model(base, LoraConfig(**chosen))
    tune(model, tiny_batch, steps=5)
    model.save_pretrained(tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(their_base(base_folder()), tmp_path / "ours")
    assert_same_and_not_the_base(logits(model, ids), their_logits(theirs, ids), before)
    theirs.save_pretrained(tmp_path / "theirs")
    again = PeftModel.from_pretrained(load_base(base_folder()), tmp_path / "theirs")
    assert_same_and_not_the_base(logits(again, ids), their_logits(theirs, ids), before)


def test_several_adapters_by_name_lie_in_the_same_folders(
    base_folder, tiny_batch, tmp_path, tune, logits
):
    ids, _ = tiny_batch
    base = load_base(base_folder())
    before = logits(base, ids)
    model = get_peft_model(base, LoraConfig(r=4))
    tune(model, tiny_batch, steps=5)
    model.add_adapter("second", LoraConfig(r=2, target_modules=["o_proj"]))
    model.set_adapter("second")
    tune(model, tiny_batch, steps=5)
    model.save_pretrained(tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(their_base(base_folder()), tmp_path / "ours")
    theirs.load_adapter(tmp_path / "ours" / "second", "second")
    theirs.save_pretrained(tmp_path / "theirs")
    again = PeftModel.from_pretrained(load_base(base_folder()), tmp_path / "theirs")
    again.load_adapter(tmp_path / "theirs" / "second", "second")
    for name in ("default", "second"):
        for each in (model, theirs, again):
            each.set_adapter(name)
        assert_same_and_not_the_base(logits(model, ids), their_logits(theirs, ids), before)
        assert np.array_equal(logits(again, ids), logits(model, ids))


def test_merging_gives_what_merging_there_gives(base_folder, tiny_batch, tmp_path, tuned, logits):
    ids, _ = tiny_batch
    base = load_base(base_folder())
    before = logits(base, ids)
    tuned(LoraConfig(r=4, target_modules="all-linear"), steps=5).save_pretrained(tmp_path / "a")
    ours = PeftModel.from_pretrained(base, tmp_path / "a").merge_and_unload()
    theirs = peft.PeftModel.from_pretrained(their_base(base_folder()), tmp_path / "a")
    theirs = theirs.merge_and_unload()
    assert_same_and_not_the_base(logits(ours, ids), their_logits(theirs, ids), before)
    weights = dict(theirs.named_parameters())
    for name, array in ours.state_dict().items():
        np.testing.assert_allclose(array, weights[name].detach().numpy(), rtol=0, atol=1e-6)


@settings
def test_the_same_steps_give_the_same_losses_and_weights(
    base_folder, tiny_batch, tmp_path, settings
):
    """From one start, both loops: forward, backward and AdamW together."""
    if settings.get("lora_dropout"):
        settings = {**settings, "lora_dropout": 0.0}
    model = get_peft_model(load_base(base_folder()), LoraConfig(**settings))
    model.save_pretrained(tmp_path / "start")
    theirs = peft.PeftModel.from_pretrained(
        their_base(base_folder()), tmp_path / "start", is_trainable=True
    )
    ids, labels = map(torch.tensor, tiny_batch)
    ours = AdamW(model.parameters(), lr=1e-3)
    trained = [p for p in theirs.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    for _ in range(5):
        optimizer.zero_grad()
        loss = theirs(ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        assert train_step(model, ours, *tiny_batch) == pytest.approx(loss.item(), abs=1e-5)
    np.testing.assert_allclose(
        model(tiny_batch[0]).data, their_logits(theirs, tiny_batch[0]), rtol=0, atol=1e-4
    )
