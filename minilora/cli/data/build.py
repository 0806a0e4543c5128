"""Build rows from a table: its columns put into a template, or several that say it differently.

{column} is replaced by the value in that column; braces that mean braces are written twice. A file
of templates has one a line: text, which is a prompt for --completion, or an object
{"prompt": …, "completion": …} in JSON. Which of them a record gets is drawn by the seed. With
--each each row says under "record" of which it was made: split those with --together record.
"""

from __future__ import annotations

import argparse

from minilora.cli.data.rules import add_file
from minilora.cli.options import print_json, say, whole
from minilora.errors import ConfigError

EXAMPLE = (
    "minilora data build capitals.csv --prompt 'The capital of {country}:' --completion ' {city}'"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    parser.add_argument("--prompt", metavar="TEMPLATE", help="of the question")
    parser.add_argument("--completion", metavar="TEMPLATE", help="of the answer")
    parser.add_argument(
        "--template-file", metavar="FILE", help="several templates, in place of one"
    )
    parser.add_argument(
        "--each",
        type=whole(1),
        default=1,
        metavar="K",
        help="rows of each record, from K different templates; default 1",
    )
    parser.add_argument(
        "--keep-blank", action="store_true", help="use records that have a blank text in a column"
    )
    parser.add_argument("--seed", type=whole(0), default=0, metavar="N", help="default 0")
    parser.add_argument(
        "--out", metavar="FILE.jsonl", help="the rows; default: beside FILE, .rows.jsonl"
    )


def run(options: argparse.Namespace) -> int:
    from minilora.data.building import BuildReport, build_file
    from minilora.data.writing import beside

    out = options.out or beside(options.file, "rows")
    report: BuildReport = build_file(
        options.file,
        out,
        _templates(options),
        each=options.each,
        seed=options.seed,
        keep_blank=options.keep_blank,
        format=options.format,
        progress=True,
    )
    if options.json:
        print_json({**report.as_json(), "out": out})
    else:
        print("\n".join(report.lines()))
    say(f"wrote {out}; look it over: minilora data check {out}")
    return 0


def _templates(options: argparse.Namespace) -> list:
    from minilora.data.building import Pair, TableTemplate, read_templates

    if options.template_file:
        if options.prompt:
            raise ConfigError("--prompt beside --template-file; put it into the file as a line")
        return read_templates(options.template_file, options.completion)
    if not options.prompt or not options.completion:
        raise ConfigError(
            "rows need --prompt and --completion, with {column} where a value goes, or "
            "--template-file"
        )
    return [Pair(TableTemplate(options.prompt), TableTemplate(options.completion))]
