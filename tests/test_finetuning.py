"""From a JSONL file to a folder: what is in it, what is refused, and what stays when it is not."""

import hashlib
import json
import signal

import numpy as np
import pytest

from minilora import training
from minilora.bases import load_base
from minilora.diagnosing import examine_folder
from minilora.errors import ConfigError, DataError, FormatError, MiniloraError
from minilora.finetuning import SKILLS_DEFAULTS, defaults_for, finetune
from minilora.method_names import METHODS
from minilora.methods import Method
from minilora.peft import LoraConfig, PeftModel
from minilora.runs import check_data, read_run

LORA = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1)
QUICK = {"steps": 4, "batch_size": 4, "seed": 3, "progress": False}


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"pal:{s}=", "completion": s[:2] + s[1::-1]} for s in ("abcd", "efgh", "ka")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "deep" / "out"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_lora_leaves_an_adapter_and_a_log(data, out, fingerprint):
    history, model = finetune("skills", data, out, lora=LORA, **QUICK)
    files = ["adapter_config.json", "adapter_model.safetensors", "log.jsonl"]
    files += ["minilora_template.json", "run.json"]
    assert names(out) == files
    assert len(history.losses) == 4
    again = PeftModel.from_pretrained(load_base("skills"), out)
    assert fingerprint(again.adapter_weights()) == fingerprint(model.adapter_weights())
    assert again.peft_config["default"].base_model_name_or_path == "skills"


def test_full_leaves_a_model_and_a_log(data, out, fingerprint):
    _, model = finetune("skills", data, out, lora=None, **QUICK)
    files = ["config.json", "log.jsonl", "minilora_template.json", "model.safetensors", "run.json"]
    assert names(out) == [*files, "tokenizer.json", "tokenizer_config.json"]
    again = load_base(out)
    assert fingerprint(again.state_dict()) == fingerprint(model.state_dict())
    assert fingerprint(again.state_dict()) != fingerprint(load_base("skills").state_dict())
    assert again.tokenizer.encode("abc=") == model.tokenizer.encode("abc=")


@pytest.mark.parametrize("lora", [None, LORA])
def test_stopped_and_resumed_it_is_the_same(data, out, tmp_path, lora, fingerprint, monkeypatch):
    straight, whole = finetune("skills", data, tmp_path / "straight", lora=lora, **QUICK)
    step, taken = training.train_step, []

    def press(*args, **options):
        taken.append(1)
        if len(taken) == 2:
            signal.raise_signal(signal.SIGINT)
        return step(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_step", press)
        stopped, _ = finetune("skills", data, out, lora=lora, **QUICK)
    assert stopped.interrupted
    assert names(out) == ["checkpoint.safetensors", "log.jsonl", "run.json"]
    resumed, model = finetune("skills", data, out, lora=lora, resume=True, **QUICK)
    assert resumed.losses == straight.losses
    assert fingerprint(model.state_dict()) == fingerprint(whole.state_dict())
    assert names(out) == names(tmp_path / "straight")
    records = [(place / "run.json").read_bytes() for place in (out, tmp_path / "straight")]
    assert records[0] == records[1]
    lines = [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert lines == straight.losses


def test_a_new_run_begins_a_new_log(data, out):
    for _ in range(2):
        finetune("skills", data, out, lora=LORA, **QUICK)
    assert len((out / "log.jsonl").read_text().splitlines()) == 4


def test_the_answer_is_learnt(data, out):
    settings = {**QUICK, "steps": 30}
    history, _ = finetune("skills", data, out, lora=LORA, **settings)
    assert np.mean(history.losses[-3:]) < 0.5 * np.mean(history.losses[:3])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"steps": 0}, r"\b0\b"),
        ({"steps": -3}, "-3"),
        ({"batch_size": 0}, "batch size 0"),
        ({"batch_size": 2.5}, r"batch size 2\.5"),
        ({"lr": 0.0}, "learning rate 0"),
        ({"lr": -1.0}, "learning rate -1"),
        ({"accumulate": 0}, "accumulate 0"),
        ({"lora": LoraConfig(r=200)}, "rank 200"),
        ({"lora": LoraConfig(target_modules=["fly"])}, "'fly'"),
    ],
)
@pytest.mark.parametrize("before", [False, True])
def test_what_is_refused_leaves_nothing_and_takes_nothing_away(data, out, changes, says, before):
    """Neither a new folder, nor a hole in the folder of a run that was stopped before."""
    if before:
        out.mkdir(parents=True)
        (out / "checkpoint.safetensors").write_bytes(b"of before")
        (out / "log.jsonl").write_bytes(b"of before")
    with pytest.raises(ConfigError, match=says):
        finetune("skills", data, out, **{"lora": LORA, **QUICK, **changes})
    if before:
        assert all((out / name).read_bytes() == b"of before" for name in names(out))
        assert len(names(out)) == 2
    else:
        assert not out.parent.exists()


@pytest.mark.parametrize("text", ["", "{}\n", '{"prompt": "rev:ab="}\n', "not json\n"])
def test_data_that_is_none_is_refused_before_a_folder_is_made(data, out, text):
    data.write_text(text)
    with pytest.raises(MiniloraError, match=r"rows\.jsonl"):
        finetune("skills", data, out, lora=LORA, **QUICK)
    assert not out.parent.exists()


