"""Draw the tape of one block in a real step: what is kept, what is trained, where backward stops.

Writes an SVG picture and says the same in words. With frozen weights it also shows what full
fine-tuning would keep. The tokens are random: bytes depend on how many there are, not on which.
Needs the extra `graph`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from minilora.cli.options import (
    add_json_option,
    add_lora_options,
    method,
    print_json,
    say,
    whole,
)

EXAMPLE = "minilora graph --block 1 --target-modules q_proj,v_proj --out block1.svg"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", default="skills", help="skills (default), smollm2, or a folder")
    parser.add_argument("--method", choices=("lora", "full"), default="lora", help="default lora")
    add_lora_options(parser)
    parser.add_argument("--block", type=whole(0), default=0, metavar="N", help="default 0")
    parser.add_argument("--batch-size", type=whole(1), default=4, metavar="N", help="default 4")
    parser.add_argument(
        "--length", type=whole(2), default=20, metavar="N", help="tokens in a row; default 20"
    )
    parser.add_argument("--out", default="graph.svg", metavar="FILE.svg", help="default graph.svg")
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    import numpy as np

    from minilora.accounting.graph import step_graph
    from minilora.errors import ConfigError
    from minilora.experiments.tape_figure import draw
    from minilora.experiments.tape_words import describe_tape
    from minilora.files.atomic import whole_file

    if Path(options.out).suffix != ".svg":
        raise ConfigError(f"picture {options.out!r} must end in .svg")
    model = _model(options)
    shape = options.batch_size, options.length
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, shape)
    graph = step_graph(model, ids, ids, block=options.block)
    picture = draw(graph)
    with whole_file(options.out) as file:
        file.write(picture.encode())
    say(f"wrote {options.out}")
    if options.json:
        print_json({"out": options.out, **_rows(graph)})
    else:
        print(describe_tape(graph))
    return 0


def _model(options: argparse.Namespace) -> Any:
    """The base, ready for training by the method that was asked for."""
    chosen = method(options.method, options)
    return chosen.attach(chosen.load(options.base))


def _rows(graph: Any) -> dict[str, Any]:
    """A graph as JSON has it: bytes and shapes; arrows by the operations' places, -1 the loss."""
    named = ("keeps", "adds", "weights")
    return {
        "block": graph.block,
        "bytes": graph.held,
        "bytes_full": graph.held if graph.held_full is None else graph.held_full,
        "operations": [
            {**vars(box), **{name: [row._asdict() for row in vars(box)[name]] for name in named}}
            for box in graph.boxes
        ],
        "arrows": [arrow._asdict() for arrow in graph.arrows],
    }
