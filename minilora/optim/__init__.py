"""Optimizers: what a gradient moves, and what has to be remembered for it.

`adamw.py`      the formula; m and v in 32 bits      `schedule.py`  the rate over a run
`eight_bit.py`  the same with m and v in 8 bits      `clipping.py`  gradients scaled down together
`paged.py`      the same with m and v in a file
"""

from minilora.optim.adamw import AdamW
from minilora.optim.clipping import clip_gradients, global_norm
from minilora.optim.eight_bit import AdamW8bit
from minilora.optim.making import OPTIMIZERS, make
from minilora.optim.paged import PagedAdamW
from minilora.optim.schedule import Schedule

__all__ = [
    "OPTIMIZERS",
    "AdamW",
    "AdamW8bit",
    "PagedAdamW",
    "Schedule",
    "clip_gradients",
    "global_norm",
    "make",
]
