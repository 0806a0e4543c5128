"""Hold the hand-derived backward of every operation against measured differences.

A line for each input of each operation: its largest relative error, in float64. Exit status 1 if
one is above the tolerance.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

from minilora.cli.options import add_json_option, number, print_json, say

EXAMPLE = "minilora gradcheck lora_linear attention --figure gradcheck.png"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ops", nargs="*", metavar="OP", help="operations to check; default: all")
    parser.add_argument("--h", type=number(0), default=1e-5, help="the nudge; default 1e-5")
    parser.add_argument(
        "--figure", metavar="FILE.png", help="draw the error against h, in float64 and float32"
    )
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.ops.examples import examples
    from minilora.plots import check_path

    if options.figure:
        check_path(options.figure)
    chosen = examples(options.ops)
    rows: list[dict[str, Any]] = [
        {
            "op": e.op,
            "input": c.name,
            "shape": list(c.shape),
            "error": c.max_error if math.isfinite(c.max_error) else None,
            "ok": c.ok,
        }
        for e in chosen
        for c in e.check(h=options.h).inputs
    ]
    if options.figure:
        from minilora.experiments.gradcheck_figure import draw, measure

        draw(measure(chosen), options.figure)
        say(f"wrote {options.figure}")
    if options.json:
        print_json({"h": options.h, "tolerance": 1e-7, "rows": rows})
    else:
        print(f"{'operation':<22}{'input':<8}{'shape':<16}{'largest relative error':>24}")
        for row in rows:
            shape = "×".join(map(str, row["shape"]))
            verdict = "ok" if row["ok"] else "WRONG"
            error = "not finite" if row["error"] is None else f"{row['error']:.1e}"
            print(f"{row['op']:<22}{row['input']:<8}{shape:<16}{error:>24}  {verdict}")
    return 0 if all(row["ok"] for row in rows) else 1
