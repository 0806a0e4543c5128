"""Bytes: what a training step holds, by kind, measured on a real one."""

from minilora.accounting.measure import StepBytes, activation_bytes, measure_step

__all__ = ["StepBytes", "activation_bytes", "measure_step"]
