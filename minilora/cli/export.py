"""Write what was tuned in the format of another tool.

gguf: an adapter that llama.cpp loads beside its base in GGUF; with --merged a whole model, adapter
and tokenizer in it.
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
    parser.add_argument("source", metavar="DIR", help="an adapter of minilora or PEFT")
    parser.add_argument("--format", required=True, choices=tuple(FORMATS), help="which tool's")
    parser.add_argument("--base", default="skills", help="skills (default), smollm2, or a folder")
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
    if options.dtype and not options.merged:
        raise ConfigError("--dtype is for a whole model, --merged; an adapter is always float32")
    base = load_base(options.base)
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


def check_ending(out: str, ending: str) -> None:
    """ConfigError for a file that would be called otherwise than its format's are."""
    if not out.endswith(ending) or Path(out).name == ending:
        raise ConfigError(f"--out {out!r} must be a file that ends in {ending}")


# Name → what writes it: it takes the options and gives what --json says, a sentence, and a hint
# how the file is used.
FORMATS: dict[str, Callable[[argparse.Namespace], tuple[dict[str, Any], str, str]]] = {
    "gguf": _gguf,
}
