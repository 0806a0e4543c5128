"""Adapters that PEFT has tuned are healthy, and the faults of its users are found in its files."""

import pytest

from minilora.bases import load_base, save_base
from minilora.diagnosing import examine_folder

torch = pytest.importorskip("torch", reason="needs the extra parity")
transformers = pytest.importorskip("transformers", reason="needs the extra parity")
peft = pytest.importorskip("peft", reason="needs the extra parity")

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # theirs, of themselves
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),
]


@pytest.fixture
def theirs(tiny, tmp_path, monkeypatch):
    """theirs(r=4, …): an adapter of PEFT's on a base that was saved here."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    save_base(tiny(), tmp_path / "base")

    def make(**options):
        base = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
        return peft.get_peft_model(base, peft.LoraConfig(**options, task_type="CAUSAL_LM"))

    return make


def tune(model, batch, optimizer, steps=3):
    ids, labels = map(torch.tensor, batch)
    for _ in range(steps):
        optimizer.zero_grad()
        model(ids, labels=labels).loss.backward()
        optimizer.step()


def examine(model, tmp_path):
    model.save_pretrained(tmp_path / "adapter")
    return examine_folder(tmp_path / "adapter", load_base(tmp_path / "base"))


@pytest.mark.parametrize(
    "options",
    [
        {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
        {"r": 4, "target_modules": "all-linear", "use_rslora": True},
        {"r": 4, "target_modules": ["q_proj"], "use_dora": True},
        {"r": 4, "target_modules": ["embed_tokens", "lm_head"]},
        {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
)
def test_what_was_tuned_there_is_healthy(theirs, tiny_batch, tmp_path, options):
    model = theirs(**options)
    trained = [p for p in model.parameters() if p.requires_grad]
    tune(model, tiny_batch, torch.optim.AdamW(trained, lr=1e-3))
    assert examine(model, tmp_path) == []


def test_an_optimizer_that_was_made_without_the_adapter(theirs, tiny_batch, tmp_path):
    model = theirs(r=4, target_modules=["q_proj"])
    base = [p for name, p in model.named_parameters() if "lora_" not in name]
    tune(model, tiny_batch, torch.optim.AdamW(base, lr=1e-3))
    assert [each.diagnosis for each in examine(model, tmp_path)] == ["b_still_zero"]


def test_checkpointing_over_frozen_inputs(theirs, tiny_batch, tmp_path):
    """Only the head learns: no gradient comes back through blocks whose inputs want none."""
    model = theirs(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model.train()
    blocks = model.get_base_model().model
    blocks.gradient_checkpointing_enable({"use_reentrant": True})
    blocks.disable_input_require_grads()
    trained = [p for p in model.parameters() if p.requires_grad]
    tune(model, tiny_batch, torch.optim.AdamW(trained, lr=1e-3))
    found = examine(model, tmp_path)
    assert [each.diagnosis for each in found] == ["b_still_zero"]
    assert "checkpointing" in found[0].way_out
