"""Place: one module of the base, and what an adapter puts there.

It is all that a method has to say of itself to be attached, frozen, counted, saved and opened: its
file makes a list of places out of its settings and the base, and everything else follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minilora.peft.adapted import Adapted

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Place:
    """One module of the base, and what an adapter puts there.

    path     where the module is in the base
    kind     the Adapted that will stand there
    shapes   of what its file holds, by the ends of the names in PEFT's files
    put      puts it there: called with the Adapted, the adapter's name and a generator
    """

    path: str
    kind: type[Adapted]
    shapes: Shapes
    put: Callable[[Any, str, np.random.Generator], Any]
