"""Templates: the text of a row, the same when it is learnt and when it is asked."""

import warnings

import pytest

from minilora.data.chat import ChatTemplate
from minilora.data.instructions import example_of, read_examples, template_used, to_examples
from minilora.data.template_files import FILE, differs, save_template, template_of
from minilora.data.templates import CHOICES, NAMES, has_chat, template
from minilora.data.tokenizers import CharTokenizer
from minilora.errors import ConfigError, DataError, FormatError
from minilora.files.json_files import write_json
from minilora.ops import IGNORE

SOURCE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}" + (
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PAIR = {"prompt": "Sum 1 2", "completion": " 3"}
ALPACA = {"instruction": "Sum.", "input": "1 2", "output": "3"}
TALK = {
    "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
}


class Bytes:
    """A byte is a token; </s> is one, too, and stands at the end of a turn. With a template."""

    stop_ids, start_ids, end_id, pad_id, vocab_size = (256,), (), 256, 0, 257
    special_tokens: dict = {}

    def __init__(self, source=SOURCE):
        self.chat_template = source
        pytest.importorskip("jinja2")
        self.chat = ChatTemplate(source).render

    def encode(self, text, *, start=False):
        *pieces, last = text.split("</s>")
        return [i for piece in pieces for i in [*piece.encode(), 256]] + [*last.encode()]

    def decode(self, ids, skip_special=True):
        return "".join("</s>" if i == 256 else chr(i) for i in ids)


@pytest.fixture
def speaking():
    return Bytes()


CHARACTERS = CharTokenizer.from_alphabet("abcdefgh:> ")


def written(row, name, tokenizer, **how):
    """The text of an example, and that of its targets."""
    example = example_of(row, tokenizer, template(name, tokenizer), **how)
    targets = [label for label in example.labels[1:] if label != IGNORE]
    return tokenizer.decode(example.ids), tokenizer.decode(targets)


def test_alpacas_text_is_the_known_one(speaking):
    text, targets = written(ALPACA, "alpaca", speaking)
    assert text == (
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n### Instruction:\n"
        "Sum.\n\n### Input:\n1 2\n\n### Response:\n3</s>"
    )
    assert targets == "3</s>"
    without = {"instruction": "Sum.", "input": "", "output": "3"}
    assert written(without, "alpaca", speaking)[0] == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nSum.\n\n### Response:\n3</s>"
    )
    del without["input"]
    assert template("alpaca", speaking).prompt(without) == template("alpaca", speaking).prompt(
        "Sum."
    )


@pytest.mark.parametrize(
    ("name", "row", "text", "targets"),
    [
        ("plain", PAIR, "Sum 1 2 3</s>", " 3</s>"),
        ("plain", ALPACA, "Sum.\n1 2\n3</s>", "3</s>"),
        ("chat", PAIR, "<user>Sum 1 2</s><assistant> 3</s>", " 3</s>"),
        ("chat", ALPACA, "<user>Sum.\n1 2</s><assistant>3</s>", "3</s>"),
        ("chat", TALK, "<user>a</s><assistant>b</s><user>c</s><assistant>d</s>", "b</s>d</s>"),
        ("own", PAIR, "Sum 1 2 3</s>", " 3</s>"),
        ("base", PAIR, "<user>Sum 1 2</s><assistant> 3</s>", " 3</s>"),
        ("plain", {"text": "Once."}, "Once.</s>", "nce.</s>"),
    ],
)
def test_each_template_writes_each_form(speaking, name, row, text, targets):
    assert written(row, name, speaking) == (text, targets)


def test_own_is_the_rows_own_form(speaking):
    for row, name in ((PAIR, "plain"), (ALPACA, "alpaca"), (TALK, "chat")):
        assert written(row, None, speaking) == written(row, name, speaking)
        (example,) = to_examples([row], speaking, 999)
        assert example.template == name
    assert template_used(to_examples([PAIR, PAIR], speaking, 999)) == "plain"
    assert template_used(to_examples([PAIR, TALK], speaking, 999)) == "mixed"


