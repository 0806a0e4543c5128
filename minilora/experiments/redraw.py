"""Figures again, from the rows that they were drawn from, or from rows measured anew."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minilora.errors import ConfigError, MiniloraError
from minilora.experiments.lab.experiment import EXPERIMENTS, Experiment, Plan, Row, experiment
from minilora.experiments.lab.rows import read_rows
from minilora.experiments.lab.running import run
from minilora.files.atomic import whole_file
from minilora.files.json_files import read_json, write_json
from minilora.plots import check_path

# What is one report in a .json, and no rows: name → module whose `draw` takes it.
REPORTS = {
    "compare": "minilora.experiments.compare_figure",
    "compare_smollm2": "minilora.experiments.compare_figure",
    "bench": "minilora.experiments.bench.figure",
    "scaling": "minilora.experiments.bench.scaling_figure",
}

Say = Callable[[str], None]


def figure_beside(rows: Path, ending: str = "png") -> Path:
    """Where the figure of a rows' file goes: under its name, unless a report's has that already."""
    name = "verdict" if rows.stem == "compare" else rows.stem
    return rows.with_name(f"{name}.{ending}")


def plot(
    path: str | Path, out: str | Path | None = None, ending: str | None = None
) -> tuple[Experiment, list[Row], Path]:
    """Draw the figure of a file's rows; the experiment they are of, the rows, and the figure.

    out      None: beside the rows, under their name
    ending   png, svg or pdf; None: as `out` has it, or png

    Raises FormatError or ConfigError for a file without rows, or with rows that are not understood.
    """
    path = Path(path)
    rows = read_rows(path)
    if not rows:
        raise ConfigError(f"{path} has no rows yet; run its experiment first")
    figure = Path(out) if out is not None else figure_beside(path, ending or "png")
    check_path(figure)
    if ending is not None and figure.suffix != f".{ending}":
        raise ConfigError(f"figure {str(figure)!r} must end in .{ending}, or leave out --format")
    if figure == path:
        raise ConfigError(f"figure {str(figure)!r} would replace its rows; choose another --out")
    which = _of_rows(rows, path)
    rows = read_rows(path, which)
    which.draw(rows, figure)
    return which, rows, figure


def _of_rows(rows: list[Row], path: Path) -> Experiment:
    name = rows[0]["experiment"]
    if name == "sweep":
        from minilora.experiments.sweep import EXPERIMENT

        return EXPERIMENT
    try:
        return experiment(name)
    except ConfigError as error:
        raise ConfigError(f"{path}, line 1: {error}") from error


def redraw(
    folder: str | Path,
    only: list[str] | None = None,
    *,
    rerun: bool = False,
    jobs: int | None = None,
    say: Say = lambda line: None,
) -> dict[str, list[str]]:
    """Draw a folder's figures again; the names of those drawn, without rows, and failed.

    only    names of figures; None: all
    rerun   measure anew first: experiments into NAME.new.jsonl, which is gone on with if it is
            there, and takes the old file's place when it is finished

    One that fails is told, and the others go on. ConfigError for a name that there is not.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(
            f"{str(folder)!r} is no folder; figures are made by `minilora experiment`"
        )
    # A report's figure has the name of its file; an experiment's may have to take another.
    names = {figure_beside(folder / f"{name}.jsonl").stem: name for name in EXPERIMENTS}
    all_names = [*REPORTS, *names]
    for name in only or ():
        if name not in all_names:
            raise ConfigError(f"no figure is called {name!r}; there are: {', '.join(all_names)}")
    done: dict[str, list[str]] = {"drawn": [], "without_rows": [], "failed": []}
    for name in only or all_names:
        rows = folder / (f"{name}.json" if name in REPORTS else f"{names[name]}.jsonl")
        try:
            if rerun and name in names:
                say(f"{name}: measuring anew")
                _measure_anew(experiment(names[name]), rows, jobs, say)
            if not rows.exists():
                done["without_rows"].append(name)
                continue
            if name in REPORTS:
                _redraw_report(name, rows, rerun, say)
            else:
                plot(rows)
        except MiniloraError as error:
            say(f"{name}: {error}")
            done["failed"].append(name)
        else:
            done["drawn"].append(name)
    with whole_file(folder / "ANSWERS.md") as file:
        file.write(answers(folder).encode())
    return done


def answers(folder: str | Path) -> str:
    """What came out, as a page: every experiment whose rows lie in the folder, in its own words."""
    parts = [
        "# What came out\n\nEach answer is computed from the rows beside it, figures too "
        "(`minilora figures` writes both anew). Settings were chosen on a validation split, with "
        "seeds that are not reported on."
    ]
    for name in EXPERIMENTS:
        path = Path(folder) / f"{name}.jsonl"
        if not path.exists():
            continue
        which = experiment(name)
        rows = read_rows(path, which)
        seeds = sorted({r["seed"] for r in rows if r.get("role") == "report" and "seed" in r})
        hours = sum(r["seconds"] for r in rows) / 3600
        lines = "\n".join(f"- {line}" for line in which.answer(rows).splitlines() if line)
        parts.append(
            f"## {name}: {which.question}\n\n![{which.question}]"
            f"({figure_beside(path).name})\n\n{lines}\n\n`minilora experiment {name}`: "
            f"{len(rows)} rows in `{path.name}`, reported seeds {', '.join(map(str, seeds))}, "
            f"{hours:.1f} hours of one core."
        )
    return "\n\n".join(parts) + "\n"


def _measure_anew(which: Experiment, path: Path, jobs: int | None, say: Say) -> None:
    """An experiment from nothing, with the seeds and steps that its old rows have."""
    seeds, steps = tuple(which.seeds), None
    if path.exists():
        old = read_rows(path)
        reported = {row["seed"] for row in old if row.get("role") == "report" and "seed" in row}
        seeds = tuple(sorted(reported)) or seeds
        steps = old[0]["plan"]["steps"] if old else None
    new = path.with_suffix(".new.jsonl")
    command = f"minilora figures --rerun --only {path.stem}"
    run(which, Plan(seeds, steps), new, jobs=jobs, say=say, command=command)
    os.replace(new, path)


def _redraw_report(name: str, path: Path, rerun: bool, say: Say) -> None:
    report = read_json(path)
    draw = importlib.import_module(REPORTS[name]).draw
    if rerun:
        say(f"{name}: measuring anew")
        report = _report_anew(name, report, say)
        write_json(path, report)
    draw(report, path.with_suffix(".png"))


def _report_anew(name: str, old: dict[str, Any], say: Say) -> dict[str, Any]:
    """The same report measured again. ConfigError if it would hold less than the old one."""
    if name.startswith("compare"):
        from minilora.experiments.compare import Settings, compare

        report = compare(Settings(**old["settings"]), say=say)
        stopped = any(method["interrupted"] for method in report["methods"])
    elif name == "bench":
        from minilora.experiments.bench import bench

        report = bench(pairs=max(row["pairs"] for row in old["rows"]), say=say)
        stopped = report["interrupted"]
    else:
        from minilora.experiments.bench.scaling import scaling

        rival = any(row["rival_seconds"] is not None for row in old["rows"])
        report = scaling(None, method=old["method"], rival=rival, say=say)
        stopped = report["interrupted"]
    if stopped:
        raise KeyboardInterrupt
    if len(report.get("rows", ())) < len(old.get("rows", ())):
        raise ConfigError("could not be measured here as fully as before; the old rows stay")
    return report
