"""Tune a base on your own examples, and save the adapter (or, with --method full, the model).

Each line of the data is {"prompt": …, "completion": …}, joined as they stand, or
{"messages": […]}, through the base's chat template. Only answers count in the loss.
"""

from __future__ import annotations

import argparse

from minilora.cli.options import (
    add_json_option,
    add_lora_options,
    as_base,
    lora_config,
    number,
    print_json,
    say,
    whole,
)

EXAMPLE = "minilora finetune --data examples.jsonl --steps 150 --out my-adapter"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", default="skills", help="skills (default), smollm2, or a folder")
    parser.add_argument("--data", required=True, metavar="FILE.jsonl", help="an example a line")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="for the adapter or model")
    parser.add_argument("--method", choices=("lora", "full"), default="lora", help="default lora")
    lora = add_lora_options(parser)
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
    parser.add_argument("--resume", action="store_true", help="go on where a stopped run ended")
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.bases import BASES
    from minilora.finetuning import finetune

    lora = lora_config(options)
    history, model = finetune(
        options.base,
        options.data,
        options.out,
        lora=lora,
        steps=options.steps,
        batch_size=options.batch_size,
        lr=options.lr,
        accumulate=options.accumulate,
        checkpointing=options.checkpointing,
        seed=options.seed,
        resume=options.resume,
    )
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
        flags = f"--base {base} --adapter" if lora else "--base"
        say(f'use it:  minilora generate {flags} {as_base(options.out)} --prompt "…"')
    return 0
