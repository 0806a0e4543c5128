"""AdamW that remembers in 8 bits: m and v take a quarter of the bytes, and a little more.

A moment's numbers differ in size by many powers of ten, so it is held in the dynamic map
(`quant/dynamic.py`), in blocks of 256 that share a scale: one large number then spoils the digits
of its own block only. A step takes some blocks at a time to float32, moves, and puts them back, so
no moment is ever there in 32 bits as a whole.

What it costs: v below 1.6e-7 of its block's largest is held as 0. That is a gradient below 1/2500
of the largest, and m still has it; √v̂ is then too small, up to √(1-β₂) of what it should be, and
the number moves too far, unless ε is the larger.

Dettmers et al., "8-bit Optimizers via Block-wise Quantization", arXiv 2110.02861.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from minilora.autograd import Parameter
from minilora.errors import ConfigError
from minilora.optim.adamw import AdamW, update
from minilora.quant.blockwise import check_block_size
from minilora.quant.dynamic import dynamic_map, nearest

BLOCK = 256
# A tensor of fewer numbers saves next to nothing, and norms and biases are such: it stays in 32
# bits, as in bitsandbytes.
SMALLEST = 4096
# Numbers that are in float32 at once; with m, v and what is between they stay in the cache.
_PIECE = 2**15


class Moment:
    """One moment in 8 bits: codes (n,) uint8, and the largest magnitude of each block.

    signed   m; v has no sign, and twice as many levels for it
    """

    def __init__(self, like: np.ndarray, signed: bool, block_size: int):
        flat = like.reshape(-1)
        self.codes = np.zeros_like(flat, np.uint8)
        self.scales = np.zeros_like(flat[: -(-like.size // block_size)], np.float32)
        self.signed, self.block_size = signed, block_size

    def read(self, start: int, stop: int) -> np.ndarray:
        """The numbers from `start`, a block's beginning, up to `stop`, in float32."""
        if not isinstance(self.codes, np.ndarray):
            return self.codes[start:stop].astype(np.float32)  # a shadow: of contents there are none
        x = dynamic_map(self.signed)[self.codes[start:stop]]
        for block, scale in self._blocks(x, start):
            block *= scale
        return x

    def write(self, start: int, x: np.ndarray) -> None:
        """Hold other numbers from `start` on. Changes x."""
        if not isinstance(self.codes, np.ndarray):
            return
        for block, scale in self._blocks(x, start):
            scale[:] = np.abs(block).max(axis=1, keepdims=True)
            block /= np.where(scale > 0, scale, 1)
        self.codes[start : start + len(x)] = nearest(x, self.signed)

    def _blocks(self, x: np.ndarray, start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Whole blocks as (b, block_size) beside their scales (b, 1), then one that is shorter."""
        size, first = self.block_size, start // self.block_size
        whole = len(x) // size
        yield x[: whole * size].reshape(whole, size), self.scales[first : first + whole, None]
        if len(x) % size:
            yield x[None, whole * size :], self.scales[first + whole : first + whole + 1, None]

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes


class AdamW8bit(AdamW):
    """`AdamW` with m and v in 8 bits, for tensors of 4,096 numbers or more.

    block_size   numbers that share a scale, from 1 to 2**31

    Raises ConfigError as AdamW, and for a block size that cannot be.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        block_size: int = BLOCK,
    ):
        self.block_size = check_block_size(block_size, usual=BLOCK)
        super().__init__(parameters, lr, betas, eps, weight_decay)

    def _make_moments(self) -> None:
        for p in self.parameters():
            if p.size < SMALLEST:
                self.m[p], self.v[p] = np.zeros_like(p.data), np.zeros_like(p.data)
            else:
                self.m[p] = Moment(p.data, True, self.block_size)
                self.v[p] = Moment(p.data, False, self.block_size)

    def _move(self, p: Parameter, g: np.ndarray, group: Mapping[str, Any]) -> None:
        m, v = self.m[p], self.v[p]
        if not isinstance(m, Moment):
            return update(p.data, g, m, v, self.t, group)
        W, g = p.data.reshape(-1), g.reshape(-1)
        step = max(1, _PIECE // self.block_size) * self.block_size
        for start in range(0, p.size, step):
            part = slice(start, min(start + step, p.size))
            m_part, v_part = m.read(part.start, part.stop), v.read(part.start, part.stop)
            W_part = W[part]
            update(W_part, g[part], m_part, v_part, self.t, group)
            m.write(start, m_part)
            v.write(start, v_part)
        if isinstance(W, np.ndarray) and not np.shares_memory(W, p.data):
            p.data[...] = W.reshape(p.shape)  # a parameter whose rows do not lie one after another

    def state_dict(self) -> dict[str, np.ndarray]:
        return super().state_dict() | {"block_size": np.array(self.block_size)}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        rest = dict(state)
        saved = int(rest.pop("block_size", np.array(self.block_size)))
        if saved != self.block_size:  # codes and scales may be as many as here, all the same
            raise ConfigError(
                f"the optimizer's saved state is in blocks of {saved}, not {self.block_size}; "
                f"give block_size={saved}"
            )
        super().load_state_dict(rest)

    def arrays(self, p: Parameter) -> dict[str, np.ndarray]:
        m, v = self.m[p], self.v[p]
        if not isinstance(m, Moment):
            return {"m": m, "v": v}
        return {
            "m.codes": m.codes,
            "m.scales": m.scales,
            "v.codes": v.codes,
            "v.scales": v.scales,
        }
