"""Reverse-mode automatic differentiation, whole, in three short files.

`tensor.py`    an array, and the operation that made it
`function.py`  an operation: its forward, its backward, and the arrays kept in between
`backward.py`  the walk from a loss back to the parameters

and `gradcheck.py`, which believes none of it and measures. (`watching.py` lets others look on.)
"""

from minilora.autograd.backward import backward, tape
from minilora.autograd.function import Function
from minilora.autograd.gradcheck import GradcheckReport, gradcheck
from minilora.autograd.tensor import Parameter, Tensor, grad_enabled, no_grad
from minilora.autograd.watching import watch

__all__ = [
    "Function",
    "GradcheckReport",
    "Parameter",
    "Tensor",
    "backward",
    "grad_enabled",
    "gradcheck",
    "no_grad",
    "tape",
    "watch",
]
