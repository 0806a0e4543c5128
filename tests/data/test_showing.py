"""An example shown: each token once, in its role, and nothing in it that acts."""

import re
from html.parser import HTMLParser

import pytest

from minilora.data import showing
from minilora.data.instructions import Example, prompt_completion
from minilora.data.tokenizers import CharTokenizer

LETTERS = CharTokenizer.from_alphabet("abc<>&\n\t\x1b= ")


def example(prompt="ab=", completion="ba"):
    return prompt_completion(prompt, completion, LETTERS)


def test_what_is_given_is_divided_and_what_is_learnt_is_marked():
    assert showing.text(example(), LETTERS) == "a│b│=⟦b⟧⟦a⟧⟦<end>⟧"
    assert showing.text(example("a\n", "b\tc"), LETTERS) == "a│↵\n⟦b⟧⟦⇥⟧⟦c⟧⟦<end>⟧"


def test_the_first_token_is_no_target_as_nothing_foretells_it():
    shown = showing.tokens(example("", "ab"), LETTERS)
    assert [token.target for token in shown] == [False, True, True]
    assert sum(token.target for token in shown) == example("", "ab").n_targets


def test_special_tokens_are_written_out():
    shown = showing.tokens(example(), LETTERS)
    assert [(t.text, t.special) for t in shown[-2:]] == [("a", False), ("<end>", True)]


def test_tokens_that_are_no_text_of_their_own_are_shown_by_number():
    class Half:
        def decode(self, ids, skip_special=True):
            return {5: "\ufffd", 6: ""}[ids[0]]

    shown = showing.tokens(Example([5, 6], [-100, 6]), Half())
    assert [(t.text, t.special) for t in shown] == [("‹5›", False), ("‹6›", False)]


@pytest.mark.parametrize("colour", [False, True])
def test_control_characters_of_the_data_do_not_reach_the_terminal(colour):
    text = showing.text(example("\x1b=", "\x1ba"), LETTERS, colour=colour)
    assert re.sub(r"\x1b\[[0-9;]*m", "", text).isprintable()
    assert text.count("\\x1b") == 2


def test_in_colour_the_roles_are_two_and_the_text_is_the_same():
    text = showing.text(example(), LETTERS, colour=True)
    pieces = re.findall(r"\x1b\[([0-9;]+)m([^\x1b]*)\x1b\[0m", text)
    assert [(style, piece) for style, piece in pieces if piece != "│"] == [
        *[("90", c) for c in "ab="],
        *[("1;4;38;5;208", c) for c in ("b", "a", "<end>")],
    ]


def test_where_the_context_ends_is_marked():
    assert showing.text(example(), LETTERS, context=4) == (
        "a│b│=⟦b⟧\n✂ here the context ends ✂\n⟦a⟧⟦<end>⟧"
    )
    assert "✂" not in showing.text(example(), LETTERS, context=6)
    assert showing.summary(example(), 4) == {
        "template": "plain", "n_tokens": 6, "n_targets": 3, "context": 4, "too_long_by": 2
    }  # fmt: skip
    assert showing.summary(example(), 6)["too_long_by"] == 0


class Spans(HTMLParser):
    """The texts of the spans with their styles; any other tag than these three fails."""

    def __init__(self):
        super().__init__()
        self.found, self.style = [], None

    def handle_starttag(self, tag, attrs):
        assert tag in ("div", "span", "br")
        self.style = dict(attrs)["style"] if tag == "span" else None if tag == "div" else self.style
        if tag == "span":
            self.found.append([self.style, ""])

    def handle_endtag(self, tag):
        self.style = None

    def handle_data(self, data):
        if self.style is not None:
            self.found[-1][1] += data


def test_in_a_notebook_it_is_escaped_and_coloured():
    page = showing.html(example("<b>=", "&a<"), LETTERS)
    assert "<b>" not in page and "&lt;end&gt;" in page
    spans = Spans()
    spans.feed(page)
    assert [text for _, text in spans.found] == ["<", "b", ">", "=", "&", "a", "<", "<end>"]
    orange = [showing.ORANGE in style for style, _ in spans.found]
    assert orange == [False] * 4 + [True] * 4
    assert [showing.GREY in style for style, _ in spans.found] == [not each for each in orange]
    assert [("underline" in style) for style, _ in spans.found] == orange


def test_the_colours_are_those_of_the_figures():
    from minilora import plots

    assert (showing.GREY, showing.ORANGE) == (plots.FROZEN, plots.TRAINABLE)
