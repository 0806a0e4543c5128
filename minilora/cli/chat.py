"""Talk to a base and to any number of adapters on it, in the terminal.

A line is a question; one that begins with / is a command: /use NAME, /off (the base), /compare
[TEXT] (base and adapters side by side; without TEXT on the last question), /new (forget what was
said), /help, /quit. A base with a chat template holds a conversation, any other continues each
line as it stands. Lines may also come from a pipe; then the first mistake ends it.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import zip_longest
from typing import Any

from minilora.cli.options import add_json_option, add_sampling_options, print_json, say
from minilora.errors import ConfigError, MiniloraError

EXAMPLE = "minilora chat --adapter my-adapter"

COMMANDS = "/use NAME, /off, /compare [TEXT], /new, /help, /quit"
# Letters in a column of /compare, at least.
NARROWEST = 16


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", default="skills", help="skills (default), smollm2, or a folder")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="FOLDER",
        help="an adapter of minilora or PEFT, called as its folder is; may be given again",
    )
    add_sampling_options(parser, 256)
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.conversation import Conversation

    sampling = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "seed")}
    talk = Conversation(options.base, options.adapter, options.max_new_tokens, **sampling)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a broken byte is a character nobody knows
    at_a_terminal = sys.stdin.isatty()
    if at_a_terminal:
        say(f"{_who(talk)}. /help says what can be typed; Ctrl-D ends")
    for line in _lines(talk, at_a_terminal):
        try:
            if not _take(talk, line.rstrip("\r\n"), quiet=options.json):
                break
        except MiniloraError as error:
            if not at_a_terminal:
                raise
            say(f"minilora: {error}")
        except KeyboardInterrupt:
            if not at_a_terminal:
                raise
            say("")  # the answer ends here, and the conversation goes on
    if options.json:
        print_json({"base": options.base, "turns": talk.turns})
    return 0


def _lines(talk: Any, at_a_terminal: bool) -> Iterator[str]:
    """What is typed, or comes through the pipe, until it ends."""
    if not at_a_terminal:
        yield from sys.stdin
        return
    with suppress(ImportError):
        import readline  # noqa: F401  (gives input() its arrows and its memory)
    while True:
        try:
            yield input(f"{talk.in_use}> ")
        except (EOFError, KeyboardInterrupt):
            say("")
            return


def _take(talk: Any, line: str, *, quiet: bool) -> bool:
    """Do what a line asks for; whether the conversation goes on."""
    word, _, rest = line.strip().partition(" ")
    if not line.startswith("/"):
        if word:
            _answer(talk, line, quiet)
    elif word == "/quit":
        return False
    elif word == "/use":
        talk.use(rest.strip())
    elif word == "/off":
        talk.off()
    elif word == "/new":
        talk.forget()
    elif word == "/compare":
        answers = talk.compare(rest.strip())
        if not quiet:
            print(side_by_side(answers, shutil.get_terminal_size().columns))
    elif word == "/help":
        say(f"{COMMANDS}; anything else is a question. {_who(talk)}")
    else:
        raise ConfigError(f"there is no command {word!r}; there are {COMMANDS}")
    return True


def _answer(talk: Any, question: str, quiet: bool) -> None:
    # Closed at once if it is broken off: until then the base may be without its adapter.
    with closing(talk.answer(question)) as pieces:
        for piece in pieces:
            if not quiet:
                print(piece, end="", flush=True)
    if not quiet:
        print()


def _who(talk: Any) -> str:
    return f"there are {', '.join(['base', *talk.adapters])}; {talk.in_use} is in use"


def side_by_side(answers: dict[str, str], width: int) -> str:
    """Answers in columns, each under its name; one below the other where columns get too narrow."""
    wide = (width - 2 * (len(answers) - 1)) // len(answers)
    if wide < NARROWEST:
        return "\n".join(f"{name}: {text}" for name, text in answers.items())
    columns = [
        [name[:wide], "-" * min(len(name), wide), *_wrapped(text, wide)]
        for name, text in answers.items()
    ]
    rows = zip_longest(*columns, fillvalue="")
    return "\n".join("  ".join(cell.ljust(wide) for cell in row).rstrip() for row in rows)


def _wrapped(text: str, width: int) -> list[str]:
    return [piece for line in text.splitlines() for piece in textwrap.wrap(line, width) or [""]]
