"""Merge an adapter into its base: a Hugging Face folder, which transformers opens.

Rounding costs a part of what the adapter adds, most in 16 bits; the table says how much, matrix by
matrix: ‖ΔW‖, the error of rounding against that, and the share of entries that did not move. Into
nf4 or fp4 it is merged as a model of four bits keeps it: which may be nothing, and is told, too.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from minilora.cli.options import add_json_option, as_base, print_json, say

# Formats in which a base of four bits can be written as a folder.
FEW_BITS = ("nf4", "fp4")

EXAMPLE = "minilora merge --base skills --adapter my-adapter --out merged"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", default="skills", help="skills (default), smollm2, or a folder")
    parser.add_argument(
        "--adapter", required=True, metavar="FOLDER", help="an adapter of minilora or PEFT"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="for the merged model")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16", *FEW_BITS),
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
    if options.dtype in FEW_BITS:
        return _into_few_bits(options)
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


def _into_few_bits(options: argparse.Namespace) -> int:
    from minilora.bases import is_packed, load_base, save_base
    from minilora.errors import ConfigError
    from minilora.exporting.merging import merge_packed
    from minilora.files.atomic import made_folder
    from minilora.peft import PeftModel
    from minilora.quant.linear import packed_weights

    with made_folder(options.out) as folder:
        base = load_base(options.base, quantize=None if is_packed(options.base) else options.dtype)
        there = {W.data_type for W in packed_weights(base).values()}
        if there != {options.dtype}:
            raise ConfigError(
                f"--dtype {options.dtype}: {options.base} is in {' and '.join(there)} already, and "
                "rounding what was rounded loses twice; take that, or float32"
            )
        merged, report = merge_packed(PeftModel.from_pretrained(base, options.adapter))
        save_base(merged, folder)
    shares = ("relative", "moved", "survives", "astray")
    rows = [{"name": name, **{k: getattr(r, k) for k in shares}} for name, r in report]
    if options.json:
        print_json({"out": options.out, "dtype": options.dtype, "matrices": rows})
        return 0
    width = max(len(row["name"]) for row in rows)
    print(f"{'':{width}}  {'ΔW of W':>8}  {'moved':>7}  {'arrives':>7}  {'noise':>6}")
    for row in rows:
        said = "  ".join(f"{row[k]:{w}.1%}" for k, w in zip(shares[:3], (8, 7, 7), strict=True))
        print(f"{row['name']:{width}}  {said}  {row['astray']:6.2f}")
    print(
        f"merged {len(rows)} matrices into {options.dtype}; moved: codes that changed; arrives: "
        "what is left of ΔW; noise: what came besides, of ‖ΔW‖"
    )
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
