"""The doctor: faults that raise no error, found by their symptoms, each with the way out.

`adapter.py`   an adapter's arrays, in a folder or in a model    `base.py`  the same beside a base
`model.py`     a model with its adapters    `training.py`  its optimizer, a batch
`log.py`       what a run wrote down        `whole.py`  a whole model in a folder
`examining.py`  all of them together

A diagnosis is a function that yields (reason, way out) for each fault it sees; its name is the
diagnosis. Silence means that none of these faults is there, not that nothing is wrong.

What cannot be told: a file keeps α and r, not what its trainer multiplied by, so an adapter that
was trained with α in the place of α/r is found only if it is improbably loud. A and B swapped
beside a square matrix of which r is the width have the right shapes. A merged model holds no
trace of its adapter.
"""

from minilora.diagnosing.examining import doctor, examine_folder
from minilora.diagnosing.finding import Finding, Findings

__all__ = ["Finding", "Findings", "doctor", "examine_folder"]
