"""The relatives of LoRA that PEFT has, both ways: same files, same logits, same steps."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from minilora.bases import load_base
from minilora.files.json_files import read_json
from minilora.generation import generate
from minilora.optim import AdamW
from minilora.peft import (
    BitFitConfig,
    BottleneckConfig,
    IA3Config,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from minilora.training import train_step

torch = pytest.importorskip("torch", reason="needs the extra parity")
transformers = pytest.importorskip("transformers", reason="needs the extra parity")
peft = pytest.importorskip("peft", reason="needs the extra parity")

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # theirs, of themselves
    pytest.mark.usefixtures("offline"),
]

METHODS = {
    "prompt": (PromptTuningConfig, {"num_virtual_tokens": 3}),
    "prompt of tokens": (
        PromptTuningConfig,
        {"num_virtual_tokens": 4, "prompt_tuning_init": "SAMPLE_VOCAB"},
    ),
    "prefix": (PrefixTuningConfig, {"num_virtual_tokens": 3}),
    "prefix through an MLP": (
        PrefixTuningConfig,
        {"num_virtual_tokens": 3, "prefix_projection": True, "encoder_hidden_size": 5},
    ),
    "ia3": (
        IA3Config,
        {
            "target_modules": ["k_proj", "v_proj", "down_proj"],
            "feedforward_modules": ["down_proj"],
        },
    ),
    "ia3 by patterns": (
        IA3Config,
        {
            "target_modules": r".*layers\.1.*(q|up|down)_proj",
            "feedforward_modules": r".*(up|down)_proj",
        },
    ),
    "ia3 of all": (IA3Config, {"target_modules": "all-linear", "feedforward_modules": []}),
}
methods = pytest.mark.parametrize(("ours", "settings"), METHODS.values(), ids=METHODS)
heads = pytest.mark.parametrize("tied", [False, True])


def their_base(folder):
    return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def their_model(folder, ours, settings):
    kind = getattr(peft, ours.__name__)
    return peft.get_peft_model(their_base(folder), kind(task_type="CAUSAL_LM", **settings))


def their_logits(model, ids):
    """Of the text: where it is a prompt, theirs come with those of the virtual tokens."""
    with torch.no_grad():
        return model.eval()(torch.tensor(ids)).logits.numpy()[:, -ids.shape[1] :]


def their_tuning(model, batch, steps=5):
    ids, labels = map(torch.tensor, batch)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-2)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(ids, labels=labels).loss.backward()
        optimizer.step()


def assert_same_and_not_the_base(ours, theirs, base):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert np.abs(theirs - base).max() > 1e-3


@heads
@methods
def test_what_is_tuned_here_opens_there_and_comes_back(
    base_folder, tiny_batch, tmp_path, tune, logits, tied, ours, settings
):
    ids, _ = tiny_batch
    base = load_base(base_folder(tied))
    before = logits(base, ids)
    model = get_peft_model(base, ours(**settings))
    tune(model, tiny_batch, steps=5, lr=5e-2)
    model.save_pretrained(tmp_path / "a")
    theirs = peft.PeftModel.from_pretrained(their_base(base_folder(tied)), tmp_path / "a")
    assert_same_and_not_the_base(logits(model, ids), their_logits(theirs, ids), before)
    theirs.save_pretrained(tmp_path / "b")
    again = PeftModel.from_pretrained(load_base(base_folder(tied)), tmp_path / "b")
    np.testing.assert_allclose(logits(again, ids), logits(model, ids), rtol=0, atol=1e-6)


@heads
@methods
def test_what_is_tuned_there_opens_here(
    base_folder, tiny_batch, tmp_path, logits, tied, ours, settings
):
    ids, _ = tiny_batch
    theirs = their_model(base_folder(tied), ours, settings)
    before = their_logits(their_base(base_folder(tied)), ids)
    their_tuning(theirs, tiny_batch)
    theirs.save_pretrained(tmp_path / "a")
    model = PeftModel.from_pretrained(load_base(base_folder(tied)), tmp_path / "a")
    assert_same_and_not_the_base(logits(model, ids), their_logits(theirs, ids), before)


@methods
def test_as_many_numbers_are_trained_and_the_files_hold_the_same_arrays(
    base_folder, tmp_path, ours, settings
):
    mine = get_peft_model(load_base(base_folder()), ours(**settings))
    theirs = their_model(base_folder(), ours, settings)
    assert mine.n_parameters(trainable=True) == sum(
        p.numel() for p in theirs.parameters() if p.requires_grad
    )
    mine.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    ours_, theirs_ = (
        {n: (a.shape, a.dtype) for n, a in load_file(place / "adapter_model.safetensors").items()}
        for place in (tmp_path / "ours", tmp_path / "theirs")
    )
    assert ours_ == theirs_
    said = read_json(tmp_path / "theirs" / "adapter_config.json")
    mine_said = read_json(tmp_path / "ours" / "adapter_config.json")
    assert said["peft_type"] == mine_said["peft_type"]
    assert set(mine_said) <= set(said)


@methods
def test_the_same_steps_give_the_same_losses_and_logits(base_folder, tiny_batch, ours, settings):
    """From one start, both loops: forward, backward and AdamW together."""
    if settings.get("prefix_projection"):
        pytest.skip("its arrays lie otherwise: see the next test")
    model = get_peft_model(load_base(base_folder()), ours(**settings))
    theirs = their_model(base_folder(), ours, settings)
    if hasattr(theirs, "prompt_encoder"):  # what they do not open to go on training, by hand
        (start,) = model.adapter_weights().values()
        theirs.prompt_encoder["default"].embedding.weight.data[:] = torch.tensor(start)
    ids, labels = map(torch.tensor, tiny_batch)
    optimizer = AdamW(model.parameters(), lr=1e-2)
    trained = [p for p in theirs.parameters() if p.requires_grad]
    their_optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    for _ in range(5):
        their_optimizer.zero_grad()
        loss = theirs(ids, labels=labels).loss
        loss.backward()
        their_optimizer.step()
        assert train_step(model, optimizer, *tiny_batch) == pytest.approx(loss.item(), abs=1e-5)
    np.testing.assert_allclose(
        model(tiny_batch[0]).data, their_logits(theirs, tiny_batch[0]), rtol=0, atol=1e-4
    )


def test_through_the_same_mlp_the_prefix_is_the_same(base_folder, tiny_batch, logits):
    """What no file carries, taken over by hand: their one last matrix is ours, layer by layer."""
    ids, _ = tiny_batch
    ours, settings = METHODS["prefix through an MLP"]
    theirs = their_model(base_folder(), ours, settings)
    model = get_peft_model(load_base(base_folder()), ours(**settings))
    encoder = theirs.prompt_encoder["default"]
    W2, b2 = (p.detach().numpy() for p in encoder.transform[2].parameters())
    arrays = [encoder.embedding.weight, *encoder.transform[0].parameters()]
    arrays = [p.detach().numpy() for p in arrays]
    for layer in range(2):
        rows = slice(layer * 24, (layer + 1) * 24)
        arrays += [W2[rows], b2[rows]]
    for mine, array in zip(model.adapter_weights().values(), arrays, strict=True):
        mine[:] = array
    np.testing.assert_allclose(logits(model, ids), their_logits(theirs, ids), rtol=0, atol=1e-5)


@methods
def test_greedy_texts_are_those_of_their_logits(
    base_folder, tiny_batch, tmp_path, tune, ours, settings
):
    model = get_peft_model(load_base(base_folder()), ours(**settings))
    tune(model, tiny_batch, steps=8, lr=5e-2)
    model.save_pretrained(tmp_path / "a")
    theirs = peft.PeftModel.from_pretrained(their_base(base_folder()), tmp_path / "a")
    for prompt in ([1, 2, 3], [9, 8, 7, 6, 5]):
        text = list(prompt)
        for _ in range(8):
            text.append(int(their_logits(theirs, np.array([text]))[0, -1].argmax()))
        assert generate(model, [prompt], 8) == [text[len(prompt) :]]


def test_a_prompt_that_began_as_a_text_opens_there_without_a_tokenizer(
    base_folder, tiny_batch, tmp_path, logits
):
    ids, _ = tiny_batch
    config = PromptTuningConfig(3, prompt_tuning_init="TEXT", prompt_tuning_init_text="ab")
    base = load_base(base_folder())
    base.tokenizer = type("Letters", (), {"encode": lambda self, text: [1, 2]})()
    model = get_peft_model(base, config)
    model.save_pretrained(tmp_path / "a")
    theirs = peft.PeftModel.from_pretrained(their_base(base_folder()), tmp_path / "a")
    np.testing.assert_allclose(logits(model, ids), their_logits(theirs, ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", [BottleneckConfig(5), BitFitConfig(norms=True)])
def test_what_peft_has_not_it_does_not_open(base_folder, tmp_path, config):
    get_peft_model(load_base(base_folder()), config).save_pretrained(tmp_path / "a")
    with pytest.raises((ValueError, KeyError, TypeError), match=config.peft_type):
        peft.PeftModel.from_pretrained(their_base(base_folder()), tmp_path / "a")


def test_ia3_merged_here_is_ia3_merged_there(base_folder, tiny_batch, tmp_path, tune):
    ours, settings = METHODS["ia3"]
    model = get_peft_model(load_base(base_folder()), ours(**settings))
    tune(model, tiny_batch, steps=5, lr=5e-2)
    model.save_pretrained(tmp_path / "a")
    theirs = peft.PeftModel.from_pretrained(their_base(base_folder()), tmp_path / "a")
    merged = dict(theirs.merge_and_unload().named_parameters())
    for name, array in model.merge_and_unload().state_dict().items():
        np.testing.assert_allclose(array, merged[name].detach().numpy(), rtol=0, atol=1e-6)
