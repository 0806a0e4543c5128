"""The command line: one file a command, which only parses, calls and prints.

Results go to standard output, everything said on the way to standard error. Exit status: 0 done,
1 a check failed, 2 a mistake in what was asked for, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from minilora.cli.options import Parser, say
from minilora.errors import MiniloraError

COMMANDS = ("compare", "finetune", "generate", "gradcheck", "pretrain", "fetch")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        # Whoever read standard output has gone away, e.g. `| head`.
        sys.stderr.close()
        return 0
    except (MiniloraError, OSError) as error:
        say(f"minilora: {_one_line(error)}")
        return 2


def _run(arguments: list[str]) -> int:
    import minilora

    parser = Parser(
        prog="minilora",
        description="Fine-tuning of language models, from scratch, in NumPy.",
        epilog="example:  minilora compare        each command has its own --help",
    )
    parser.add_argument("--version", action="version", version=f"minilora {minilora.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"minilora.cli.{name}")
        summary = (module.__doc__ or "").splitlines()[0]
        sub = commands.add_parser(
            name, help=summary, description=summary, epilog=f"example:  {module.EXAMPLE}"
        )
        module.add_options(sub)
        sub.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    return options.run(options)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; choose another place, or make room and allow writing"
    return " ".join(str(error).split())
