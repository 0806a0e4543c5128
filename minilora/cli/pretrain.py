"""Make the embedded base again: a random Llama learns eight string skills, in a few minutes.

Prints the share of unseen strings that it answers exactly right, for the skills it was taught and
for those that were kept from it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from minilora.cli.options import add_json_option, as_base, print_json, say, whole

EXAMPLE = (
    "minilora pretrain --out my-skills && minilora generate --base ./my-skills --prompt rev:abcd="
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="my-skills", metavar="FOLDER", help="default ./my-skills")
    parser.add_argument("--steps", type=whole(1), default=None, help="default 5000")
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument("--resume", action="store_true", help="go on where a stopped run ended")
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.files.atomic import made_folder

    with made_folder(options.out) as out:
        return _pretrain(options, out)


def _pretrain(options: argparse.Namespace, out: Path) -> int:
    from minilora.bases import save_base
    from minilora.data import skills
    from minilora.experiments.pretrain import STEPS, pretrain, report

    checkpoint = out / "checkpoint.safetensors"
    if not options.resume:
        checkpoint.unlink(missing_ok=True)
    model, history = pretrain(
        steps=options.steps or STEPS, seed=options.seed, checkpoint=checkpoint
    )
    if history.interrupted:
        say(f"stopped after step {len(history.losses)}; the same command with --resume goes on")
        return 130
    model.tokenizer = skills.tokenizer()
    save_base(model, out)
    checkpoint.unlink(missing_ok=True)
    shares = report(model)
    if options.json:
        print_json({"out": str(out), "losses": history.losses, "exact_match": shares})
    else:
        for name, share in shares.items():
            taught = "taught" if name in {s.name for s in skills.OLD} else "kept from it"
            print(f"{name:<18}{100 * share:6.1f} %   {taught}")
    say(f"wrote the base into {out}; use it with --base {as_base(options.out)}")
    return 0
