"""Tune a base on your own examples, and save the adapter (or, with --method full, the model).

Each row of the data is {"prompt": …, "completion": …}, joined as they stand, or
{"messages": […]}, through the base's chat template, or what `minilora data` reads besides. What
looks wrong with the file is said first. Only answers count in the loss, unless --mask says so.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from minilora.cli.options import (
    add_json_option,
    add_method_options,
    as_base,
    method,
    number,
    print_json,
    say,
    whole,
)
from minilora.method_names import METHODS

EXAMPLE = "minilora finetune --data examples.jsonl --steps 150 --out my-adapter"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", default="skills", help="skills (default), smollm2, or a folder")
    parser.add_argument("--data", required=True, metavar="FILE", help="JSON Lines, JSON, CSV …")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="for the adapter or model")
    parser.add_argument("--method", choices=METHODS, default="lora", help="default lora")
    lora = add_method_options(parser)
    lora.add_argument(
        "--dropout",
        type=number(0, 1, from_low=True),
        metavar="P",
        help="on the bypass's input, in [0, 1); default 0",
    )
    parser.add_argument(
        "--steps", type=whole(1), metavar="N", help="default 250 for skills, else 75"
    )
    parser.add_argument(
        "--batch-size", type=whole(1), metavar="N", help="default 64 for skills, else 8"
    )
    parser.add_argument(
        "--accumulate",
        type=whole(1),
        default=1,
        metavar="N",
        help="take each batch in N parts: the same gradient, less memory",
    )
    parser.add_argument(
        "--checkpointing",
        action="store_true",
        help="compute each block again in backward: slower, far less memory",
    )
    parser.add_argument("--lr", type=number(0), help="highest learning rate; default: as suits")
    parser.add_argument(
        "--seed", type=whole(0), default=0, metavar="N", help="of data order and A; default 0"
    )
    parser.add_argument(
        "--optimizer",
        choices=("adamw", "adamw-8bit", "adamw-paged"),
        default="adamw",
        help="default adamw; its moments in 8 bits, or in a file",
    )
    _add_data_options(parser)
    parser.add_argument("--resume", action="store_true", help="go on where a stopped run ended")
    add_json_option(parser)


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--template",
        metavar="NAME",
        help="rows are written in: base, plain, alpaca or chat; default: each in its own form",
    )
    group.add_argument(
        "--mask",
        metavar="NAME",
        default="answers",
        help="what is learnt: answers (default), last (the last answer only), none (everything)",
    )
    group.add_argument("--replay-data", metavar="FILE", help="old examples, so as not to forget")
    group.add_argument(
        "--replay",
        type=number(0, 1, from_low=True),
        default=0.0,
        metavar="SHARE",
        help="of every batch, from --replay-data, in [0, 1); default 0",
    )
    group.add_argument(
        "--bucket", action="store_true", help="rows of similar length together: less padding"
    )
    group.add_argument(
        "--pack",
        type=whole(2),
        metavar="N",
        help="several examples in rows of N tokens, none seeing another",
    )


def _say_what_looks_wrong(data: str) -> int:
    """What there is to say of rows that can be trained on; how many there are that cannot.

    The first of these stops the run, and is told then. A pipe can be read once only: not here.
    """
    from minilora.data.checking import check_file
    from minilora.data.reading import format_or_lines
    from minilora.errors import MiniloraError

    if not Path(data).is_file():
        return 0
    try:
        report = check_file(data, format=format_or_lines(data))
    except (MiniloraError, OSError):
        return 0
    useless = report.dropped.get("broken", 0) + report.dropped.get("empty", 0)
    if report.found and not useless:
        for line in report.lines():
            say(line)
        say("all of it is trained on as it is; `minilora data clean` leaves such rows out")
    return useless


def _tune(options: argparse.Namespace, chosen: Any) -> tuple[Any, Any]:
    from minilora.finetuning import finetune

    return finetune(
        options.base,
        options.data,
        options.out,
        method=chosen,
        steps=options.steps,
        batch_size=options.batch_size,
        lr=options.lr,
        accumulate=options.accumulate,
        checkpointing=options.checkpointing,
        seed=options.seed,
        optimizer=options.optimizer,
        template=options.template,
        mask=options.mask,
        replay_data=options.replay_data,
        replay=options.replay,
        bucket=options.bucket,
        pack=options.pack,
        resume=options.resume,
    )


def run(options: argparse.Namespace) -> int:
    from minilora.bases import BASES
    from minilora.errors import DataError

    chosen = method(options.method, options)
    useless = _say_what_looks_wrong(options.data)
    try:
        history, model = _tune(options, chosen)
    except DataError as error:
        if useless < 2:
            raise
        raise DataError(
            f"{error}. {useless} rows cannot be trained on: `minilora data check {options.data}` "
            "lists them, `minilora data clean` leaves them out"
        ) from error
    if history.interrupted:
        say(f"stopped after step {len(history.losses)}; the same command with --resume goes on")
        return 130
    trained, total = model.n_parameters(trainable=True), model.n_parameters()
    if options.json:
        print_json(
            {
                "method": options.method,
                "out": options.out,
                "trainable_parameters": trained,
                "total_parameters": total,
                "losses": history.losses,
                "seconds": sum(history.seconds),
            }
        )
    else:
        print(
            f"trained {trained:,} of {total:,} parameters in {len(history.losses)} steps; "
            f"loss {history.losses[0]:.3f} → {history.losses[-1]:.3f}"
        )
        base = options.base if options.base in BASES else as_base(options.base)
        flags = f"--base {base} --adapter" if chosen.config is not None else "--base"
        say(f'use it:  minilora generate {flags} {as_base(options.out)} --prompt "…"')
    return 0
