"""`minilora chat`: questions from a pipe or a terminal, answers by the base and its adapters."""

import builtins
import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import minilora
from minilora.cli.chat import side_by_side
from minilora.conversation import Conversation, as_text

PROMPT, ANSWER = "rev:abcdefgh=", "hgfedcba"


@pytest.fixture
def adapters(here):
    """Folders `first` and `second` for skills: each writes one letter at the start of an answer."""
    for folder, seed in (("first", 1), ("second", 2)):
        model = minilora.get_peft_model(minilora.load_base("skills"), minilora.LoraConfig(r=2))
        rng = np.random.default_rng(seed)
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.data[...] = rng.normal(0, 0.3, p.shape)
        model.save_pretrained(here / folder)


@pytest.fixture
def pipe(run, monkeypatch):
    """pipe("line", …, argv=(…)): the command with these lines on standard input."""

    def command(*lines, argv=()):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return run("chat", *argv)

    return command


@pytest.fixture
def terminal(run, monkeypatch):
    """terminal("line", KeyboardInterrupt, …): the same from a keyboard; the prompts it showed."""

    def command(*typed, argv=()):
        keyboard, prompts = iter([*typed, EOFError]), []

        def key(prompt=""):
            prompts.append(prompt)
            line = next(keyboard)
            if not isinstance(line, str):
                raise line
            return line

        screen = io.StringIO()
        screen.isatty = lambda: True
        monkeypatch.setattr(sys, "stdin", screen)
        monkeypatch.setattr(builtins, "input", key)
        return run("chat", *argv), prompts

    return command


def answers(run, prompt, *adapter):
    return run("generate", "--prompt", prompt, "--max-new-tokens=256", *adapter).out


BOTH = ("--adapter", "first", "--adapter", "./second/")


def test_questions_from_a_pipe(pipe):
    outcome = pipe(PROMPT, "", "cpy:abcd=")
    assert (outcome.status, outcome.out, outcome.err) == (0, f"{ANSWER}\nabcd\n", "")


