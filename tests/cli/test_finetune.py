"""`minilora finetune`: from a file of examples to a folder that generates."""

import json
import os
import shlex
import signal
import threading
import time
from pathlib import Path

import pytest

import minilora
from minilora.files.safetensors import read_tensors, write_tensors

ROW = {"prompt": "des:gacb=", "completion": "gcba"}
QUICK = ("--data=rows.jsonl", "--steps=3", "--batch-size=4")
LEARN = ("--data=rows.jsonl", "--steps=25", "--batch-size=4")


@pytest.fixture
def row(write_rows):
    """rows.jsonl with one question, which some steps are enough to learn."""
    write_rows(ROW)


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("out", ["tuned", "in a/my adapter"])
def test_lora_learns_and_what_it_suggests_can_be_typed(run, here, out):
    assert run("generate", "--prompt", ROW["prompt"]).out != "gcba\n"
    outcome = run("finetune", *LEARN, "--out", out)
    assert outcome.status == 0
    assert outcome.out.startswith("trained 16,384 of 811,904 parameters in 25 steps; loss ")
    assert outcome.out.count("\n") == 1
    assert {p.name for p in (here / out).iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "log.jsonl",
        "minilora_template.json",
        "run.json",
    }
    assert suggested(run, outcome, ROW["prompt"]) == "gcba\n"


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("out", ["tuned", "skills"])
def test_full_learns_and_what_it_suggests_can_be_typed(run, here, out):
    outcome = run("finetune", "--method=full", *LEARN, "--out", out)
    assert outcome.status == 0
    assert outcome.out.startswith("trained 795,520 of 795,520 parameters in 25 steps; loss ")
    assert {p.name for p in (here / out).iterdir()} == {
        "config.json",
        "log.jsonl",
        "model.safetensors",
        "minilora_template.json",
        "run.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert suggested(run, outcome, ROW["prompt"]) == "gcba\n"


def suggested(run, outcome, prompt):
    """What the command prints that the last line of an outcome tells one to type."""
    program, *argv = shlex.split(outcome.said[-1].removeprefix("use it:"))
    assert (program, argv[-2:]) == ("minilora", ["--prompt", "…"])
    return run(*argv[:-1], prompt).out


def test_json_and_the_log(run, here, rows):
    outcome = run("finetune", *QUICK, "--out=tuned", "--json", "--lr=0.001")
    assert outcome.status == 0
    said = outcome.json()
    assert (said["method"], said["out"]) == ("lora", "tuned")
    assert (said["trainable_parameters"], said["total_parameters"]) == (16_384, 811_904)
    assert said["seconds"] > 0
    log = [json.loads(line) for line in (here / "tuned/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3]
    assert [line["loss"] for line in log] == said["losses"]
    assert max(line["lr"] for line in log) == 0.001


def test_every_option_of_lora_arrives(run, here, rows):
    chosen = ("--rank=4", "--alpha=6", "--target-modules= o_proj,up_proj", "--dropout=0.25")
    said = run("finetune", *QUICK, *chosen, "--out=tuned", "--json").json()
    assert said["trainable_parameters"] == 4 * 4 * ((128 + 128) + (128 + 344))
    settings = json.loads((here / "tuned/adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (4, 6)
    assert (settings["target_modules"], settings["lora_dropout"]) == (["o_proj", "up_proj"], 0.25)
    assert settings["base_model_name_or_path"] == "skills"


def test_one_seed_one_adapter(run, here, rows):
    def adapter(seed):
        assert run("finetune", *QUICK, f"--out={seed}", f"--seed={int(seed)}").status == 0
        return (here / seed / "adapter_model.safetensors").read_bytes()

    assert adapter("1") == adapter("01")
    assert adapter("1") != adapter("2")


def test_accumulating_gives_the_same_gradient(run, rows):
    whole, parts = (
        run("finetune", *QUICK, f"--accumulate={n}", "--out=tuned", "--json").json()["losses"]
        for n in (1, 4)
    )
    assert parts == pytest.approx(whole, rel=1e-4)


def test_a_second_run_takes_the_place_of_the_first(run, here, rows):
    for seed in (1, 2):
        run("finetune", *QUICK, "--out=again", f"--seed={seed}")
    run("finetune", *QUICK, "--out=once", "--seed=2")
    again, once = here / "again", here / "once"
    name = "adapter_model.safetensors"
    assert (again / name).read_bytes() == (once / name).read_bytes()
    assert len((again / "log.jsonl").read_text().splitlines()) == 3


def test_the_script(script, here, row):
    outcome = script("finetune", *QUICK, "--out=tuned", "--json")
    assert outcome.status == 0
    assert len(outcome.json()["losses"]) == 3
    assert (here / "tuned/adapter_model.safetensors").is_file()


def test_conversations(run, here, write_rows):
    conversational_base(here / "base")
    asked, answer = "the cat", "sat on the mat"
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    write_rows({"messages": turns})
    tune = ("--method=full", "--data=rows.jsonl", "--steps=60", "--batch-size=2", "--lr=0.01")
    outcome = run("finetune", "--base=base", *tune, "--out=tuned")
    assert outcome.status == 0
    chat = run("generate", "--base=tuned", "--chat", "--prompt", asked)
    assert (chat.status, chat.out) == (0, f"{answer}\n")
    plain = run("generate", "--base=tuned", "--prompt", asked, "--max-new-tokens=5")
    assert plain.out != chat.out


def conversational_base(folder):
    """A random model of a few thousand numbers, with pieces of words and a chat template."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra llm")
    pytest.importorskip("jinja2", reason="needs the extra llm")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<end>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["the cat sat on the mat"] * 4, trainer)
    config = minilora.ModelConfig(bpe.get_vocab_size(), 32, 48, 2, 2, max_positions=64)
    minilora.save_base(minilora.Transformer(config), folder)
    bpe.save(str(folder / "tokenizer.json"))
    template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    said = {"eos_token": "<end>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("data", "place", "said"),
    [
        (b'{"prompt": "a", "completion": "b"}\n{"prompt": "a"}', "line 2", ["'completion'"]),
        (b'{"completion": "a"}', "line 1", ["'prompt'"]),
        (b'{"question": "a"}', "line 1", ['"question"', '{"prompt", "completion"}']),
        (b'\n\n{"prompt": "a", "completion": "b"}\n{"prompt":\n', "line 4", ["malformed JSON"]),
        (b'{"prompt": "a", "prompt": "b", "completion": "c"}', "line 1", ["'prompt'", "twice"]),
        (b'{"prompt": "a\xff", "completion": "b"}', "line 1", ["UTF-8", "0xff", "byte 14"]),
        (b'\xff\xfe{\x00"\x00', "", ["UTF-16", "UTF-8"]),
        (b"", "", ["empty", "at least one row"]),
        (b"\n \n\n", "", ["empty"]),
        (b"[1, 2]", "item 1", ["'1'", "object"]),
        (b'{"prompt": 3, "completion": "b"}', "line 1", ["'prompt'", "3"]),
        (b'{"prompt": "a", "completion": ""}', "line 1", ["'completion'", "empty"]),
        (b'{"prompt": "Hi", "completion": "b"}', "line 1", ["'H'", "abcdefghijklmnopqrstuvwxyz:="]),
        (b'{"prompt": "%s", "completion": "b"}' % (b"a" * 300), "line 1", ["302", "256"]),
        (
            b'{"messages": [{"role": "user", "content": "a"},'
            b' {"role": "assistant", "content": "b"}]}',
            "line 1",
            ["chat template", "smollm2"],
        ),
        (b'{"messages": []}', "line 1", ["'messages'"]),
        (b'{"messages": [{"role": "bot", "content": "a"}]}', "line 1", ['"bot"', "assistant"]),
    ],
)
def test_data_that_cannot_be_used(mistake, here, data, place, said):
    (here / "d.jsonl").write_bytes(data)
    line = mistake("finetune", "--data=d.jsonl", "--out=tuned")
    assert f"minilora: d.jsonl{', ' if place else ''}{place}" in line
    assert all(each in line for each in said), line


def test_of_many_rows_that_cannot_be_used_the_first_is_told_and_how_many(mistake, here):
    lines = [{"prompt": "ab", "completion": "c"}, *({"prompt": "n", "completion": 5},) * 3]
    (here / "d.jsonl").write_text("\n".join(map(json.dumps, lines)))
    line = mistake("finetune", "--data", "d.jsonl", "--out", "x")
    assert "d.jsonl, line 2" in line
    assert "3 rows cannot be trained on: `minilora data check d.jsonl` lists them" in line


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_data_from_a_pipe(script, here):
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_text(json.dumps(ROW)))
    writer.start()
    outcome = script("finetune", "--data", "pipe", "--steps", 1, "--batch-size", 1, "--out", "x")
    writer.join()
    assert outcome.status == 0, outcome.err


@pytest.mark.parametrize("data", ["nowhere.jsonl", "folder", "file/below.jsonl"])
def test_data_that_is_no_file(mistake, here, data):
    (here / "folder").mkdir()
    (here / "file").touch()
    line = mistake("finetune", "--data", data, "--out=tuned")
    assert data in line
    assert "cannot be read as rows" in line or "how it is to be read" in line


@pytest.mark.parametrize("out", ["file", "file/below", "file/be\nlow", "/proc/minilora"])
def test_an_output_folder_that_cannot_be_written(mistake, here, rows, out):
    (here / "file").write_text("precious")
    line = mistake("finetune", *QUICK, "--out", out)
    assert " ".join(out.split()) in line
    assert "another" in line


def test_a_base_that_there_is_not(mistake, rows):
    line = mistake("finetune", *QUICK, "--base=tiny", "--out=tuned")
    assert "'tiny'" in line
    assert all(each in line for each in ("skills", "smollm2", "folders"))


def test_a_loss_that_is_no_number_stops_the_run(mistake, script, rows):
    leaves = {"tuned", "tuned/log.jsonl", "tuned/run.json"}
    argv = ("finetune", *QUICK, "--lr=1e39", "--out=tuned")
    line = mistake(*argv, by=script, leaves=leaves)
    assert "step 2" in line
    assert "nan" in line
    assert "learning rate" in line


class TestCtrlC:
    """A run that is stopped can go on, and ends as one that was not stopped."""

    RUN = ("finetune", "--data=rows.jsonl", "--steps=6", "--batch-size=4")

    @pytest.fixture
    def stopped(self, run, rows, ctrl_c_at):
        """stopped(*argv): a run that Ctrl-C ends in its third step of six."""

        def command(*argv):
            ctrl_c_at(3)
            return run(*self.RUN, *argv)

        return command

    @pytest.mark.parametrize("method", [("--method=lora", "--dropout=0.1"), ("--method=full",)])
    def test_stop_and_go_on(self, run, stopped, here, method):
        outcome = stopped(*method, "--out=halves")
        assert (outcome.status, outcome.out) == (130, "")
        assert "step 3" in outcome.said[-1]
        assert "--resume" in outcome.said[-1]
        halves, whole = here / "halves", here / "whole"
        assert names(halves) == {"checkpoint.safetensors", "log.jsonl", "run.json"}
        assert run(*self.RUN, *method, "--out=halves", "--resume").status == 0
        assert run(*self.RUN, *method, "--out=whole").status == 0
        assert names(halves) == names(whole)
        for path in whole.glob("*.safetensors"):
            assert (halves / path.name).read_bytes() == path.read_bytes()
        assert losses(halves) == losses(whole)

    def test_a_second_one_is_at_once(self, run, rows, monkeypatch):
        def pressed_twice(*args, **options):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr("minilora.training.train_step", pressed_twice)
        before = signal.getsignal(signal.SIGINT)
        outcome = run(*self.RUN, "--out=tuned")
        assert outcome.status == 130
        assert outcome.said[-1].endswith("interrupted")
        assert signal.getsignal(signal.SIGINT) is before

    def test_steps_after_the_checkpoint_are_not_logged_twice(self, run, stopped, here):
        stopped("--out=halves")
        # As if the process had been killed two steps after it had written the checkpoint.
        with open(here / "halves/log.jsonl", "a") as log:
            log.write('{"step": 4, "loss": 1.0}\n{"step": 5, "loss": 1.0}\n')
        assert run(*self.RUN, "--out=halves", "--resume").status == 0
        assert run(*self.RUN, "--out=whole").status == 0
        assert losses(here / "halves") == losses(here / "whole")

    def test_resuming_what_is_finished_leaves_one_run_in_the_log(self, run, rows, here):
        for argv in ((), ("--resume",)):
            assert run(*self.RUN, "--out=tuned", *argv).status == 0
        assert [step for step, _ in losses(here / "tuned")] == [1, 2, 3, 4, 5, 6]

    @pytest.mark.parametrize("other", ["--rank=4", "--method=full"])
    def test_another_run_is_not_gone_on_with(self, mistake, stopped, other):
        stopped("--out=tuned")
        line = mistake(*self.RUN, "--out=tuned", "--resume", other)
        assert "tuned/checkpoint.safetensors" in line
        assert "another" in line

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            lambda path: path.write_bytes(b""),
            lambda path: write_tensors(path, read_tensors(path)),
            lambda path: write_tensors(path, read_tensors(path), {"format": "minilora checkpoint"}),
        ],
        ids=["truncated", "empty", "of another kind", "without its history"],
    )
    def test_a_broken_checkpoint(self, mistake, stopped, here, spoil):
        stopped("--out=tuned")
        spoil(here / "tuned/checkpoint.safetensors")
        line = mistake(*self.RUN, "--out=tuned", "--resume")
        assert "tuned/checkpoint.safetensors" in line

    def test_in_a_process_of_its_own(self, start, script, here, rows):
        argv = ("finetune", "--data=rows.jsonl", "--steps=100", "--batch-size=2")
        process, log = start(*argv, "--out=halves"), here / "halves/log.jsonl"
        while not (log.exists() and log.read_bytes().count(b"\n") > 2):
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        assert (process.returncode, out) == (130, b""), err
        assert b"--resume" in err and b"Traceback" not in err
        assert names(here / "halves") == {"checkpoint.safetensors", "log.jsonl", "run.json"}
        assert 3 <= len(losses(here / "halves")) < 100
        resumed = script(*argv, "--out=halves", "--resume", "--json")
        whole = script(*argv, "--out=whole", "--json")
        assert resumed.json()["losses"] == whole.json()["losses"]
        adapters = [here / out / "adapter_model.safetensors" for out in ("halves", "whole")]
        assert adapters[0].read_bytes() == adapters[1].read_bytes()


def names(folder):
    return {p.name for p in folder.iterdir()}


def losses(folder):
    """(step, loss) of each line of a log."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines]
