"""Go on with transformers, PEFT and accelerate: the run that `minilora finetune` did.

    python SCRIPT.py                                   one process
    accelerate launch SCRIPT.py                        as `accelerate config` says
    torchrun --nproc_per_node 2 SCRIPT.py --cpu        two processes without a GPU

The folder beside it, SCRIPT-files, holds what makes it the same run: the base (unless that was a
folder of your own), the adapter as it was before the first step, the examples as tokens, and which
of them each step sees. pip install torch transformers peft accelerate
"""

import argparse
import json
import math
import shutil
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

FILES = Path(__file__).with_name(Path(__file__).stem + "-files")
RUN: dict = {}


def read_options():
    parser = argparse.ArgumentParser(description="The same run with the standard engine.")
    parser.add_argument("--base", default=RUN["base"] or FILES / "base", help="a model's folder")
    parser.add_argument("--steps", type=int, default=RUN["steps"], help="stop after so many")
    parser.add_argument("--out", default="tuned", help="folder for what was tuned")
    # torchrun takes --log for its own, wherever it stands; --losses reaches this script.
    parser.add_argument("--log", "--losses", metavar="FILE.json", help="write each step's loss")
    parser.add_argument(
        "--rows-at-once",
        type=int,
        default=math.ceil(RUN["batch_size"] / RUN["accumulate"]),
        help="of its share of a batch, how many rows a process takes at once: memory, not result",
    )
    parser.add_argument("--cpu", action="store_true", help="also where there is a GPU")
    options = parser.parse_args()
    if not 1 <= options.steps <= RUN["steps"]:
        parser.error(f"--steps {options.steps}: the order is written for 1 to {RUN['steps']}")
    if options.rows_at_once < 1:
        parser.error(f"--rows-at-once {options.rows_at_once} must be a whole number from 1")
    return options


def read_lines(name):
    return [json.loads(line) for line in (FILES / name).read_text(encoding="utf-8").splitlines()]


def load_model(base):
    # float32, whatever type the files are in: small updates are lost in weights of 16 bits.
    # `accelerate launch --mixed_precision bf16` multiplies in 16 bits and still keeps these.
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if RUN["checkpointing"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if RUN["method"] == "full":
        return model.train()
    return PeftModel.from_pretrained(model, FILES / "adapter", is_trainable=True).train()


def factor(step):
    """What the learning rate is multiplied by: up in a line, then down along half a cosine."""
    if step < RUN["warmup"]:
        return (step + 1) / RUN["warmup"]
    done = (step - RUN["warmup"]) / max(1, RUN["steps"] - RUN["warmup"])
    return 0.5 * (1 + math.cos(math.pi * done))


def collate(rows, device):
    # Filled up on the right, which no token before it sees: so no attention mask is needed.
    length = max(len(row["ids"]) for row in rows)
    ids = [row["ids"] + [RUN["pad_id"]] * (length - len(row["ids"])) for row in rows]
    labels = [row["labels"] + [-100] * (length - len(row["labels"])) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(labels, device=device)


def summed_loss(model, rows, device):
    ids, labels = collate(rows, device)
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    return cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )


def one_step(accelerator, model, optimizer, batch, rows_at_once):
    """One update on a batch that all processes share. Returns its loss, a mean over its targets."""
    # Every process knows the whole batch, and so the divisor: targets of the batch, not of its
    # own share. A mean of the shares' means would weigh tokens by the share they happen to be in.
    n_targets = sum(label != -100 for row in batch for label in row["labels"][1:])
    i, n = accelerator.process_index, accelerator.num_processes
    mine = batch[len(batch) * i // n : len(batch) * (i + 1) // n]
    total = torch.zeros((), device=accelerator.device)
    for first in range(0, len(mine), rows_at_once):
        last = first + rows_at_once >= len(mine)
        # Gradients are exchanged once, with the last rows.
        with nullcontext() if last else accelerator.no_sync(model):
            rows = mine[first : first + rows_at_once]
            loss = summed_loss(model, rows, accelerator.device) / n_targets
            # Gradients are averaged over the processes; what is wanted is their sum.
            accelerator.backward(loss * n)
        total += loss.detach()
    accelerator.clip_grad_norm_(model.parameters(), RUN["max_grad_norm"])
    optimizer.step()
    optimizer.zero_grad()
    return accelerator.reduce(total, "sum").item()


def save(model, options):
    if RUN["method"] == "lora":
        # Otherwise PEFT asks the hub about the vocabulary of a base that is called as ours is.
        model.save_pretrained(options.out, save_embedding_layers=False)
    else:
        model.save_pretrained(options.out)
        for file in Path(options.base).glob("tokenizer*"):
            shutil.copy(file, options.out)


def main():
    options = read_options()
    accelerator = Accelerator(cpu=options.cpu)
    if accelerator.num_processes > RUN["batch_size"]:
        raise SystemExit(f"a batch has {RUN['batch_size']} rows: start at most as many processes")
    torch.manual_seed(RUN["seed"])  # of dropout alone
    model = load_model(options.base)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, RUN["lr"], RUN["betas"], RUN["eps"], weight_decay=RUN["weight_decay"]
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    examples, order = read_lines("examples.jsonl"), read_lines("order.jsonl")
    losses = []
    for step in range(options.steps):
        # Set by hand: a scheduler that accelerate prepares goes on once for every process.
        for group in optimizer.param_groups:
            group["lr"] = RUN["lr"] * factor(step)
        batch = [examples[i] for i in order[step]]
        loss = one_step(accelerator, model, optimizer, batch, options.rows_at_once)
        if not math.isfinite(loss):
            raise SystemExit(f"step {step + 1}: the loss is {loss}; nothing was saved")
        losses.append(loss)
        accelerator.print(f"step {step + 1}  loss {loss:.4f}", flush=True)
    if accelerator.is_main_process:
        save(accelerator.unwrap_model(model), options)
        if options.log:
            Path(options.log).write_text(json.dumps(losses) + "\n")
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
