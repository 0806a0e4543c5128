"""Bytes and multiplications: what a training step holds and computes, measured and predicted.

`ledger.py`   every array of a step, by kind and owner    `measure.py`  a real step's sums
`shadow.py`   arrays without contents                      `predict.py`  a step that is not computed
"""

from minilora.accounting.ledger import Entry, Ledger, activation_bytes, ledger
from minilora.accounting.measure import StepBytes, measure_step
from minilora.accounting.predict import Flops, Prediction, predict

__all__ = [
    "Entry",
    "Flops",
    "Ledger",
    "Prediction",
    "StepBytes",
    "activation_bytes",
    "ledger",
    "measure_step",
    "predict",
]
