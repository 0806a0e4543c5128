"""Continue a text, with a base or with a tuned adapter on it.

The text is continued as it stands; --chat puts it through the base's chat template. Only what is
new goes to standard output.
"""

from __future__ import annotations

import argparse
from typing import Any

from minilora.cli.options import add_json_option, add_sampling_options, print_json, say

EXAMPLE = "minilora generate --prompt rev:abcdefgh="


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", default="skills", help="skills (default), smollm2, or a folder")
    parser.add_argument("--adapter", metavar="FOLDER", help="an adapter of minilora or PEFT")
    parser.add_argument("--prompt", required=True, metavar="TEXT")
    parser.add_argument("--chat", action="store_true", help="as a user's turn of a conversation")
    add_sampling_options(parser, 64, low=0)
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    from minilora.bases import load_base
    from minilora.data.template_files import differs, template_of
    from minilora.data.templates import template
    from minilora.errors import ConfigError
    from minilora.generation import generate
    from minilora.peft import PeftModel

    model: Any = load_base(options.base)
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ConfigError(f"base {options.base!r} has no tokenizer.json, which text needs")
    if options.adapter:
        model = PeftModel.from_pretrained(model, options.adapter)
    trained = template_of(options.adapter, tokenizer) if options.adapter else None
    asked = template("chat", tokenizer) if options.chat else trained or template("plain", tokenizer)
    words = differs(asked.name, trained)
    if words:
        say(words)
    ids = asked.ids(options.prompt, tokenizer)
    new = generate(
        model,
        [ids],
        options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        stop=tokenizer.stop_ids,
    )[0]
    text = tokenizer.decode(new)
    if options.json:
        print_json({"prompt": options.prompt, "completion": text, "tokens": new})
    else:
        print(text)
    return 0
