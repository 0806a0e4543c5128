"""Quantize a base to a few bits a number, and say what it loses.

Only the matrices of the layers are quantized; embeddings, head and norms stay floats. MAE is the
mean absolute error of a weight, SNR signal to noise in dB: 6 dB are one bit. `bits` are those
really held for each number, the constants of its block included.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from minilora.cli.options import add_json_option, as_base, print_json, say, whole

EXAMPLE = "minilora quantize --base smollm2 --format nf4 --out smollm2-nf4"

# quant.DATA_TYPES, which are not imported for --help.
FORMATS = ("nf4", "fp4", "int4", "int4-minmax", "int8", "int8-dynamic")
# Those that other programs open, in the layout of bitsandbytes.
SAVED = ("nf4", "fp4")
BLOCKS_ELSEWHERE = (32, 64, 128, 256, 512, 1024, 2048, 4096)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base", default="skills", help="skills (default), smollm2, or a Hugging Face folder"
    )
    parser.add_argument("--format", choices=FORMATS, default="nf4", help="default nf4")
    parser.add_argument(
        "--block-size",
        type=whole(1),
        default=64,
        metavar="N",
        help="numbers that share their constants; default 64",
    )
    parser.add_argument(
        "--no-double-quant",
        action="store_true",
        help="keep the constants in 32 bits instead of about 8",
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help="write the report and a figure there and, for nf4 and fp4, the quantized model in the "
        "layout of bitsandbytes",
    )
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.experiments.quantize import Settings, measure
    from minilora.files.atomic import made_folder

    double = not options.no_double_quant
    settings = Settings(options.base, options.format, options.block_size, double)
    if options.out is None:
        report, _ = measure(settings, say)
    else:
        with made_folder(options.out) as out:
            report, model = measure(settings, say)
            _write(report, model, out)
    if options.json:
        print_json(report)
    else:
        print(table(report))
    return 0


def _write(report: dict[str, Any], model: Any, out: Path) -> None:
    from minilora.bases import save_base
    from minilora.experiments.quantize_figure import draw
    from minilora.files.json_files import write_json

    write_json(out / "quantize.json", report)
    draw(report, out / "quantize.png")
    written = f"wrote {out / 'quantize.json'}, {out / 'quantize.png'}"
    settings = report["settings"]
    if settings["data_type"] in SAVED:
        save_base(model, out / "model")
        written += f", {out / 'model'}; it is a base: --base {as_base(str(out / 'model'))}"
        if settings["block_size"] not in BLOCKS_ELSEWHERE:
            sizes = ", ".join(map(str, BLOCKS_ELSEWHERE))
            say(f"only minilora opens the model: blocks of bitsandbytes have {sizes} numbers")
    say(written)


def table(report: dict[str, Any]) -> str:
    """The errors by kind and by layer, the bytes, and what the model can do before and after."""
    rows: list[tuple[str, ...]] = [("", "parameters", "MAE", "SNR, dB", "bits")]
    rows += [(row["kind"], *_cells(row)) for row in report["by_kind"]]
    rows += [(f"layer {row['layer']}", *_cells(row)) for row in report["by_layer"]]
    rows += [("all", *_cells(report["total"]))]
    held = report["bytes"]
    facts: list[tuple[str, ...]] = [("", "before", "after")]
    for name in ("matrices", "model"):
        facts.append(
            (f"bytes: {name}", f"{held[f'{name}_before']:,}", f"{held[f'{name}_after']:,}")
        )
    for name, before in report["before"].items():
        after = report["after"][name]
        if name == "general_nll":
            facts.append(("loss on general text", f"{before:.4f}", f"{after:.4f}"))
        else:
            facts.append((name, f"{100 * before:.1f} %", f"{100 * after:.1f} %"))
    return "\n".join([*_aligned(rows), "", *_aligned(facts)])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    snr = "-" if row["snr"] is None else f"{row['snr']:.2f}"
    return f"{row['parameters']:,}", f"{row['mae']:.3g}", snr, f"{row['bits']:.3f}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        row[0].ljust(widths[0])
        + "".join(cell.rjust(wide + 3) for cell, wide in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
