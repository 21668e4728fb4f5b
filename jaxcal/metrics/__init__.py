"""Calibration errors, proper scores and their intervals, from arrays.

Arrays of numpy and jax, tensors of torch and lists serve alike: `Values`, one
number for each example, and `Scores`, one for each example and class.
"""

from jaxcal import lazy

__all__ = [
    "binning",
    "brier",
    "calibration",
    "debiased",
    "densities",
    "examples",
    "failure",
    "presets",
    "proximity",
    "ranks",
    "scoring",
    "selective",
    "smooth",
    "statistics",
    "streaming",
]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
