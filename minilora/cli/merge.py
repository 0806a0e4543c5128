"""Merge an adapter into its base: a Hugging Face folder, which transformers opens.

Rounding to 16 bits costs a part of what the adapter adds; the table says how much, matrix by
matrix: ‖ΔW‖, the error of rounding against that, and the share of entries that did not move.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from minilora.cli.options import add_json_option, as_base, print_json, say

EXAMPLE = "minilora merge --base skills --adapter my-adapter --out merged"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", default="skills", help="skills (default), smollm2, or a folder")
    parser.add_argument(
        "--adapter", required=True, metavar="FOLDER", help="an adapter of minilora or PEFT"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="for the merged model")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="of the weights that are written; default float32",
    )
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.bases import BASES, load_base
    from minilora.errors import ConfigError
    from minilora.exporting import merge, save_merged
    from minilora.files.atomic import made_folder
    from minilora.peft import PeftModel

    sources = [options.adapter] if options.base in BASES else [options.adapter, options.base]
    if os.path.realpath(options.out) in map(os.path.realpath, sources):
        raise ConfigError(f"--out {options.out!r} is what is merged from; choose another folder")
    with made_folder(options.out) as folder:
        model = PeftModel.from_pretrained(load_base(options.base), options.adapter)
        merged, report = merge(model, options.dtype)
        save_merged(merged, folder, options.dtype)
    weights = (Path(options.out) / "model.safetensors").stat().st_size
    if options.json:
        print_json(
            {
                "out": options.out,
                "dtype": options.dtype,
                "file_bytes": weights,
                "parameters": merged.n_parameters(),
                "matrices": [array._asdict() for array in report],
            }
        )
        return 0
    print(table(report))
    print(f"merged {len(report)} matrices into {options.dtype}: {weights:,} bytes of weights")
    say(f'use it:  minilora generate --base {as_base(options.out)} --prompt "…"')
    return 0


def table(report: list[Any]) -> str:
    """A line for each matrix."""
    width = max((len(array.name) for array in report), default=0)
    lines = [f"{'':{width}}  {'‖ΔW‖':>9}  {'error':>9}  {'unmoved':>7}"]
    for name, change, error, unmoved in report:
        shown = "-" if error is None else f"{error:.2g}"
        lines.append(f"{name:{width}}  {change:9.4g}  {shown:>9}  {unmoved:7.1%}")
    return "\n".join(lines)
