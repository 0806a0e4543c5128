"""What can be wrong with a training that is about to begin, or has: its optimizer and a batch."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from minilora.diagnosing.finding import Said, some
from minilora.errors import NonFiniteError, TapeError
from minilora.ops import IGNORE
from minilora.peft.adapted import adapted_modules
from minilora.training import check_finite, loss_and_gradients

# What is in a parameter's name → what stands there in the names of the matrices (a pattern) that
# are between it and the model: of LoRA, of a bottleneck, of what makes a prefix.
_COMES_IN_THROUGH = (
    (r"\.(lora_(?:embedding_)?)A\b", r".\1B"),
    (r"\.(lora_(?:embedding_)?)B\b", r".\1A"),
    (r"\.adapter_down\.(.*)\.(weight|bias)$", r".adapter_up.\1.weight"),
    (r"\.(prompt_encoder\..*)\.(embedding|inner)\.(weight|bias)$", r".\1.outer.[0-9]+.weight"),
)


def optimizer_without_adapter(model: Any, optimizer: Any) -> Said:
    """The trainable parameters: all of them in the optimizer?"""
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    held = set(optimizer.parameters())
    missing = [name for name, p in trainable.items() if p not in held]
    if not trainable:
        yield (
            "nothing in the model is trainable",
            "set_adapter(name), or load with is_trainable=True, and then make the optimizer",
        )
    elif missing:
        yield (
            f"the optimizer does not hold {some(missing, len(trainable), 'trainable parameters')}, "
            "which will stay as they are",
            "It was made before the adapter was attached or set: make it again, from "
            "model.parameters()",
        )


def frozen_in_optimizer(model: Any, optimizer: Any) -> Said:
    """The optimizer's parameters: frozen ones cost two moments each, and may decay."""
    names = {p: n for n, p in model.named_parameters()}
    held = optimizer.parameters()
    frozen = [names[p] for p in held if p in names and not p.requires_grad]
    if frozen:
        size = sum(2 * p.data.nbytes for p in held if p in names and not p.requires_grad)
        yield (
            f"the optimizer holds {some(frozen, len(held), 'parameters')} that are frozen: "
            f"{size:,} bytes for nothing, and weight decay would shrink them",
            "Make it after the base is frozen and the adapter set, from model.parameters()",
        )


def foreign_in_optimizer(model: Any, optimizer: Any) -> Said:
    """The optimizer's parameters: those of another model, or of an adapter that was deleted."""
    mine = set(model.parameters())
    held = optimizer.parameters()
    foreign = sum(p not in mine for p in held)
    if foreign:
        yield (
            f"{foreign} of {len(held)} parameters in the optimizer are not in this model",
            "It belongs to another model, or to an adapter that is gone: make it again",
        )


def learning_rate_zero(model: Any, optimizer: Any) -> Said:
    """The groups' learning rates."""
    zero = [i for i, group in enumerate(optimizer.groups) if group["lr"] == 0]
    if zero:
        yield (
            f"the learning rate is 0 in {len(zero)} of {len(optimizer.groups)} groups: steps are "
            "taken and nothing moves",
            "Give a rate above 0; if a schedule has come to its end, give it more steps",
        )


def no_supervised_token(model: Any, batch: Any) -> Said:
    """The labels: rows in which none is asked for, behind the first, which nothing foretells."""
    asked = (np.asarray(batch[1])[:, 1:] != IGNORE).any(axis=1)
    if not asked.all():
        empty = [f"row {i}" for i in np.flatnonzero(~asked)]
        yield (
            f"every label is {IGNORE} in {some(empty, len(asked), 'rows')}: nothing is learnt from "
            "them",
            "The answer was masked like the question, or cut off by the longest length allowed: "
            "look at the mask, shorten the question or allow more tokens",
        )


def answer_cut_off(model: Any, batch: Any) -> Said:
    """The last label of each row: the end token, if the model is to learn where to stop."""
    tokenizer = getattr(model, "tokenizer", None)
    rows = [row[row != IGNORE] for row in np.asarray(batch[1])[:, 1:]]
    if tokenizer is None:
        return
    open_ended = [
        f"row {i}" for i, row in enumerate(rows) if len(row) and row[-1] not in tokenizer.stop_ids
    ]
    if open_ended:
        yield (
            "the answer does not close with an end token in "
            f"{some(open_ended, len(rows), 'rows')}: the model will not learn to stop",
            "It was cut off, or the end token was masked because it is also the padding: shorten "
            "the rows, and mask the padding only",
        )


def training_while_merged(model: Any, batch: Any) -> Said:
    """Whether an adapter is merged, so that the way through the model does not lead by it."""
    merged = _merged(model)
    if merged is not None:
        yield (
            f"adapter {merged!r} is merged into the weights, so training is refused: no gradient "
            "would reach it",
            "unmerge_adapter() before training; merge_adapter() again to use it",
        )


def _merged(model: Any) -> str | None:
    """The name of the adapter that is in the weights now, if there is one."""
    switches = (module.switch for module in adapted_modules(model).values())
    return next((switch.merged for switch in switches), None)


def gradient_does_not_arrive(model: Any, batch: Any) -> Said:
    """One step forward and back: trainable parameters that get no gradient, or only zeros.

    While B is zero, A's gradient is, too, and the other way round; that is not meant, nor are its
    likes in other methods.
    """
    labels = np.asarray(batch[1])
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not trainable or not (labels[:, 1:] != IGNORE).any() or _merged(model) is not None:
        return
    try:
        loss, gradients = loss_and_gradients(model, *batch)
        check_finite(model, loss, gradients, step=1)
    except TapeError:
        loss, gradients = 0.0, {}
    except NonFiniteError as error:
        yield (
            f"a step on this batch is not finite ({str(error).split(';')[0]})",
            "Look for NaN in the weights, or numbers too large for their type",
        )
        return
    idle = [name for name, p in trainable.items() if p not in gradients or not gradients[p].any()]
    idle = [name for name in idle if not _waits_for_the_other(name, trainable)]
    if idle:
        yield (
            f"no gradient reaches {some(idle, len(trainable), 'trainable parameters')}",
            "Something cuts the way: a detach() or no_grad(), an adapter that is not in use, or "
            "checkpointing over frozen inputs (elsewhere: enable_input_require_grads())",
        )


def _waits_for_the_other(name: str, trainable: Any) -> bool:
    """Whether this only comes in through matrices that are zero as yet: it learns after those.

    If its own matrix is zero, too, neither ever learns.
    """
    for mine, others in _COMES_IN_THROUGH:
        if re.search(mine, name):
            before = trainable.get(re.sub(r"\.bias$", ".weight", name))
            through = re.compile(re.sub(mine, others, name))
            after = [p for each, p in trainable.items() if through.fullmatch(each)]
            alive = before is not None and before.data.any()
            return bool(alive and after and not any(p.data.any() for p in after))
    return False


OF_OPTIMIZERS: tuple[Any, ...] = (
    optimizer_without_adapter,
    frozen_in_optimizer,
    foreign_in_optimizer,
    learning_rate_zero,
)
OF_BATCHES: tuple[Any, ...] = (
    no_supervised_token,
    answer_cut_off,
    training_while_merged,
    gradient_does_not_arrive,
)