def test_base_is_plain_where_there_is_no_chat_template():
    assert not has_chat(CHARACTERS)
    assert template("base", CHARACTERS).name == "plain"
    with pytest.raises(ConfigError, match="no chat template for --template chat"):
        template("chat", CHARACTERS)


def test_an_unknown_template_is_told_which_there_are(speaking):
    with pytest.raises(ConfigError, match="'jinja' must be one of own, base, plain, alpaca, chat"):
        template("jinja", speaking)


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("row", [PAIR, ALPACA, {"messages": TALK["messages"][:2]}], ids=str)
def test_an_example_begins_with_what_is_asked(speaking, name, row):
    """With the answer in the row or without it."""
    chosen = template(name, speaking)
    example = example_of(row, speaking, chosen)
    asked = chosen.ids(row, speaking)
    question = {k: v for k, v in row.items() if k not in ("completion", "output")}
    if "messages" in row:
        question = {"messages": row["messages"][:1]}
    assert chosen.ids(question, speaking) == asked == example.ids[: len(asked)]
    assert set(example.labels[1 : len(asked)]) == {IGNORE}
    assert example.labels[len(asked) :] == example.ids[len(asked) :]


def test_masks(speaking):
    answers, last, none = (
        written(TALK, "chat", speaking, mask=mask)[1] for mask in ("answers", "last", "none")
    )
    assert (answers, last) == ("b</s>d</s>", "d</s>")
    assert none == "user>a</s><assistant>b</s><user>c</s><assistant>d</s>"
    assert written(PAIR, "plain", speaking, mask="none")[1] == "um 1 2 3</s>"
    assert written(PAIR, "plain", speaking, mask="last")[1] == " 3</s>"
    with pytest.raises(ConfigError, match="'all' must be one of answers, last, none"):
        example_of(PAIR, speaking, mask="all")


def test_a_template_that_opens_an_answer_otherwise_than_it_ends_is_refused_with_its_reason():
    thinking = Bytes(SOURCE.replace("<assistant>", "<assistant><think>\n"))
    chosen = template("chat", thinking)
    with pytest.raises(DataError) as caught:
        to_examples([{"prompt": "a", "completion": "<b>"}], thinking, 99, written=chosen)
    said = str(caught.value)
    assert said.startswith("rows[0]: messages[1]: asked for an answer, the base's chat template")
    assert r"begins it with '<think>\n', which" in said
    assert "plain or alpaca" in said and "a row of its own" not in said
    row = {"prompt": "a", "completion": "<think>\nhm</think>b"}
    (example,) = to_examples([row], thinking, 99, written=chosen)
    asked = chosen.ids({"prompt": "a"}, thinking)
    assert example.ids[: len(asked)] == asked
    assert thinking.decode(example.ids[len(asked) :]) == "hm</think>b</s>"


def test_a_template_that_rewrites_a_question_or_earlier_turns_is_told_apart():
    last = Bytes("{% for m in messages %}{{ m.content if loop.last else '-' }}</s>{% endfor %}")
    chosen = template("chat", last)
    with pytest.raises(DataError, match=r"rewrites the question once it is .*: plain, alpaca$"):
        to_examples([PAIR], last, 99, written=chosen)
    forgets = Bytes(
        "{% for m in messages %}{{ m.content if loop.revindex < 3 else '-' }}</s>{% endfor %}"
    )
    with pytest.raises(DataError, match=r"rewrites earlier turns.*give each answer a row of its"):
        to_examples([TALK], forgets, 99, written=template("chat", forgets))


@pytest.mark.parametrize("name", ["plain", "alpaca"])
def test_a_longer_conversation_has_no_place_in_a_single_answer(speaking, name):
    chosen = template(name, speaking)
    with pytest.raises(DataError, match=r"^rows\[0\]: a conversation of 4 messages has no place"):
        to_examples([TALK], speaking, 999, written=chosen)
    single = {"messages": [{"role": "system", "content": "Be brief."}, *TALK["messages"][:2]]}
    text, targets = written(single, name, speaking)
    assert "Be brief." in text and targets == "b</s>"


