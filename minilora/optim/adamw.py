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
from collections.abc import Iterable, Iterator, Mapping
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
            raise ConfigError(_nothing_trainable(groups))
        if len(set(self.parameters())) < len(self.parameters()):
            raise ConfigError("a parameter is given twice; it can be in one group only, and once")
        self.t = 0
        self.m: dict[Parameter, Any] = {}
        self.v: dict[Parameter, Any] = {}
        self._make_moments()

    def _make_moments(self) -> None:
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
        update(p.data, g, self.m[p], self.v[p], self.t, group)

    def moments(self) -> Iterator[tuple[Parameter, str, np.ndarray]]:
        """Every array that is held in memory beside the parameters: whose it is, and its name."""
        for p in self.parameters():
            for name, array in self.arrays(p).items():
                yield p, name, array

    def arrays(self, p: Parameter) -> dict[str, np.ndarray]:
        """What is remembered for a parameter, by name."""
        return {"m": self.m[p], "v": self.v[p]}

    @property
    def paged_bytes(self) -> int:
        """Bytes of moments that are in a file instead of in memory."""
        return 0

    @property
    def state_bytes(self) -> int:
        """Bytes held in memory for m and v."""
        return sum(array.nbytes for _, _, array in self.moments())

    def state_dict(self) -> dict[str, np.ndarray]:
        """Step count and moments, in the parameters' order; the arrays themselves, not copies."""
        state: dict[str, np.ndarray] = {"t": np.array(self.t)}
        return state | self._named()

    def _named(self) -> dict[str, np.ndarray]:
        return {
            f"{name}.{i}": array
            for i, p in enumerate(self.parameters())
            for name, array in self.arrays(p).items()
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state_dict`. ConfigError if it is of other parameters."""
        mine = self._named()
        wanted = {name: array.shape for name, array in mine.items()} | {"t": ()}
        if {name: array.shape for name, array in state.items()} != wanted:
            raise ConfigError(
                "the optimizer's saved state is of other parameters, or of another optimizer"
            )
        self.t = int(state["t"])
        for name, array in mine.items():
            array[...] = state[name]


def update(
    W: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, t: int, group: Mapping[str, Any]
) -> None:
    """The formula above, in place: W, m and v are changed. All of one shape, t counted from 1."""
    (beta1, beta2), lr = group["betas"], group["lr"]
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * (g * g)
    if group["weight_decay"]:
        W *= 1 - lr * group["weight_decay"]
    move = np.sqrt(v)
    move /= math.sqrt(1 - beta2**t)
    move += group["eps"]
    np.divide(m, move, out=move)  # in its place: saves one array as large as the embeddings
    move *= lr / (1 - beta1**t)
    W -= move


def _nothing_trainable(groups: Iterable[Mapping[str, Any]]) -> str:
    for p in (p for group in groups for p in group["params"]):
        if hasattr(p.data, "refuse_gradient"):
            return (
                f"nothing is trainable: the base is in few bits ({p.data.data_type}), which cannot "
                "be trained, and there is no trainable adapter beside it. Attach one "
                "(get_peft_model), or load the base without quantizing it"
            )
    return (
        "nothing is trainable: all parameters are frozen, or there are none. Attach an adapter "
        "(get_peft_model), or set requires_grad = True"
    )


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
