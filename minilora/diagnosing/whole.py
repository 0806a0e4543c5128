"""What can be wrong with a whole model in a folder: one that was tuned fully, or merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from minilora.diagnosing.finding import Said, some
from minilora.diagnosing.model import SWALLOWED, as_held, narrowest
from minilora.files.safetensors import iterate_checkpoint


def model_not_finite(folder: Path) -> Said:
    """The weights in the folder: any NaN or infinity."""
    names, bad = [], []
    for name, array in iterate_checkpoint(folder):
        names.append(name)
        if not np.isfinite(array).all():
            bad.append(name)
    if bad:
        yield (
            f"NaN or infinity in {some(bad, len(names), 'weights')}",
            "Tune or merge again, with a lower learning rate, or in a wider type than float16",
        )


def merge_moved_little(folder: Path, base: Any) -> Said:
    """The weights beside the base's, rounded likewise: the entries that are where they were."""
    theirs = base.state_dict()
    changed, still, entries = [], 0, 0
    for name, array in iterate_checkpoint(folder):
        if name not in theirs or theirs[name].shape != array.shape:
            continue
        same = array == as_held(theirs[name], narrowest([array]))
        if not same.all():
            changed.append(name)
            still += int(same.sum())
            entries += same.size
    if not changed:
        yield (
            "no weight differs from the base's: whatever was merged or tuned is not in here",
            "Merge in float32; look whether the adapter was in use, and lora_B not zero",
        )
    elif still / entries > SWALLOWED:
        yield (
            f"{still / entries:.0%} of the entries of {len(changed)} weights that were changed are "
            "exactly the base's: the type that was merged in has swallowed most of the change",
            "Merge in float32, or keep the adapter beside the base and unmerged",
        )