def test_a_folder_that_cannot_be_made_is_an_oserror(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        finetune("skills", data, tmp_path / "file" / "out", lora=LORA, **QUICK)


def test_each_base_has_settings_that_suit_it(tiny):
    assert defaults_for(load_base("skills")) == SKILLS_DEFAULTS
    other = defaults_for(tiny())
    assert other.lr_full < other.lr < SKILLS_DEFAULTS.lr


@pytest.mark.parametrize("changed", ["lora", "data"])
def test_a_stopped_run_goes_on_with_its_own_settings_only(data, out, monkeypatch, changed):
    """Another alpha or other examples would be another run."""
    step = training.train_step

    def press(*args, **how):
        signal.raise_signal(signal.SIGINT)
        return step(*args, **how)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_step", press)
        stopped, _ = finetune("skills", data, out, lora=LoraConfig(r=2), **QUICK)
    assert stopped.interrupted
    lora = LoraConfig(r=2, lora_alpha=64) if changed == "lora" else LoraConfig(r=2)
    if changed == "data":
        data.write_text(data.read_text() + data.read_text())
    with pytest.raises(FormatError, match=changed):
        finetune("skills", data, out, lora=lora, resume=True, **QUICK)


@pytest.mark.parametrize("lora", [None, LORA])
def test_run_json_says_what_was_run(data, out, lora):
    _, model = finetune("skills", data, out, lora=lora, accumulate=2, **QUICK)
    said = json.loads((out / "run.json").read_text())
    assert said["data_sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert (said["base"], said["data"], said["accumulate"]) == ("skills", str(data), 2)
    assert (said["steps"], said["batch_size"], said["seed"]) == (4, 4, 3)
    assert said["lr"] == (5e-3 if lora else 1e-3)
    assert (said["schedule"], said["warmup"], said["max_grad_norm"]) == ("cosine", 0, 1.0)
    assert said["trained_parameters"] == model.n_parameters(trainable=True)
    # 16 rows, each with an answer of four letters and its end.
    assert said["target_tokens"] == 16 * 5
    run = read_run(out)
    assert (run.lora, run.steps, run.data_sha256) == (lora, 4, said["data_sha256"])
    check_data(run)
    assert not [finding for finding in examine_folder(out) if "run.json" in str(finding)]


@pytest.mark.parametrize("name", METHODS)
def test_the_run_that_is_read_is_the_run_that_was_written(data, out, name):
    method = Method(name, LORA, tokens=3, bottleneck=2)
    finetune("skills", data, out, method=method, **QUICK | {"steps": 2})
    tuned_by = read_run(out).tuned_by
    assert tuned_by.config == method.config and tuned_by.context == method.context
    assert json.loads((out / "run.json").read_text())["seen_tokens"] > 2 * 4 * 9


def test_virtual_tokens_take_a_part_of_the_context(tmp_path, data, out):
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"prompt": "a" * 240, "completion": "b"}))
    prompt = Method("prompt", tokens=20)
    with pytest.raises(DataError, match=r"line 1: 242 tokens.* has 236 \(256 less 20 of the adap"):
        finetune("skills", long, out, method=prompt, **QUICK)
    with pytest.raises(ConfigError, match=r"= 256 leaves no place for a text.*256; take fewer"):
        finetune("skills", data, out, method=Method("prefix", tokens=256), **QUICK)
    assert not out.exists()


def test_old_examples_without_a_share_are_not_passed_over(data, out):
    with pytest.raises(ConfigError, match=r"nothing is replayed.*replay 0\.1"):
        finetune("skills", data, out, lora=LORA, replay_data=data, **QUICK)


def test_a_stopped_run_is_still_said(data, out, monkeypatch):
    """And a resumption that is refused does not change what it says."""

    def press(*args, **how):
        signal.raise_signal(signal.SIGINT)
        return 1.0

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_step", press)
        stopped, _ = finetune("skills", data, out, lora=LORA, **QUICK)
    assert stopped.interrupted
    before = (out / "run.json").read_bytes()
    with pytest.raises(FormatError, match="lr"):
        finetune("skills", data, out, lora=LORA, resume=True, lr=1e-5, **QUICK)
    assert (out / "run.json").read_bytes() == before


def test_a_run_that_cannot_be_read(data, out):
    finetune("skills", data, out, lora=LORA, **QUICK)
    said = json.loads((out / "run.json").read_text())
    for changed, says in (
        ({name: said[name] for name in said if name != "warmup"}, "'warmup'"),
        (said | {"lora": {"wings": 2}}, "wings"),
        (said | {"betas": 0.9}, "not what"),
    ):
        (out / "run.json").write_text(json.dumps(changed))
        with pytest.raises(FormatError, match=says):
            read_run(out)
    (out / "run.json").unlink()
    with pytest.raises(FormatError, match="older version"):
        read_run(out)


def test_other_data_is_noticed(data, out):
    finetune("skills", data, out, lora=LORA, **QUICK)
    data.write_text(data.read_text() + data.read_text())
    with pytest.raises(DataError, match=r"rows\.jsonl is not what .* SHA-256"):
        check_data(read_run(out))
    data.unlink()
    with pytest.raises(DataError, match=r"not there.*--data"):
        check_data(read_run(out))
