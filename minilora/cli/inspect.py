"""Say what an adapter holds: rank, scaling, parameters, norms, and how many directions ΔW uses.

Needs the adapter's folder only, not its base. Norms are Frobenius norms; `used` is the effective
rank of ΔW (r for r directions equally strong, less the more uneven they are), `90 %` how many
directions hold nine tenths of ‖ΔW‖². ΔW is s B A here, which with DoRA or PiSSA is not all that is
added.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

from minilora.cli.options import add_json_option, print_json, say
from minilora.errors import ConfigError

EXAMPLE = "minilora inspect my-adapter --figure my-adapter.png"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="an adapter of minilora or PEFT")
    parser.add_argument(
        "--figure", metavar="FILE", help="draw ‖ΔW‖ and its effective rank, as .png, .svg or .pdf"
    )
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora import plots
    from minilora.experiments.inspect_figure import draw
    from minilora.inspecting import inspect_adapter

    if options.figure:
        plots.check_path(options.figure)
    inspection = inspect_adapter(options.folder)
    if options.figure and not inspection.matrices:
        raise ConfigError(
            f"{options.folder} holds no pairs A, B, so there is nothing to be drawn; leave out "
            "--figure, and what it holds is listed"
        )
    if options.figure:
        draw(inspection, options.figure)
        say(f"wrote {options.figure}")
    if options.json:
        print_json(inspection.as_json())
    else:
        print(report(inspection))
    return 0


def report(inspection: Any) -> str:
    """The settings, a line for each matrix, and what is out of the ordinary."""
    config, matrices = inspection.config, inspection.matrices
    targets = config.target_modules
    facts = {
        "rank": config.r,
        "α": f"{config.lora_alpha:g}, scaling {config.scaling:g}"
        f" = {'α/√r' if config.use_rslora else 'α/r'}",
        "targets": targets if isinstance(targets, str) else ", ".join(targets),
        "base": config.base_model_name_or_path or "not recorded",
        "parameters": f"{inspection.parameters:,} beside {len(matrices)} matrices",
    }
    wide = max(map(len, facts)) + 2
    lines = [f"{name:{wide}}{value}" for name, value in facts.items()]
    if matrices:
        lines += ["", *_table(matrices)]
    if inspection.others:
        lines += ["", "other arrays"]
        lines += [f"  {o.name} {o.shape}, norm {o.norm:.4g}" for o in inspection.others]
    return "\n".join([*lines, *_remarks(inspection)])


def _table(matrices: Any) -> list[str]:
    heads = ("matrix", "out × in", "rank", "scaling", "parameters", "‖A‖", "‖B‖", "‖ΔW‖", "used")
    rows = [(*heads, "90 %")]
    for m in matrices:
        sizes = (m.path, f"{m.shape[0]} × {m.shape[1]}", str(m.rank), f"{m.scaling:g}")
        norms = (f"{v:#.4g}" for v in (m.norm_a, m.norm_b, m.norm_delta, m.effective_rank))
        directions = str(m.energy_rank) if math.isfinite(m.norm_delta) else "nan"
        rows.append((*sizes, f"{m.parameters:,}", *norms, directions))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(wide) if i else cell.ljust(wide)
            for i, (cell, wide) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _remarks(inspection: Any) -> list[str]:
    matrices = inspection.matrices
    zero = [m.path for m in matrices if m.still_zero]
    bad = [m.path for m in matrices if m.not_finite]
    said = []
    if zero:
        said.append(f"ΔW is zero in {len(zero)} of {len(matrices)} matrices, first {zero[0]}")
    if bad:
        said.append(f"NaN or infinite in {len(bad)} of {len(matrices)} matrices, first {bad[0]}")
    if said:
        said.append("`minilora doctor` with this folder says what that means")
    if matrices and inspection.remark:
        said.append(f"ΔW here is s B A; {inspection.remark}, so that what is added is another")
    return ["", *said] if said else []
