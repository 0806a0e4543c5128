"""Write what was tuned in the format of another tool.

gguf: an adapter that llama.cpp loads beside its base in GGUF; with --merged a whole model, adapter
and tokenizer in it.
peft-script: a run of `minilora finetune` as a script for transformers, PEFT and accelerate, with
what it needs in a folder beside it: the same run, with the same losses, on one process or many.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minilora.cli.options import add_json_option, print_json, say
from minilora.errors import ConfigError

EXAMPLE = "minilora export my-adapter --format gguf --base skills --out my-adapter.gguf"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="DIR", help="an adapter of minilora or PEFT; of peft-script a run"
    )
    parser.add_argument("--format", required=True, choices=tuple(FORMATS), help="which tool's")
    parser.add_argument("--base", help="of gguf: skills (default), smollm2, or a folder")
    parser.add_argument("--out", required=True, metavar="FILE", help="ends as the format does")
    group = parser.add_argument_group("gguf")
    group.add_argument(
        "--merged", action="store_true", help="the whole model, the adapter merged into it"
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        help="of the whole model's matrices; default float32. An adapter is always float32",
    )
    group = parser.add_argument_group("peft-script")
    group.add_argument(
        "--data", metavar="FILE", help="the run's examples, if they are not where they were"
    )
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    said, sentence, hint = FORMATS[options.format](options)
    if options.json:
        print_json({"format": options.format, "out": options.out, **said})
        return 0
    print(sentence)
    say(f"use it:  {hint}")
    return 0


def _gguf(options: argparse.Namespace) -> tuple[dict[str, Any], str, str]:
    from minilora.bases import load_base
    from minilora.exporting import export_adapter, export_model, merge
    from minilora.peft import PeftModel

    check_ending(options.out, ".gguf")
    _check_given(options, "peft-script", "data")
    if options.dtype and not options.merged:
        raise ConfigError("--dtype is for a whole model, --merged; an adapter is always float32")
    base = load_base(options.base or "skills")
    dtype = options.dtype or "float32"
    place = shlex.quote(options.out)
    if options.merged:
        model, _ = merge(PeftModel.from_pretrained(base, options.source), dtype)
        written = export_model(model, options.out, dtype)
        kind, hint = "model", f'llama-completion -m {place} -p "…"'
        sentence = f"a {written.architecture} in {dtype}"
    else:
        written = export_adapter(options.source, base, options.out)
        kind, hint = "adapter", f'llama-completion -m BASE.gguf --lora {place} -p "…"'
        ranks = ", ".join(map(str, written.ranks))
        sentence = f"a LoRA for a {written.architecture}, rank {ranks}, alpha {written.alpha:g}"
    n_bytes = Path(options.out).stat().st_size
    said = {"kind": kind, **written._asdict(), "file_bytes": n_bytes}
    return said, f"{sentence}: {written.tensors} arrays, {n_bytes:,} bytes", hint


def _peft_script(options: argparse.Namespace) -> tuple[dict[str, Any], str, str]:
    from minilora.exporting.peft_script import export_peft_script
    from minilora.runs import read_run

    check_ending(options.out, ".py")
    _check_given(options, "gguf", "base", "merged", "dtype")
    written = export_peft_script(options.source, options.out, data=options.data)
    lora = read_run(options.source).lora
    if lora and lora.lora_dropout:
        say("its dropout is drawn by PyTorch: the losses will be like those here, not the same")
    sentence = (
        f"{written.method}, {written.steps} steps on {written.examples:,} examples; needs "
        f"{written.files}/ beside it, and the base in {written.base}"
    )
    return written._asdict(), sentence, f"python {shlex.quote(options.out)} --out tuned"


def _check_given(options: argparse.Namespace, format: str, *names: str) -> None:
    """ConfigError if an option was given that only another format has."""
    for name in names:
        if getattr(options, name):
            raise ConfigError(f"--{name} is for --format {format}; leave it out")


def check_ending(out: str, ending: str) -> None:
    """ConfigError for a file that would be called otherwise than its format's are."""
    if not out.endswith(ending) or Path(out).name == ending:
        raise ConfigError(f"--out {out!r} must be a file that ends in {ending}")


# Name → what writes it: it takes the options and gives what --json says, a sentence, and a hint
# how the file is used.
FORMATS: dict[str, Callable[[argparse.Namespace], tuple[dict[str, Any], str, str]]] = {
    "gguf": _gguf,
    "peft-script": _peft_script,
}
