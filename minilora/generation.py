"""Generation: ask for the next token, append it, ask again.

What was computed for the tokens so far does not change when one is appended (causal attention), so
their keys and values are kept and each step computes one token only. Prompts of unequal length
stand together right-aligned, so that all of them go on at the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from minilora.autograd import no_grad
from minilora.errors import ConfigError, DataError, DTypeError
from minilora.model import KVCache
from minilora.ops.softmax import softmax


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: Sequence[int] = (),
    use_cache: bool = True,
    adapter_names: Sequence[str] | None = None,
) -> list[list[int]]:
    """Continue each prompt. Returns the new tokens only, without the stop token.

    temperature   0: always the likeliest token (greedy). Else logits are divided by it and a token
                  is drawn; below 1 surer, above 1 more various.
    top_k, top_p  draw only from the k likeliest; from the likeliest that together have at least p.
    seed          of the draw; one seed, one text.
    stop          tokens that end a text.
    adapter_names   for each prompt the adapter that answers it, "__base__" for none; None: the
                  active one answers all.

    A text also ends when its context is full. Raises DataError for an empty or too long prompt,
    DTypeError for tokens that are no integers, ConfigError for settings outside of what is allowed.
    """
    using = partial(_using, model, adapter_names, len(prompts))
    with no_grad(), using():
        _check(model, prompts, max_new_tokens, temperature, top_k, top_p)
    new: list[list[int]] = [[] for _ in prompts]
    if max_new_tokens == 0:
        return new
    choice = partial(
        choose,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        rng=np.random.default_rng(seed),
    )
    ids, start = _right_align(prompts)
    for said in _steps(model, ids, start, max_new_tokens, choice, stop, use_cache, using):
        for row, token in said:
            new[row].append(token)
    return new


def stream(
    model: Any,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: Sequence[int] = (),
) -> Iterator[int]:
    """The tokens that `generate` gives for one prompt, each as soon as it is known.

    Settings and errors are those of `generate`; errors come at once, not with the first token. The
    model must stay as it is until the last token: keys and values of the text so far are kept.
    """
    _check(model, [prompt], max_new_tokens, temperature, top_k, top_p)
    choice = partial(
        choose,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        rng=np.random.default_rng(seed),
    )
    steps = _steps(model, *_right_align([prompt]), max_new_tokens, choice, stop, use_cache=True)
    return (token for said in steps for _, token in said)


def _steps(
    model: Any,
    ids: np.ndarray,
    start: np.ndarray,
    max_new_tokens: int,
    choice: Callable[[np.ndarray], int],
    stop: Sequence[int],
    use_cache: bool,
    using: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[list[tuple[int, int]]]:
    """One step after the other: row and new token of every text that goes on.

    ids (B, T), start (B,)   of the prompts, as `_right_align` gives them
    choice                   a token from its scores (V,)
    using                    around whatever the model computes
    """
    B, T = ids.shape
    with no_grad(), using():
        virtual = _virtual_tokens(model)
    room = np.minimum(max_new_tokens, model.config.max_positions - virtual - (T - start))
    longest = int(room.max())
    kv = KVCache(model.config, B, virtual + T + longest, model.dtype) if use_cache else None
    going = room > 0
    step = ids
    for n in range(1, longest + 1):
        # Not around the loop, or whoever takes the tokens would find gradients off, too.
        with no_grad(), using():
            logits = _last_logits(model, step, kv, start)
        tokens = np.array([choice(z) for z in logits])
        going &= ~np.isin(tokens, np.asarray(stop, tokens.dtype))
        yield [(int(row), int(tokens[row])) for row in np.flatnonzero(going)]
        going &= n < room
        if not going.any():
            break
        start[~going] = T + n  # a text that has ended is padding from here on
        step = tokens[:, None] if use_cache else np.concatenate([step, tokens[:, None]], axis=1)


def _using(
    model: Any, adapter_names: Sequence[str] | None, n_prompts: int
) -> AbstractContextManager[None]:
    """Within it, each prompt's row is computed with its own adapter."""
    if adapter_names is None:
        return nullcontext()
    if not hasattr(model, "using"):
        raise ConfigError("adapter_names needs a model with adapters, and this one has none")
    return model.using(adapter_names, n_prompts)


def _last_logits(model: Any, ids: np.ndarray, kv: KVCache | None, start: np.ndarray) -> np.ndarray:
    """Scores (B, V) of the token that comes next."""
    padded = start if start.any() else None
    return model.lm_head(model.hidden(ids, kv=kv, start=padded)[:, -1:]).data[:, 0]


def choose(
    logits: np.ndarray,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    rng: np.random.Generator,
) -> int:
    """One token from its scores (V,)."""
    if temperature == 0:
        return int(logits.argmax())
    z = logits.astype(np.float64) / temperature
    order = np.argsort(-z, kind="stable")[: top_k or None]
    p = softmax(z[order])
    if top_p is not None:
        # Up to and with the token that brings the sum to top_p.
        keep = int(np.searchsorted(np.cumsum(p), top_p * (1 - 1e-12))) + 1
        order, p = order[:keep], p[:keep] / p[:keep].sum()
    drawn = int(np.searchsorted(np.cumsum(p), rng.random()))
    return int(order[min(drawn, len(order) - 1)])


def _right_align(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """ids (B, T), filled up with 0 on the left, and where each row starts (B,)."""
    length = max(map(len, prompts))
    start = np.array([length - len(p) for p in prompts])
    ids = np.zeros((len(prompts), length), np.int64)
    for row, prompt in zip(ids, prompts, strict=True):
        tokens = np.asarray(prompt)
        if tokens.dtype.kind not in "iu":
            raise DTypeError(
                f"the tokens of a prompt must be integers, not {tokens.dtype}; a text becomes some "
                "by tokenizer.encode(text)"
            )
        row[length - len(prompt) :] = tokens
    return ids, start


def _virtual_tokens(model: Any) -> int:
    """Places before each text that an adapter takes."""
    return getattr(model, "virtual_tokens", 0)


def _check(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> None:
    if len(prompts) == 0 or any(len(p) == 0 for p in prompts):
        raise DataError(
            "a prompt is empty; it must hold at least one token, and there must be a prompt"
        )
    longest, context, p = max(map(len, prompts)), model.config.max_positions, _virtual_tokens(model)
    if longest + p >= context:
        taken = f" (p = {p} of it taken by the virtual tokens of the adapter)" if p else ""
        raise DataError(
            f"the prompt has {longest} tokens and the context {context}{taken}, which leaves "
            "no room for an answer; shorten the prompt"
        )
    if not isinstance(max_new_tokens, int) or max_new_tokens < 0:
        raise ConfigError(f"max_new_tokens {max_new_tokens} must be a whole number, 0 or more")
    if not 0 <= temperature < float("inf"):
        raise ConfigError(f"temperature {temperature} must be 0 (greedy) or above")
    if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
        raise ConfigError(f"top_k {top_k} must be a whole number, 1 or more, or left out")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(f"top_p {top_p} must be above 0 and at most 1, or left out")
