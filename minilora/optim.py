"""AdamW: each number moves by about the learning rate, whatever the size of its gradient.

    m ← β₁ m + (1 - β₁) g          the mean gradient of late
    v ← β₂ v + (1 - β₂) g²         its mean square
    W ← W - lr ( m̂ / (√v̂ + ε) + λ W )      with m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ)

m and v start at zero and are divided by what they lack at first. The decay λ acts on W itself, not
through g (Loshchilov and Hutter, arXiv 1711.05101). m and v are two arrays as large as what is
trained, which is where most of the memory of full fine-tuning goes; nothing is held for a frozen
parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from minilora.autograd import Parameter
from minilora.errors import ConfigError
from minilora.runtime import n_threads, parallel


class AdamW:
    """AdamW over parameters, or over groups with settings of their own.

    parameters     Parameters, or dicts {"params": [...], "lr": ..., "weight_decay": ...}
    lr             how far a number moves in a step
    betas, eps     as above
    weight_decay   λ

    Frozen parameters are left out. Raises ConfigError if nothing is trainable, or for settings
    outside of what is allowed.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        given = list(parameters)
        if not all(isinstance(p, Parameter | dict) for p in given):
            raise ConfigError("AdamW takes Parameters or groups of them: pass model.parameters()")
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        self.groups: list[dict[str, Any]] = [{**defaults, **group} for group in groups]
        for group in self.groups:
            group["params"] = [p for p in group["params"] if p.requires_grad]
            group["initial_lr"] = group["lr"]
            _check(group)
        if not any(group["params"] for group in self.groups):
            raise ConfigError(
                "nothing is trainable: all parameters are frozen, or there are none. Attach an "
                "adapter (get_peft_model), or set requires_grad = True"
            )
        if len(set(self.parameters())) < len(self.parameters()):
            raise ConfigError("a parameter is given twice; it can be in one group only, and once")
        self.t = 0
        self.m: dict[Parameter, np.ndarray] = {}
        self.v: dict[Parameter, np.ndarray] = {}
        for p in self.parameters():
            self.m[p], self.v[p] = np.zeros_like(p.data), np.zeros_like(p.data)

    def parameters(self) -> list[Parameter]:
        """All that is trained, in order."""
        return [p for group in self.groups for p in group["params"]]

    def zero_grad(self) -> None:
        """Forget all gradients: `.grad` is None again."""
        for p in self.parameters():
            p.grad = None

    def step(self, gradients: Mapping[Parameter, np.ndarray] | None = None) -> None:
        """Move every parameter that has a gradient: those given, or else each `.grad`."""
        if gradients is None:
            gradients = {p: p.grad for p in self.parameters() if p.grad is not None}
        self.t += 1
        moves = [
            (p, gradients[p], group)
            for group in self.groups
            for p in group["params"]
            if p in gradients
        ]
        n = min(n_threads(), len(moves)) if sum(g.size for _, g, _ in moves) > 10**6 else 1

        def share(i: int) -> None:
            # A step far too large ends in a loss that is not finite, which is where it is said.
            with np.errstate(over="ignore", invalid="ignore"):
                for move in moves[i::n]:
                    self._move(*move)

        parallel(share, range(n))

    def _move(self, p: Parameter, g: np.ndarray, group: Mapping[str, Any]) -> None:
        (beta1, beta2), lr = group["betas"], group["lr"]
        m, v = self.m[p], self.v[p]
        m *= beta1
        m += (1 - beta1) * g
        v *= beta2
        v += (1 - beta2) * (g * g)
        if group["weight_decay"]:
            p.data *= 1 - lr * group["weight_decay"]
        move = np.sqrt(v)
        move /= math.sqrt(1 - beta2**self.t)
        move += group["eps"]
        np.divide(m, move, out=move)  # in its place: saves one array as large as the embeddings
        move *= lr / (1 - beta1**self.t)
        p.data -= move

    @property
    def state_bytes(self) -> int:
        """Bytes held in m and v."""
        return sum(a.nbytes for a in (*self.m.values(), *self.v.values()))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Step count and moments, in the parameters' order; the arrays themselves, not copies."""
        state: dict[str, np.ndarray] = {"t": np.array(self.t)}
        for i, p in enumerate(self.parameters()):
            state[f"m.{i}"], state[f"v.{i}"] = self.m[p], self.v[p]
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state_dict`. ConfigError if it is of other parameters."""
        parameters = self.parameters()
        wanted = {f"{k}.{i}": p.shape for i, p in enumerate(parameters) for k in "mv"} | {"t": ()}
        if {k: v.shape for k, v in state.items()} != wanted:
            raise ConfigError("the optimizer's saved state is of other parameters than these")
        self.t = int(state["t"])
        for i, p in enumerate(parameters):
            self.m[p][:], self.v[p][:] = state[f"m.{i}"], state[f"v.{i}"]


def global_norm(gradients: Iterable[np.ndarray]) -> float:
    """√ of the sum of the squares of all the gradients' numbers, as if they were one vector."""
    return math.sqrt(sum(_sum_of_squares(g) for g in gradients))


def _sum_of_squares(g: np.ndarray) -> float:
    # In runs of 1024, and those in float64: a single float32 sum of millions is off by 1e-4.
    flat = g.ravel()
    whole = flat.size - flat.size % 1024
    runs, rest = flat[:whole].reshape(-1, 1024), flat[whole:]
    with np.errstate(over="ignore"):  # infinity says as much, and is looked for
        return float(np.vecdot(runs, runs).sum(dtype=np.float64)) + float(np.vecdot(rest, rest))


def clip_gradients(
    gradients: dict[Parameter, np.ndarray], max_norm: float, norm: float | None = None
) -> float:
    """Scale gradients down together, so that their global norm is at most `max_norm`.

    The dict's arrays are replaced one by one, so that only one of them is there twice.

    norm   what it is now, where that is known already

    Returns what it was.
    """
    if not max_norm > 0:
        raise ConfigError(f"max_norm {max_norm} must be above 0")
    norm = global_norm(gradients.values()) if norm is None else norm
    if norm > max_norm:
        scale = max_norm / norm
        for p in gradients:
            gradients[p] = gradients[p] * scale
    return norm


class Schedule:
    """The learning rate of each step, as a factor of what the optimizer was given.

    It rises in a straight line over `warmup` steps, then falls to `final` at step `total`:
    kind "cosine" along half a cosine, "linear" along a line, "constant" not at all.

    Raises ConfigError for settings outside of what is allowed.
    """

    def __init__(self, kind: str, total: int, warmup: int = 0, final: float = 0.0):
        if kind not in ("cosine", "linear", "constant"):
            raise ConfigError(f"schedule {kind!r} must be cosine, linear or constant")
        if not 0 <= warmup <= total or total < 1 or not 0 <= final <= 1:
            raise ConfigError(
                f"a schedule of {total} steps with {warmup} of warm-up, ending at {final} of the "
                "rate: needs 0 <= warm-up <= steps, at least one step, and an end in [0, 1]"
            )
        self.kind, self.total, self.warmup, self.final = kind, total, warmup, final

    def factor(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        fall = {"cosine": 0.5 * (1 - math.cos(math.pi * done)), "linear": done, "constant": 0.0}
        return 1 - (1 - self.final) * fall[self.kind]

    def apply(self, optimizer: AdamW, step: int) -> None:
        """Set the rate of every group for this step."""
        for group in optimizer.groups:
            group["lr"] = group["initial_lr"] * self.factor(step)


def _check(group: Mapping[str, Any]) -> None:
    lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
    if not 0 < lr < math.inf:
        raise ConfigError(f"learning rate {lr} must be above 0 and finite, e.g. 1e-3")
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        raise ConfigError(f"betas {(beta1, beta2)} must be in [0, 1)")
    if not group["eps"] > 0:
        raise ConfigError(f"eps {group['eps']} must be above 0")
    if not 0 <= decay < math.inf:
        raise ConfigError(f"weight_decay {decay} must be 0 or more")
