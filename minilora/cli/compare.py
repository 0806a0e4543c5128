"""Tune the same base by several methods, and set side by side what each costs, learns, forgets.

Writes compare.json, compare.png and the tuned adapters into the output folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from minilora.cli.options import (
    add_json_option,
    add_method_options,
    as_base,
    check_method_options,
    method_options,
    number,
    print_json,
    rates,
    say,
    several,
    whole,
)
from minilora.method_names import LABELS, METHODS

EXAMPLE = "minilora compare --task rotate-right --rank 4 --replay 0.1"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", default="skills", help="skills (default), smollm2, or a folder")
    parser.add_argument(
        "--task",
        help="what to learn: sort-descending (default), rotate-right, swap-ends, swap-neighbours, "
        "interleave, mirror or cipher; with smollm2 orders",
    )
    parser.add_argument(
        "--methods",
        type=several(str),
        default=("full", "lora"),
        metavar="NAMES",
        help=f"which, with commas between; default full,lora; of {', '.join(METHODS)}",
    )
    add_method_options(parser)
    parser.add_argument("--steps", type=whole(1), metavar="N", help="default 250, with smollm2 75")
    parser.add_argument(
        "--batch-size", type=whole(1), metavar="N", help="default 64, with smollm2 8"
    )
    parser.add_argument(
        "--lr", type=number(0), help="highest learning rate of LoRA; default 5e-3, 2e-3"
    )
    parser.add_argument(
        "--lr-of",
        type=rates,
        default={},
        metavar="NAME=RATE,…",
        help="the same of other methods, e.g. prompt=0.1,ia3=0.05; default: a multiple of LoRA's",
    )
    parser.add_argument(
        "--lr-full", type=number(0), help="the same of full tuning; default 1e-3, 5e-5"
    )
    parser.add_argument(
        "--replay",
        type=number(0, 1, from_low=True),
        default=0.0,
        help="share of every batch that is old data, in [0, 1); default 0",
    )
    parser.add_argument(
        "--seed", type=whole(0), default=0, metavar="N", help="of data order and A; default 0"
    )
    parser.add_argument("--out", default="compare", metavar="FOLDER", help="default ./compare")
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.experiments.compare import Settings, compare
    from minilora.experiments.compare_figure import draw
    from minilora.files.atomic import made_folder
    from minilora.files.json_files import write_json

    check_method_options(options, options.methods)
    fields = ("base", "task", "methods", "steps", "batch_size", "lr", "lr_full", "lr_of")
    given = {name: getattr(options, name) for name in (*fields, "replay", "seed")}
    settings = Settings(**given, **method_options(options))
    with made_folder(options.out) as out:
        report = compare(settings, adapter_folder=out / "adapter", say=say)
        write_json(out / "compare.json", report)
        draw(report, out / "compare.png")
    if options.json:
        print_json(report)
    else:
        print(table(report))
    interrupted = any(m["interrupted"] for m in report["methods"])
    files = [out / "compare.json", out / "compare.png"]
    adapters = [m["method"] for m in report["methods"] if m["method"] != "full"]
    one = len(settings.methods) - settings.methods.count("full") == 1
    folders = [out / "adapter" if one else out / "adapter" / name for name in adapters]
    files += folders
    if folders and not interrupted and settings.base == "skills":
        say("try it:  " + _try(report, folders[0]))
    say(f"{'stopped early; ' if interrupted else ''}wrote {', '.join(map(str, files))}")
    return 130 if interrupted else 0


def _try(report: dict[str, Any], adapter: Path) -> str:
    """A command that asks the tuned adapter something of its task."""
    from minilora.data.skills import skill

    prompt = skill(report["settings"]["task"]).prompt("gacbed")
    return f"minilora generate --adapter {as_base(str(adapter))} --prompt {prompt}"


def table(report: dict[str, Any]) -> str:
    """The report as a person reads it: a line a quantity, a column a method."""
    methods = report["methods"]
    lines = [["", *(LABELS[m["method"]] for m in methods)]]

    def line(label: str, cell: Any) -> None:
        lines.append([label, *(cell(m) for m in methods)])

    line("parameters trained", lambda m: f"{m['trainable_parameters']:,}")
    line("parameters in all", lambda m: f"{m['total_parameters']:,}")
    line("learning rate", lambda m: f"{m['lr']:g}")
    for kind in ("weights", "gradients", "optimizer", "activations", "peak"):
        line(f"bytes: {kind}", lambda m, kind=kind: f"{m['bytes'][kind]:,}")
    line("bytes of the file saved", lambda m: f"{m['file_bytes']:,}")
    first = methods[0]
    line("GFLOP a step", lambda m: f"{_products(m) / 1e9:.2f}")
    share = f"  of {LABELS[first['method']]}"
    line(share, lambda m: f"{_products(m) / _products(first):.2f}")
    line("seconds a step, in turns", lambda m: f"{m['step_seconds']:.3f}")
    line(share, lambda m: f"{m['step_seconds'] / first['step_seconds']:.2f}")
    line("new task before", lambda m: _percent(m["new_before"]))
    line("new task after", lambda m: _percent(m["new_after"]))
    if methods[0]["old_before"] is not None:
        line("old skills before", lambda m: _percent(m["old_before"]))
        line("old skills after", lambda m: _percent(m["old_after"]))
        line("  adapter off", lambda m: _percent(m["old_adapter_off"]))
    if methods[0]["general_nll_before"] is not None:
        line("loss on general text before", lambda m: f"{m['general_nll_before']:.4f}")
        line("loss on general text after", lambda m: f"{m['general_nll_after']:.4f}")
        line("  adapter off", lambda m: _nats(m["general_nll_adapter_off"]))
    line(
        "base back, bit for bit",
        lambda m: {None: "-", True: "yes", False: "NO"}[m["base_restored"]],
    )
    widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))]
    return "\n".join(
        row[0].ljust(widths[0])
        + "".join(c.rjust(w + 3) for c, w in zip(row[1:], widths[1:], strict=True))
        for row in lines
    )


def _products(method: dict[str, Any]) -> int:
    """Multiplications and additions of all matrix products of a step."""
    f = method["flops"]
    return f["forward"] + f["backward_through"] + f["backward_weights"]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _nats(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"