def test_bad_rows_are_named_with_file_and_line(tmp_path, speaking):
    path = tmp_path / "rows.jsonl"
    write_rows = '{"prompt": "a", "completion": "b"}\n\n{"instruction": "a", "output": " "}\n'
    path.write_text(write_rows)
    with pytest.raises(DataError, match=r"rows\.jsonl, line 3: 'output' is blank, so there"):
        read_examples(path, speaking, 99)
    path.write_text('{"instruction": "a", "output": "b"}\n')
    with pytest.raises(DataError, match=r"line 1: \d+ tokens \(\d+ given, 2 to .* context has 99"):
        read_examples(path, speaking, 99)
    (example,) = read_examples(path, speaking, 99, written=template("plain", speaking))
    assert example.where == f"{path}, line 1"


def test_a_table_is_read_as_well(tmp_path, speaking):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion\na,b\n")
    assert speaking.decode(read_examples(path, speaking, 99)[0].ids) == "ab</s>"
    plain = tmp_path / "rows"  # no ending: JSON Lines
    plain.write_text('{"prompt": "a", "completion": "b"}\n')
    assert read_examples(plain, speaking, 99) == read_examples(path, speaking, 99)


@pytest.mark.parametrize("name", [*NAMES, "own"])
def test_what_was_used_is_kept_beside_the_adapter(tmp_path, speaking, name):
    save_template(tmp_path, name, speaking)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = template_of(tmp_path, speaking)
    assert found.name == name
    for row in (PAIR, ALPACA, "Who?"):
        assert found.prompt(row) == template(name, speaking).prompt(row)


def test_an_adapter_of_before_says_nothing(tmp_path, speaking):
    assert template_of(tmp_path, speaking) is None
    assert differs("plain", None) is None


def test_the_adapters_own_chat_template_is_used_with_a_warning(tmp_path, speaking):
    save_template(tmp_path, "chat", speaking)
    other = Bytes(SOURCE.replace("<", "["))
    with pytest.warns(UserWarning, match="trained with another chat template than this base has"):
        found = template_of(tmp_path, other)
    assert found.prompt("Who?") == speaking.chat([{"role": "user", "content": "Who?"}])
    assert found.prompt("Who?") != other.chat([{"role": "user", "content": "Who?"}])


def test_mixed_examples_are_asked_each_in_its_own_form(tmp_path, speaking):
    save_template(tmp_path, "mixed", speaking)
    found = template_of(tmp_path, speaking)
    assert found.prompt({"prompt": "a"}) == "a"
    assert found.prompt({"messages": TALK["messages"][:1]}) == "<user>a</s><assistant>"


def test_another_template_than_the_trained_one_is_told(speaking):
    trained = template("alpaca", speaking)
    assert differs("alpaca", trained) is None
    assert differs("chat", template(None, speaking)) is None
    assert "trained with --template alpaca and is asked with plain" in differs("plain", trained)


@pytest.mark.parametrize(
    "said", [{"template": "x"}, {}, {"template": "chat", "chat_template": 3}], ids=str
)
def test_a_file_that_says_something_else(tmp_path, speaking, said):
    write_json(tmp_path / FILE, said)
    with pytest.raises(FormatError, match=r"minilora_template\.json: 'template' is one of plain"):
        template_of(tmp_path, speaking)


def test_a_folder_with_it_still_opens(tmp_path, tiny):
    from minilora.peft import LoraConfig, PeftModel, get_peft_model

    get_peft_model(tiny(), LoraConfig(2, 4)).save_pretrained(tmp_path)
    before = {p.name for p in tmp_path.iterdir()}
    save_template(tmp_path, "plain", CHARACTERS)
    assert {p.name for p in tmp_path.iterdir()} == before | {FILE}
    assert PeftModel.from_pretrained(tiny(), tmp_path).peft_config
    peft = pytest.importorskip("peft")
    assert peft.PeftConfig.from_pretrained(tmp_path).r == 2
    assert len(peft.utils.load_peft_weights(str(tmp_path), device="cpu")) == 8
