"""Instruction data: what is given, what is learned, and where the one becomes the other."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilora.data.instructions import (
    IGNORE,
    Example,
    chat_example,
    prompt_completion,
    read_examples,
    to_examples,
)
from minilora.data.tokenizers import CharTokenizer
from minilora.errors import DataError

CHARACTERS = CharTokenizer.from_alphabet("abcdefgh:> ")


class Toy:
    """Characters, and pieces that are one token wherever they stand, the longest first.

    A text begins with `start_ids`; the template is that of SmolLM2, without its system message.
    """

    pieces = ("<|im_start|>", "<|im_end|>", "today", "to", "day", "\n\n", "aa")
    vocab_size = 0x110000 + 10
    end_id = stop_id = 0x110001
    stop_ids = (0x110001,)
    pad_id = 0x110009
    closing = "<|im_end|>\n"

    def __init__(self, start_ids=()):
        self.start_ids = tuple(start_ids)
        longest_first = sorted(self.pieces, key=len, reverse=True)
        self.pattern = re.compile("|".join([*map(re.escape, longest_first), "."]), re.DOTALL)

    def encode(self, text, *, start=False):
        found = self.pattern.findall(text)
        ids = [0x110000 + self.pieces.index(p) if p in self.pieces else ord(p) for p in found]
        return [*self.start_ids, *ids] if start else ids

    def decode(self, ids, skip_special=True):
        return "".join(self.pieces[i - 0x110000] if i >= 0x110000 else chr(i) for i in ids)

    def chat(self, messages, add_generation_prompt=True):
        text = "".join(f"<|im_start|>{m['role']}\n{m['content']}{self.closing}" for m in messages)
        return text + ("<|im_start|>assistant\n" if add_generation_prompt else "")


TOY = Toy()


def targets(example, tokenizer=TOY):
    """The text of what is learned."""
    return tokenizer.decode([label for label in example.labels if label != IGNORE])


def assert_sound(example):
    assert len(example.ids) == len(example.labels)
    assert all(y in (IGNORE, x) for x, y in zip(example.ids, example.labels, strict=True))
    assert example.n_targets == sum(y != IGNORE for y in example.labels[1:]) > 0


def test_the_answer_and_the_end_are_learned_and_the_prompt_is_not():
    example = prompt_completion("abc>", "cba", CHARACTERS)
    ids = CHARACTERS.encode("abc>cba")
    assert example.ids == [*ids, CHARACTERS.end_id]
    assert example.labels == [IGNORE] * 4 + [*ids[4:], CHARACTERS.end_id]
    assert example.n_targets == 4


@given(st.text("abc tody\n", max_size=12), st.text("abc tody\n", min_size=1, max_size=12))
def test_an_example_begins_with_the_tokens_that_generation_is_given(prompt, completion):
    if not completion.strip():
        return
    for tokenizer in (TOY, Toy(start_ids=[5, 6])):
        example = prompt_completion(prompt, completion, tokenizer)
        assert_sound(example)
        given_ids = tokenizer.encode(prompt, start=True)
        assert example.ids[: len(given_ids)] == given_ids
        assert example.labels[: len(given_ids)] == [IGNORE] * len(given_ids)
        assert targets(example) == completion + "<|im_end|>"


def test_a_token_across_the_boundary_is_cut_there_and_only_there():
    assert TOY.encode("today") == [TOY.encode("today")[0]]
    example = prompt_completion("to", "day aa", TOY)
    assert example.ids == [*TOY.encode("to"), *TOY.encode("day aa"), TOY.end_id]
    whole = prompt_completion("say: ", "today", TOY)
    assert whole.ids == [*TOY.encode("say: today"), TOY.end_id]


def test_the_whole_decides_where_nothing_straddles():
    class SpaceFirst(Toy):
        """As some do: a text that does not begin with a space is given one."""

        def encode(self, text, *, start=False):
            return super().encode(text if text[:1] == " " else " " + text, start=start)

    example = prompt_completion("ab", "cd", SpaceFirst())
    assert targets(example) == "cd<|im_end|>"


def test_an_empty_prompt_is_text_to_continue():
    plain = prompt_completion("", "abc", TOY)
    assert targets(plain) == "abc<|im_end|>" and plain.n_targets == 3
    assert prompt_completion("", "abc", Toy(start_ids=[5])).n_targets == 4


def test_an_example_has_a_label_for_each_token():
    with pytest.raises(DataError, match="1 labels for 2 tokens"):
        Example([1, 2], [1])


def said(*contents):
    roles = ("user", "assistant") * len(contents)
    return [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]


def test_only_the_assistant_is_learned_up_to_the_end_of_its_turn():
    example = chat_example(said("hello", "aa bb", "more", "cc"), TOY)
    assert_sound(example)
    assert targets(example) == "aa bb<|im_end|>cc<|im_end|>"
    assert example.ids[-1] == TOY.stop_id
    # What is not learned is still there, the line break behind a turn too.
    assert TOY.decode(example.ids) + "\n" == TOY.chat(said("hello", "aa bb", "more", "cc"), False)


def test_what_comes_after_the_last_answer_is_left_out():
    assert chat_example(said("a", "b", "thanks"), TOY) == chat_example(said("a", "b"), TOY)


def test_a_system_message_is_given():
    example = chat_example([{"role": "system", "content": "be brief"}, *said("a", "b")], TOY)
    assert TOY.decode(example.ids).startswith("<|im_start|>system\nbe brief<|im_end|>")
    assert targets(example) == "b<|im_end|>"


@given(st.lists(st.text("ab\nto day", min_size=1, max_size=8), min_size=2, max_size=6))
def test_a_conversation_begins_with_the_tokens_that_generation_is_given(contents):
    contents = [text + "x" for text in contents]
    example = chat_example(said(*contents), TOY)
    assert_sound(example)
    start = TOY.encode(TOY.chat(said(contents[0])))
    assert example.ids[: len(start)] == start
    assert targets(example) == "".join(text + "<|im_end|>" for text in contents[1::2])


def test_a_template_that_closes_with_plain_text_is_closed_by_the_end_token():
    class Plain(Toy):
        closing = "\n"

    example = chat_example(said("a", "b"), Plain())
    assert targets(example) == "b\n<|im_end|>"


def test_a_template_that_rewrites_earlier_turns_is_refused():
    class LastOnly(Toy):
        def chat(self, messages, add_generation_prompt=True):
            return super().chat(messages[-2:], add_generation_prompt)

    with pytest.raises(DataError, match=r"messages\[3\].*rewrites earlier turns.*row of its own"):
        chat_example(said("a", "b", "c", "d"), LastOnly())


def test_a_template_that_hides_the_answer_is_refused():
    class Mute(Toy):
        def chat(self, messages, add_generation_prompt=True):
            return "nothing"

    with pytest.raises(DataError, match="shows nothing of what the assistant says"):
        chat_example(said("a", "b"), Mute())


def test_a_file_gives_what_its_rows_give(tmp_path):
    pair = {"prompt": "ab>", "completion": "ba"}
    rows = [{**pair, "source": "me"}, {"messages": said("a", "b")}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    examples = read_examples(path, TOY, 99)
    assert examples == to_examples(rows, TOY, 99)
    assert examples[0] == prompt_completion("ab>", "ba", TOY)
    assert examples[1] == chat_example(said("a", "b"), TOY)