def test_broken_bytes_are_a_mistake_in_words(here):
    done = subprocess.run(
        [sys.executable, "-m", "minilora", "chat"],
        input=b"rev:\xff=\n",
        capture_output=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONUTF8": "1"},
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr and b"alphabet" in done.stderr


def test_switching_gives_what_generate_gives_with_each(pipe, run, adapters):
    first = answers(run, PROMPT, "--adapter", "first")
    second = answers(run, PROMPT, "--adapter", "second")
    assert len({first, second, f"{ANSWER}\n"}) == 3
    outcome = pipe(
        PROMPT, "/use second", PROMPT, "/off", PROMPT, "/use first", PROMPT, "/quit", PROMPT,
        argv=BOTH,
    )  # fmt: skip
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == f"{first}{second}{ANSWER}\n{first}"


def test_the_base_is_loaded_once(pipe, adapters, monkeypatch):
    loaded = []
    load = minilora.load_base
    monkeypatch.setattr("minilora.conversation.load_base", lambda b: loaded.append(b) or load(b))
    pipe(PROMPT, "/use second", PROMPT, "/compare", argv=BOTH)
    assert loaded == ["skills"]


def test_compare(pipe, run, adapters):
    first = answers(run, PROMPT, "--adapter", "first")
    for argv, lines in ((BOTH, (f"/compare {PROMPT}",)), (BOTH[:2], (PROMPT, "/compare"))):
        said = pipe(*lines, argv=(*argv, "--json")).json()
        turn = said["turns"][-1]
        assert turn["prompt"] == PROMPT
        assert list(turn["answers"]) == ["base", "first", "second"][: 1 + len(argv) // 2]
        assert (turn["answers"]["base"], turn["answers"]["first"] + "\n") == (ANSWER, first)
    outcome = pipe(f"/compare {PROMPT}", PROMPT, argv=BOTH)
    head, line, text, *_ = outcome.out.splitlines()
    assert head.split() == ["base", "first", "second"]
    assert line.split() == ["----", "-----", "------"]
    assert text.startswith(ANSWER)
    assert outcome.out.endswith(first)  # who was in use still is


def test_columns():
    text = side_by_side({"base": "one two three four", "other": "a\n\nb"}, 40)
    assert text.splitlines() == [
        "base                 other",
        "----                 -----",
        "one two three four   a",
        "",
        "                     b",
    ]
    narrow = side_by_side({"base": "one two three four", "other": "a"}, 30)
    assert narrow == "base: one two three four\nother: a"


def test_tokens_are_shown_as_they_come(pipe, monkeypatch):
    shown = []
    stream = minilora.generation.stream

    def slowly(*args, **options):
        for token in stream(*args, **options):
            shown.append(sys.stdout.getvalue() if hasattr(sys.stdout, "getvalue") else None)
            yield token

    monkeypatch.setattr("minilora.conversation.stream", slowly)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    pipe(PROMPT)
    assert shown == [ANSWER[:n] for n in range(8)]


def test_a_character_of_several_tokens_is_not_shown_in_halves():
    class Bytes:
        def decode(self, ids):
            return bytes(ids).decode(errors="replace")

    assert list(as_text("aé€".encode() + b"\xe2", Bytes())) == ["a", "é", "€", "\ufffd"]


def test_adapters_are_called_as_their_folders(here, adapters):
    for name in ("a/first", "base", "a b.c"):
        shutil.copytree(here / "second", here / name)
    talk = Conversation("skills", ["second", "a/first", "base", "a b.c", "./second"])
    assert talk.adapters == ["second", "first", "base-2", "a-b-c", "second-2"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/use nobody", ["'nobody'", "base, first, second"]),
        ("/use", ["''", "base, first, second"]),
        ("/sing", ["'/sing'", "/use NAME", "/quit"]),
        ("/compare", ["Nothing was asked", "/compare TEXT"]),
        ("Hello", ["'H'", "alphabet"]),
        ("a" * 300, ["300 tokens", "context 256"]),
    ],
)
def test_a_mistake_in_a_line(pipe, terminal, adapters, line, said):
    outcome = pipe(line, PROMPT, argv=BOTH)
    assert (outcome.status, outcome.out) == (2, "")
    assert len(outcome.said) == 1
    assert all(each in outcome.said[0] for each in said)
    outcome, prompts = terminal(line, "/off", PROMPT, argv=BOTH)
    assert (outcome.status, outcome.out) == (0, f"{ANSWER}\n")
    assert all(each in outcome.said[1] for each in said)
    assert prompts == ["first> ", "first> ", "base> ", "base> "]


def test_mistakes_in_what_is_loaded(mistake, adapters, here, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert "'nobody'" in mistake("chat", "--base", "nobody")
    assert "nowhere" in mistake("chat", "--adapter", "first", "--adapter", "nowhere")
    base = minilora.Transformer(minilora.ModelConfig(30, 64, 96, 2, 2))
    minilora.save_base(base, here / "bare")
    assert "tokenizer.json" in mistake("chat", "--base", "bare")


def test_help_and_the_greeting(terminal, adapters):
    outcome, _ = terminal("/help", argv=BOTH)
    greeting, told = outcome.said
    assert "base, first, second; first is in use" in greeting and "Ctrl-D" in greeting
    assert "/compare [TEXT]" in told


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
def test_ctrl_d_and_ctrl_c_at_the_prompt_end_it(terminal, end):
    outcome, prompts = terminal(PROMPT, end, "never read")
    assert (outcome.status, outcome.out) == (0, f"{ANSWER}\n")
    assert len(prompts) == 2
    assert len(outcome.said) == 1  # the greeting


def test_ctrl_c_in_an_answer_ends_that_answer(terminal, pipe, adapters, monkeypatch):
    stream = minilora.generation.stream
    pressed = []

    def interrupted(*args, **options):
        for n, token in enumerate(stream(*args, **options)):
            if n == 3 and not pressed:
                pressed.append(n)
                raise KeyboardInterrupt
            yield token

    monkeypatch.setattr("minilora.conversation.stream", interrupted)
    argv = ("--adapter", "first")
    outcome, _ = terminal("/off", PROMPT, PROMPT, "/use first", "abc", argv=argv)
    assert outcome.status == 0
    broken_off, *rest = outcome.out.split(ANSWER)
    assert (broken_off, len(rest)) == (ANSWER[:3], 1)
    pressed.clear()
    outcome = pipe(PROMPT, PROMPT)
    assert outcome.status == 130


def test_a_real_terminal(here):
    pty = pytest.importorskip("pty", reason="needs a POSIX terminal")
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "minilora", "chat"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    try:
        os.write(mine, f"{PROMPT}\n\x04".encode())
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        os.close(mine)
        os.close(theirs)
    assert process.returncode == 0, err
    assert ANSWER in out.decode()
    assert b"Traceback" not in err


class Talkative:
    """A tokenizer with a chat template, each character a token."""

    stop_ids = (0,)

    def chat(self, messages):
        return "".join(f"{m['role'][0]}:{m['content']};" for m in messages) + "a:"

    def encode(self, text, *, start=False):
        return [1 + ord(c) % 29 for c in text]

    def decode(self, ids):
        return "".join(chr(97 + i % 26) for i in ids)


def test_a_conversation_remembers_and_forgets(here, monkeypatch):
    model = minilora.Transformer(minilora.ModelConfig(31, 24, 40, 2, 4, max_positions=64))
    model.tokenizer = Talkative()
    monkeypatch.setattr("minilora.conversation.load_base", lambda base: model)
    given = []
    encode = Talkative.encode
    monkeypatch.setattr(
        Talkative, "encode", lambda self, text, **o: given.append(text) or encode(self, text)
    )
    talk = Conversation("tiny", max_new_tokens=4)
    first = "".join(talk.answer("hello"))
    second = "".join(talk.answer("more"))
    assert given == ["u:hello;a:", f"u:hello;a:{first};u:more;a:"]
    list(talk.answer("x" * 45))  # with the first turns it would leave no room for an answer
    third = f"u:{'x' * 45};a:"
    assert given[2:] == [
        f"u:hello;a:{first};u:more;a:{second};{third}",
        f"u:more;a:{second};{third}",
        third,
    ]
    talk.forget()
    talk.compare("alone")
    assert given[-1] == "u:alone;a:"
    assert [turn["prompt"] for turn in talk.turns] == ["hello", "more", "x" * 45, "alone"]
