"""What would a fine-tune hold in memory, by kind, and does it fit on a card?

MODEL is llama-3-8b, llama-2-7b, smollm2-135m, skills, gpt3-175b (its parameters only), or a
config.json of a Llama, Mistral or Qwen2. Bytes are counted in three ways: tutorial (2 bytes each,
no activations), mixed (16 bytes a trained parameter, as in ZeRO, with an estimate of activations),
exact (minilora's own step, to the byte). GB are 10^9 bytes; cards are in GiB, 2^30.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from minilora.cli.options import (
    add_json_option,
    add_method_options,
    method,
    number,
    print_json,
    say,
    whole,
)
from minilora.errors import ConfigError
from minilora.method_names import METHODS

if TYPE_CHECKING:
    from minilora.accounting.budget import Budget, Plan

EXAMPLE = "minilora budget llama-3-8b --method lora --gpu 24"

# Options that are fields of a plan as they stand.
_OF_PLANS = (
    "batch_size",
    "length",
    "dtype",
    "optimizer",
    "checkpointing",
    "activations",
    "attention_weights",
    "gpus",
    "shard",
    "offload",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a name, or the path of a config.json")
    parser.add_argument(
        "--method", choices=METHODS, help="default full, or lora where an option of it is given"
    )
    add_method_options(parser)
    parser.add_argument("--batch-size", type=whole(1), default=1, metavar="N", help="default 1")
    parser.add_argument(
        "--length", type=whole(2), metavar="T", help="tokens in a row; default 2048 or the context"
    )
    parser.add_argument(
        "--accounting",
        choices=("tutorial", "mixed", "exact"),
        help="default mixed, with --check exact",
    )
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float16", "float32", "float64"),
        help="default bfloat16; of exact float32",
    )
    parser.add_argument(
        "--optimizer",
        choices=("adamw", "adamw-8bit", "adamw-paged", "sgd"),
        default="adamw",
        help="default adamw",
    )
    parser.add_argument(
        "--checkpointing", action="store_true", help="compute each block again in backward"
    )
    estimate = parser.add_argument_group("estimate of a GPU's activations")
    estimate.add_argument(
        "--activations",
        action=argparse.BooleanOptionalAction,
        help="make it; default for mixed, not for tutorial",
    )
    estimate.add_argument(
        "--attention-weights", action="store_true", help="T x T weights are kept (no flash kernel)"
    )
    cards = parser.add_argument_group("cards")
    cards.add_argument("--gpu", type=number(0), metavar="GiB", help="does it fit on such a card?")
    cards.add_argument("--gpus", type=whole(1), default=1, metavar="N", help="cards; default 1")
    cards.add_argument("--shard", choices=("zero1", "zero2", "zero3"), help="what cards share out")
    cards.add_argument("--offload", choices=("optimizer",), help="it is the processor's")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--compare", action="store_true", help="all methods side by side")
    what.add_argument(
        "--check",
        action="store_true",
        help="take one real step, and set measured beside predicted; status 1 if they differ",
    )
    parser.add_argument("--figure", metavar="FILE", help="draw bars: .png, .svg or .pdf")
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.accounting.budget import budget
    from minilora.accounting.check import check
    from minilora.cli import budget_words as words
    from minilora.experiments.budget_figure import draw
    from minilora.plots import check_path

    if options.figure:
        check_path(options.figure)
    plan = _plan(options)
    if options.check:
        if options.figure or options.gpu:
            raise ConfigError("--check takes a step and nothing else; leave --figure and --gpu out")
        found = check(plan)
        show(words.check_json(found) if options.json else words.check_table(found))
        return 0 if found.equal else 1
    bills = _all_methods(plan) if options.compare else [budget(plan)]
    if options.compare:
        _compared(bills, options)
    else:
        _one(bills[0], options)
    if options.figure:
        draw(bills, options.figure, model=options.model, gpu=options.gpu)
        say(f"wrote {options.figure}")
    return 0


def show(said: str | dict[str, Any]) -> None:
    """Text as it is, an object as JSON."""
    if isinstance(said, str):
        print(said)
    else:
        print_json(said)


def _one(bill: Budget, options: argparse.Namespace) -> None:
    from minilora.accounting.budget import step_flops
    from minilora.accounting.fit import verdict
    from minilora.cli import budget_words as words

    if options.gpu and bill.plan.accounting == "exact":
        say("looking for the largest batch, length and rank that fit: each trial is a step")
    judged = verdict(bill, options.gpu) if options.gpu else None
    make = words.as_json if options.json else words.text
    show(make(options.model, bill, step_flops(bill.plan), judged))


def _compared(bills: list[Budget], options: argparse.Namespace) -> None:
    from minilora.accounting.budget import step_flops
    from minilora.accounting.fit import GIB
    from minilora.cli import budget_words as words

    card = int(options.gpu * GIB) if options.gpu else None
    flops = [step_flops(bill.plan) for bill in bills]
    if not options.json:
        print(words.compared(options.model, bills, flops, card))
        return
    rows = [words.as_json(options.model, b, f) for b, f in zip(bills, flops, strict=True)]
    for row in rows if card is not None else ():
        row["fit"] = {"card": card, "fits": row["needed"] <= card}
    print_json({"methods": rows})


def _plan(options: argparse.Namespace) -> Plan:
    from minilora.accounting.budget import Plan
    from minilora.accounting.presets import preset

    name = options.method
    if options.compare and name is not None:
        raise ConfigError("--compare takes all methods; leave --method out")
    if name is None:
        lora = any(getattr(options, o) is not None for o in ("rank", "alpha", "target_modules"))
        name = "lora" if lora else "full"
    chosen = method(name, options, strict=not options.compare)
    accounting = options.accounting or ("exact" if options.check else "mixed")
    fields = {name: getattr(options, name) for name in _OF_PLANS}
    return Plan(preset(options.model), chosen, accounting, **fields)


def _all_methods(plan: Plan) -> list[Budget]:
    from minilora.accounting.budget import budget

    methods = [replace(plan.method, name=name) for name in METHODS]
    room = plan.config.max_positions - max(m.context for m in methods)  # one length for all
    return [budget(replace(plan, method=m, length=min(plan.tokens, room))) for m in methods]
