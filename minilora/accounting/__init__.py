"""Bytes and multiplications: what a training step holds and computes, measured and predicted.

`ledger.py`   every array of a step, by kind and by owner
`shadow.py`   arrays without contents, on which the library's own code runs
`predict.py`  the ledger of a step that is not computed
"""

from minilora.accounting.ledger import Entry, Ledger, activation_bytes, ledger
from minilora.accounting.predict import Flops, Prediction, predict

__all__ = [
    "Entry",
    "Flops",
    "Ledger",
    "Prediction",
    "activation_bytes",
    "ledger",
    "predict",
]
