"""The command line: one file a command, which only parses, calls and prints.

Results go to standard output, everything said on the way to standard error. Exit status: 0 done,
1 a check failed, 2 a mistake in what was asked for, 130 interrupted.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence

from minilora.cli.options import Parser, say
from minilora.errors import MiniloraError

COMMANDS = (
    "compare",
    "experiment",
    "sweep",
    "plot",
    "figures",
    "lessons",
    "data",
    "finetune",
    "generate",
    "chat",
    "merge",
    "export",
    "quantize",
    "inspect",
    "doctor",
    "gradcheck",
    "graph",
    "pretrain",
    "fetch",
    "bench",
    "profile",
    "budget",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that has no Greek gets a question mark, not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: say(f"minilora: {_one_line(message)}")
            try:
                return _run(arguments)
            finally:
                _flush()
    except KeyboardInterrupt:
        say("minilora: interrupted")
        return 130
    except BrokenPipeError:
        return 0  # whoever read standard output has gone away, e.g. `| head`
    except (MiniloraError, OSError) as error:
        say(f"minilora: {_one_line(error)}")
        return 2


def _flush() -> None:
    """Write out what was printed; if that fails, drop it, or Python would try again at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _run(arguments: list[str]) -> int:
    import minilora

    parser = Parser(
        prog="minilora",
        description="Fine-tuning of language models, from scratch, in NumPy.",
        epilog="example:  minilora compare        each command has its own --help",
    )
    parser.add_argument("--version", action="version", version=f"minilora {minilora.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"minilora.cli.{name}")
        text = (module.__doc__ or "").strip()
        sub = commands.add_parser(
            name,
            help=text.splitlines()[0],
            description=text,
            epilog=f"example:  {module.EXAMPLE}",
        )
        module.add_options(sub)
        sub.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.error(f"which command? There are: {', '.join(COMMANDS)}")
    return options.run(options)


def _one_line(said: object) -> str:
    text = str(said)
    if isinstance(said, OSError) and said.strerror:
        where = f"{said.filename}: " if said.filename else ""
        text = f"{where}{said.strerror}; choose another place, or make room and allow writing"
    return " ".join(text.split())
